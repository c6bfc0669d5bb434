"""A program for devices that writes down what it answered and when, and one that says it again.

So many devices on one machine do not share its cores for what each of them does: they only wait.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import msgspec

from edge.deploy.program import program

ANSWERS = "/run/answers.json"

_RECORDER = """
import json, time

_answers, _make = [], Session.__init__

def _recorded(name, verb):
    def act(**request):
        start_s = time.monotonic()
        result = verb(**request)
        took_s = time.monotonic() - start_s
        _answers.append({"do": name, "seconds": took_s, "result": result})
        with open("ANSWERS", "w") as stream:
            json.dump(_answers, stream)
        return result
    return act

def _make_recorded(self, *arguments):
    _make(self, *arguments)
    self._verbs = {name: _recorded(name, verb) for name, verb in self._verbs.items()}
    _answers.append({"do": "start", "seconds": _age_s(), "result": None})

Session.__init__ = _make_recorded
"""
_AGE = """
def _age_s():
    with open("/proc/self/stat") as stream:
        ticks = int(stream.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
"""
_PLAYER = """
import json, os, sys, time

def _tell(message):
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\\n")
    sys.stdout.buffer.flush()

def serve():
    answers = json.loads(RECORDED)
    time.sleep(max(0, answers.pop(0)["seconds"] - _age_s()))
    _tell({"edge-device": 1})
    for line in iter(sys.stdin.buffer.readline, b""):
        start_s = time.monotonic()
        request, answer = json.loads(line), answers.pop(0)
        assert request["do"] == answer["do"], (request, answer)
        left = request["size"] - request["offset"] if request["do"] == "send" else 0
        while left:
            left -= len(sys.stdin.buffer.read(min(left, 1 << 20)))
        time.sleep(max(0, start_s + answer["seconds"] - time.monotonic()))
        _tell({"result": answer["result"]})
"""


def recorder() -> bytes:
    """``edge-device.pyz`` that also writes ``ANSWERS``."""
    with zipfile.ZipFile(io.BytesIO(program())) as ours:
        sources = {name: ours.read(name).decode() for name in ours.namelist()}
    sources["ondevice/main.py"] += _RECORDER.replace("ANSWERS", ANSWERS) + _AGE
    return _packed(sources)


def player(recorded: Path) -> bytes:
    """Answers the same questions as that recording did, each after as long a time."""
    answers: list[Any] = msgspec.json.decode(recorded.read_bytes())
    text = _PLAYER.replace("RECORDED", repr(msgspec.json.encode(answers).decode()))
    return _packed({"ondevice/__init__.py": "", "ondevice/main.py": text + _AGE})


def _packed(sources: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in sources.items():
            archive.writestr(name, text)
    return buffer.getvalue()
