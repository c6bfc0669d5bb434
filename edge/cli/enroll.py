"""``edge enroll``: certificates for devices, whose keys never leave them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli import _main, _output
from edge.cli._arguments import add_hosts, positive
from edge.core.errors import InputError

if TYPE_CHECKING:
    from edge.deploy.authority import Authority
    from edge.deploy.enrolment import Enrolment, Order
    from edge.deploy.register import Register

HELP = "give devices certificates that their broker knows them by, over SSH, or renew them"

_MARKS = {
    "enrolled": "[green]✓[/]",
    "planned": "·",
    "pending": "[yellow]?[/]",
    "put-back": "[yellow]↺[/]",
}
_BAD = "[red]✗[/]"
_CENTURY_DAYS = 36_525
_EXIT_CODES = {
    "enrolled": _main.EXIT_DONE,
    "planned": _main.EXIT_DONE,
    "pending": _main.EXIT_GATE,
    "put-back": _main.EXIT_GATE,
    "refused": _main.EXIT_USAGE,
    "unavailable": _main.EXIT_UNAVAILABLE,
    "defect": _main.EXIT_DEFECT,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hosts", nargs="*", metavar="HOST", help="as ssh takes it: user@host")
    parser.add_argument("--ca", type=Path, metavar="ca.pem", help="your authority's certificate")
    parser.add_argument("--ca-key", type=Path, metavar="ca.key", help="its private key")
    parser.add_argument(
        "--days", type=_days, metavar="N", help="how long it holds (default 365; a CA 3650)"
    )
    parser.add_argument(
        "--broker-ca",
        type=Path,
        metavar="FILE",
        help="who vouches for the broker (default: what is set there, else ca.pem)",
    )
    parser.add_argument(
        "--mqtt", default="", metavar="mqtts://HOST", help="the broker (default: what is set there)"
    )
    parser.add_argument(
        "--approve",
        type=_approval,
        action="append",
        default=[],
        metavar="NAME[=KEY]",
        help="a name that a new device may have, if that is its key's fingerprint (repeatable)",
    )
    parser.add_argument(
        "--revoke",
        action="append",
        default=[],
        metavar="NAME",
        help="take back a device's certificates, in ca.crl for the broker (repeatable)",
    )
    parser.add_argument(
        "--make-ca", type=Path, metavar="NAME", help="make an authority: NAME.pem, .key and .crl"
    )
    parser.add_argument(
        "--encrypt", action="store_true", help="with --make-ca: ask for a passphrase for its key"
    )
    parser.add_argument("--dry-run", action="store_true", help="look, and change nothing")
    add_hosts(parser, timeout_s=60, until="how long the broker may take to accept it")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _days(text: str) -> int:
    days = positive(text)
    if days > _CENTURY_DAYS:
        raise argparse.ArgumentTypeError(f"{days} days are more than a century")
    return days


def _approval(text: str) -> tuple[str, str]:
    name, separator, key = text.partition("=")
    if not name or (separator and not key.startswith("SHA256:")):
        raise argparse.ArgumentTypeError(f"{text!r} is not like cam-1 or cam-1=SHA256:…")
    return name, key


def run(args: argparse.Namespace) -> int:
    if args.make_ca:
        return _make_authority(args)
    if args.encrypt:
        raise InputError("--encrypt is for --make-ca")
    if args.revoke:
        return _revoke(args)
    if not args.hosts:
        raise InputError(
            "no host is named", hint="edge enroll user@host --ca ca.pem --ca-key ca.key"
        )
    if doubled := sorted({host for host in args.hosts if args.hosts.count(host) > 1}):
        raise InputError(f"{', '.join(doubled)} is named twice")
    if len(args.hosts) > 1 and not all(key for _, key in args.approve):
        raise InputError(
            "any of these hosts could say that it has an approved name",
            hint="approve it with its key, which edge enroll shows: --approve NAME=SHA256:…",
        )
    from edge.deploy.enrolment import enroll

    order = _order(args)
    with _output.err().status("enrolling") as status:
        outcomes = enroll(order, args.hosts, lambda host, at: status.update(f"{host}: {at}"))
    if args.json:
        _output.print_json(outcomes)
    else:
        _print(outcomes)
    return max(_EXIT_CODES[outcome.state] for outcome in outcomes)


def _order(args: argparse.Namespace) -> Order:
    from edge.deploy import enrolment
    from edge.deploy.authority import DEVICE_DAYS

    return enrolment.Order(
        authority=_authority(args),
        register=_register(args),
        days=args.days or DEVICE_DAYS,
        broker_ca=enrolment.broker_authority(args.broker_ca) if args.broker_ca else "",
        url=enrolment.check_broker(args.mqtt) if args.mqtt else "",
        ssh_options=("-F", str(args.ssh_config)) if args.ssh_config else (),
        is_dry=args.dry_run,
        timeout_s=args.timeout,
        parallel=args.parallel,
    )


def _authority(args: argparse.Namespace) -> Authority:
    from edge.deploy.authority import read_authority

    if not args.ca or not args.ca_key:
        raise InputError(
            "an authority is needed: --ca ca.pem --ca-key ca.key",
            hint="without one: edge enroll --make-ca ca",
        )
    return read_authority(args.ca, args.ca_key, _ask if sys.stdin.isatty() else None)


def _register(args: argparse.Namespace) -> Register:
    from edge.deploy.register import Register
    from edge.deploy.revocation import list_path, revoked_serials

    return Register(
        args.ca.with_suffix(".issued"),
        approved=dict(args.approve),
        revoked=revoked_serials(list_path(args.ca)),
    )


def _revoke(args: argparse.Namespace) -> int:
    from edge.deploy.revocation import list_path, revoke

    if args.hosts:
        raise InputError("--revoke takes no hosts: it names devices, as ca.issued has them")
    authority = _authority(args)
    path = list_path(args.ca)
    revoked = revoke(authority, _register(args), args.revoke, path)
    if args.json:
        _output.print_json({"list": str(path), "revoked": revoked})
        return _main.EXIT_DONE
    for name in args.revoke:
        count = sum(entry.name == name for entry in revoked)
        what = f"is revoked, certificates: {count}" if count else "was revoked before"
        _output.out().print(f"✓ {name} {what}", markup=False, soft_wrap=True)
    _output.say(f"  the broker has to read {path} again (mosquitto: crlfile, and a SIGHUP)")
    return _main.EXIT_DONE


def _make_authority(args: argparse.Namespace) -> int:
    from edge.deploy.authority import AUTHORITY_DAYS, make_authority
    from edge.deploy.revocation import list_path

    if args.hosts:
        raise InputError("--make-ca takes no hosts", hint="enrol them once it is made")
    passphrase = _ask_twice() if args.encrypt else b""
    stem = args.make_ca.with_suffix("") if args.make_ca.suffix == ".pem" else args.make_ca
    certificate, key = make_authority(stem, args.days or AUTHORITY_DAYS, passphrase)
    revoked = list_path(certificate)
    if args.json:
        _output.print_json({"certificate": str(certificate), "key": str(key), "list": str(revoked)})
        return _main.EXIT_DONE
    for text in (
        f"{certificate}, for all to see",
        f"{key}: who has it is believed",
        f"{revoked}: whom brokers are to refuse, nobody so far",
    ):
        _output.out().print(f"✓ {text}", markup=False, soft_wrap=True)
    return _main.EXIT_DONE


def _ask(prompt: str = "passphrase of the authority's key: ") -> bytes:
    import getpass

    return getpass.getpass(prompt).encode()


def _ask_twice() -> bytes:
    if not sys.stdin.isatty():
        raise InputError("nobody is there to ask for a passphrase", hint="run this in a terminal")
    passphrase = _ask("passphrase for the new key: ")
    if not passphrase or _ask("once more: ") != passphrase:
        raise InputError("the passphrase is empty, or another one the second time")
    return passphrase


def _print(outcomes: Sequence[Enrolment]) -> None:
    from rich.markup import escape

    for outcome in outcomes:
        mark = _MARKS.get(outcome.state, _BAD)
        _output.say(f"{mark} {escape(outcome.host)}: {escape(_summary(outcome))}")
        if outcome.hint:
            hint = f"  [dim]hint: {escape(outcome.hint)}[/]"
            _output.out().print(hint, soft_wrap=True)  # so that it can be copied as it stands
        for note in outcome.notes:
            _output.say(f"  [yellow]![/] {escape(note)}")
        facts = (
            ("  its key", outcome.key),
            ("  SSH host key", outcome.host_key),
            ("  certificate", outcome.serial),
            ("  before", f"until {_day(outcome.ended)}" if outcome.ended else ""),
        )
        _output.facts(facts)
    if len(outcomes) > 1:
        good = sum(_EXIT_CODES[outcome.state] == 0 for outcome in outcomes)
        _output.say(f"{good} of {len(outcomes)} hosts")


def _summary(outcome: Enrolment) -> str:
    if outcome.state == "enrolled":
        return f"{outcome.name} is enrolled until {_day(outcome.ends)} ({outcome.seconds:.1f} s)"
    if outcome.state == "planned":
        return f"{outcome.name} would get a certificate"
    if outcome.state == "put-back":
        return f"{outcome.name} has what it had: {outcome.reason}"
    return outcome.reason


def _day(utc: str) -> str:
    return utc.partition("T")[0]
