"""The real file layer: a folder of one process, counted writes, and a thread that writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from outboxes import EVENT, KINDS, SMALL, TELEMETRY, Box, describe

from edge.core.errors import UnavailableError
from edge.telemetry.outbox import DiskFiles, Outbox
from edge.telemetry.outbox.files import PAGE_BYTES
from edge.telemetry.outbox.worker import Worker

Eventually = Callable[[Callable[[], bool], str], None]


def test_pages_are_counted_as_often_as_they_are_synced(tmp_path: Path) -> None:
    files = DiskFiles(tmp_path / "outbox")
    files.create("a")
    for _ in range(3):
        files.append("a", b"x" * 100)
        files.sync("a")
    assert (files.wear.bytes, files.wear.page_bytes, files.wear.syncs) == (300, 3 * PAGE_BYTES, 3)
    files.append("a", b"x" * PAGE_BYTES)
    files.sync("a")
    assert files.wear.page_bytes == 5 * PAGE_BYTES
    files.truncate("a", 300)
    files.append("a", b"yy")
    files.sync("a")
    assert files.read("a") == b"x" * 300 + b"yy"
    files.rename("a", "b")
    files.sync_folder()
    assert files.sizes() == {"b": 302}
    assert files.free_bytes() > 0
    files.unlink("b")
    files.unlink("b")
    files.release()


def test_folder_belongs_to_one_process(tmp_path: Path) -> None:
    files = DiskFiles(tmp_path)
    with pytest.raises(UnavailableError, match="another process has the outbox"):
        DiskFiles(tmp_path)
    files.release()
    DiskFiles(tmp_path).release()


def test_folder_that_can_not_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="can not hold an outbox: Not a directory"):
        DiskFiles(tmp_path / "file" / "outbox")


def test_messages_outlive_the_process(tmp_path: Path) -> None:
    box = Box(DiskFiles(tmp_path))
    box.put(TELEMETRY, b"one")
    box.put(EVENT, b"two")
    box.close()
    box.close()
    assert Box(DiskFiles(tmp_path)).drain() == [b"one", b"two"]


def test_worker_writes_events_by_itself_and_the_rest_when_it_closes(
    tmp_path: Path, eventually: Eventually
) -> None:
    files = DiskFiles(tmp_path)
    outbox = Outbox(files, KINDS, describe, SMALL)
    worker = Worker(outbox)
    worker.start()
    outbox.put(TELEMETRY, b"telemetry")
    outbox.put(EVENT, b"event")
    eventually(lambda: outbox.status().record_count == 1, "the event to be written")
    assert next(iter(files.sizes())).startswith("event")
    worker.close(10.0)
    assert Box(DiskFiles(tmp_path)).drain() == [b"telemetry", b"event"]


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from outboxes import EVENT, TELEMETRY, Box
from edge.telemetry.outbox import DiskFiles
box = Box(DiskFiles(Path(sys.argv[1])))
number = int(sys.argv[3])
while True:
    for _ in range(20):
        number += 1
        box.put(EVENT if number % 7 == 0 else TELEMETRY, b"%08d" % number)
    if box.commit():
        print(number, flush=True)
"""


def test_what_was_accepted_survives_the_death_of_the_process(tmp_path: Path) -> None:
    fakes = str(Path(sys.modules["outboxes"].__file__ or "").parent)
    accepted: set[int] = set()
    for run in range(5):
        start = 10_000_000 * run
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), fakes, str(start)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(3 + run)]
        time.sleep(0.002 * run)
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate()
        last = max(int(line) for line in (*lines, *rest.split()))
        accepted |= set(range(start + 1, last + 1))
    came = [int(payload) for payload in Box(DiskFiles(tmp_path)).drain()]
    assert accepted <= set(came)
    assert came == sorted(set(came))
