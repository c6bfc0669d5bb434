"""Arguments that several subcommands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.bundle.signing import Keyring


def add_source(parser: argparse.ArgumentParser) -> None:
    """The model to convert or check, and the devices it is for."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="an ONNX file, a PyTorch program (.pt2), or module:function that builds a network",
    )
    parser.add_argument(
        "--profile",
        action="append",
        dest="profiles",
        help="the device (repeatable; default: this machine)",
    )
    parser.add_argument("--spec", type=Path, metavar="MODEL.toml", help="what the file can't say")
    parser.add_argument(
        "--shape",
        type=_shape,
        action="append",
        default=[],
        metavar="NAME=1x3x224x224",
        help="fix the shape of an input (repeatable)",
    )
    parser.add_argument("--batch", type=int, help="fix the batch dimension of all inputs")


def add_hosts(parser: argparse.ArgumentParser, *, timeout_s: int, until: str) -> None:
    """How many devices are reached over SSH, and how."""
    parser.add_argument(
        "--timeout",
        type=positive,
        default=timeout_s,
        metavar="SECONDS",
        help=f"{until} (default {timeout_s})",
    )
    parser.add_argument(
        "--parallel", type=positive, default=20, metavar="N", help="hosts at a time (default 20)"
    )
    parser.add_argument("--ssh-config", type=Path, metavar="FILE", help="instead of ~/.ssh/config")


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, dims = text.rpartition("=")
    try:
        sizes = tuple(int(dim) for dim in dims.split("x"))
    except ValueError:
        sizes = ()
    if not name or not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not like images=1x3x224x224")
    return name, sizes


def add_variant(parser: argparse.ArgumentParser) -> None:
    """The bundle to run, and which of its variants."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--engine", help="only a variant for this engine")
    parser.add_argument(
        "--variant", metavar="ID", help="only this variant; edge inspect lists them"
    )
    add_keys(parser)


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Who must have signed the bundle, for ``keyring``."""
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="FILE|DIR",
        help="it must be signed by one of these public keys (default: what edge.toml trusts)",
    )


def keyring(args: argparse.Namespace) -> Keyring | None:
    """Raises ``InputError`` where a key can't be used."""
    from edge.bundle.signing import Keyring, keyring_of, read_trusted
    from edge.settings import load_settings

    return Keyring(read_trusted(args.key)) if args.key else keyring_of(load_settings().trust)


def positive(text: str) -> int:
    """A whole number above 0."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def duration(text: str) -> float:
    """Seconds: ``90s``, ``5m``, ``2h``, or a plain number."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    unit = units.get(text[-1:], 0.0)
    try:
        seconds = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e8:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 90s, 5m or 2h")
    return seconds


def percent(text: str) -> float:
    """A share in 0..1, written ``2%``."""
    try:
        share = float(text.removesuffix("%")) / 100 if text.endswith("%") else -1.0
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 2%, from 0% to 100%")
    return share
