"""Makes a device what is desired of it, and tells what it is: ``desired`` and ``reported``."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge.core.errors import EdgeError
from edge.telemetry.commands import desired as documents
from edge.telemetry.commands.desired import DesiredModel, Kept, Store
from edge.telemetry.commands.order import RefusedError, shown
from edge.telemetry.commands.reported import POWER, Finding, Reported
from edge.telemetry.commands.verb import Interrupted, Surroundings
from edge.telemetry.commands.verbs.power import LANE, Power, set_power

if TYPE_CHECKING:
    from edge.host import ModelStatus
    from edge.telemetry.commands.dispatcher import Dispatcher
    from edge.telemetry.link import Received

log = logging.getLogger(__name__)

_CHANGED = "by a change at the device after it was as desired"
_SETTLED = ("ready", "idle")
_LOOK_S = 1.0
_RETRY_S = 300.0


class Convergence:
    """Looks once a second, on a thread of its own; what it changes waits for commands, and they
    for it.

    Each part is brought to what is desired once for each ``rev``, and again after a restart. What
    changes after that, by a command or because a version failed and was taken back, is told as
    ``failed`` and not fought: whoever did so knew later.
    """

    def __init__(self, around: Surroundings, dispatcher: Dispatcher, folder: Path | None) -> None:
        self._around = around
        self._dispatcher = dispatcher
        self._store = Store(folder)
        self._reported = Reported(around)
        self._heard: deque[bytes] = deque(maxlen=1)
        self._refused = ""
        self._reached: set[str] = set()
        self._failed: dict[str, tuple[float, int, str]] = {}  # when, in which generation, why
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-desired", daemon=True)

    def listen(self) -> None:
        self._around.sender.listen(self._around.topics.of("desired"), self.hear)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def hear(self, received: Received) -> None:
        """Called on the thread that talks to the broker; only the newest counts."""
        most_bytes = self._around.settings.commands.max_payload_bytes
        self._heard.append(received.payload[: most_bytes + 1])
        self._wake.set()

    def _run(self) -> None:
        self._store.open()
        while not self._closing.is_set():
            try:
                self._look()
            except Interrupted:
                return
            except Exception:
                log.exception("what is desired could not be brought about")
            self._wake.wait(_LOOK_S)
            self._wake.clear()

    def _look(self) -> None:
        while self._heard:
            self._take(self._heard.popleft())
        findings = self._findings()
        self._reported.tell(self._rev, findings, self._refused)
        for name, finding in findings.items():
            if finding.act is not None and not self._closing.is_set():
                self._act(name, finding.act)
        if any(finding.act is not None for finding in findings.values()):
            self._reported.tell(self._rev, self._findings(), self._refused)

    def _take(self, payload: bytes) -> None:
        self._refused = ""
        if not payload:
            self._store.forget()
            self._start_over()
            log.info("nothing is desired of this device any more")
            return
        try:
            most_bytes = self._around.settings.commands.max_payload_bytes
            desired = documents.read(payload, most_bytes)
            if self._store.accept(desired):
                self._start_over()
                log.info("desired is now %s", shown(payload.decode()))
        except RefusedError as error:
            self._refused = f"{error}; {error.hint}" if error.hint else str(error)
            log.warning("%s", self._refused)

    def _start_over(self) -> None:
        self._reached.clear()
        self._failed.clear()

    def _act(self, name: str, act: Callable[[], object]) -> None:
        generation = self._around.runtime.generation
        try:
            with self._dispatcher.turn(LANE if name == POWER else name):
                act()
            self._failed.pop(name, None)
        except Exception as error:
            log.error("desired %s: %s", name, error, exc_info=not isinstance(error, EdgeError))
            self._failed[name] = (time.monotonic(), generation, str(error))

    @property
    def _rev(self) -> int:
        return self._store.kept.desired.rev if self._store.kept else 0

    def _findings(self) -> dict[str, Finding]:
        kept = self._store.kept
        if kept is None:
            return {}
        findings = {
            name: self._of_model(kept, name, wanted) for name, wanted in kept.desired.models.items()
        }
        if kept.desired.power != Power():
            findings[POWER] = self._of_power(kept.desired.power)
        return findings

    def _of_model(self, kept: Kept, name: str, wanted: DesiredModel) -> Finding:
        statuses = {s.version: s for s in self._around.runtime.status() if s.name == name}
        if wanted.version not in ("", *statuses) or not statuses:
            version = f" {wanted.version}" if wanted.version else ""
            has = f"it has {', '.join(statuses)}" if statuses else "no version of it is"
            return Finding("converging", f"{name}{version} is not on this device yet; {has}")
        active = next((s for s in statuses.values() if s.is_active), None)
        if active is None or wanted.version not in ("", active.version):
            why = self._departure(kept, name, wanted, active)
            return Finding("failed", why) if why else self._to_activate(name, wanted)
        if _is_loaded_as(active, wanted.loaded):
            return self._of_state(name, active)
        if name in self._reached:
            return Finding("failed", f"{name} is {active.state} now, {_CHANGED}")
        return self._to_load(name) if wanted.loaded else self._to_unload(name)

    def _of_state(self, name: str, active: ModelStatus) -> Finding:
        """The right version is active: but does it do its work?"""
        if active.state == "failed":
            return Finding("failed", f"{name} {active.version}: {active.reason}")
        if active.state not in _SETTLED and not active.is_withdrawn:
            return Finding("converging", f"{name} {active.version} is {active.state}")
        self._reach(name)
        return Finding()

    def _to_load(self, name: str) -> Finding:
        return self._to_do(name, lambda: self._around.runtime.load(name), "load")

    def _to_unload(self, name: str) -> Finding:
        return self._to_do(name, lambda: self._around.runtime.unload(name), "unload")

    def _to_activate(self, name: str, wanted: DesiredModel) -> Finding:
        def act() -> None:
            self._around.runtime.activate(name, wanted.version)
            if wanted.loaded is False:
                self._around.runtime.unload(name)

        return self._to_do(name, act, f"activate {wanted.version}")

    def _departure(
        self, kept: Kept, name: str, wanted: DesiredModel, active: ModelStatus | None
    ) -> str:
        """Why another version is active now than was by this ``rev``; empty if it never was."""
        if name not in kept.reached:
            return ""
        why = self._around.runtime.rejection(name, wanted.version) if wanted.version else ""
        if why:
            return f"{name} {wanted.version} was taken back: {why}"
        if name not in self._reached:  # a restart chose it
            return ""
        return f"{name} is {active.version if active else 'no version'} now, {_CHANGED}"

    def _of_power(self, wanted: Power) -> Finding:
        if POWER in self._reached:
            return Finding()
        root = Path(self._around.settings.power.root)

        def act() -> None:
            set_power(self._around.runtime, wanted, root)
            self._reach(POWER)

        return self._to_do(POWER, act, "set the power")

    def _to_do(self, name: str, act: Callable[[], object], what: str) -> Finding:
        failed = self._failed.get(name)
        if failed is None:
            return Finding("converging", f"about to {what}", act)
        failed_s, generation, why = failed
        is_stale = generation != self._around.runtime.generation
        if is_stale or time.monotonic() - failed_s > _RETRY_S:
            return Finding("failed", why, act)
        return Finding("failed", why)

    def _reach(self, name: str) -> None:
        self._reached.add(name)
        self._store.reach(name)


def _is_loaded_as(status: ModelStatus, wanted: bool | None) -> bool:
    """What is idle comes back with its next request: it counts as loaded."""
    if wanted is None:
        return True
    is_loaded = not status.is_withdrawn and status.state in _SETTLED
    return is_loaded if wanted else status.is_withdrawn
