"""A device that is killed at the n-th step of a command, and then lives on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DEVICE = '''
import os, signal, sys, time
from pathlib import Path

import msgspec

from edge.settings import Commands, Settings
from edge.telemetry.address import BrokerAddress
from edge.telemetry.commands.dispatcher import Dispatcher
from edge.telemetry.commands.journal import Journal
from edge.telemetry.commands.verb import Surroundings, Verb
from edge.telemetry.sender import Delivery, Sender
from edge.telemetry.topics import Topics

folder, port, die_at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
steps = 0


def step(what):
    """Die here, if it is the turn of this step: nothing after it happens."""
    global steps
    steps += 1
    if steps == die_at:
        print("killed", what, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def around(module, name, where=None):
    """Make a call a step before and after; of those on paths, only of the journal's."""
    call = getattr(module, name)

    def wrapped(*args, **keywords):
        is_ours = where is None or where(*args)
        if is_ours:
            step(f"before {name}")
        result = call(*args, **keywords)
        if is_ours:
            step(f"after {name}")
        return result

    setattr(module, name, wrapped)


is_journal = lambda *args: "/commands/" in str(args[0])


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str = ""


class Counting(Verb):
    """Leaves a line for each time that it is done."""

    arguments = Nothing

    def run(self, context, arguments, progress):
        step("before the effect")
        with open(folder / f"effects-{context.id}", "ab") as stream:
            stream.write(b"done\\n")
        step("after the effect")
        return {}


class Resuming(Counting):
    is_resumed = True


class Proving(Counting):
    def proof(self, context, arguments):
        return {"proven": True} if (folder / f"effects-{context.id}").exists() else None


topics = Topics("lab", "one")
delivery = Delivery(first_wait_s=0.02, longest_wait_s=0.1, folder=folder / "outbox")
sender = Sender(BrokerAddress("127.0.0.1", port), topics, delivery)
journal = Journal(folder / "outbox" / "commands", 10, 1.0)
rights = Commands(load=True, update=True, activate=True)
surroundings = Surroundings(None, Settings(commands=rights), topics, sender)
verbs = {"load": Counting(), "update": Resuming(), "activate": Proving()}
dispatcher = Dispatcher(surroundings, verbs, journal)
around(os, "replace", is_journal)
around(os, "fsync", lambda descriptor: "/commands" in os.readlink(f"/proc/self/fd/{descriptor}"))
around(sender, "retain")
around(sender, "send")
around(sender.backlog, "commit")
dispatcher.listen()
sender.start()
dispatcher.start()
while True:
    time.sleep(60)
'''


class Device:
    """One process after another on one folder; ``die_at`` 0 lives until it is stopped."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port

    def start(self, die_at: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", DEVICE, str(self._folder), str(self._port), str(die_at)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )

    def effects(self, id_: str) -> int:
        """How often a command was done."""
        path = self._folder / f"effects-{id_}"
        return len(path.read_bytes().splitlines()) if path.exists() else 0
