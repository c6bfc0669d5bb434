"""``edge fleet send``: one command to some devices, followed to its end."""

from __future__ import annotations

import argparse
import re
import secrets
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from edge.cli import _output
from edge.cli._arguments import duration
from edge.cli._fleet_connection import add_devices, check_devices, chosen, operating

if TYPE_CHECKING:
    from edge.telemetry.fleet.operator import Operator

HELP = "give one command to devices, and follow it to its end"

_ENDS = ("successful", "failed")
_FLUSH_S = 5.0
_CLOCKS_DIFFER_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("verb", metavar="VERB", help="load, unload, activate, roll-back, goldens …")
    parser.add_argument(
        "arguments",
        nargs="*",
        type=_pair,
        metavar="NAME=VALUE",
        help="what it takes, as in model=digits version=2",
    )
    add_devices(parser)
    parser.add_argument("--id", type=_id, help="the same id again is answered, not run again")
    parser.add_argument(
        "--timeout",
        type=duration,
        default=60.0,
        metavar="TIME",
        help="give up, and take the command back, after this long (default: 60s)",
    )


def run(args: argparse.Namespace) -> int:
    from edge.cli import _main

    check_devices(args)
    id_ = args.id or f"cli-{secrets.token_hex(8)}"
    with operating(args) as operator:
        devices = chosen(operator, args)
        ends = _follow(operator, args, devices, id_)
    if args.json:
        _output.print_json({"id": id_, "devices": ends})
    statuses = {end.get("status") for end in ends.values()}
    if not statuses & {*_ENDS}:
        return _main.EXIT_UNAVAILABLE
    return _main.EXIT_DONE if statuses == {"successful"} else _main.EXIT_GATE


def _follow(
    operator: Operator, args: argparse.Namespace, devices: list[str], id_: str
) -> dict[str, Mapping[str, Any]]:
    """Until all have ended or the time is up; the topics are cleared then."""
    from edge.telemetry.topics import Topics

    everyone = {device: Topics(args.fleet, device) for device in devices}
    # Killed before it takes the command back, it leaves none that a device runs days later.
    expires = round((time.time() + args.timeout + _CLOCKS_DIFFER_S) * 1000)
    for device, topics in everyone.items():
        if id_ not in operator.answers(args.fleet, device):
            operator.give(topics, args.verb, id_, {"expires": expires, **dict(args.arguments)})
    ends: dict[str, Mapping[str, Any]] = {}
    deadline_s = time.monotonic() + args.timeout
    try:
        while len(ends) < len(everyone) and time.monotonic() < deadline_s:
            operator.poll(0.2)
            for device in sorted(everyone.keys() - ends.keys()):
                answer = operator.answers(args.fleet, device).get(id_, {})
                if answer.get("status") in _ENDS:
                    ends[device] = answer
                    _tell(device, answer, args)
        for device in sorted(everyone.keys() - ends.keys()):
            ends[device] = _no_end(operator, args, device, id_)
            _tell(device, ends[device], args)
    finally:
        for topics in everyone.values():
            operator.clear(topics, args.verb, id_)
        operator.flush(_FLUSH_S)
    return ends


def _no_end(
    operator: Operator, args: argparse.Namespace, device: str, id_: str
) -> Mapping[str, Any]:
    status = operator.answers(args.fleet, device).get(id_, {}).get("status", "init")
    heard = "no answer" if status == "init" else f"still {status}"
    board = operator.board.devices.get((args.fleet, device))
    is_offline = board is not None and board.status.get("state") == "offline"
    hint = "are commands switched on there ([commands] in edge.toml)?"
    if is_offline or status != "init":
        hint = ""
    elif board is None:
        heard, hint = "never seen, no answer", "edge fleet shows which devices there are"
    if is_offline:
        heard = f"offline, {heard}"
    return {"status": "no end", "reason": f"{heard} after {args.timeout:g} s", "hint": hint}


def _tell(device: str, answer: Mapping[str, Any], args: argparse.Namespace) -> None:
    from edge.telemetry.lines import printable

    if args.json:
        return
    is_done = answer.get("status") == "successful"
    if is_done:
        result = answer.get("result")
        text = _in_short(result) if result else "done"
    else:
        text = str(answer.get("reason") or answer.get("status"))
    print(f"{'✓' if is_done else '✗'} {printable(device)}  {printable(text)}", flush=True)
    if answer.get("hint") and not is_done:
        print(f"  hint: {printable(str(answer['hint']))}", file=sys.stderr)


def _in_short(result: Any) -> str:
    if not isinstance(result, dict):
        return str(result)
    return ", ".join(
        f"{name} {f'{value:.3g}' if isinstance(value, float) else value}"
        for name, value in result.items()
        if isinstance(value, (str, int, float)) and len(str(value)) < 100 and value != ""
    )


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not like model=digits")
    if name in ("version", "model"):  # "2" is a version, not a number
        return name, value
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value


def _id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to 64 of A-Z a-z 0-9 _ -")
    return text
