"""Which variants to make: the profile's engines times the precisions that were asked for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge.conversion.report import Refusal
from edge.core import plugins
from edge.core.contracts import Availability, Converter, Recipe
from edge.core.errors import InputError, UnsupportedError
from edge.core.profile import DeviceProfile

AUTO = "auto"
NO_SAMPLES = "needs calibration samples (--calib)"
PRECISIONS = ("fp32", "bf16", "fp16", "fp8", "int8", "int4")


class Step(msgspec.Struct, frozen=True):
    """One variant to make, by one of its converter's recipes."""

    converter: Converter
    precision: str
    title: str = ""
    recipe: Recipe = Recipe()

    @property
    def id(self) -> str:
        name = f"{self.converter.engine}-{self.precision}"
        return f"{name}-{self.title}" if self.title else name

    @property
    def takes_samples(self) -> bool:
        return self.recipe.needs_samples or self.recipe.takes_samples


class Plan(msgspec.Struct, frozen=True):
    """What to make for ``profile``, and what not and why."""

    profile: DeviceProfile
    steps: tuple[Step, ...]
    refused: tuple[Refusal, ...]


def make_plan(
    profile: DeviceProfile, precision: str, *, has_calibration: bool, engines: Sequence[str] = ()
) -> Plan:
    """List what to make and what not, and why.

    Args:
        precision: One of ``PRECISIONS``, or ``auto`` for all that the profile prefers.
        engines: Only these of the profile's engines; empty takes all.
    Raises:
        InputError: The device does not take the precision, or there are no samples for it.
        UnsupportedError: Nothing is left to make.
    """
    legal = profile.precision.legal
    if precision not in (AUTO, *legal):
        raise InputError(
            f"{profile.name} does not run {precision}", hint=f"it takes {', '.join(legal)} or auto"
        )
    wanted = [p for p in PRECISIONS if p in legal] if precision == AUTO else [precision]
    converters = {converter.engine: converter for converter in plugins.converters().values()}
    steps: list[Step] = []
    refused: list[Refusal] = []
    hints: list[str] = []
    for engine in _selected(profile, engines):
        converter = converters.get(engine)
        availability = _availability(converter)
        if converter is None or not availability.ready:
            refused.append(Refusal(engine, availability.reason))
            hints.append(availability.hint)
            continue
        for name in wanted:
            if name in converter.precisions:
                for title, recipe in converter.recipes(name).items():
                    if recipe.is_repair:
                        continue
                    step = Step(converter, name, title, recipe)
                    if recipe.needs_samples and not has_calibration:
                        refused.append(Refusal(step.id, NO_SAMPLES))
                    else:
                        steps.append(step)
            elif precision != AUTO:
                refused.append(Refusal(f"{engine}-{name}", "its converter does not write it"))
    if not steps:
        if not has_calibration and all(item.why == NO_SAMPLES for item in refused):
            raise InputError(
                f"{precision} needs real samples to calibrate on", hint="add --calib IMAGES/"
            )
        reasons = "; ".join(f"{item.id}: {item.why}" for item in refused)
        raise UnsupportedError(
            f"nothing can be made for {profile.name}: {reasons}",
            hint="; ".join(dict.fromkeys(filter(None, hints))),
        )
    return Plan(profile, tuple(steps), tuple(refused))


def _selected(profile: DeviceProfile, engines: Sequence[str]) -> tuple[str, ...]:
    order = profile.runtimes.order
    unknown = [engine for engine in engines if engine not in order]
    if unknown:
        raise InputError(
            f"{profile.name} has no engine {', '.join(unknown)}", hint=f"it has {', '.join(order)}"
        )
    return tuple(engine for engine in order if not engines or engine in engines)


def _availability(converter: Converter | None) -> Availability:
    if converter is None:
        return Availability(ready=False, reason="no converter writes for it yet")
    return converter.availability()
