"""``power``: what gives way to heat and power until the next start, and the device's own mode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from edge.core.errors import InputError
from edge.host.power_mode import PowerModes
from edge.settings import Power as PowerSettings
from edge.telemetry.commands.verb import Context, Progress, Result, Verb

if TYPE_CHECKING:
    from edge.host import Runtime


class Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As in ``[power]`` of edge.toml; what is left out stays. ``mode`` is the board's own, by name
    or number, and outlives a restart.
    """

    policy: Literal["throughput", "latency", "watch"] | None = None
    budget_watts: Annotated[float, msgspec.Meta(ge=0, le=10_000)] | None = None
    max_celsius: Annotated[float, msgspec.Meta(ge=0, le=150)] | None = None
    mode: Annotated[str, msgspec.Meta(max_length=64)] | None = None

    @property
    def limits(self) -> dict[str, str | float]:
        """Those that are given, but for the mode."""
        given = {**msgspec.structs.asdict(self), "mode": None}
        return {name: value for name, value in given.items() if value is not None}


def set_power(runtime: Runtime, wanted: Power, root: Path) -> Result:
    """Bring it about, and say what is then.

    Raises:
        EdgeError: It can't be; the mode is set last, and all else stays.
    """
    oversight = runtime.oversight
    if wanted.limits:
        power = oversight.power or PowerSettings(policy="off")
        oversight.set_power(msgspec.structs.replace(power, **wanted.limits))
    result: Result = {}
    if (now := oversight.power) is not None:
        result = {name: getattr(now, name) for name in Power.__struct_fields__[:-1]}
    if wanted.mode is not None:
        result["mode"] = PowerModes(root).set(wanted.mode).name
    return result


class PowerVerb(Verb[Power]):
    arguments = Power

    def lane(self, arguments: Power) -> str:
        return LANE

    def run(self, context: Context, arguments: Power, progress: Progress) -> Result:
        if arguments == Power():
            raise InputError(
                "power without anything to set", hint="policy, budget_watts, max_celsius or mode"
            )
        return set_power(context.runtime, arguments, Path(context.settings.power.root))

    def proof(self, context: Context, arguments: Power) -> Result | None:
        """The mode survives a restart; limits do not."""
        if arguments.limits or arguments.mode is None:
            return None
        modes = PowerModes(Path(context.settings.power.root))
        active = modes.active() if modes.is_there else None
        if active is None or arguments.mode not in (active.name, str(active.number)):
            return None
        return {"mode": active.name}


LANE = "/power"
"""No model has a slash in its name."""

VERB = PowerVerb()
