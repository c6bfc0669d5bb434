"""``edge virtual``: boot an image in an emulated arm64 machine."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from edge.cli import _output
from edge.cli._arguments import positive
from edge.core.sizes import parse_bytes

HELP = "boot an image that edge flash made, in QEMU"

_SSH = 22
_HTTP = 8000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("--memory", default="2GiB", metavar="SIZE", help="default: 2GiB")
    parser.add_argument("--cores", type=positive, default=2, help="default: 2")
    parser.add_argument(
        "--ssh-port", type=positive, default=2222, help="of this machine, for SSH (default: 2222)"
    )
    parser.add_argument(
        "--port",
        type=_forward,
        action="append",
        default=[],
        metavar="HERE:THERE",
        help="forward another port of this machine (repeatable), as in 8000:8000",
    )
    parser.add_argument("--discard", action="store_true", help="keep nothing of what it writes")
    parser.add_argument("--console", type=Path, metavar="FILE", help="where its console goes")


def run(args: argparse.Namespace) -> int:
    from edge.cli import _main
    from edge.deploy.virtual.machine import HOST_AS_SEEN, Hardware, VirtualMachine

    hardware = Hardware(
        memory_bytes=parse_bytes(args.memory),
        cores=args.cores,
        ports={args.ssh_port: _SSH, **dict(args.port)},
        is_discarded=args.discard,
    )
    for ending in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C does: QEMU must not outlive us
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(ending, signal.default_int_handler)
    with VirtualMachine(args.image, hardware, args.console) as machine:
        notes = _output.err()
        try:
            notes.print(f"ssh -p {args.ssh_port} USER@127.0.0.1", style="bold")
            notes.print(f"this machine is {HOST_AS_SEEN} to it; Ctrl-C powers it down", style="dim")
            sys.stderr.flush()
            code = machine.wait()
        except KeyboardInterrupt:
            notes.print("powering down …", style="dim")
            if not machine.power_down():
                notes.print("it did not, and was cut off", style="yellow")
            return _main.EXIT_DONE
    return _main.EXIT_DONE if code == 0 else _main.EXIT_UNAVAILABLE


def _forward(text: str) -> tuple[int, int]:
    here, _, there = text.partition(":")
    try:
        ports = int(here), int(there or here)
    except ValueError:
        ports = (0, 0)
    if not all(0 < port < 1 << 16 for port in ports):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 8000:8000")
    return ports
