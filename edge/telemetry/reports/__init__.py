"""What telemetry tells, whatever the format: one module per subject, ending in ``REPORTER = …``."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from edge.core import plugins

if TYPE_CHECKING:
    from edge.host import ModelStatus, Strain
    from edge.host.health.status import ModelHealth
    from edge.host.metering import CostReport
    from edge.sensors import DeviceSensors
    from edge.settings import Settings
    from edge.telemetry.backlog import Backlog

Metrics = dict[str, Any]
"""Name with its unit -> figure, text or truth, or a dict or list of such."""

Kind = Literal["retained", "telemetry", "event"]


class Report(msgspec.Struct, frozen=True):
    """Something to tell.

    Attributes:
        path: Where it belongs, for example ``("tele", "device")``.
        metrics: Empty ones of a state say that what it was about is gone.
        kind: ``retained`` is a state, told when it differs from the last; ``telemetry`` is a
            sample, which goes first when room gets scarce, and is told together with all of the
            same path; an ``event`` is told as it is.
    """

    path: tuple[str, ...]
    metrics: Metrics
    kind: Kind = "telemetry"


class Source(Protocol):
    """The models that are reported on; an ``edge.Runtime`` is one."""

    def status(self) -> Sequence[ModelStatus]: ...

    def health(self) -> Sequence[ModelHealth]: ...

    @property
    def strain(self) -> Strain | None: ...

    @property
    def cost(self) -> CostReport | None: ...


class Subject(msgspec.Struct, frozen=True):
    """All that there is to report on."""

    source: Source
    sensors: DeviceSensors
    backlog: Backlog
    settings: Settings


class Reporter(Protocol):
    """Tells of one thing, and remembers what it needs for that; made with a `Subject`.

    One that fails is logged once and costs nothing but its own reports.
    """

    def look(self, now_ns: int, *, is_due: bool) -> Iterable[Report]:
        """What there is to tell now; called about once a second, always by the same thread.

        Args:
            now_ns: The monotonic clock.
            is_due: Whether a sample of the interval that was asked for is due.
        """
        ...


def reporters(subject: Subject) -> dict[str, Reporter]:
    """All of them, by name."""
    return {
        name: importlib.import_module(f"{__name__}.{name}").REPORTER(subject)
        for name in plugins.stems(__name__)
    }
