"""What was begun and ended is known again, whatever the disk did meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from edge.telemetry.commands import journal as module
from edge.telemetry.commands.journal import Journal

DAY_MS = 24 * 3600 * 1000
DONE = {"status": "successful", "result": {}, "ts_ms": 5}


def _open(folder: Path | None, most: int = 10) -> Journal:
    journal = Journal(folder, most, 1.0)
    journal.open()
    return journal


def test_each_state_is_known_to_the_next_process(tmp_path: Path) -> None:
    journal = _open(tmp_path)
    journal.begin("load", "a", {"model": "m"}, 3)
    journal.note(("load", "a"), {"former": "1"})
    again = _open(tmp_path).entries["load", "a"]
    assert (again.fields, again.notes, again.end) == ({"model": "m"}, {"former": "1"}, None)
    journal.end(("load", "a"), DONE, is_told=False)
    again = _open(tmp_path).entries["load", "a"]
    assert (again.answer, again.is_told) == ({"model": "m", **DONE}, False)
    journal.told(("load", "a"))
    assert _open(tmp_path).entries["load", "a"].is_told


def test_oldest_go_first_and_those_that_were_told(tmp_path: Path) -> None:
    journal = _open(tmp_path, most=2)
    for number in range(4):
        journal.begin("load", str(number), {}, number)
        if number:
            journal.end(("load", str(number)), DONE, is_told=number != 1)
    assert journal.prune(10, is_synchronized=True) == [("load", "2")]
    kept = {id_ for _, id_ in _open(tmp_path).entries}
    assert kept == {"0", "1", "3"}


@pytest.mark.parametrize("is_synchronized", [True, False])
def test_age_counts_only_by_a_clock_that_is_right(tmp_path: Path, is_synchronized: bool) -> None:
    journal = _open(tmp_path)
    journal.begin("load", "a", {}, 0)
    journal.end(("load", "a"), DONE, is_told=True)
    gone = journal.prune(2 * DAY_MS, is_synchronized=is_synchronized)
    assert gone == ([("load", "a")] if is_synchronized else [])


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    _open(tmp_path).begin("load", "z", {}, 9)
    again = _open(tmp_path)
    assert again.begin("load", "a", {}, 1).number == 2


@pytest.mark.parametrize("data", [b"", b"{", b"\xff" * 50, b'{"verb":"load","id":"b","fields":{}}'])
def test_damaged_entry_has_failed_and_leaves_the_others(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    _open(tmp_path).begin("load", "good", {}, 1)
    (tmp_path / "load.a.json").write_bytes(data)
    (tmp_path / ".load.b.json.0a.partial").write_bytes(b"half")
    entries = _open(tmp_path).entries
    assert set(entries) == {("load", "a"), ("load", "good")}
    assert entries["load", "a"].answer["status"] == "failed"
    assert "damaged" in caplog.text
    assert not list(tmp_path.glob(".*"))


def test_end_on_a_full_disk_is_known_as_long_as_the_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    journal = _open(tmp_path)
    journal.begin("load", "a", {}, 1)
    monkeypatch.setattr(module, "replacing", full)
    told = journal.end(("load", "a"), DONE, is_told=False).answer
    assert DONE.items() <= told.items()
    assert "No space" in told["hint"]
    assert journal.entries["load", "a"].answer == told
    assert "can not be kept" in caplog.text
    with pytest.raises(OSError, match="No space"):
        journal.begin("load", "b", {}, 1)
    assert ("load", "b") not in journal.entries


def test_folder_that_can_not_be_made_leaves_the_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    journal = _open(tmp_path / "file")
    journal.begin("load", "a", {}, 1)
    assert ("load", "a") in journal.entries
    assert "in memory only" in caplog.text
