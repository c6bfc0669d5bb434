"""``edge cost``: what inferences cost, of a running server or of devices at a broker."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from edge.cli import _cost, _output
from edge.cli._brokers import named_brokers
from edge.core.errors import SettingsError, UnavailableError
from edge.settings import load_settings

if TYPE_CHECKING:
    from edge.telemetry.watcher import Arrival

HELP = "tell what inferences cost, in joules and in money"

PATH = "/v2/cost"
_TIMEOUT_S = 5.0
_MOST_BYTES = 16 * 1024 * 1024
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--http", metavar="HOST:PORT", help="the server (default: edge.toml's, 127.0.0.1:8000)"
    )
    where.add_argument("--mqtt", metavar="URL", help="the devices that report to this broker")
    parser.add_argument("--fleet", default="+", help="with --mqtt: only this fleet")
    parser.add_argument("--device", default="+", help="with --mqtt: only this device")
    parser.add_argument(
        "--seconds",
        type=float,
        default=6.0,  # an interval, by default
        help="with --mqtt: how long to wait for what devices tell (default: 6)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if args.mqtt:
        told = _told_at(args.mqtt, args)
        if args.json:
            _output.print_json(list(told.values()))
            return 0
        for number, (name, metrics) in enumerate(told.items()):
            if number:
                _output.say()
            _cost.show(name, metrics)
        return 0
    url = _url(args.http or load_settings().serve.http)
    metrics = _fetch(url)
    if args.json:
        _output.print_json(metrics)
    else:
        _cost.show(url, metrics)
    return 0


def _url(address: str) -> str:
    """Where a server that listens there is reached from here."""
    given = address.rstrip("/")
    if given.startswith(("http://", "https://")):
        return given
    host, _, port = given.rpartition(":")
    if not port.isdigit() or port == "0" or "/" in host:
        raise SettingsError(f"there is no server at {address!r}", hint="name it as HOST:PORT")
    return f"http://{_ANYWHERE.get(host, host)}:{port}"


def _fetch(url: str) -> dict[str, Any]:
    import urllib.error
    import urllib.request

    import msgspec

    try:
        with urllib.request.urlopen(url + PATH, timeout=_TIMEOUT_S) as answer:
            body = answer.read(_MOST_BYTES)
        return msgspec.json.decode(body, type=dict[str, Any])
    except urllib.error.HTTPError as error:
        why = f"answers {error.code} to {PATH}"
    except msgspec.DecodeError:
        why = f"answers no JSON to {PATH}"
    except (OSError, ValueError) as error:  # urllib's own are among them
        reason = getattr(error, "reason", None) or error
        raise UnavailableError(
            f"no server answers at {url}: {getattr(reason, 'strerror', None) or reason}",
            hint="start one with edge serve, or name it: edge cost --http HOST:PORT",
        ) from error
    raise UnavailableError(
        f"{url} {why}: that is no edge serve, or an old one",
        hint="name another: edge cost --http HOST:PORT",
    )


def _told_at(url: str, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The newest that each device told, by fleet and device.

    Raises:
        UnavailableError: The broker is not there, or no device told anything.
    """
    from edge.telemetry.watcher import Watcher

    newest: dict[str, Arrival] = {}
    end_s = time.monotonic() + args.seconds
    with Watcher(named_brokers(url, "cost"), args.fleet, args.device) as watcher:
        while (left_s := end_s - time.monotonic()) > 0:
            for arrival in watcher.poll(left_s):
                if arrival.path not in ("cost", "tele/cost"):
                    continue
                name = f"{arrival.fleet}/{arrival.device}"
                known = newest.get(name)
                if known is None or arrival.envelope.ts_ms >= known.envelope.ts_ms:
                    newest[name] = arrival
    if not newest:
        raise UnavailableError(
            f"no device told its costs to {watcher.address} within {args.seconds:g} s",
            hint="wait longer with --seconds 60, or see who is there: edge watch",
        )
    return {name: {"device": name, **arrival.metrics} for name, arrival in sorted(newest.items())}
