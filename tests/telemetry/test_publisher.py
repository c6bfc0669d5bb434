"""Telemetry against real brokers, also when they die, come back, hang or never were."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import LONG_S

from edge.bundle import pack
from edge.core.contracts import Placement
from edge.core.errors import EngineError, SettingsError
from edge.core.manifest import Manifest, Variant
from edge.core.tensor import TensorSpec
from edge.host import BuildProgress, Limits, ModelStatus, Runtime, Statistics, Strain
from edge.settings import Mqtt, Power, Settings
from edge.telemetry import Publisher, publish
from edge.telemetry.sender import Delivery

FAKES = Path(__file__).parent.parent / "fakes"
QUICK = Delivery(first_wait_s=0.02, longest_wait_s=0.1, timeout_s=LONG_S)
TENSOR = TensorSpec("x", "float32", (1, 3))

Eventually = Callable[[Callable[[], bool], str], None]


class Models:
    """A runtime of one model, as far as telemetry looks at it."""

    def __init__(self) -> None:
        self.statistics = Statistics()
        self.state = "ready"
        self.reason = ""
        self.building: BuildProgress | None = None
        self.strain: Strain | None = None
        self.cost = None

    def health(self) -> list[Any]:
        return []

    def status(self) -> list[ModelStatus]:
        return [
            ModelStatus(
                "digits",
                "1",
                self.state,  # type: ignore[arg-type]
                self.reason,
                engine="null",
                variant="null-fp32",
                precision="fp32",
                placement=Placement("cpu", "cpu", {"cpu": 1.0}, "fp32"),
                statistics=self.statistics.snapshot(),
                building=self.building,
            )
        ]


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def start(models: Models, tmp_path: Path) -> Iterator[Callable[..., Publisher]]:
    """Starts publishers, and closes them after the test."""
    started: list[Publisher] = []

    def start(url: str, source: Any = models, delivery: Delivery = QUICK, **fields: Any) -> Any:
        given = {"url": url, "fleet": "lab", "device": "one", "interval_s": 0.05, **fields}
        given = {"outbox": str(tmp_path / "outbox"), **given}
        settings = Settings(mqtt=Mqtt(**given), power=Power(root=str(FAKES / "raspberry-pi-5")))
        publisher = publish(source, settings, delivery=delivery)
        started.append(publisher)
        return publisher

    yield start
    for publisher in started:
        publisher.close(0.5)


def _at(path: str, **metrics: Any) -> Callable[[Any], bool]:
    """Whether an arrival is at ``path`` and holds ``metrics``."""

    def matches(arrival: Any) -> bool:
        held = {name: arrival.metrics.get(name) for name in metrics}
        return bool(arrival.path == path and held == metrics)

    return matches


def test_retained_topics_greet_whoever_comes_late(
    broker: Any, listen: Any, start: Any, eventually: Eventually
) -> None:
    publisher = start(broker.url)
    listen().until(_at("tele/device"), "a first message")
    late = listen()
    seen: dict[str, Any] = {}
    while set(seen) < {"status", "info", "model/digits"}:
        arrival = late.until(lambda arrival: arrival.is_retained, "what is retained")
        seen[arrival.path] = arrival.metrics
    assert seen["status"]["state"] == "online"
    assert seen["info"]["models"] == [{"name": "digits", "version": "1"}]
    assert seen["info"]["engines"]["null"]["placements"] == ["cpu"]
    assert seen["model/digits"]["state"] == "ready"
    assert publisher.state == "connected"


def test_telemetry_comes_in_its_envelope(
    broker: Any, listen: Any, start: Any, models: Models
) -> None:
    listener = listen()
    start(broker.url)
    listener.until(_at("tele/model"), "a first window")
    counted = Statistics()
    for _ in range(10):
        counted.success(1_000_000)
    counted.failure(1_000, EngineError("broken"))
    models.statistics = counted  # all at once, so that they are in one window
    arrival = listener.until(
        lambda a: a.path == "tele/model" and a.metrics["models"][0].get("latency_ms"), "latencies"
    )
    row = arrival.metrics["models"][0]
    assert row["success_count"] == 10
    assert row["failure_count"] == 1
    assert row["success_per_s"] > 0
    assert 0.9 < row["latency_ms"]["infer"]["p99"] < 1.1
    device = listener.until(_at("tele/device"), "the device's figures").metrics
    assert device["memory_total_bytes"] == 8245920 * 1024
    assert device["temperature_celsius"]["cpu-thermal"] == 49.9
    envelope = arrival.envelope
    assert arrival.topic == "edge/v1/lab/one/tele/model"
    assert (envelope.v, envelope.hist) == (1, False)
    assert envelope.id == f"{envelope.boot}:{envelope.seq}"


def test_change_of_state_is_an_event_and_a_new_retained_state(
    broker: Any, listen: Any, start: Any, models: Models
) -> None:
    listener = listen()
    start(broker.url)
    listener.until(_at("model/digits", state="ready"), "the first state")
    models.reason = "out of memory"  # first: it is read while this goes on
    models.state = "failed"
    listener.until(_at("model/digits", state="failed", why="out of memory"), "the new state")
    event = _at("event/model_state", **{"from": "ready", "to": "failed", "why": "out of memory"})
    listener.until(event, "the event")


def test_each_step_of_a_build_is_retained_and_its_end_is_an_event(
    broker: Any, listen: Any, start: Any, models: Models
) -> None:
    models.state = "building"
    models.building = BuildProgress("tensorrt-int8", "parsing", 0.1)
    listener = listen()
    start(broker.url)
    listener.until(_at("model/digits", state="building"), "the beginning")
    models.building = BuildProgress("tensorrt-int8", "timing", 0.5)
    said = {"variant": "tensorrt-int8", "phase": "timing", "percent": 50}
    listener.until(_at("model/digits", building=said), "the next step")
    models.state, models.building = "ready", None
    listener.until(_at("model/digits", state="ready", building=None), "the end")
    is_event = _at("event/model_state", **{"from": "building"})
    assert listener.until(is_event, "the event").metrics["to"] == "ready"


def test_close_says_offline_after_all_else(broker: Any, listen: Any, start: Any) -> None:
    listener = listen()
    publisher = start(broker.url, interval_s=60.0)
    listener.until(_at("status", state="online"), "online")
    publisher.close(LONG_S)
    last = listener.until(_at("tele/model"), "the last window")
    goodbye = listener.until(_at("status", state="offline", reason="closed"), "goodbye")
    assert goodbye.envelope.seq > last.envelope.seq
    assert publisher.state == "closed"
    publisher.close()
    assert listen().until(_at("status"), "the retained status").metrics["state"] == "offline"


def test_killed_process_leaves_its_last_will(broker: Any, listen: Any) -> None:
    listener = listen()
    program = (
        "import sys, time\n"
        "from edge.settings import Mqtt, Settings\n"
        "from edge.telemetry import publish\n"
        "class Nothing:\n"
        "    strain = None\n"
        "    cost = None\n"
        "    def status(self): return []\n"
        "    def health(self): return []\n"
        "mqtt = Mqtt(url=sys.argv[1], fleet='lab', device='one')\n"
        "publish(Nothing(), Settings(mqtt=mqtt))\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, broker.url])
    try:
        online = listener.until(_at("status", state="online"), "online")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    will = listener.until(_at("status", state="offline", reason="connection lost"), "the will")
    assert will.envelope.boot == online.envelope.boot
    assert will.envelope.seq == online.metrics["will_seq"]


def test_broker_that_comes_back_gets_all_that_is_retained_again(
    broker: Any, listen: Any, start: Any, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "edge.telemetry")
    publisher = start(broker.url)
    eventually(lambda: publisher.state == "connected", "a connection")
    broker.stop()
    eventually(lambda: publisher.state == "unreachable", "the loss to be seen")
    eventually(lambda: publisher.backlog_bytes > 3000, "messages to wait")
    time_of_loss_ns = time.monotonic_ns()
    broker.start()
    listener = listen()
    wanted = {"status", "info", "model/digits"}
    while wanted:
        wanted.discard(listener.until(lambda a: a.path in wanted, "what is retained").path)
    eventually(lambda: publisher.backlog_bytes < 3000, "the backlog to be delivered")
    live = listener.until(
        lambda a: a.path == "tele/device" and a.envelope.mono_ns > time_of_loss_ns, "live again"
    )
    assert live.envelope.hist is False
    messages = [record.message for record in caplog.records if record.name.startswith("edge")]
    assert len(messages) == 3, messages  # connected, unreachable, connected again
    assert str(publisher.dropped_count) == "0"


def test_what_is_held_back_is_an_event_and_is_told_with_the_device(
    broker: Any, listen: Any, start: Any
) -> None:
    source = Models()
    source.strain = Strain()
    listener = listen()
    start(broker.url, source)
    free = listener.until(_at("tele/device"), "a sample")
    assert free.metrics["power_level"] == "free"
    why = "cpu is at 91.0 °C, more than the 85 of max_celsius"
    limits = Limits(concurrency=1, batches_per_s=12.5)
    source.strain = Strain("rate", "thermal", why, 5, limits)
    event = listener.until(_at("event/power"), "the event").metrics
    assert (event["from"], event["to"], event["why"]) == ("free", "rate", why)
    assert (event["power_cause"], event["power_limit_batches_per_s"]) == ("thermal", 12.5)
    source.strain = Strain("rate", "thermal", why, 5, Limits(1, 12.0))  # a step is no event
    listener.until(_at("tele/device", power_limit_batches_per_s=12.0), "a sample")
    source.strain = Strain(since_ms=9)
    event = listener.until(_at("event/power"), "the event").metrics
    assert (event["from"], event["to"], event["power_cause"]) == ("rate", "free", "none")


def test_wrong_settings_are_refused_before_anything_starts(start: Any) -> None:
    for wrong in ({"url": ""}, {"url": "host:1883"}, {"device": "a/b"}, {"fleet": "#"}):
        with pytest.raises(SettingsError):
            start(**{"url": "mqtt://127.0.0.1", **wrong})


def test_source_that_fails_is_logged_once_and_does_not_end_the_telemetry(
    broker: Any, listen: Any, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Shaky(Models):
        def status(self) -> list[ModelStatus]:
            if self.state == "broken":
                raise RuntimeError("no status")
            return super().status()

    source = Shaky()
    listener = listen()
    publisher = start(broker.url, source)
    listener.until(_at("tele/model"), "a first window")
    source.state = "broken"
    broken_ns = time.monotonic_ns()
    for _ in range(3):  # the device's own figures still come
        listener.until(
            lambda a: a.path == "tele/device" and a.envelope.mono_ns > broken_ns, "the device"
        )
    source.state = "ready"
    listener.until(lambda a: a.path == "tele/model" and a.envelope.mono_ns > broken_ns, "models")
    assert publisher.state == "connected"
    assert [r.message for r in caplog.records] == ["telemetry of models fails"]


def test_runtime_serves_on_without_a_broker(
    start: Any, tmp_path: Path, eventually: Eventually
) -> None:
    variant = Variant("v", "null", "fp32", (), (TENSOR,), (TENSOR,))
    manifest = Manifest(1, "digits", "1", "tensors", "host", "0" * 64, (variant,))
    (tmp_path / "parts").mkdir()
    bundle = pack(manifest, tmp_path / "parts", tmp_path / "digits.edge")
    with socket.socket() as closed_port, Runtime(bundle) as runtime:
        closed_port.bind(("127.0.0.1", 0))
        publisher = start(f"mqtt://127.0.0.1:{closed_port.getsockname()[1]}", runtime)
        eventually(lambda: publisher.state == "unreachable", "the absence to be seen")
        for _ in range(100):
            assert runtime.infer("digits", {"x": np.ones((1, 3), np.float32)})["x"].shape == (1, 3)
        publisher.close()
        assert publisher.state == "closed"
        assert runtime.status()[0].statistics.success_count == 100


def test_runtime_of_real_models_is_reported_on(
    broker: Any, listen: Any, start: Any, tmp_path: Path
) -> None:
    variant = Variant("v", "null", "fp32", (), (TENSOR,), (TENSOR,), chosen=True)
    manifest = Manifest(1, "digits", "3", "tensors", "host", "0" * 64, (variant,))
    (tmp_path / "parts").mkdir()
    bundle = pack(manifest, tmp_path / "parts", tmp_path / "digits.edge")
    listener = listen()
    with Runtime(bundle) as runtime:
        start(broker.url, runtime)
        listener.until(_at("model/digits", version="3", state="staged"), "the model at rest")
        runtime.infer("digits", {"x": np.ones((1, 3), np.float32)})
        ready = listener.until(_at("model/digits", state="ready", engine="null"), "it is loaded")
        assert ready.metrics["why"]
        listener.until(
            lambda a: (
                a.path == "tele/model"
                and [row["success_count"] for row in a.metrics["models"]] == [1]
            ),
            "its inference",
        )
