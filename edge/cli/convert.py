"""``edge convert``: a model in, a measured bundle out."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.cli import _arguments, _output, _progress

if TYPE_CHECKING:
    from edge.cli._progress import Progress
    from edge.conversion import Conversion
    from edge.conversion.cache import StageCache
    from edge.conversion.report import Report, VariantRow
    from edge.core.manifest import Latency, Metric

HELP = "convert a model for a device: quantize, measure, prove, bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _arguments.add_source(parser)
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16, int8 or int4")
    parser.add_argument(
        "--engine", action="append", default=[], help="only this engine of the profile (repeatable)"
    )
    parser.add_argument(
        "--calib", type=Path, metavar="DIR|NPZ", help="real samples to calibrate INT8 on"
    )
    parser.add_argument(
        "--eval", type=Path, metavar="DIR|NPZ", help="labelled samples to measure accuracy on"
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="accuracy that may be lost: points of the metric with --eval, else of agreement",
    )
    parser.add_argument(
        "--at-least",
        type=float,
        metavar="VALUE",
        help="what the metric must reach, in place of --max-drop",
    )
    parser.add_argument(
        "--max-trials",
        type=_arguments.positive,
        metavar="N",
        help="repairs to try for each engine where INT8 loses too much (default: 12)",
    )
    parser.add_argument(
        "--max-minutes", type=float, metavar="M", help="time for all repairs (default: 20)"
    )
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="take nothing from earlier conversions, keep nothing",
    )
    parser.add_argument("--name", help="name of the model (default: the file's)")
    parser.add_argument("--version", help="version of the model (default: 1)")
    parser.add_argument(
        "--sign", type=Path, metavar="KEY", help="sign the bundle with this private key (Ed25519)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT.edge",
        help="with several profiles, each one's name is added: OUT-PROFILE.edge",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    from edge.bundle import sign
    from edge.bundle.signing import read_signer
    from edge.cli._main import EXIT_DONE, EXIT_GATE
    from edge.conversion.cache import StageCache

    signer = read_signer(args.sign) if args.sign else None  # before minutes of work
    profiles = args.profiles or ["host"]
    conversions: list[Conversion] = []
    with ExitStack() as stack:
        cache = None
        if args.no_cache:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-cache-"))
            cache = StageCache(Path(folder))
        for profile in profiles:
            output = _output_for(args, profile) if len(profiles) > 1 else args.output
            with _progress.bars() as progress:
                conversions.append(_convert(args, profile, output, progress, cache))
            if signer is not None:
                sign(conversions[-1].path, signer)
            if not args.json:
                print_report(conversions[-1].report, conversions[-1].path)
    if args.json:
        printed = [
            {**msgspec.to_builtins(each.report), "bundle": str(each.path)} for each in conversions
        ]
        _output.print_json(printed[0] if len(printed) == 1 else printed)
    return EXIT_DONE if all(each.report.gate.met for each in conversions) else EXIT_GATE


def _convert(
    args: argparse.Namespace,
    profile: str,
    output: Path | None,
    progress: Progress | None,
    cache: StageCache | None,
) -> Conversion:
    from edge.conversion import convert
    from edge.conversion.repair import MINUTES, TRIALS, Limits

    return convert(
        args.source,
        profile=profile,
        spec=args.spec,
        precision=args.precision,
        engines=args.engine,
        calibration=args.calib,
        evaluation=args.eval,
        max_drop=args.max_drop,
        at_least=args.at_least,
        shapes=dict(args.shape),
        batch=args.batch,
        name=args.name,
        version=args.version,
        output=output,
        limits=Limits(args.max_trials or TRIALS, args.max_minutes or MINUTES),
        progress=progress,
        cache=cache,
    )


def _output_for(args: argparse.Namespace, profile: str) -> Path:
    """Where the bundle of one of several profiles goes."""
    from edge.conversion.sources import title_of

    given: Path = args.output or Path(f"{args.name or title_of(args.source)}.edge")
    return given.with_name(f"{given.stem}-{profile}.edge")


def print_report(report: Report, bundle: Path) -> None:
    """Print the table that ends a conversion; fits 80 columns."""
    metric = report.source.metric
    heading = metric.name if metric else ""
    columns = ["variant", "size", *([heading] if metric else []), "agree", "p50", "p99", "speed-up"]
    _output.say()
    _output.table(
        f"{report.model.name} {report.model.version} for {report.profile}",
        columns,
        [
            _source_row(report),
            *(_row(row, has_metric=metric is not None) for row in report.variants),
        ],
        right=columns[1:],
    )
    _output.say()
    _output.facts(
        [
            ("✓ gate" if report.gate.met else "✗ gate missed", report.gate.why),
            ("data", report.data),
            *((row.id, note) for row in report.variants for note in row.notes),
            *(
                (f"left out {_named(report, why)}", why)
                for why in dict.fromkeys(refusal.why for refusal in report.tried)
            ),
        ]
    )
    _print_trials(report)
    size = _output.size_text(bundle.stat().st_size)
    _output.say()
    _output.say(f"[bold green]→ {bundle}[/]  {size}   ● chosen  ○ also in the bundle")


def _print_trials(report: Report) -> None:
    if not report.trials:
        return
    _output.say()
    _output.table(
        "Repairs that were tried",
        ["", "variant", "change", "loss", "SQNR", "time"],
        [
            [
                "✓" if trial.passed else "✗",
                trial.id.split("-")[0],
                trial.what,
                "" if trial.loss is None else f"{trial.loss:.2f}",
                "" if trial.sqnr_db is None else f"{trial.sqnr_db:.1f} dB",
                f"{trial.seconds:.0f} s",
            ]
            for trial in report.trials
        ],
        right=["loss", "SQNR", "time"],
    )


def _named(report: Report, why: str) -> str:
    """Those that were left out for one reason: the first of them, and how many more."""
    names = [refusal.id for refusal in report.tried if refusal.why == why]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _source_row(report: Report) -> list[str]:
    source = report.source
    return [
        "  source, FP32",
        _output.size_text(source.size_bytes),
        *_metric_cell(source.metric, has_metric=source.metric is not None),
        "",
        *_latency_cells(source.latency_ms),
        "1.00×",
    ]


def _row(row: VariantRow, *, has_metric: bool) -> list[str]:
    return [
        ("● " if row.chosen else "○ " if row.in_bundle else "  ") + row.id,
        _output.size_text(row.size_bytes),
        *_metric_cell(row.metric, has_metric=has_metric),
        "" if row.agreement is None else _output.percent_text(row.agreement),
        *_latency_cells(row.latency_ms),
        "" if row.speedup is None else f"{row.speedup:.2f}×",
    ]


def _metric_cell(metric: Metric | None, *, has_metric: bool) -> list[str]:
    return [f"{metric.value:.2f}" if metric else ""] if has_metric else []


def _latency_cells(latency: Latency | None) -> list[str]:
    return (
        ["", ""]
        if latency is None
        else [_output.ms_text(latency.p50), _output.ms_text(latency.p99)]
    )
