"""``edge cost``: from a server, from a broker, and from neither."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.cli import _cost, _main
from edge.cli.cost import _url
from edge.core.errors import SettingsError
from edge.telemetry.address import parse_address
from edge.telemetry.broker import EmbeddedBroker
from edge.telemetry.envelope import Sealer, encode
from edge.telemetry.link import Link

TOLD: dict[str, Any] = {
    "since_ms": 1_795_272_230_677,
    "metered_s": 7384.0,
    "energy_source": "integrated",
    "energy_rail": "VDD_IN",
    "energy_samples_per_s": 1.0,
    "energy_covered_percent": 99.8,
    "energy_error_percent": 0.42,
    "energy_joules": 40_600.0,
    "idle_joules": 12_500.0,
    "idle_watts": 4.92,
    "idle_source": "measured",
    "power_mean_watts": 9.41,
    "busy_percent": 43.1,
    "currency": "EUR",
    "energy_cost_eur": 0.0036,
    "device_cost_eur": 0.0234,
    "models": [
        {
            "name": "squeezenet",
            "version": "1",
            "inference_count": 123_456,
            "busy_s": 3180.0,
            "energy_joules": 28_100.0,
            "joules_per_inference": 0.2276,
            "joules_per_inference_above_idle": 0.1009,
            "cache_saved_count": 9876,
            "cache_saved_joules": 2247.8,
            "cost_per_million_eur": 0.216,
            "energy_cost_per_million_eur": 0.0292,
            "device_cost_per_million_eur": 0.187,
            "energy_cost_per_million_full_load_eur": 0.0202,
            "device_cost_per_million_full_load_eur": 0.0816,
        }
    ],
}


@pytest.fixture
def serving() -> Iterator[Callable[..., str]]:
    """A server that gives one answer to /v2/cost; tells its address."""
    servers = contextlib.ExitStack()

    def serve(body: bytes, status: int = 200) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/v2/cost" else 418)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.callback(server.server_close)
        servers.callback(thread.join)
        servers.callback(server.shutdown)
        return f"127.0.0.1:{server.server_port}"

    with servers:
        yield serve


def test_what_a_server_tells_fits_on_80_columns(
    serving: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main.main(["cost", "--http", serving(msgspec.json.encode(TOLD))]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for said in (
        "2 h 3 min",
        "40.6 kJ ± 0.42 %, 9.41 W on average",
        "VDD_IN: power summed up, read 1.0/s, 99.8 % of the time",
        "4.92 W, measured while nothing ran",
        "43.1 % of the time",
        "0.00360 EUR for energy, 0.0234 EUR for the device",
        "123,456",
        "228 mJ",
        "101 mJ",
        "0.187",
        "0.0816",
        "9,876 answers, 2.25 kJ",
    ):
        assert said in out, said


def test_json_is_what_the_server_said(serving: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main.main(["cost", "--json", "--http", serving(msgspec.json.encode(TOLD))]) == 0
    assert msgspec.json.decode(capsys.readouterr().out) == TOLD


def test_no_sensor_and_an_estimate_are_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    why = "no sensor here tells the power"
    _cost.show("here", {"energy_source": "none", "energy_why": why, "models": []})
    _cost.show(
        "there",
        {"energy_source": "estimated", "energy_why": why, "energy_joules": 5.0, "models": []},
    )
    out = capsys.readouterr().out
    assert f"not known: {why}" in out
    assert f"an estimate: {why}" in out
    assert "no model ran yet" in out
    assert "EUR" not in out


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"models": "many"},
        {"models": [{}, 5, {"name": 7, "busy_s": "long", "joules_per_inference": None}]},
        {**TOLD, "since_ms": 1e300, "energy_joules": "a lot", "currency": "\x1b[31m"},
        {**TOLD, "models": [{"name": "\x1b[2J" + "n" * 200, "inference_count": 10**30}]},
    ],
)
def test_figures_that_make_no_sense_break_nothing(
    odd: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    _cost.show("here", odd)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"gone", 404, "answers 404 to /v2/cost"),
        (b"<html>", 200, "answers no JSON"),
        (b"[1]", 200, "answers no JSON"),
    ],
)
def test_server_that_is_another_is_named(
    serving: Any, capsys: pytest.CaptureFixture[str], body: bytes, status: int, said: str
) -> None:
    assert _main.main(["cost", "--http", serving(body, status)]) == _main.EXIT_UNAVAILABLE
    assert said in capsys.readouterr().err


def test_where_no_server_is_the_next_command_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edge.toml").write_text('[serve]\nhttp = "127.0.0.1:1"\n')
    monkeypatch.chdir(tmp_path)
    assert _main.main(["cost"]) == _main.EXIT_UNAVAILABLE
    error = capsys.readouterr().err
    assert "no server answers at http://127.0.0.1:1: Connection refused" in error
    assert "edge serve" in error


def test_address_that_is_listened_at_becomes_one_that_answers() -> None:
    assert _url("0.0.0.0:8000") == "http://127.0.0.1:8000"
    assert _url("[::]:8000") == "http://[::1]:8000"
    assert _url("jetson.local:80") == "http://jetson.local:80"
    assert _url("https://edge.example/one/") == "https://edge.example/one"
    for wrong in ("nonsense", "host:port", "127.0.0.1:0", "file:///etc/passwd", ""):
        with pytest.raises(SettingsError):
            _url(wrong)


def publish(broker: EmbeddedBroker, path: str, metrics: dict[str, Any]) -> None:
    link = Link(parse_address(broker.url))
    link.open()
    while link.state == "connecting":
        link.step(1.0)
    number = link.send(f"edge/v1/{path}", encode(Sealer().seal(metrics)), is_retained=True)
    while link.is_open and number not in link.acknowledged():
        link.step(1.0)
    link.disconnect()


def test_devices_at_a_broker_are_told_of_by_the_newest_they_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with EmbeddedBroker() as broker:
        publish(broker, "lab/one/cost", {**TOLD, "metered_s": 60.0})
        publish(broker, "lab/one/tele/cost", TOLD)
        publish(broker, "lab/two/cost", TOLD)
        publish(broker, "lab/two/status", {"state": "online"})
        arguments = ["cost", "--mqtt", broker.url, "--seconds", "2"]
        assert _main.main([*arguments, "--json"]) == 0
        told = msgspec.json.decode(capsys.readouterr().out)
        assert [one["device"] for one in told] == ["lab/one", "lab/two"]
        assert told[0]["metered_s"] == 7384.0


def test_only_the_device_that_is_named_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    with EmbeddedBroker() as broker:
        publish(broker, "lab/one/cost", TOLD)
        publish(broker, "lab/two/cost", TOLD)
        arguments = ["cost", "--mqtt", broker.url, "--seconds", "2", "--device", "two"]
        assert _main.main(arguments) == 0
    out = capsys.readouterr().out
    assert "lab/two" in out
    assert "lab/one" not in out


def test_certificates_are_those_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "edge.toml").write_text('[mqtt]\nca = "/nowhere/ca.pem"\n')
    monkeypatch.chdir(tmp_path)
    assert _main.main(["cost", "--mqtt", "mqtts://127.0.0.1:1", "--seconds", "0.1"]) != 0
    assert "/nowhere/ca.pem" in capsys.readouterr().err


def test_broker_at_which_no_device_told_anything_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with EmbeddedBroker() as broker:
        code = _main.main(["cost", "--mqtt", broker.url, "--seconds", "0.1"])
    assert code == _main.EXIT_UNAVAILABLE
    assert "no device told its costs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0.00"),
        (1234.5, "1,234.50"),
        (0.187, "0.187"),
        (1.97e-5, "0.0000197"),
        (3e-9, "≈ 0"),
    ],
)
def test_money_has_no_exponent(value: float | None, text: str) -> None:
    assert _cost._amount(value) == text
