"""``edge deploy``: bundles to devices over SSH, and what serves there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.cli import _main, _output
from edge.cli._arguments import add_hosts
from edge.core.errors import InputError

if TYPE_CHECKING:
    from edge.deploy.care import DeviceStatus
    from edge.deploy.rollout import Outcome, Report

HELP = "bring bundles to devices over SSH, switch them over, and go back if that was bad"

_MARKS = {
    **dict.fromkeys(("done", "unchanged", "removed"), "[green]✓[/]"),
    "planned": "·",
    **dict.fromkeys(("rejected", "rolled-back", "failed"), "[yellow]↺[/]"),
}
_BAD = "[red]✗[/]"
_EXIT_CODES = {
    **dict.fromkeys(("done", "unchanged", "removed", "planned"), _main.EXIT_DONE),
    **dict.fromkeys(("rejected", "rolled-back", "failed"), _main.EXIT_GATE),
    "differs": _main.EXIT_USAGE,
    "unavailable": _main.EXIT_UNAVAILABLE,
    "defect": _main.EXIT_DEFECT,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="*",
        metavar="BUNDLE|HOST",
        help="bundles (*.edge), and hosts as ssh takes them: user@host, or names of ~/.ssh/config",
    )
    parser.add_argument("--hosts", type=Path, metavar="FILE", help="more hosts, one a line")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="edge.toml",
        help="what to serve by (default: what is there)",
    )
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="FILE|DIR",
        help="bundles must be signed by one of these public keys",
    )
    verbs = parser.add_mutually_exclusive_group()
    verbs.add_argument(
        "--dry-run", action="store_true", help="compare, and print what would be done"
    )
    verbs.add_argument("--status", action="store_true", help="what the hosts serve")
    verbs.add_argument("--rollback", action="store_true", help="to the release before")
    verbs.add_argument("--remove", action="store_true", help="take edge off the hosts")
    parser.add_argument(
        "--force", action="store_true", help="older versions, and bundles for another architecture"
    )
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="more wheels to choose from")
    parser.add_argument("--fresh-wheels", action="store_true", help="look for newer packages")
    until = "how long it may take to be healthy; building engines does not count"
    add_hosts(parser, timeout_s=120, until=until)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    bundles, hosts = _sorted_out(args)
    options = ("-F", str(args.ssh_config)) if args.ssh_config else ()
    if args.status:
        return _status(hosts, options, args)
    with _progress(hosts, is_quiet=args.json) as report:
        outcomes = _act(args, bundles, hosts, options, report)
    if args.json:
        _output.print_json(outcomes)
    else:
        _print(outcomes)
    return max(_EXIT_CODES[outcome.state] for outcome in outcomes)


def _act(
    args: argparse.Namespace,
    bundles: list[Path],
    hosts: list[str],
    options: tuple[str, ...],
    report: Report,
) -> list[Outcome]:
    from edge.bundle.signing import Keyring, read_trusted
    from edge.deploy import care, rollout
    from edge.deploy.release import read_bundles, read_settings

    if args.rollback:
        return care.roll_back(hosts, options, args.parallel, report, timeout_s=args.timeout)
    if args.remove:
        return care.remove(hosts, options, args.parallel, report)
    trust = Keyring(read_trusted(args.key)) if args.key else None
    order = rollout.Order(
        bundles=read_bundles(bundles, trust),
        settings=read_settings(args.config) if args.config else None,
        more_wheels=args.wheels,
        has_fresh_wheels=args.fresh_wheels,
        ssh_options=options,
        is_forced=args.force,
        is_dry=args.dry_run,
        timeout_s=args.timeout,
        parallel=args.parallel,
    )
    return rollout.deploy(order, hosts, report)


def _sorted_out(args: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Bundles end in .edge or are files here; all else are hosts."""
    bundles = [Path(word) for word in args.what if word.endswith(".edge") or Path(word).is_file()]
    hosts = [word for word in args.what if Path(word) not in bundles]
    if args.hosts:
        try:
            lines = [line.partition("#")[0].strip() for line in args.hosts.read_text().splitlines()]
        except OSError as error:
            raise InputError(f"can not read {args.hosts}: {error.strerror}") from error
        hosts += [line for line in lines if line]
    if not hosts:
        raise InputError("no host is named", hint="edge deploy model.edge user@host")
    if doubled := sorted({host for host in hosts if hosts.count(host) > 1}):
        raise InputError(f"{', '.join(doubled)} is named twice")
    is_about_there = args.status or args.rollback or args.remove
    if not bundles and not is_about_there:
        raise InputError("no bundle is named", hint="edge deploy model.edge user@host")
    if bundles and is_about_there:
        raise InputError(f"{bundles[0]} is a bundle, and this takes hosts alone")
    return bundles, hosts


