"""``reported``: what a device is, how far that is from what is desired, and why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from edge.telemetry import clock
from edge.telemetry.commands.verb import Surroundings

log = logging.getLogger(__name__)

POWER = "/power"
"""What is found of the power stands under this name, which no model has."""

State = Literal["converged", "converging", "failed"]
_WORST: tuple[State, ...] = ("failed", "converging", "converged")


class Finding(msgspec.Struct, frozen=True):
    """How far a part is from what is desired; ``act`` brings it there."""

    state: State = "converged"
    reason: str = ""
    act: Callable[[], object] | None = None


class Reported:
    """Tells on change; one thread uses it."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._told: dict[str, Any] = {}
        self._event: tuple[int, str] | None = None

    def tell(self, rev: int, findings: dict[str, Finding], refused: str) -> None:
        """``refused``: why the newest ``desired`` is not followed, if it is not."""
        states = [finding.state for finding in findings.values()]
        state: State = min(states, key=_WORST.index, default="converged")
        report: dict[str, Any] = {
            "rev": rev,
            "state": state,
            "models": self._models(findings),
        }
        power = self._around.runtime.oversight.power
        if power is not None:
            limits = ("policy", "budget_watts", "max_celsius")
            report["power"] = {name: getattr(power, name) for name in limits}
        reasons = [finding.reason for finding in findings.values() if finding.state == state]
        if any(reasons):
            report["reason"] = "; ".join(filter(None, reasons))
        if refused:
            report["refused"] = refused
        if report == self._told:
            return
        self._told = report
        payload = msgspec.json.encode({**report, "ts_ms": clock.now_ms()})
        self._around.sender.retain(self._around.topics.of("reported"), payload)
        self._tell_event(report)

    def _models(self, findings: dict[str, Finding]) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for status in self._around.runtime.status():
            if status.is_active or status.name not in told:
                told[status.name] = {
                    "version": status.version,
                    "state": status.state,
                    "loaded": not status.is_withdrawn,
                }
        for name, finding in findings.items():
            if name != POWER and finding.state != "converged":
                told.setdefault(name, {}).update(convergence=finding.state, reason=finding.reason)
        return told

    def _tell_event(self, report: dict[str, Any]) -> None:
        """The end of a ``rev``, for who keeps a record; not what it takes on the way."""
        ended = (report["rev"], report["state"])
        if ended == self._event or report["state"] == "converging" or not report["rev"]:
            return
        self._event = ended
        is_good = report["state"] == "converged"
        said = {"status": "successful" if is_good else "failed", "rev": report["rev"]}
        if "reason" in report:
            said["reason"] = report["reason"]
        log.log(
            logging.INFO if is_good else logging.WARNING,
            "desired rev %d is %s",
            report["rev"],
            ": ".join(report[key] for key in ("state", "reason") if key in report),
        )
        topic = self._around.topics.of("event", "command")
        self._around.sender.send(topic, {"name": "desired", **said}, is_event=True)
