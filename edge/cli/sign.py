"""``edge sign``: vouch for a bundle that exists already."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from edge.cli import _output

HELP = "sign a bundle with a private key (Ed25519), for devices that trust it"


class Signed(msgspec.Struct, frozen=True):
    """What ``--json`` prints; ``key`` is the fingerprint that ``ssh-keygen -l`` prints."""

    bundle: str
    digest: str
    key: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="KEY",
        help="a private key, as ssh-keygen -t ed25519 -N '' -f KEY makes it",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT.edge", help="default: in its place"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from edge.bundle import open_bundle, sign
    from edge.bundle.signing import read_signer

    signer = read_signer(args.key)
    path = sign(args.bundle, signer, args.output)
    with open_bundle(path) as bundle:
        signed = Signed(str(path), bundle.digest, signer.fingerprint)
    if args.json:
        _output.print_json(signed)
    else:
        _output.out().print(f"✓ {path} is signed", markup=False, soft_wrap=True)
        _output.facts([("by", signed.key), ("manifest", signed.digest)])
    return 0
