"""What is told: reporters found by name, and their reports as messages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.core.errors import SettingsError
from edge.host import ModelStatus, Strain
from edge.sensors import Reading, device_sensors
from edge.settings import Mqtt, Settings
from edge.telemetry.backlog import Backlog
from edge.telemetry.formats import Outlet, formats
from edge.telemetry.publisher import Publisher
from edge.telemetry.reports import Report, Subject, reporters
from edge.telemetry.reports.device import DeviceReporter
from edge.telemetry.topics import Topics

FAKES = Path(__file__).parent.parent / "fakes"


class Nothing:
    """A runtime without models, which bears its work well."""

    strain: Strain | None = Strain()
    cost = None

    def status(self) -> list[Any]:
        return []

    def health(self) -> list[Any]:
        return []


class Told:
    """A sender that keeps what it is given."""

    def __init__(self) -> None:
        self.retained: list[tuple[str, dict[str, Any] | bytes]] = []
        self.sent: list[tuple[str, dict[str, Any], bool]] = []

    def start(self) -> None: ...

    def close(self, timeout_s: float) -> None: ...

    def listen(self, pattern: str, handler: Any) -> None: ...

    def retain(self, topic: str, metrics: dict[str, Any] | bytes) -> None:
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
    outlet = Outlet(told, Topics("lab", "one"), Settings(), None)  # type: ignore[arg-type]
    publisher = Publisher({"said": Said(*reports)}, formats(outlet), told, 60.0)  # type: ignore[arg-type]
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


def test_sensors_that_the_runtime_reads_are_not_read_again() -> None:
    class Unread:
        def read(self) -> Reading:
            raise AssertionError

    source = Nothing()
    source.strain = Strain(reading=Reading(total_watts=7.5))
    subject = msgspec.structs.replace(_subject(), source=source, sensors=Unread())
    reporter = DeviceReporter(subject)
    assert list(reporter.look(0, is_due=False)) == []
    (report,) = reporter.look(1, is_due=True)
    assert report.metrics == {"power_total_watts": 7.5}


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


def test_a_report_that_can_not_be_told_does_not_hold_up_the_others() -> None:
    class Choosy(Told):
        def send(self, topic: str, metrics: dict[str, Any], *, is_event: bool = False) -> None:
            if "bad" in metrics:
                raise TypeError("no such thing in JSON")
            super().send(topic, metrics, is_event=is_event)

    told = Choosy()
    form = formats(Outlet(told, Topics("lab", "one"), Settings(), None))["json"]  # type: ignore[arg-type]
    reports = [Report(("tele", "a"), {"bad": object()}), Report(("tele", "b"), {"x_count": 1})]
    with pytest.raises(TypeError):
        form.tell(reports)
    assert [topic for topic, _, _ in told.sent] == ["edge/v1/lab/one/tele/b"]


def test_a_model_that_is_gone_is_no_longer_retained() -> None:
    told = _published(Report(("model", "digits"), {}, "retained"))
    assert told.retained == [("edge/v1/lab/one/model/digits", b"")]


def test_models_reporter_says_once_that_a_model_is_gone() -> None:
    class One(Nothing):
        names = ("digits",)

        def status(self) -> list[Any]:
            return [ModelStatus(name, "1", "staged") for name in self.names]

    source = One()
    reporter = reporters(msgspec.structs.replace(_subject(), source=source))["models"]
    first = {report.path for report in reporter.look(0, is_due=False)}
    source.names = ()
    second = [(r.path, r.metrics) for r in reporter.look(1, is_due=False)]
    third = [r.path for r in reporter.look(2, is_due=False)]
    assert ("model", "digits") in first
    assert (("model", "digits"), {}) in second
    assert ("model", "digits") not in third


def test_a_format_that_does_not_exist_is_refused_with_those_that_do() -> None:
    outlet = Outlet(Told(), Topics("lab", "one"), Settings(mqtt=Mqtt(formats=("xml",))), None)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="xml") as caught:
        formats(outlet)
    assert "json" in str(caught.value.hint)
