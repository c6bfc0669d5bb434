"""What ``edge fleet roll-out`` is told: to which devices first, and what counts as failed."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.cli._arguments import duration, percent, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument(
        "--install", action="store_true", help="also to devices that do not have this model yet"
    )
    parser.add_argument("--url", default="", help="devices fetch it there, not over MQTT")
    parser.add_argument("--unsigned", action="store_true", help="roll out what nobody signed")
    parser.add_argument("--retry", action="store_true", help="try those again that failed")
    parser.add_argument("--restart", action="store_true", help="forget what was done, plan anew")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--seconds",
        type=duration,
        default=3.0,
        metavar="TIME",
        help="how long to look which devices there are (default: 3s)",
    )
    _add_stages(parser.add_argument_group("stages"))
    _add_limits(parser.add_argument_group("what counts as failed"))


def _add_stages(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--canary", type=_canary, default=1, metavar="N|NAME,…", help="the first (default: 1)"
    )
    group.add_argument(
        "--waves",
        type=_waves,
        default=(0.1, 0.5, 1.0),
        metavar="P%,…",
        help="shares of all after that (default: 10%%,50%%,100%%)",
    )
    group.add_argument(
        "--soak",
        type=duration,
        default=300.0,
        metavar="TIME",
        help="how long each device is watched in service (default: 5m)",
    )
    group.add_argument(
        "--at-once", type=positive, default=10, metavar="N", help="updates at a time (default: 10)"
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max-errors",
        type=percent,
        default=0.02,
        metavar="P%",
        help="a device fails if more of its inferences do (default: 2%%)",
    )
    group.add_argument(
        "--max-failed",
        type=percent,
        default=0.0,
        metavar="P%",
        help="stop if more of a wave's devices fail (default: 0%%)",
    )
    group.add_argument(
        "--timeout", type=duration, default=1800.0, metavar="TIME", help="per update (default: 30m)"
    )
    group.add_argument(
        "--silence",
        type=duration,
        default=60.0,
        metavar="TIME",
        help="a device fails that is gone for this long after the update (default: 60s)",
    )
    group.add_argument(
        "--tolerate",
        action="append",
        default=[],
        choices=("fallback", "drift", "latency", "accuracy"),
        help="no failure if this gets worse (repeatable)",
    )
    group.add_argument(
        "--roll-back", action="store_true", help="if it stops, bring all back to what they had"
    )


def _canary(text: str) -> int | tuple[str, ...]:
    if text.isdecimal():
        return int(text)
    names = tuple(name for name in text.split(",") if name)
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor names of devices")
    return names


def _waves(text: str) -> tuple[float, ...]:
    shares = tuple(percent(part) for part in text.split(","))
    if list(shares) != sorted(set(shares)):
        raise argparse.ArgumentTypeError(f"{text!r} does not rise, as 10%,50%,100% does")
    return shares
