"""What is told: reporters found by name, and their reports as messages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge.host import Strain
from edge.sensors import device_sensors
from edge.settings import Settings
from edge.telemetry.backlog import Backlog
from edge.telemetry.publisher import Publisher
from edge.telemetry.reports import Report, Subject, reporters
from edge.telemetry.topics import Topics

FAKES = Path(__file__).parent.parent / "fakes"


class Nothing:
    """A runtime without models, which bears its work well."""

    strain: Strain | None = Strain()

    def status(self) -> list[Any]:
        return []


class Told:
    """A sender that keeps what it is given."""

    def __init__(self) -> None:
        self.retained: list[tuple[str, dict[str, Any]]] = []
        self.sent: list[tuple[str, dict[str, Any], bool]] = []

    def start(self) -> None: ...

    def close(self, timeout_s: float) -> None: ...

    def retain(self, topic: str, metrics: dict[str, Any]) -> None:
        self.retained.append((topic, metrics))

    def send(self, topic: str, metrics: dict[str, Any], *, is_event: bool = False) -> None:
        self.sent.append((topic, metrics, is_event))


class Said:
    """Reports what it was given, when due."""

    def __init__(self, *reports: Report) -> None:
        self._reports = reports

    def look(self, now_ns: int, *, is_due: bool) -> Iterable[Report]:
        return self._reports if is_due else ()


def _subject() -> Subject:
    backlog = Backlog(lambda metrics: None)  # type: ignore[arg-type, return-value]
    return Subject(Nothing(), device_sensors(FAKES / "raspberry-pi-5"), backlog, Settings())


def _published(*reports: Report) -> Told:
    told = Told()
    publisher = Publisher({"said": Said(*reports)}, told, Topics("lab", "one"), 60.0)  # type: ignore[arg-type]
    publisher.start()
    publisher.close()  # which looks once more
    return told


def test_reporters_are_found_by_the_names_of_their_files() -> None:
    assert {"device", "models", "outbox", "power"} <= set(reporters(_subject()))


def test_the_device_is_told_of_when_it_is_due_and_not_before() -> None:
    found = reporters(_subject())
    early = [report.path for one in found.values() for report in one.look(0, is_due=False)]
    assert ("tele", "device") not in early
    due = [report for one in found.values() for report in one.look(1, is_due=True)]
    device: dict[str, Any] = {}
    for report in due:
        if report.path == ("tele", "device"):
            device |= report.metrics
    assert device["memory_total_bytes"] == 8245920 * 1024
    assert device["power_level"] == "free"
    assert device["outbox_is_durable"] is False


def test_telemetry_of_one_path_is_one_message() -> None:
    path = ("tele", "device")
    told = _published(
        Report(path, {"cpu_percent": 1.0}),
        Report(("tele", "model"), {"models": []}),
        Report(path, {"outbox_waiting_bytes": 2}),
    )
    assert told.sent == [
        ("edge/v1/lab/one/tele/device", {"cpu_percent": 1.0, "outbox_waiting_bytes": 2}, False),
        ("edge/v1/lab/one/tele/model", {"models": []}, False),
    ]


def test_events_of_one_path_stay_apart() -> None:
    path = ("event", "model_state")
    told = _published(Report(path, {"to": "idle"}, "event"), Report(path, {"to": "ready"}, "event"))
    assert [metrics["to"] for _, metrics, _ in told.sent] == ["idle", "ready"]
    assert all(is_event for _, _, is_event in told.sent)


def test_a_state_is_retained() -> None:
    told = _published(Report(("model", "digits"), {"state": "ready"}, "retained"))
    assert told.retained == [("edge/v1/lab/one/model/digits", {"state": "ready"})]
    assert told.sent == []
