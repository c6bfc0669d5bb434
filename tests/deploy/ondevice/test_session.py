"""What the program does for a workstation, over plain pipes."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from patience import LONG_S

from edge.deploy.ondevice.layout import Layout
from edge.deploy.ondevice.session import Session
from edge.deploy.program import program

SILENT = """
import sys
sys.path.insert(0, sys.argv[1])
from ondevice import session
from ondevice.layout import Layout
session.PATIENCE_S = 1
session.Session(Layout(sys.argv[2]), sys.stdin.buffer, sys.stdout.buffer).run()
"""


def asked(layout: Layout, *requests: Any) -> list[Any]:
    """The answers; bytes among the requests are sent as they are."""
    source = b"".join(
        one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in requests
    )
    target = io.BytesIO()
    Session(layout, io.BytesIO(source), target).run()
    greeting, *answers = (json.loads(line) for line in target.getvalue().splitlines())
    assert greeting == {"edge-device": 1}
    return answers


def test_a_file_that_is_cut_off_is_held_as_far_as_it_came(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    Path(layout.files).mkdir(parents=True)
    name = "a" * 64
    send = {"do": "send", "sha256": name, "offset": 0, "size": 10}
    assert asked(layout, send, b"12345") == []
    assert asked(layout, {"do": "held", "files": [name, "b" * 64]}) == [{"result": {name: 5}}]


def test_what_can_not_be_written_is_said_and_the_next_request_is_answered(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))  # there is no folder to put files into
    send = {"do": "send", "sha256": "a" * 64, "offset": 0, "size": 0}
    refused, answer = asked(layout, send, {"do": "held", "files": []})
    assert "No such file" in refused["error"]
    assert "not touched" in refused["hint"]
    assert answer == {"result": {}}


def test_who_goes_without_a_word_does_not_keep_the_lock_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "device.pyz"
    file.write_bytes(program())
    command = [sys.executable, "-I", "-c", SILENT, str(file), str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.wait(LONG_S) == -signal.SIGALRM


def test_an_empty_line_only_says_that_somebody_is_there(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    held = {"do": "held", "files": []}
    assert asked(layout, b"\n", b"\n", held, b"\n", held) == [{"result": {}}, {"result": {}}]


def test_the_program_is_the_same_file_each_time_and_says_what_it_takes(tmp_path: Path) -> None:
    file = tmp_path / "device.pyz"
    file.write_bytes(program())
    program.cache_clear()
    assert program() == file.read_bytes()
    done = subprocess.run([sys.executable, "-I", file], capture_output=True, text=True)
    assert done.returncode == 1
    assert "heal|first-boot" in done.stderr
