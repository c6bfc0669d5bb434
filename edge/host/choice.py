"""Which variant of a bundle runs on this machine, on which device, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, Literal, get_args

import msgspec

from edge.core.contracts import Availability
from edge.core.errors import InputError, NotFoundError
from edge.core.manifest import Manifest, Variant
from edge.core.versions import meets

Fallback = Literal["deny", "warn", "allow"]
DEFAULT_DEVICE = "cpu"

_MET_BY_THE_FILE = ("shapes",)
"""Requirements that say how a variant was built; any machine meets them."""


class Wish(msgspec.Struct, frozen=True):
    """What the caller asked for. A variant or engine that is named is never replaced."""

    variant: str = ""
    engine: str = ""
    options: dict[str, Any] = {}
    fallback: Fallback = "warn"

    def __post_init__(self) -> None:
        if self.fallback not in get_args(Fallback):
            raise InputError(
                f"fallback is {self.fallback!r}",
                hint=f"take one of {', '.join(get_args(Fallback))}",
            )


class Machine(msgspec.Struct, frozen=True):
    """What there is to run on: engines by name, and by the names that ``requires`` uses, facts.

    ``order`` and ``options`` are those of the device that the bundle was made for.
    """

    engines: dict[str, Availability]
    order: tuple[str, ...] = ()
    options: dict[str, dict[str, Any]] = {}
    facts: dict[str, str] = {}


class Candidate(msgspec.Struct, frozen=True):
    """A variant that ``engine`` can run here on ``device``; it is meant for ``wanted``."""

    variant: Variant
    wanted: str
    device: str
    engine: str

    @property
    def is_stand_in(self) -> bool:
        """Whether another engine than the variant's own runs it."""
        return self.engine != self.variant.engine

    @property
    def label(self) -> str:
        """What obstacles are known by."""
        name = self.variant.id
        return f"{name} through {self.engine} on {self.device}" if self.is_stand_in else name


class Choice(msgspec.Struct, frozen=True):
    """Candidates, best first; ``obstacles`` says by label why a variant can not run here.

    ``preferred`` is the variant that would run if everything were here.
    """

    candidates: tuple[Candidate, ...]
    preferred: Variant
    obstacles: dict[str, str]
    hint: str = ""


def choose(manifest: Manifest, machine: Machine, wish: Wish) -> Choice:
    """Rank what ``wish`` allows: chosen at conversion, then by engine, then by latency.

    What another engine can run comes after all that its own can, and on the CPU after all else.

    Raises:
        NotFoundError: The bundle has no variant of that id or engine.
    """
    allowed = _allowed(manifest, wish)
    ranked = sorted(allowed, key=lambda variant: _rank(variant, machine))
    candidates: list[Candidate] = []
    last: list[Candidate] = []
    obstacles: dict[str, str] = {}
    for _, group in groupby(ranked, key=lambda variant: variant.engine):
        stand_ins: list[Candidate] = []
        for variant in group:
            obstacle = next(_obstacles(variant, machine), "")
            if obstacle:
                obstacles[variant.id] = obstacle
            else:
                candidates.append(_candidate(variant, machine, wish))
            stand_ins += [] if wish.engine else _stand_ins(variant, machine, wish)
        candidates += [one for one in stand_ins if one.device != DEFAULT_DEVICE]
        last += [one for one in stand_ins if one.device == DEFAULT_DEVICE]
    preferred = ranked[0]
    engine = machine.engines.get(preferred.engine)
    return Choice((*candidates, *last), preferred, obstacles, hint=engine.hint if engine else "")


def explain(
    candidate: Candidate, choice: Choice, obstacles: Mapping[str, str], wish: Wish, building: str
) -> str:
    """Why this candidate runs, in one sentence.

    Args:
        building: The variant that will run once its engine is built; empty if there is none.
    """
    variant, preferred = candidate.variant, choice.preferred
    chosen = "was chosen at conversion" if preferred.chosen else "comes first"
    why = obstacles.get(preferred.id, "it could not be opened")
    if building == preferred.id:
        reason = f"{preferred.id} {chosen} and is being built"
    elif variant.id != preferred.id:
        reason = f"{preferred.id} {chosen} but can not run here: {why}"
    elif candidate.is_stand_in:
        reason = f"{preferred.id} {chosen} but its own engine can not run it here: {why}"
    elif wish.variant:
        reason = "asked for by its id"
    elif variant.chosen:
        reason = "chosen at conversion"
    elif wish.engine:
        reason = f"the best of its engine, {wish.engine}, which was asked for"
    else:
        reason = "first by the order of engines, then by latency"
    if building and building != preferred.id:
        reason += f"; {building} is being built"
    if candidate.is_stand_in:
        reason += f"; {candidate.engine} runs {variant.id} on {candidate.device}"
    elif candidate.device != candidate.wanted:
        reason += f"; on {candidate.device}, as there is no {candidate.wanted} here"
    return reason


def _allowed(manifest: Manifest, wish: Wish) -> list[Variant]:
    allowed = [
        variant
        for variant in manifest.variants
        if wish.variant in ("", variant.id) and wish.engine in ("", variant.engine)
    ]
    if not allowed:
        asked = " and ".join(
            f"{kind} {name!r}"
            for kind, name in (("id", wish.variant), ("engine", wish.engine))
            if name
        )
        has = ", ".join(f"{variant.id} ({variant.engine})" for variant in manifest.variants)
        raise NotFoundError(f"{manifest.name} has no variant with {asked}", hint=f"it has: {has}")
    return allowed


def _rank(variant: Variant, machine: Machine) -> tuple[bool, int, float, str]:
    order = machine.order
    place = order.index(variant.engine) if variant.engine in order else len(order)
    latency = variant.latency_ms.p50 if variant.latency_ms else float("inf")
    return not variant.chosen, place, latency, variant.id


def _obstacles(variant: Variant, machine: Machine) -> Iterator[str]:
    engine = machine.engines.get(variant.engine)
    if engine is None:
        yield f"there is no engine named {variant.engine}"
    elif not engine.ready:
        yield f"{variant.engine} is not available: {engine.reason}"
    yield from unmet(variant, machine)


def unmet(variant: Variant, machine: Machine, *, but: str = "") -> Iterator[str]:
    """What a variant needs of a device that this one does not have."""
    for name, need in variant.requires.items():
        have = machine.facts.get(name, "")
        if name not in (*_MET_BY_THE_FILE, but) and not meets(have, need):
            yield f"it needs {name} {need}, this machine has {have or 'none'}"


def _candidate(variant: Variant, machine: Machine, wish: Wish) -> Candidate:
    devices = machine.engines[variant.engine].devices
    default = DEFAULT_DEVICE if DEFAULT_DEVICE in devices or not devices else devices[0]
    options = {**variant.options, **machine.options.get(variant.engine, {}), **wish.options}
    wanted = str(options.get("device", default)).lower()
    return Candidate(variant, wanted, wanted if wanted in devices else default, variant.engine)


def _stand_ins(variant: Variant, machine: Machine, wish: Wish) -> list[Candidate]:
    """The same file on other engines, which need not be what its own engine would have to be."""
    if any(unmet(variant, machine, but=variant.engine)):
        return []
    asked = str(wish.options.get("device", "")).lower()
    return [
        Candidate(variant, device, device, name)
        for name, engine in machine.engines.items()
        if engine.ready
        for device in engine.stands_in.get(variant.engine, ())
        if device == asked or asked not in engine.devices
    ]
