"""Commands that a restart, a broker that is away, or a disk comes between."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from patience import LONG_S

from edge.telemetry.commands import journal


def test_same_id_after_a_restart_is_known(start: Any, operator: Any, gated: Any) -> None:
    gated.gate.set()
    publisher = start(load=True)
    operator.order("load/a", model="m")
    first = operator.answer("load/a")
    publisher.close(LONG_S)
    start(load=True)
    operator.order("load/a", model="m")
    assert operator.answer("load/a") == first
    assert gated.ids == ["a"]


def test_end_is_told_when_the_broker_is_back(
    broker: Any, start: Any, operator: Any, gated: Any, eventually: Any
) -> None:
    publisher = start(load=True)
    operator.order("load/a", model="m")
    gated.entered.get(timeout=LONG_S)
    broker.stop()
    eventually(lambda: publisher.state != "connected", "the loss to be seen")
    gated.gate.set()
    broker.start()
    back = type(operator)(broker.url)
    assert back.answer("load/a")["status"] == "successful"  # its event may have gone before us
    back.close()


def test_end_that_nobody_heard_is_told_after_a_restart(
    broker: Any, start: Any, operator: Any, gated: Any, eventually: Any, tmp_path: Path
) -> None:
    publisher = start(load=True)
    operator.order("load/a", model="m")
    gated.entered.get(timeout=LONG_S)
    broker.stop()
    gated.gate.set()
    record = tmp_path / "outbox" / "commands" / "load.a.json"
    eventually(lambda: b'"successful"' in record.read_bytes(), "the end to be kept")
    publisher.close(LONG_S)
    broker.start()
    start(load=True)
    back = type(operator)(broker.url)
    assert back.answer("load/a")["status"] == "successful"
    eventually(lambda: b'"is_told":true' in record.read_bytes(), "it to be known as told")
    back.send("cmd/load/a", b"")
    back.order("load/b", model="m")
    back.answer("load/b")
    assert not any(r.topic.endswith("load/a") and r.payload for r in back.seen)
    back.close()


def test_command_that_a_restart_cut_has_failed(
    start: Any, operator: Any, gated: Any, tmp_path: Path
) -> None:
    publisher = start(load=True)
    operator.order("load/a", model="m")
    gated.entered.get(timeout=LONG_S)
    publisher.close(LONG_S)
    start(load=True)
    answer = operator.answer("load/a")
    assert (answer["status"], answer["kind"]) == ("failed", "interrupted")
    assert gated.ids == ["a"]


def test_command_that_can_go_on_does_after_a_restart(
    start: Any, operator: Any, gated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(gated), "is_resumed", True)
    publisher = start(load=True)
    operator.order("load/a", model="m")
    gated.entered.get(timeout=LONG_S)
    publisher.close(LONG_S)
    gated.gate.set()
    start(load=True)
    assert operator.answer("load/a")["status"] == "successful"
    assert gated.ids == ["a", "a"]


def test_command_that_waited_at_a_restart_is_run_by_the_next(
    start: Any, operator: Any, gated: Any
) -> None:
    publisher = start(load=True)
    for id_ in "ab":
        operator.order(f"load/{id_}", model="m")
    gated.entered.get(timeout=LONG_S)
    publisher.close(LONG_S)
    gated.gate.set()
    start(load=True)
    answer = operator.answer("load/b")
    assert answer["status"] == "successful", answer
    assert gated.ids == ["a", "b"]


def test_command_of_which_only_the_broker_knows_that_it_runs_has_failed(
    start: Any, operator: Any, gated: Any
) -> None:
    operator.send("cmd/load/a", b'{"status": "executing", "model": "m"}')
    start(load=True)
    answer = operator.answer("load/a", "failed")
    assert (answer["kind"], answer["model"]) == ("interrupted", "m")


def test_damaged_record_is_never_run_again(
    start: Any, operator: Any, gated: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "outbox" / "commands"
    folder.mkdir(parents=True)
    (folder / "load.a.json").write_bytes(b'{"verb": "lo')
    start(load=True)
    operator.order("load/a", model="m")
    assert "damaged" in operator.answer("load/a", "failed")["reason"]
    assert gated.ids == []


def test_what_can_not_be_kept_is_not_run(
    start: Any, operator: Any, gated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    start(load=True)
    monkeypatch.setattr(journal, "replacing", full)
    operator.order("load/a", model="m")
    answer = operator.answer("load/a", "failed")
    assert (answer["kind"], "No space left" in answer["reason"]) == ("unavailable", True)
    assert gated.ids == []
    monkeypatch.undo()


def test_ids_are_remembered_up_to_a_number(
    start: Any, operator: Any, gated: Any, tmp_path: Path
) -> None:
    gated.gate.set()
    start(load=True, remember=3)
    for number in range(6):
        operator.order(f"load/n{number}", model="m")
        operator.answer(f"load/n{number}")
    folder = tmp_path / "outbox" / "commands"
    assert len(list(folder.glob("*.json"))) == 3
    operator.order("load/n0", model="m")
    operator.answer("load/n0", "executing")
    assert gated.ids.count("n0") == 2
