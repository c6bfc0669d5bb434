"""How the program is started: by a workstation over SSH, or by a unit at boot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from . import durable, enrolment, service, store, switch
from .layout import Layout
from .refusal import RefusedError
from .session import Session


def first_boot(layout: Layout) -> None:
    """Install what an image brought; a boot later, what failed is tried again.

    Raises:
        RefusedError: A program of the first boot failed, or the release can not be installed.
    """
    release = durable.read_json(layout.first_boot)
    if release is None:
        return
    store.prepare(layout)
    service.ensure_user(layout)
    for name in durable.names_in(layout.first_boot_programs):
        path = os.path.join(layout.first_boot_programs, name)
        if os.access(path, os.X_OK):
            done = subprocess.run([path], check=False)
            if done.returncode:
                raise RefusedError(f"{path} ended with {done.returncode}")
    store.install_runtime(layout, release["runtime"], _say)
    store.assemble(layout, release, [])
    durable.link(layout.current, os.path.join("releases", release["digest"]))
    durable.remove(layout.first_boot)


def heal(layout: Layout) -> None:
    done = (switch.take_back(layout), enrolment.take_back(layout))
    _say("; ".join(filter(None, done)) or "nothing to heal")


def serve() -> None:
    """Called by what a workstation sends first."""
    _prepare()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Session(Layout(), sys.stdin.buffer, sys.stdout.buffer).run()


def main() -> None:
    """Called by the units."""
    _prepare()
    verbs = {"heal": heal, "first-boot": first_boot}
    verb = verbs.get(" ".join(sys.argv[1:]))
    if verb is None:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(verbs)}")
    try:
        verb(Layout())
    except RefusedError as refusal:
        sys.exit(f"error: {refusal}")


def _prepare() -> None:
    os.umask(0o022)
    known = os.environ.get("PATH", "/usr/bin:/bin")
    os.environ["PATH"] = f"{known}:/usr/local/sbin:/usr/sbin:/sbin"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
