from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from patience import LONG_S

from edge.cli._main import main
from edge.telemetry.address import parse_address
from edge.telemetry.broker import EmbeddedBroker
from edge.telemetry.envelope import Sealer, encode
from edge.telemetry.link import Link

SAMPLE = {
    "name": "digits",
    "version": "1",
    "success_per_s": 1204.5,
    "latency_ms": {"infer": {"p50": 0.41, "p99": 0.62}},
}
MESSAGES: dict[str, dict[str, Any]] = {
    "status": {"state": "online"},
    "tele/device": {"cpu_percent": 31.0},
    "tele/model": {"window_s": 5.0, "models": [SAMPLE]},
}


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """A broker that has one message of each kind, retained so that whoever comes gets them."""
    with EmbeddedBroker() as embedded:
        link = Link(parse_address(embedded.url), timeout_s=LONG_S)
        link.open()
        sealer = Sealer()
        while link.state == "connecting":
            link.step(LONG_S)
        for path, metrics in MESSAGES.items():
            topic = f"edge/v1/plant/press-7/{path}"
            number = link.send(topic, encode(sealer.seal(metrics)), is_retained=True)
            while link.is_open and number not in link.acknowledged():
                link.step(LONG_S)
        assert link.is_open
        link.disconnect()
        yield embedded


def test_watch_prints_a_line_for_each_message(
    broker: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", "--mqtt", broker.url, "--count", "3"]) == 0
    lines = sorted(line.partition(" ")[2] for line in capsys.readouterr().out.splitlines())
    assert lines == [
        "plant/press-7 status: online",
        "plant/press-7 tele/device: cpu 31 %",
        "plant/press-7 tele/model: digits 1204.5/s p50 0.410 ms p99 0.620 ms",
    ]


def test_watch_json_has_topic_and_envelope_in_each_line(
    broker: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", "--mqtt", broker.url, "--count", "3", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["topic"]: line["m"] for line in lines} == {
        f"edge/v1/plant/press-7/{path}": metrics for path, metrics in MESSAGES.items()
    }
    assert all(line["v"] == 1 and line["id"] == f"{line['boot']}:{line['seq']}" for line in lines)


def test_watch_stops_after_the_seconds_it_was_given(
    broker: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = ["--mqtt", broker.url, "--device", "another", "--seconds", "0.05"]
    assert main(["watch", *watched]) == 0
    assert capsys.readouterr().out == ""


def test_watch_takes_the_broker_from_the_settings(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_MQTT_URL", broker.url)
    assert main(["watch", "--count", "1"]) == 0
    assert "press-7" in capsys.readouterr().out


def test_absent_broker_is_exit_3_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    assert main(["watch", "--mqtt", f"mqtt://127.0.0.1:{port}"]) == 3
    complaint = capsys.readouterr().err
    assert f"no MQTT broker at mqtt://127.0.0.1:{port}" in complaint
    assert "hint: " in complaint


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--mqtt", "http://localhost"],
        ["--mqtt", "mqtt://localhost", "--fleet", "a/b"],
        ["--mqtt", "mqtt://localhost", "--count", "0"],
        ["--mqtt", "mqtt://localhost", "--seconds", "nan"],
    ],
)
def test_wrong_usage_is_exit_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no edge.toml there
    monkeypatch.delenv("EDGE_MQTT_URL", raising=False)
    assert main(["watch", *arguments]) == 2


class Terminal:
    """Runs a command on a terminal of 80 columns and 24 lines."""

    def __init__(self, *command: str) -> None:
        self._terminal, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environ = {**os.environ, "TERM": "xterm-256color"}
        environ.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge", *command],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env=environ,
        )
        os.close(inside)
        self.text = ""

    def until(self, wanted: str) -> None:
        deadline_s = time.monotonic() + LONG_S
        while wanted not in self.text:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"{wanted!r} was not shown: {self.text}"
            if select.select([self._terminal], [], [], left_s)[0]:
                self.text += os.read(self._terminal, 65536).decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)


def test_watch_on_a_terminal_shows_the_board_until_ctrl_c(broker: EmbeddedBroker) -> None:
    terminal = Terminal("watch", "--mqtt", broker.url)
    try:
        for wanted in ("plant/press-7", "digits", "0.410", "Ctrl-C ends"):
            terminal.until(wanted)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(LONG_S) == 0
    finally:
        terminal.close()
    assert "\x1b[" in terminal.text
    assert "Traceback" not in terminal.text


def test_watch_on_a_terminal_says_that_the_broker_is_gone(broker: EmbeddedBroker) -> None:
    terminal = Terminal("watch", "--mqtt", broker.url)
    try:
        terminal.until("plant/press-7")
        broker.close()
        terminal.until("trying again")
        assert terminal.process.poll() is None
    finally:
        terminal.close()
