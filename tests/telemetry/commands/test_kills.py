"""A device that is killed at each step of a command: it ends once, and is done once at most."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_run import Device
from patience import LONG_S

AFTER_S = 30.0  # spent where no step is left
MOST_STEPS = 60
"""More than a command has: at those beyond, the device lives on, and the test has seen all."""


def _kill_at(device: Device, operator: Any, verb: str, die_at: int) -> tuple[dict[str, Any], bool]:
    """The end of a command whose device is killed at a step; False if it has not so many."""
    id_ = f"n{die_at}"
    process = device.start(die_at)
    operator.order(f"{verb}/{id_}", model="m")
    try:
        answer = _await_death_or_end(process, operator, f"{verb}/{id_}")
        is_dead = process.poll() is not None
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()
    if is_dead:
        successor = device.start()
        try:
            first, answer = answer, answer or operator.answer(f"{verb}/{id_}")
            operator.order(f"{verb}/{id_}", model="m")  # which the end has to be the answer to
            assert operator.answer(f"{verb}/{id_}") == answer
            assert first in (None, answer)
        finally:
            successor.kill()
            successor.wait()
            assert successor.stdout
            successor.stdout.close()
    assert answer is not None
    return answer, is_dead


def _await_death_or_end(process: subprocess.Popen[str], operator: Any, path: str) -> Any:
    """Steps after the end was told are awaited: they follow within the second where it is quick."""
    answer, deadline_s = None, time.monotonic() + LONG_S
    while process.poll() is None and time.monotonic() < deadline_s:
        operator._step()
        ends = [r for r in operator.seen if r.topic.endswith(path) and b'"successful"' in r.payload]
        if ends and answer is None:
            answer = operator.answer(path)
            deadline_s = time.monotonic() + AFTER_S
    return answer


CASES: list[tuple[str, Callable[[dict[str, Any], int], bool]]] = [
    ("load", lambda answer, effects: effects <= 1 and _is_honest(answer, effects)),
    ("update", lambda answer, effects: answer["status"] == "successful" and effects in (1, 2)),
    ("activate", lambda answer, effects: (answer["status"] == "successful") == (effects == 1)),
]


def _is_honest(answer: dict[str, Any], effects: int) -> bool:
    """Success only for what was done; what was done and not kept is told as interrupted."""
    if answer["status"] == "successful":
        return effects == 1
    return bool(answer["kind"] == "interrupted")


@pytest.mark.parametrize(("verb", "is_right"), CASES, ids=[verb for verb, _ in CASES])
@pytest.mark.parametrize("die_at", [2, 9, 12])
def test_command_ends_once_though_its_device_is_killed(
    broker: Any, operator: Any, tmp_path: Path, verb: str, is_right: Any, die_at: int
) -> None:
    device = Device(tmp_path, broker.port)
    answer, is_dead = _kill_at(device, operator, verb, die_at)
    assert is_dead
    assert is_right(answer, device.effects(f"n{die_at}")), (answer, device.effects(f"n{die_at}"))


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "is_right"), CASES, ids=[verb for verb, _ in CASES])
def test_command_ends_once_whichever_step_its_device_is_killed_at(
    broker: Any, operator: Any, tmp_path: Path, verb: str, is_right: Any
) -> None:
    device = Device(tmp_path, broker.port)
    for die_at in range(1, MOST_STEPS):
        answer, is_dead = _kill_at(device, operator, verb, die_at)
        effects = device.effects(f"n{die_at}")
        assert is_right(answer, effects), (die_at, answer, effects)
        if not is_dead:
            assert die_at > 15
            return
    raise AssertionError("a command has more steps than that")
