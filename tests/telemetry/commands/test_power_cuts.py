"""The journal on a disk whose power goes at any step, that fills up, or that fails."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faulty_disk import PowerCut
from traced_disk import TracedDisk

from edge.telemetry.commands.journal import Journal

KEYS = [("load", name) for name in ("a", "b", "c")]
DONE = {"status": "successful", "result": {}}
CUT = {"status": "failed", "kind": "interrupted"}


class Device:
    """What a dispatcher does with its journal: nothing before it is kept, no end before it is."""

    def __init__(self, disk: TracedDisk, most: int = 10) -> None:
        self.done: list[tuple[str, str]] = []
        self.told: dict[tuple[str, str], dict[str, Any]] = {}
        self.journal = Journal(disk.folder, most, 1.0)

    def recover(self) -> None:
        """Say of each command that a former life had begun how it ended."""
        self.journal.open()
        for key, found in list(self.journal.entries.items()):
            entry = found if found.end else self.journal.end(key, CUT, is_told=False)
            self.told[key] = entry.end or {}
            self.journal.told(key)

    def order(self, key: tuple[str, str]) -> bool:
        """Whether it was done; what is known is told again instead."""
        known = self.journal.entries.get(key)
        if known is not None:
            self.told[key] = known.end or {}
            return False
        self.journal.begin(*key, {"model": "m"}, 1)
        self.done.append(key)
        self.journal.note(key, {"former": "1"})
        self.told[key] = self.journal.end(key, DONE, is_told=False).end or {}
        self.journal.told(key)
        return True

    def live(self) -> None:
        self.recover()
        for key in KEYS:
            self.order(key)
        self.journal.prune(2, is_synchronized=True)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TracedDisk:
    return TracedDisk(tmp_path / "commands", monkeypatch)


def _life(disk: TracedDisk, contents: dict[str, bytes], cut_at: int = -1) -> Device:
    disk.start(contents, cut_at)
    device = Device(disk)
    with suppress(PowerCut):
        device.live()
    return device


def test_a_command_is_done_once_and_has_one_end_wherever_the_power_is_cut(
    disk: TracedDisk,
) -> None:
    _life(disk, {})
    steps = disk.files.step
    assert steps > 50
    for cut_at in range(steps):
        first = _life(disk, {}, cut_at)
        calls = disk.files.calls[-3:]
        for left in list(disk.files.after_cut()):
            second = _life(disk, left)
            done = first.done + second.done
            assert len(done) == len(set(done)), (cut_at, calls)
            assert set(second.told) == set(KEYS)
            changed = {key for key, end in first.told.items() if second.told[key] != end}
            assert not changed, (cut_at, calls)


def test_a_second_cut_amid_the_recovery_changes_no_end_either(disk: TracedDisk) -> None:
    _life(disk, {})
    for cut_at in range(3, disk.files.step, 9):
        first = _life(disk, {}, cut_at)
        for left in list(disk.files.after_cut())[::3]:
            _life(disk, left)
            for second_cut in range(0, disk.files.step, 5):
                second = _life(disk, left, second_cut)
                for last in list(disk.files.after_cut())[::4]:
                    third = _life(disk, last)
                    done = first.done + second.done + third.done
                    assert len(done) == len(set(done)), (cut_at, second_cut)
                    assert (first.told | second.told).items() <= third.told.items()


def test_what_makes_room_is_forgotten_as_a_whole(disk: TracedDisk) -> None:
    _life(disk, {})
    full = {path.name: path.read_bytes() for path in disk.folder.iterdir()}
    for cut_at in range(3):
        disk.start(full, cut_at)
        device = Device(disk, most=1)
        with suppress(PowerCut):
            device.recover()
            device.journal.prune(2, is_synchronized=True)
        for left in list(disk.files.after_cut()):
            disk.start(left)
            again = Device(disk)
            again.recover()
            assert set(again.told) <= set(KEYS)
            assert all(end == DONE for end in again.told.values())


@pytest.mark.parametrize("call", ["create", "append", "sync", "rename", "sync_folder"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_what_can_not_be_kept_is_not_done_and_leaves_no_trace(
    disk: TracedDisk, call: str, number: int
) -> None:
    disk.start({})
    device = Device(disk)
    device.recover()
    disk.files.fails = lambda name, _: number if name == call else 0
    with pytest.raises(OSError, match=errno.errorcode[number]):
        device.order(KEYS[0])
    assert not device.done
    disk.files.fails = lambda name, _: 0
    again = Device(disk)
    again.recover()
    assert not again.told  # it was refused, and is no command that was interrupted
    assert again.order(KEYS[0])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_an_end_that_can_not_be_kept_says_so_and_is_kept_once_it_can(
    disk: TracedDisk, number: int
) -> None:
    disk.start({})
    device = Device(disk)
    device.recover()
    device.journal.begin(*KEYS[0], {}, 1)
    disk.files.fails = lambda call, _: number if call == "create" else 0
    end = device.journal.end(KEYS[0], DONE, is_told=False).end or {}
    assert end["status"] == "successful"
    assert errno.errorcode[number] in end["hint"]
    device.journal.keep()  # to no avail
    disk.files.fails = lambda call, _: 0
    device.journal.keep()
    again = Device(disk)
    again.recover()
    assert again.told == {KEYS[0]: end}


def test_a_disk_that_is_read_only_still_says_what_was_done(disk: TracedDisk) -> None:
    first = _life(disk, {})
    (disk.folder / ".load.d.json.0a.partial").write_bytes(b"half")
    disk.files.fails = lambda call, _: 0 if call == "read" else errno.EROFS
    device = Device(disk, most=1)
    device.recover()
    assert device.told == first.told
    assert not device.order(KEYS[0])
    with pytest.raises(OSError, match="EROFS"):
        device.order(("load", "d"))
    device.journal.prune(2, is_synchronized=True)  # to no avail, and without a word
    again = Device(disk)
    again.recover()
    assert again.told == first.told


def test_a_file_that_can_not_be_read_is_a_command_that_is_never_done_again(
    disk: TracedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    _life(disk, {})
    read = Path.read_bytes

    def fails(path: Path) -> bytes:
        if path.name == "load.b.json":
            raise OSError(errno.EIO, "EIO")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fails)
    device = Device(disk)
    device.recover()
    for key in KEYS:
        assert not device.order(key)
    assert device.told["load", "b"]["kind"] == "interrupted"
