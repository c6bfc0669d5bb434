from __future__ import annotations

from pathlib import Path

import pytest

from edge.core.errors import InputError, UnavailableError
from edge.telemetry.fleet.journal import journal_of
from edge.telemetry.fleet.rollout import Staging, Target, begin

TARGET = Target("digits", "2", digest="d" * 64, sha256="f" * 64, size_bytes=1000)


def test_roll_out_is_read_as_it_was_written(tmp_path: Path) -> None:
    journal = journal_of("plant", TARGET, tmp_path)
    assert journal.read() is None
    rollout = begin("plant", TARGET, ["a", "b"], ["c"], Staging())
    journal.write(rollout)
    assert journal.read() == rollout


def test_each_bundle_and_fleet_has_its_own(tmp_path: Path) -> None:
    other = Target("digits", "2", digest="d" * 64, sha256="e" * 64, size_bytes=1000)
    paths = {
        journal_of("plant", TARGET, tmp_path).path,
        journal_of("plant", other, tmp_path).path,
        journal_of("plant 1", TARGET, tmp_path).path,
        journal_of("plant_1", TARGET, tmp_path).path,
    }
    assert len(paths) == 4
    assert journal_of("../é/x", TARGET, tmp_path).path.parent == tmp_path


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": 2}', b"\xff", b'{"schema": 1}'])
def test_damage_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    journal = journal_of("plant", TARGET, tmp_path)
    journal.path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        journal.read()
    assert caught.value.hint


def test_only_one_holds_it_and_the_next_may_after_that(tmp_path: Path) -> None:
    journal = journal_of("plant", TARGET, tmp_path / "new")
    refused = pytest.raises(UnavailableError, match="another operator")
    with journal.held(), refused, journal.held():
        pass
    with journal.held():
        pass


def test_folder_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    journal = journal_of("plant", TARGET, tmp_path / "file" / "below")
    with pytest.raises(UnavailableError, match="can not"), journal.held():
        pass
    with pytest.raises(UnavailableError, match="can not be kept"):
        journal.write(begin("plant", TARGET, ["a"], [], Staging()))
