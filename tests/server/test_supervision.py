"""What systemd is told, by its own protocol."""

from __future__ import annotations

import array
import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from free_ports import free_port
from patience import LONG_S

from edge.host.statistics import Statistics
from edge.host.status import ModelStatus
from edge.server.supervision import HUNG_S, Engines, Supervisor


class Manager:
    """Listens as systemd does."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(LONG_S)
        self.kept: list[int] = []

    def hear(self) -> str:
        text, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_LEN(4))
        for _, _, data in ancillary:
            self.kept.append(array.array("i", data)[0])
        return text.decode()

    def close(self) -> None:
        self._socket.close()
        for descriptor in self.kept:
            os.close(descriptor)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def status(*, is_running: bool, ended: int = 0) -> ModelStatus:
    statistics = Statistics()
    for _ in range(ended):
        statistics.success(1000)
    snapshot = statistics.snapshot()
    running = msgspec.structs.replace(snapshot, is_running=is_running)
    return ModelStatus("m", "1", "ready", statistics=running)


def test_a_process_without_a_manager_tells_nobody(tmp_path: Path) -> None:
    supervisor = Supervisor({})
    supervisor.stopping()
    assert supervisor.kept("127.0.0.1:8000") is None


def test_a_manager_that_went_away_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Supervisor({"NOTIFY_SOCKET": str(tmp_path / "gone")}).stopping()
    assert "systemd can not be told STOPPING=1" in caplog.text


def test_what_was_meant_for_us_is_not_left_for_our_processes(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "30000", "HOME": "/"}
    Supervisor(environ)
    assert environ == {"HOME": "/"}


def test_pings_end_while_an_engine_hangs(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000"})
    hung = iter(["", "", "m 1", ""])
    asked = []

    def judge(*_: object) -> str:
        asked.append(next(hung))
        return asked[-1]

    monkeypatch.setattr(Engines, "hung", judge)
    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(supervisor.watch(list))
    assert asked == ["", "", "m 1", ""]
    assert [manager.hear() for _ in range(3)] == ["WATCHDOG=1"] * 3


def test_an_engine_hangs_that_is_at_the_same_inference_for_long() -> None:
    engines = Engines()
    assert not engines.hung([status(is_running=True)], 0.0)
    assert not engines.hung([status(is_running=True)], HUNG_S)
    assert engines.hung([status(is_running=True)], HUNG_S + 1) == "m 1"


def test_an_engine_does_not_hang_that_ended_an_inference_or_rested() -> None:
    engines = Engines()
    engines.hung([status(is_running=True, ended=1)], 0.0)
    assert not engines.hung([status(is_running=True, ended=2)], HUNG_S + 1)
    engines.hung([status(is_running=False, ended=2)], HUNG_S + 2)
    assert not engines.hung([status(is_running=True, ended=2)], HUNG_S + 3)
    assert not engines.hung([status(is_running=True, ended=2)], HUNG_S + 4)


LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def start(
    manager: Manager, folder: Path, address: str, passed: int | None = None
) -> subprocess.Popen[str]:
    """``edge serve`` as systemd starts it, with a kept socket as its descriptor 3."""
    arguments = ["-m", "edge", "serve", str(folder), "--http", address]
    environ = {**os.environ, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "30000000"}
    if passed is not None:
        environ |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": f"http-{address.replace(':', ',')}"}
        arguments = ["-c", LAUNCHER, str(passed), *arguments]
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[] if passed is None else [passed],
    )


def test_connections_made_between_two_processes_wait_for_the_second(
    manager: Manager, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    address = f"127.0.0.1:{free_port()}"
    first = start(manager, folder, address)
    assert manager.hear() == "READY=1"
    assert manager.hear().startswith("FDSTORE=1\nFDNAME=http-127.0.0.1,")
    first.send_signal(signal.SIGTERM)
    assert first.wait(LONG_S) == 0
    told = [manager.hear()]
    while told[-1] != "STOPPING=1":
        told.append(manager.hear())
    assert set(told) <= {"WATCHDOG=1", "STOPPING=1"}
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), LONG_S) as between:
        between.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        second = start(manager, folder, address, passed=manager.kept[0])
        try:
            assert re.match(rb"HTTP/1.1 200 ", between.recv(4096))
            with urllib.request.urlopen(f"http://{address}/v2/health/live", timeout=LONG_S) as live:
                assert live.status == 200
        finally:
            second.terminate()
            assert second.wait(LONG_S) == 0
            for process in (first, second):
                assert process.stdout is not None
                process.stdout.close()
