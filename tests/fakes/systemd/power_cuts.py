"""The program for devices with something in front of it, such as an end before its nth change."""

from __future__ import annotations

import io
import zipfile

from edge.deploy.program import program

# Stops before the nth change, and tells that the power may go.
STOP_AT = """
import os, subprocess, time

count = 0

def stopping(module, name):
    inner = getattr(module, name)

    def act(*arguments, **named):
        global count
        count += 1
        if count == {number}:
            open("/run/cut", "w").close()
            time.sleep(1000)
        return inner(*arguments, **named)

    setattr(module, name, act)

for name in ("replace", "rename", "symlink", "link", "unlink", "fsync", "mkdir", "truncate"):
    stopping(os, name)
stopping(subprocess, "run")
"""


def program_after(front: str) -> bytes:
    """``edge-device.pyz`` that runs this first."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(program())) as ours,
        zipfile.ZipFile(buffer, "w") as changed,
    ):
        for name in ours.namelist():
            text = ours.read(name).decode()
            is_first = name == "ondevice/__init__.py"
            changed.writestr(name, front + text if is_first else text)
    return buffer.getvalue()


def stopped_at(number: int) -> bytes:
    return program_after(STOP_AT.format(number=number))
