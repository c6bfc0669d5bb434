from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import LONG_S
from simulated_fleet import SimulatedFleet, good, progress, result, roll_out

from edge.cli._main import EXIT_DONE, EXIT_UNAVAILABLE, main

Fleet = Callable[..., SimulatedFleet]


class Process:
    """The operator as a process of its own, which can be killed."""

    def __init__(self, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "edge", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, **pipes)

    def until(self, wanted: str) -> None:
        assert self.process.stdout is not None
        assert any(wanted in line for line in self.process.stdout), wanted

    def end(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        try:
            _, errors = self.process.communicate(timeout=LONG_S)
        finally:
            self.process.kill()
        return self.process.returncode, errors


def test_killed_operator_goes_on_and_sends_nothing_twice(
    url: str, bundle: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet(good(4)) as devices:
        for moment in ("press-0  updating", "press-1  watched", "press-2  updating"):
            # Long enough for it to be killed before it goes on to the next wave.
            operator = Process(roll_out(url, bundle, "--at-once", "1", "--soak", "5s"))
            operator.until(moment)
            assert operator.end(signal.SIGKILL)[0] == -signal.SIGKILL
        assert main(roll_out(url, bundle, "--json")) == EXIT_DONE
    assert set(progress(result(capsys)).values()) == {"done"}
    assert set(devices.runs.values()) == {1}
    assert len(devices.runs) == 4


def test_interrupted_operator_says_how_to_go_on_and_keeps_others_out(
    url: str, bundle: Path, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet(good(1)):
        operator = Process(roll_out(url, bundle, "--soak", "1h"))
        operator.until("watched")
        assert main(roll_out(url, bundle)) == EXIT_UNAVAILABLE
        complaint = capsys.readouterr().err
        assert f"another operator works on this roll-out (process {operator.process.pid})" in (
            complaint
        )
        code, errors = operator.end(signal.SIGINT)
    assert code == 130
    assert "the same command goes on from here" in errors
