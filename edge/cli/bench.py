"""``edge bench``: what an inference takes on this machine, variant by variant."""

from __future__ import annotations

import argparse
import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from edge.cli import _output
from edge.cli._arguments import add_variant, keyring, positive
from edge.core import plugins
from edge.core.contracts import Placement
from edge.core.errors import EngineError, NotFoundError, UnavailableError
from edge.core.profile import load_profile

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.core.manifest import Variant
    from edge.core.tensor import Feeds
    from edge.host import Model
    from edge.host.benchmark import Figures

HELP = "measure latency and throughput of a bundle on this machine"


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One variant; ``reason`` says why it was not measured. Figures are in milliseconds."""

    id: str
    engine: str
    engine_version: str = ""
    placement: Placement | None = None
    figures: Any = None
    reason: str = ""


class Benchmark(msgspec.Struct, frozen=True):
    """What ``--json`` prints. ``threads`` is null where the engine chose their number."""

    model: str
    version: str
    machine: str
    data: str
    seconds: float
    callers: int
    threads: int | None
    variants: tuple[Row, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_variant(parser)
    parser.add_argument("--all", action="store_true", help="every variant, not the best one alone")
    parser.add_argument(
        "--seconds", type=_seconds, default=3.0, metavar="S", help="for each variant (default: 3)"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="threads of the engine")
    parser.add_argument(
        "--callers", type=positive, default=1, metavar="N", help="inferences at once (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from edge.bundle import open_bundle
    from edge.host.benchmark import measure

    with open_bundle(args.bundle, keyring(args)) as bundle, ExitStack() as stack:
        models, refused = _load(args, bundle, stack)
        feeds, data = _feeds(bundle, models)
        figures = measure(models, feeds, seconds=args.seconds, callers=args.callers)
        host = load_profile("host").compute
        benchmark = Benchmark(
            model=bundle.manifest.name,
            version=bundle.manifest.version,
            machine=f"{host.cpu}, {host.cores} cores",
            data=data,
            seconds=args.seconds,
            callers=args.callers,
            threads=args.threads,
            variants=(*(_row(model, figures[name]) for name, model in models.items()), *refused),
        )
    if args.json:
        _output.print_json(benchmark)
    else:
        _print(benchmark)
    return 0


def _load(
    args: argparse.Namespace, bundle: Bundle, stack: ExitStack
) -> tuple[dict[str, Model], list[Row]]:
    """Models by variant id, and rows for those that can't be measured here.

    Raises:
        NotFoundError: The bundle has no variant like the one that was asked for.
        UnavailableError: It has, and none runs here.
    """
    from edge.host import load

    options = {"threads": args.threads} if args.threads else {}
    if not args.all:
        model = load(args.bundle, engine=args.engine, variant=args.variant, options=options)
        return {model.variant.id: stack.enter_context(model)}, []
    models: dict[str, Model] = {}
    refused: list[Row] = []
    for variant in _asked_for(args, bundle):
        try:
            model = load(args.bundle, engine=variant.engine, variant=variant.id, options=options)
        except (NotFoundError, UnavailableError, EngineError) as error:
            refused.append(Row(variant.id, variant.engine, reason=str(error)))
        else:
            models[variant.id] = stack.enter_context(model)
    if not models:
        why = "; ".join(f"{row.id}: {row.reason}" for row in refused)
        raise UnavailableError(f"no variant runs here: {why}", hint="see: edge devices")
    return models, refused


def _asked_for(args: argparse.Namespace, bundle: Bundle) -> list[Variant]:
    variants = [
        variant
        for variant in bundle.manifest.variants
        if args.engine in (None, variant.engine) and args.variant in (None, variant.id)
    ]
    if not variants:
        has = ", ".join(variant.id for variant in bundle.manifest.variants)
        raise NotFoundError(f"{args.bundle} has no such variant", hint=f"it has: {has}")
    return variants


def _feeds(bundle: Bundle, models: dict[str, Model]) -> tuple[dict[str, Feeds], str]:
    """What to infer with each model, and what that is: real samples where there are any."""
    from edge.host.benchmark import synthetic_feeds

    if bundle.manifest.goldens:
        inputs, _ = bundle.golden(bundle.manifest.goldens[0])
        return dict.fromkeys(models, inputs), "the bundle's first golden"
    return {name: synthetic_feeds(model.inputs) for name, model in models.items()}, "noise"


def _row(model: Model, figures: Figures) -> Row:
    engine = model.engine
    return Row(
        id=model.variant.id,
        engine=engine,
        engine_version=plugins.backend(engine).availability().version,
        placement=model.placement,
        figures=figures,
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _print(benchmark: Benchmark) -> None:
    measured = [row for row in benchmark.variants if row.placement]
    columns = ["variant", "runs on", "in", "p50", "p90", "p99", "per second"]
    _output.say()
    _output.title(f"{benchmark.model} {benchmark.version}")
    _output.table("", columns, [_cells(row) for row in measured], right=columns[3:])
    _output.say()
    versions = dict.fromkeys(f"{row.engine} {row.engine_version}" for row in measured)
    _output.facts(
        [
            ("machine", benchmark.machine),
            ("engines", ", ".join(versions)),
            ("threads", benchmark.threads or "as many as the engine takes"),
            ("callers", f"{benchmark.callers}, {benchmark.seconds:g} s for each variant"),
            ("data", benchmark.data),
            *((row.id, f"not measured: {row.reason}") for row in benchmark.variants if row.reason),
            *((row.id, f"fallback: {_fallback(row)}") for row in measured if _fallback(row)),
        ]
    )


def _cells(row: Row) -> tuple[str, ...]:
    assert row.placement is not None
    figures = row.figures
    times = (_output.ms_text(time) for time in (figures.p50, figures.p90, figures.p99))
    return row.id, row.placement.actual, row.placement.precision, *times, _rate(figures.per_second)


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.1f}"


def _fallback(row: Row) -> str:
    return row.placement.reason if row.placement and row.placement.is_fallback else ""
