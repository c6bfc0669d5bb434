"""A bundle on its way to the devices of a fleet: the plan, and how far it has come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from math import ceil
from typing import Annotated, Literal

import msgspec

from edge.core.errors import InputError, UnavailableError

Progress = Literal[
    "waiting",  # for its turn, or for the device to be online
    "updating",  # the command was given and has not ended
    "watched",  # it has the bundle, and is looked at for a while
    "done",
    "present",  # it had the bundle before
    "failed",
    "skipped",  # the device can't or may not take it
    "withdrawn",  # the command was taken back as the roll-out stopped
    "returning",  # on its way to the version from before
    "returned",
    "stuck",  # it did not get back there
]
Phase = Literal["rolling", "stopped", "returning"]

BEGUN: tuple[Progress, ...] = ("updating", "watched", "done", "failed", "withdrawn")
IN_HAND: tuple[Progress, ...] = ("updating", "watched")
SERVING: tuple[Progress, ...] = ("done", "present")

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]


class Target(msgspec.Struct, frozen=True):
    """The bundle: ``sha256`` is that of the file, ``digest`` that of its manifest."""

    name: str
    version: str
    digest: str
    sha256: str
    size_bytes: int


class Rules(msgspec.Struct, frozen=True):
    """How carefully.

    Attributes:
        at_once: Devices at most that are updated at one time.
        soak_s: How long a device is watched with the bundle in service.
        max_errors: Share of its inferences that may fail meanwhile; fewer than five never count.
        max_failed: Share of a wave's devices that may fail before all is stopped.
        timeout_s: For one update, and for an engine that is built after it.
        answer_s: A device that is online has this long to answer at all: one whose commands are
            all switched off never does.
        silence_s: How long a device may be gone or not serve the bundle while it is watched.
        tolerated: Kinds of ailments of the model that are no failure.
    """

    at_once: Annotated[int, msgspec.Meta(ge=1)] = 10
    soak_s: _Seconds = 300.0
    max_errors: _Share = 0.02
    max_failed: _Share = 0.0
    timeout_s: _Seconds = 1800.0
    answer_s: _Seconds = 60.0
    silence_s: _Seconds = 60.0
    tolerated: frozenset[str] = frozenset()


class Counts(msgspec.Struct, frozen=True):
    """Inferences of a version since it was loaded."""

    success: int = 0
    failure: int = 0


class Step(msgspec.Struct, frozen=True):
    """One device.

    Attributes:
        attempt: Part of the command's id: another attempt is another command.
        spent_s: In this progress, as far as we could watch.
        idle_s: Of the time it is watched: how long it has been gone, or did not serve the bundle.
        has_served: It was seen to serve the bundle.
        before: What was wrong with the model before.
        base: What the version had counted before.
    """

    progress: Progress = "waiting"
    attempt: int = 1
    reason: str = ""
    spent_s: float = 0.0
    idle_s: float = 0.0
    has_served: bool = False
    before: tuple[str, ...] = ()
    base: Counts = Counts()


class Rollout(msgspec.Struct, frozen=True):
    """All that a restarted operator must know."""

    id: str
    fleet: str
    target: Target
    waves: tuple[tuple[str, ...], ...]
    steps: dict[str, Step]
    phase: Phase = "rolling"
    reason: str = ""

    def update_id(self, device: str) -> str:
        """The same at each try of the same attempt: a device runs it once."""
        return f"ro-{self.id}-{self.steps[device].attempt}"

    def back_id(self, device: str) -> str:
        return f"{self.update_id(device)}-back"

    def devices_in(self, *progress: Progress) -> list[str]:
        return sorted(name for name, step in self.steps.items() if step.progress in progress)


class Staging(msgspec.Struct, frozen=True):
    """How the devices are split: ``canary`` names or counts the first; ``waves`` are shares."""

    canary: int | tuple[str, ...] = 1
    waves: tuple[float, ...] = (0.1, 0.5, 1.0)


def begin(
    fleet: str,
    target: Target,
    online: Iterable[str],
    offline: Iterable[str],
    staging: Staging,
    *,
    salt: int = 0,
) -> Rollout:
    """Plan a roll-out; those that are offline come last, so that no wave waits for them.

    Args:
        salt: Another one for each time that the same roll-out is begun anew.
    Raises:
        UnavailableError: There is no device.
        InputError: The canary is none of those that are online.
    """
    online, offline = sorted(online), sorted(offline)
    if not online and not offline:
        raise UnavailableError(
            f"no device of fleet {fleet!r} was seen that is to take {target.name}",
            hint="edge fleet shows which there are",
        )
    waves = tuple(_split(online, offline, staging))
    return Rollout(
        id=hashlib.sha256(f"{fleet}\n{target.sha256}\n{salt}".encode()).hexdigest()[:16],
        fleet=fleet,
        target=target,
        waves=waves,
        steps={device: Step() for wave in waves for device in wave},
    )


def _split(online: list[str], offline: list[str], staging: Staging) -> Iterator[tuple[str, ...]]:
    canary = staging.canary
    if isinstance(canary, tuple) and (absent := sorted({*canary} - {*online})):
        raise InputError(
            f"canary {', '.join(absent)} is not online", hint="edge fleet shows which devices are"
        )
    first = list(canary) if isinstance(canary, tuple) else online[:canary]
    ordered = [*first, *(device for device in online if device not in {*first}), *offline]
    start = len(first)
    if first:
        yield tuple(first)
    for share in (*staging.waves, 1.0):
        end = max(start, ceil(share * len(ordered)))
        if ordered[start:end]:
            yield tuple(ordered[start:end])
        start = end


def retry(rollout: Rollout) -> Rollout:
    """Go on after a stop, and try those again that failed, were skipped or withdrawn."""
    again = ("failed", "skipped", "withdrawn", "returned", "stuck")
    steps = {
        device: Step(attempt=step.attempt + 1) if step.progress in again else step
        for device, step in rollout.steps.items()
    }
    return msgspec.structs.replace(rollout, steps=steps, phase="rolling", reason="")


def extend(rollout: Rollout, devices: Iterable[str]) -> Rollout:
    """Add devices that came since the plan was made, as a wave of their own."""
    new = tuple(sorted({*devices} - rollout.steps.keys()))
    if not new:
        return rollout
    steps = rollout.steps | {device: Step() for device in new}
    return msgspec.structs.replace(rollout, waves=(*rollout.waves, new), steps=steps)


def go_back(rollout: Rollout, reason: str = "") -> Rollout:
    """Bring those that have the bundle back to what they had before."""
    return msgspec.structs.replace(rollout, phase="returning", reason=reason or rollout.reason)
