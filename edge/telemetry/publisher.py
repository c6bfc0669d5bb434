"""Publishes a runtime's state and statistics, and the device's, to an MQTT broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from edge.core.cache import default_state
from edge.core.errors import SettingsError
from edge.host.governor import Strain
from edge.sensors import DeviceSensors, device_sensors
from edge.settings import MEMORY, Mqtt
from edge.telemetry.address import parse_address
from edge.telemetry.metrics import (
    Metrics,
    ModelMeter,
    Transitions,
    device_info,
    model_metrics,
    outbox_metrics,
)
from edge.telemetry.sender import Delivery, Sender
from edge.telemetry.topics import Topics

if TYPE_CHECKING:
    from edge.host import ModelStatus

log = logging.getLogger(__name__)

_LOOK_S = 1.0  # how often states are looked at, however long the interval is
CLOSE_TIMEOUT_S = 2.0


class Source(Protocol):
    """What is reported on; an ``edge.Runtime`` is one."""

    def status(self) -> Sequence[ModelStatus]: ...

    @property
    def strain(self) -> Strain | None: ...


class Publisher:
    """Telemetry in the background: one thread samples, one talks to the broker, one to the disk.

    A broker that is absent, slow or gone costs disk and memory up to bounds, and nothing else.
    """

    def __init__(
        self,
        source: Source,
        sender: Sender,
        topics: Topics,
        sensors: DeviceSensors,
        interval_s: float,
    ) -> None:
        self._source = source
        self._sender = sender
        self._topics = topics
        self._sensors = sensors
        self._interval_s = interval_s
        self._meter = ModelMeter()
        self._transitions = Transitions()
        self._has_told_info = False
        self._told: dict[str, Metrics] = {}
        self._strain = Strain()
        self._is_failing = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-telemetry", daemon=True)

    def start(self) -> None:
        self._sender.start()
        self._thread.start()

    @property
    def state(self) -> str:
        """``connecting``, ``connected``, ``unreachable``, ``refused`` or ``closed``."""
        return self._sender.state

    @property
    def reason(self) -> str:
        """Why the broker is unreachable or refused us."""
        return self._sender.reason

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
        self._thread.join(timeout_s)
        self._sender.close(max(0.0, deadline_s - time.monotonic()))

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        look_s = min(self._interval_s, _LOOK_S)
        self._sensors.read()  # rates need a beginning
        self._guarded_look(is_due=False)
        due_s = time.monotonic() + look_s
        while not self._closing.wait(look_s):
            is_due = time.monotonic() >= due_s
            if is_due:
                due_s += self._interval_s
            self._guarded_look(is_due=is_due)
        self._guarded_look(is_due=True)  # what happened since the last interval

    def _guarded_look(self, *, is_due: bool) -> None:
        """A defect in one look is logged once and does not end the telemetry."""
        try:
            self._look(is_due=is_due)
            self._is_failing = False
        except Exception:
            if not self._is_failing:
                log.exception("telemetry could not be sampled")
            self._is_failing = True

    def _look(self, *, is_due: bool) -> None:
        strain = self._source.strain
        if is_due:
            device = self._sensors.read().metrics()
            if strain is not None:
                device |= strain.summary()
            device |= outbox_metrics(self._sender.backlog.status())
            self._sender.send(self._topics.of("tele", "device"), device)
        if strain is not None:
            self._tell_of(strain)
        statuses = self._source.status()
        now_ns = time.monotonic_ns()
        changes = self._transitions.look(statuses)
        if changes or not self._has_told_info:
            self._has_told_info = True
            self._sender.retain(self._topics.of("info"), device_info(statuses))
        models = model_metrics(statuses)
        for name, metrics in models.items():
            if self._told.get(name) != metrics:  # also with each percent of a build
                self._sender.retain(self._topics.of("model", name), metrics)
        self._told = models
        for change in changes:
            topic = self._topics.of("event", "model_state")
            self._sender.send(topic, change.metrics(), is_event=True)
        if is_due:
            self._sender.send(
                self._topics.of("tele", "model"), self._meter.measure(statuses, now_ns)
            )

    def _tell_of(self, strain: Strain) -> None:
        """An event when what is held back changes, or why; not with each step of a rate."""
        before, self._strain = self._strain, strain
        if (strain.level, strain.cause) != (before.level, before.cause):
            change = {"name": "power", "from": before.level, "to": strain.level, "why": strain.why}
            topic = self._topics.of("event", "power")
            self._sender.send(topic, {**change, **strain.summary()}, is_event=True)


def publish(
    source: Source,
    settings: Mqtt,
    *,
    root: Path = Path("/"),
    delivery: Delivery | None = None,
) -> Publisher:
    """Start to report on ``source`` in the background; the broker need not be there.

    Args:
        root: Where the sensors find ``sys`` and ``proc``.
        delivery: How hard to try; default is the settings' keepalive and a minute's back-off.
    Raises:
        SettingsError: The broker's URL, the fleet's name or the device's can't be used.
    """
    if not settings.url:
        raise SettingsError("no MQTT broker is set", hint="give one with EDGE_MQTT_URL")
    topics = Topics(settings.fleet, settings.device_name)
    delivery = delivery or Delivery()
    delivery = msgspec.structs.replace(
        delivery,
        keepalive_s=settings.keepalive_s,
        version=settings.version,
        folder=_outbox_folder(settings),
    )
    sender = Sender(parse_address(settings.url), topics, delivery)
    publisher = Publisher(source, sender, topics, device_sensors(root), settings.interval_s)
    publisher.start()
    return publisher


def _outbox_folder(settings: Mqtt) -> Path | None:
    if settings.outbox == MEMORY:
        return None
    name = f"{settings.fleet}-{settings.device_name}"
    return Path(settings.outbox) if settings.outbox else default_state() / "outbox" / name
