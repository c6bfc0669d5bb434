"""``edge fleet roll-out``: a bundle to a fleet, a few devices first."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edge.cli import _fleet_stages, _output
from edge.cli._fleet_connection import operating, selected
from edge.core.errors import InputError

if TYPE_CHECKING:
    from edge.telemetry.fleet.conductor import Change, Conductor
    from edge.telemetry.fleet.journal import Journal
    from edge.telemetry.fleet.operator import Operator
    from edge.telemetry.fleet.rollout import Rollout, Staging, Target

HELP = "bring a bundle to a fleet in stages; the same command goes on where one was left"
add_arguments = _fleet_stages.add_arguments

_MARKS = {"done": "✓", "present": "✓", "returned": "✓", "failed": "✗", "stuck": "✗"}
_NAMED = 6  # devices of a wave


def run(args: argparse.Namespace) -> int:
    from edge.cli import _main
    from edge.telemetry.fleet.journal import journal_of

    target = _target(args)
    with operating(args) as operator:
        journal = journal_of(args.fleet, target)
        with contextlib.nullcontext() if args.dry_run else journal.held():
            rollout = _rollout(args, operator, journal, target)
            _show_plan(args, rollout)
            if args.dry_run:
                return _report(args, rollout)
            try:
                rollout = _carry_out(args, operator, journal, rollout)
            except KeyboardInterrupt:
                print("\ninterrupted; the same command goes on from here", file=sys.stderr)
                return _main.EXIT_INTERRUPTED
            return _report(args, rollout)


def _target(args: argparse.Namespace) -> Target:
    from edge.bundle import open_bundle
    from edge.core.durable import sha256_of
    from edge.telemetry.fleet.rollout import Target

    with open_bundle(args.bundle) as bundle:
        manifest = bundle.manifest
        if not bundle.has_signature and not args.unsigned:
            raise InputError(
                f"{args.bundle} is not signed, and devices take what they can trust",
                hint=f"edge sign {args.bundle} --key KEY, or say --unsigned",
            )
        return Target(
            name=manifest.name,
            version=manifest.version,
            digest=bundle.digest,
            sha256=sha256_of(args.bundle),
            size_bytes=args.bundle.stat().st_size,
        )


def _rollout(
    args: argparse.Namespace, operator: Operator, journal: Journal, target: Target
) -> Rollout:
    """The one that was begun, with devices that came since; or a new one."""
    from edge.telemetry.fleet import rollout as plans

    online, offline = _devices(args, operator, target.name)
    begun = None if args.restart else journal.read()
    if begun is None:
        salt = time.time_ns() if args.restart else 0
        return plans.begin(args.fleet, target, online, offline, _staging(args), salt=salt)
    if args.retry:
        begun = plans.retry(begun)
    return plans.extend(begun, [*online, *offline]) if begun.phase == "rolling" else begun


def _devices(
    args: argparse.Namespace, operator: Operator, model: str
) -> tuple[list[str], list[str]]:
    boards = {name: operator.board.devices[args.fleet, name] for name in selected(operator, args)}
    meant = {name: board for name, board in boards.items() if args.install or model in board.served}
    if boards and not meant:
        raise InputError(
            f"none of the {len(boards)} devices has a model {model!r}",
            hint="say --install to bring it to devices that do not have it yet",
        )
    online = [name for name, board in meant.items() if board.is_online]
    return online, [name for name in meant if name not in online]


def _staging(args: argparse.Namespace) -> Staging:
    from edge.telemetry.fleet.rollout import Staging

    return Staging(args.canary, args.waves)


def _carry_out(
    args: argparse.Namespace, operator: Operator, journal: Journal, rollout: Rollout
) -> Rollout:
    from edge.telemetry.fleet.conductor import Conductor, Supply
    from edge.telemetry.fleet.rollout import Rules, go_back

    rules = Rules(
        at_once=args.at_once,
        soak_s=args.soak,
        max_errors=args.max_errors,
        max_failed=args.max_failed,
        timeout_s=args.timeout,
        silence_s=args.silence,
        tolerated=frozenset(args.tolerate),
    )
    tell = _teller(args)
    with contextlib.closing(Supply(args.bundle, args.url)) as supply:
        conductor = Conductor(operator, journal, rollout, rules, supply)
        with _status(conductor, operator) as tick:
            rollout = conductor.run(tell, tick)
            if rollout.phase == "stopped" and args.roll_back:
                conductor.rollout = go_back(rollout)
                rollout = conductor.run(tell, tick)
    return rollout


@contextlib.contextmanager
def _status(conductor: Conductor, operator: Operator) -> Iterator[Callable[[], None]]:
    """How many devices are how far, in a line that changes on a terminal."""
    from rich.markup import escape

    with _output.err().status("") as status:

        def tick() -> None:
            error = operator.watcher.error
            why = f"  ✗ {escape(error)}" if error else ""
            status.update(f"{_counts(conductor.rollout)}{why}")

        yield tick


def _counts(rollout: Rollout) -> str:
    counts = Counter(step.progress for step in rollout.steps.values())
    return ", ".join(f"{count:,} {progress}" for progress, count in counts.most_common())


def _teller(args: argparse.Namespace) -> Callable[[Change], None]:
    from edge.telemetry.lines import printable

    def tell(change: Change) -> None:
        if args.json or not change.device:  # why it stopped is said in the end
            return
        who = printable(change.device)
        mark = _MARKS.get(change.progress, "·")
        why = f": {printable(change.reason)}" if change.reason else ""
        print(f"{time.strftime('%H:%M:%S')} {mark} {who}  {change.progress}{why}", flush=True)

    return tell


def _show_plan(args: argparse.Namespace, rollout: Rollout) -> None:
    if args.json:
        return
    target = rollout.target
    size = _output.size_text(target.size_bytes)
    _output.title(
        f"{target.name} {target.version} for {len(rollout.steps):,} of fleet {rollout.fleet}",
        f"{target.digest[:7]}, {size}, {'from ' + args.url if args.url else 'over MQTT'}",
    )
    rows = []
    for number, wave in enumerate(rollout.waves, 1):
        names = ", ".join(wave[:_NAMED]) + (" …" if len(wave) > _NAMED else "")
        progress = Counter(rollout.steps[device].progress for device in wave)
        rows.append((number, len(wave), names, ", ".join(f"{n} {p}" for p, n in progress.items())))
    _output.table("", ("wave", "devices", "", "progress"), rows, right=("wave", "devices"))
    most = f"more than {100 * args.max_failed:.3g} %" if args.max_failed else "any"
    _output.say(
        f"[dim]{args.at_once} at once, watched for {args.soak:g} s each; "
        f"stops if {most} of a wave fails[/]"
    )


def _report(args: argparse.Namespace, rollout: Rollout) -> int:
    from edge.cli import _main

    good = ("returned",) if rollout.phase == "returning" else ("done", "present")
    left = [name for name, step in rollout.steps.items() if step.progress not in good]
    if args.json:
        _output.print_json(rollout)
    elif not args.dry_run:
        _say_end(rollout, sorted(left))
    return _main.EXIT_GATE if left and not args.dry_run else _main.EXIT_DONE


def _say_end(rollout: Rollout, left: list[str]) -> None:
    from edge.telemetry.lines import printable

    if rollout.phase != "rolling":
        print(f"stopped: {printable(rollout.reason)}")
    print(_counts(rollout))
    why_waiting = "offline" if rollout.phase == "rolling" else "its turn did not come"
    for device in left:
        step = rollout.steps[device]
        reason = step.reason or (why_waiting if step.progress == "waiting" else "")
        print(f"  {printable(device)}  {step.progress}{': ' if reason else ''}{printable(reason)}")
    if rollout.phase == "stopped":
        print(
            "hint: the same command with --retry goes on, with --roll-back it brings back what "
            "they had",
            file=sys.stderr,
        )
    elif left and rollout.phase == "rolling":
        is_waiting = any(rollout.steps[device].progress == "waiting" for device in left)
        how = "takes on those that were left" if is_waiting else "with --retry tries them again"
        print(f"hint: the same command {how}", file=sys.stderr)
