"""``edge verify``: is this bundle whole, whose is it, and does it answer right here?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from edge.cli import _output
from edge.cli._arguments import add_keys, keyring
from edge.core import plugins
from edge.core.errors import EngineError, NotFoundError, UnavailableError
from edge.core.manifest import Variant

if TYPE_CHECKING:
    from edge.bundle.signing import Keyring
    from edge.host import GoldenResult

HELP = "check a bundle's digests, its signature, and its answers on this machine"

State = Literal["passed", "failed", "error", "skipped", "unproven"]
_MARKS = {"passed": "[green]✓[/]", "failed": "[red]✗[/]", "error": "[red]✗[/]"}
_NEUTRAL = "○"


class VariantResult(msgspec.Struct, frozen=True):
    """What became of a variant here; ``reason`` says why no answers were compared."""

    id: str
    engine: str
    state: State
    reason: str = ""
    hint: str = ""
    answers: tuple[GoldenResult, ...] = ()


class Verification(msgspec.Struct, frozen=True):
    """What ``--json`` prints. A bundle with a wrong digest never gets this far."""

    bundle: str
    digest: str
    entries: int
    signature: str
    goldens: int
    variants: tuple[VariantResult, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--engine", help="only the variants for this engine")
    add_keys(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    verification = verify(args.bundle, args.engine, keyring(args))
    if args.json:
        _output.print_json(verification)
    else:
        _print(verification)
    return _exit_code(verification)


def verify(path: Path, engine: str | None = None, trust: Keyring | None = None) -> Verification:
    """Check digests and signature, then the goldens of each variant whose engine is ready here.

    Raises:
        BundleError: The bundle is damaged, altered or unsafe, or not signed as ``trust`` asks.
        NotFoundError: There is no such engine, or no variant for it.
    """
    from edge.bundle import open_bundle
    from edge.cli.inspect import signature_text

    if engine is not None:
        plugins.backend(engine)
    with open_bundle(path, trust) as bundle:
        manifest = bundle.manifest
        chosen = [v for v in manifest.variants if engine in (None, v.engine)]
        if not chosen:
            has = ", ".join(sorted({v.engine for v in manifest.variants}))
            raise NotFoundError(f"{path} has no variant for {engine}", hint=f"it has: {has}")
        return Verification(
            bundle=str(path),
            digest=bundle.digest,
            entries=len(bundle.names()),
            signature=signature_text(bundle),
            goldens=len(manifest.goldens),
            variants=tuple(_verify_variant(path, variant) for variant in chosen),
        )


def _verify_variant(path: Path, variant: Variant) -> VariantResult:
    from edge.host import load

    def result(state: State, reason: str = "", hint: str = "") -> VariantResult:
        return VariantResult(variant.id, variant.engine, state, reason, hint)

    try:
        availability = plugins.backend(variant.engine).availability()
        if not availability.ready:
            return result("skipped", availability.reason, availability.hint)
        with load(path, engine=variant.engine, variant=variant.id) as model:
            answers = tuple(model.verify_goldens())
    except (NotFoundError, UnavailableError) as error:
        return result("skipped", str(error), error.hint)
    except EngineError as error:
        return result("error", str(error), error.hint)
    if not answers:
        return result("unproven", "it runs, but the bundle holds no answers to compare with")
    state: State = "passed" if all(answer.passed for answer in answers) else "failed"
    return msgspec.structs.replace(result(state), answers=answers)


def _exit_code(verification: Verification) -> int:
    from edge.cli import _main

    states = {variant.state for variant in verification.variants}
    if "failed" in states:
        return _main.EXIT_GATE
    if "error" in states or states == {"skipped"}:
        return _main.EXIT_UNAVAILABLE
    return _main.EXIT_DONE


def _print(verification: Verification) -> None:
    from rich.markup import escape

    _output.say()
    entries = f"{verification.entries} entries match their digests"
    _output.say(f"[green]✓[/] {escape(Path(verification.bundle).name)}: {entries}")
    _output.say(f"[dim]· signature {verification.signature}[/]")
    for variant in verification.variants:
        _output.say(
            f"{_MARKS.get(variant.state, _NEUTRAL)} {variant.id}: {escape(_summary(variant))}"
        )
        if variant.hint:
            _output.say(f"  [dim]hint: {escape(variant.hint)}[/]")
    columns = ["variant", "output", "goldens", "worst error", "allowed"]
    rows = [row for variant in verification.variants for row in _rows(variant)]
    if rows:
        _output.say()
        _output.table("Answers, compared with the source model's", columns, rows, right=columns[2:])


def _summary(variant: VariantResult) -> str:
    if variant.state == "skipped":
        return f"not run here: {variant.reason}"
    if variant.state == "error":
        return f"{variant.engine} failed: {variant.reason}"
    if variant.state == "unproven":
        return variant.reason
    right = sum(answer.passed for answer in variant.answers)
    return f"{right} of {len(variant.answers)} answers are right"


def _rows(variant: VariantResult) -> Iterator[tuple[str, ...]]:
    """One row for each output: the golden that comes nearest to its limit, or exceeds it most."""
    by_output = sorted(variant.answers, key=lambda answer: answer.output)
    for output, group in groupby(by_output, key=lambda answer: answer.output):
        answers = list(group)
        worst = max(answers, key=lambda answer: answer.max_abs_error - answer.tolerance)
        right = sum(answer.passed for answer in answers)
        yield (
            variant.id,
            output,
            f"{right}/{len(answers)}",
            f"{worst.max_abs_error:.3g}",
            f"{worst.tolerance:.3g}",
        )
