"""Publishes a runtime's state and statistics, and the device's, to an MQTT broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.core.cache import default_state
from edge.core.errors import SettingsError
from edge.sensors import device_sensors
from edge.settings import MEMORY, Mqtt, Settings
from edge.telemetry.address import brokers_of
from edge.telemetry.commands import Steering, steer
from edge.telemetry.formats import Format, Outlet, formats
from edge.telemetry.reports import Report, Reporter, Source, Subject, reporters
from edge.telemetry.sender import Delivery, Sender, SenderStatus
from edge.telemetry.topics import Topics

if TYPE_CHECKING:
    from edge.host import Runtime

log = logging.getLogger(__name__)

_LOOK_S = 1.0  # how often states are looked at, however long the interval is
_REST_S = 0.001
"""After each part of a look. An inference whose engine is done needs the interpreter to go on, and
waits for one part instead of all: with ten parts of 0.25 ms, 99 % wait for at most 0.45 ms in place
of 2.6 (with ``sleep(0)`` 0.45 to 0.64)."""
CLOSE_TIMEOUT_S = 2.0


class Publisher:
    """Telemetry in the background: one thread samples, one talks to the broker, one to the disk.

    A broker that is absent, slow or gone costs disk and memory up to bounds, and nothing else.
    """

    def __init__(
        self,
        told: dict[str, Reporter],
        told_as: dict[str, Format],
        sender: Sender,
        interval_s: float,
        steering: Steering | None = None,
    ) -> None:
        self._reporters = told
        self._formats = told_as
        self._sender = sender
        self._interval_s = interval_s
        self._steering = steering
        self._failing: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-telemetry", daemon=True)

    def start(self) -> None:
        self._sender.start()
        for told_as in self._formats.values():
            told_as.start()
        if self._steering is not None:
            self._steering.start()
        self._thread.start()

    @property
    def state(self) -> str:
        """``connecting``, ``connected``, ``unreachable``, ``refused`` or ``closed``."""
        return self._sender.state

    @property
    def reason(self) -> str:
        """Why the broker is unreachable or refused us."""
        return self._sender.reason

    def status(self) -> SenderStatus:
        """The connection, and what waits for it."""
        return self._sender.status()

    @property
    def dropped_count(self) -> int:
        """Messages that were given up as there was no room for them."""
        return self._sender.backlog.status().dropped_count

    @property
    def backlog_bytes(self) -> int:
        """What waits for the broker, on disk and in memory."""
        return self._sender.backlog.status().waiting_bytes

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Deliver what waits and say offline within ``timeout_s``; a second call does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        deadline_s = time.monotonic() + timeout_s
        if self._steering is not None:
            self._steering.close(timeout_s / 2)
        self._thread.join(max(0.0, deadline_s - time.monotonic()))
        for told_as in self._formats.values():
            told_as.close(max(0.0, deadline_s - time.monotonic()))
        self._sender.close(max(0.0, deadline_s - time.monotonic()))

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        look_s = min(self._interval_s, _LOOK_S)
        self._look(is_due=False)
        due_s = time.monotonic() + look_s
        while not self._closing.wait(look_s):
            is_due = time.monotonic() >= due_s
            if is_due:
                due_s += self._interval_s
            self._look(is_due=is_due)
        self._look(is_due=True)  # what happened since the last interval

    def _look(self, *, is_due: bool) -> None:
        now_ns = time.monotonic_ns()
        reports: list[Report] = []
        for name, reporter in self._reporters.items():
            with self._guarded(name):
                reports.extend(reporter.look(now_ns, is_due=is_due))
            time.sleep(_REST_S)
        joined = _joined(reports)
        for name, told_as in self._formats.items():
            with self._guarded(name):
                told_as.tell(joined)

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        """A defect in one part is logged once, and leaves the others alone."""
        try:
            yield
            self._failing.discard(what)
        except Exception:
            if what not in self._failing:
                log.exception("telemetry of %s fails", what)
            self._failing.add(what)


def _joined(reports: Iterable[Report]) -> list[Report]:
    """Telemetry of one path as one message, where its first part was; all else as it is."""
    joined: list[Report] = []
    places: dict[tuple[str, ...], int] = {}
    for report in reports:
        place = places.get(report.path)
        if report.kind != "telemetry":
            joined.append(report)
        elif place is None:
            places[report.path] = len(joined)
            joined.append(report)
        else:
            joined[place] = Report(report.path, {**joined[place].metrics, **report.metrics})
    return joined


def publish(
    source: Source,
    settings: Settings,
    *,
    runtime: Runtime | None = None,
    delivery: Delivery | None = None,
) -> Publisher:
    """Start to report on ``source`` in the background; the broker need not be there.

    Args:
        runtime: What an operator may steer, as far as ``[commands]`` allows it.
        delivery: How hard to try; default is the settings' keepalive and a minute's back-off.
    Raises:
        SettingsError: The broker's URL, a name or a format can't be used.
    """
    mqtt = settings.mqtt
    if not mqtt.url:
        raise SettingsError("no MQTT broker is set", hint="give one with EDGE_MQTT_URL")
    topics = Topics(mqtt.fleet, mqtt.device_name)
    delivery = delivery or Delivery()
    delivery = msgspec.structs.replace(
        delivery,
        keepalive_s=mqtt.keepalive_s,
        version=mqtt.version,
        folder=_outbox_folder(mqtt),
        clock=default_state() / "clock",
    )
    sender = Sender(brokers_of(mqtt), topics, delivery)
    sensors = device_sensors(Path(settings.power.root))
    told = reporters(Subject(source, sensors, sender.backlog, settings))
    told_as = formats(Outlet(sender, topics, settings, delivery.folder))
    steering = steer(runtime, settings, sender, topics, delivery.folder) if runtime else None
    publisher = Publisher(told, told_as, sender, mqtt.interval_s, steering)
    publisher.start()
    return publisher


def _outbox_folder(settings: Mqtt) -> Path | None:
    if settings.outbox == MEMORY:
        return None
    name = f"{settings.fleet}-{settings.device_name}"
    return Path(settings.outbox) if settings.outbox else default_state() / "outbox" / name