@contextmanager
def _progress(hosts: Sequence[str], *, is_quiet: bool) -> Iterator[Report]:
    """A line for each host that is redrawn on a terminal; else one for each step of each."""
    console = _output.err()
    if is_quiet or not console.is_terminal:
        yield _plain_progress(is_quiet=is_quiet)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[host]:<24}"),
        BarColumn(bar_width=12),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as live:
        tasks = {host: live.add_task("waiting", total=1.0, host=host[:24]) for host in hosts}

        def report(host: str, at: str, share: float) -> None:
            live.update(tasks[host], description=at[:32], completed=share)

        yield report


def _plain_progress(*, is_quiet: bool) -> Report:
    told: dict[str, str] = {}

    def report(host: str, at: str, share: float) -> None:
        if not is_quiet and told.get(host) != at:
            told[host] = at
            print(f"{host}: {at}", file=sys.stderr, flush=True)

    return report


def _print(outcomes: Sequence[Outcome]) -> None:
    from rich.markup import escape

    for outcome in outcomes:
        mark = _MARKS.get(outcome.state, _BAD)
        _output.say(f"{mark} {escape(outcome.host)}: {escape(_summary(outcome))}")
        if outcome.hint:
            _output.say(f"  [dim]hint: {escape(outcome.hint)}[/]")
        for one in outcome.differences:
            if outcome.state != "differs" or one.kind == "warns":
                _output.say(f"  [yellow]![/] {escape(str(one))}; {escape(one.do)}")
        for note in outcome.notes:
            _output.say(f"  [yellow]![/] {escape(note)}")
        if outcome.state == "planned":
            for number, step in enumerate(outcome.steps, 1):
                _output.say(f"  {number:>2}. {escape(step)}")
    if len(outcomes) > 1:
        good = sum(_EXIT_CODES[outcome.state] == 0 for outcome in outcomes)
        _output.say(f"{good} of {len(outcomes)} hosts")


def _summary(outcome: Outcome) -> str:
    release = outcome.release[:12]
    sent = _output.size_text(outcome.sent_bytes)
    texts: dict[str, Callable[[], str]] = {
        "done": lambda: (
            f"serves {release} ({outcome.takeover}, {sent} sent, healthy after "
            f"{outcome.switch_seconds:.1f} s, {outcome.seconds:.1f} s in all)"
        ),
        "unchanged": lambda: f"serves {release} already" if release else "nothing to do",
        "removed": lambda: "serves nothing any more; /etc/edge and /var/lib/edge are left",
        "planned": lambda: f"release {release}, {outcome.takeover}",
        "rolled-back": lambda: f"went back: {outcome.reason}",
    }
    return texts.get(outcome.state, lambda: outcome.reason)()


def _status(hosts: list[str], options: tuple[str, ...], args: argparse.Namespace) -> int:
    from edge.deploy import care

    statuses = care.status(hosts, options, args.parallel)
    if args.json:
        _output.print_json(statuses)
    else:
        columns = ("host", "service", "release", "before", "models", "broker")
        _output.table("", columns, (_row(status) for status in statuses))
        for status in statuses:
            if status.hint:
                _output.err().print(f"hint: {status.hint}", markup=False)
    bad = [status for status in statuses if status.error]
    return _main.EXIT_UNAVAILABLE if bad else _main.EXIT_DONE


def _row(status: DeviceStatus) -> tuple[Any, ...]:
    if status.error:
        return (status.host, "✗ " + status.error, "", "", "", "")
    models = ", ".join(f"{m.name} {m.version} {m.state}" for m in status.models)
    release = status.release[:12] + (" (not confirmed)" if status.is_pending else "")
    return (status.host, status.service, release, status.previous[:12], models, status.broker)
