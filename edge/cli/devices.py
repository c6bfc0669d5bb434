"""``edge devices``: the engines of this machine, ready or not and why, and what they run on."""

from __future__ import annotations

import argparse

import msgspec

from edge.cli import _output
from edge.core import plugins

HELP = "list the engines: which are ready here, on which devices, and why others are not"


class EngineFacts(msgspec.Struct, frozen=True):
    """What ``--json`` prints of an engine."""

    name: str
    ready: bool
    version: str
    devices: tuple[str, ...]
    reason: str
    hint: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    engines = [_facts(name) for name in plugins.stems("runtimes")]
    if args.json:
        _output.print_json(engines)
    else:
        _print(engines)
    return 0


def _facts(name: str) -> EngineFacts:
    found = plugins.backend(name).availability()
    return EngineFacts(name, found.ready, found.version, found.devices, found.reason, found.hint)


def _print(engines: list[EngineFacts]) -> None:
    from rich.text import Text

    rows = [
        (
            Text.assemble(("● ", "green") if engine.ready else ("○ ", "dim"), engine.name),
            engine.version,
            " ".join(engine.devices),
        )
        for engine in engines
    ]
    _output.say()
    _output.table("Engines (● ready here)", ["engine", "version", "devices"], rows)
    for engine in engines:
        if not engine.ready:
            _output.say()
            _output.title(engine.name, "is not ready here")
            _output.facts([("why", engine.reason), ("hint", engine.hint)])
