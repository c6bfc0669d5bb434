"""What the graphs for a Jetson reach, and what TensorRT-RTX makes of them; needs no GPU.

    python benchmarks/tensorrt_graphs.py [--data DIR] [--only NAME] [--profile NAME]

Converts every model to FP32, FP16 and INT8 for a profile. Accuracy is that of the graph with its
roundings written out, run in ONNX Runtime. Where ``tensorrt-rtx`` is installed (it works without a
GPU), each graph is parsed and built, strongly typed, for SM 8.6, the Ampere neighbour of Orin.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import msgspec
from conversion import AT_LEAST, HERE, MAX_DROP, RESULTS, samples

import edge
from converters._tensorrt import rules, trial
from edge.bundle import open_bundle
from edge.conversion.cache import StageCache
from edge.core.build import read_plan
from edge.core.lazy import require
from edge.core.machine import machine

SAID = 56
"""Characters of a builder's complaint that the table has room for; all of it is in the JSON."""

PRECISIONS = ("fp32", "fp16", "int8")

INTRODUCTION = """\
# Graphs for TensorRT, measured without a GPU

Made by `python benchmarks/tensorrt_graphs.py --profile {profile}` on {machine}; the figures are in
`tensorrt_graphs.json`.

The metric, and the agreement with the source, are those of the graph as it is written, with every
rounding to FP16 and INT8, executed in ONNX Runtime: what TensorRT computes, to the order of sums.
The gate is that of `conversion.md`. *Rules*: findings of the structural checker. *Builds* is the
word of {rtx} on the same file, strongly typed, for SM 8.6: no node refused, and the size of
the engine. Its INT8 engines hold the source of kernels to be compiled later, and are larger for it.
Nothing here says how fast a Jetson runs them.
"""


class Row(msgspec.Struct, frozen=True):
    """One graph; without ``size_bytes`` it was not made, as ``note`` says."""

    precision: str
    variant: str = ""
    size_bytes: int = 0
    metric: float | None = None
    agreement: float | None = None
    passes: bool = False
    findings: int = 0
    engine_bytes: int = 0
    note: str = ""


class Result(msgspec.Struct, frozen=True):
    model: str
    gate: str
    source_metric: float | None
    rows: tuple[Row, ...]


def measure(model: Path, data: Path, profile: str, work: Path) -> Result:
    """Convert one model to each precision."""
    name = model.stem
    calibration, evaluation = samples(model, data, work)
    at_least = AT_LEAST.get(name)
    max_drop = None if at_least is not None else MAX_DROP.get(name, 0.5)
    cache = StageCache(work / "cache")
    rows: list[Row] = []
    gate, source = "", None
    for precision in PRECISIONS:
        try:
            made = edge.convert(
                model,
                profile=profile,
                spec=HERE / "specs" / f"{name}.toml",
                precision=precision,
                engines=("tensorrt",),
                calibration=calibration,
                evaluation=evaluation,
                max_drop=max_drop,
                at_least=at_least,
                output=work / f"{precision}.edge",
                cache=cache,
            )
        except edge.EdgeError as error:
            rows.append(Row(precision, note=str(error)))
            continue
        report = made.report
        metric = report.source.metric
        source = metric.value if metric else None
        limit = f"at least {at_least:g}" if at_least is not None else f"drop {max_drop:g}"
        gate = f"{limit} of {report.gate.measure}"
        rows.append(_row(precision, made, work))
    return Result(name, gate, source, tuple(rows))


def _row(precision: str, made: edge.Conversion, work: Path) -> Row:
    with open_bundle(made.path) as bundle:
        variant = bundle.manifest.variants[0]
        folder = bundle.extract_variant(variant.id)
        path = folder / variant.files[0].path
        findings = rules.check(require("onnx", extra="convert").load_model(path))
        tried = trial.try_out(path, read_plan(folder)) if trial.is_possible() else None
    return Row(
        precision,
        variant.id,
        variant.size_bytes,
        variant.metric.value if variant.metric else None,
        variant.agreement,
        made.report.gate.met,
        len(findings),
        len(tried.engine) if tried else 0,
        tried.error if tried else "",
    )


def markdown(results: list[Result], profile: str) -> str:
    """One table."""
    version = f"TensorRT-RTX {trial.version()}" if trial.is_possible() else "no TensorRT-RTX"
    lines = INTRODUCTION.format(machine=machine(), profile=profile, rtx=version).splitlines()
    lines += [
        "",
        "| model, gate | variant | MB | metric (source) | agreement | gate | rules | builds |",
        "|---|---|---:|---:|---:|---|---|---:|",
    ]
    for result in results:
        for row in result.rows:
            title = f"{result.model}, {result.gate}" if row is result.rows[0] else ""
            if not row.size_bytes:
                lines.append(f"| {title} | {row.precision} | {row.note} | | | | | |")
                continue
            metric = "" if row.metric is None else f"{row.metric:.2f} ({result.source_metric:.2f})"
            agreement = "" if row.agreement is None else f"{100 * row.agreement:.2f} %"
            refused = f"no: {row.note[:SAID]} …" if row.note else "–"
            builds = f"{row.engine_bytes / 1e6:.2f} MB" if row.engine_bytes else refused
            lines.append(
                f"| {title} | {row.variant} | {row.size_bytes / 1e6:.2f} | {metric} | {agreement} "
                f"| {'met' if row.passes else '**missed**'} "
                f"| {'kept' if not row.findings else row.findings} | {builds} |"
            )
    return "\n".join(lines) + "\n"


def write(result: Result, profile: str) -> list[Result]:
    """Put one model's figures among those of the others."""
    figures = RESULTS / "tensorrt_graphs.json"
    known = msgspec.json.decode(figures.read_bytes(), type=list[Result]) if figures.exists() else []
    others = [each for each in known if each.model != result.model]
    results = sorted([*others, result], key=lambda each: each.model)
    figures.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    (RESULTS / "tensorrt_graphs.md").write_text(markdown(results, profile))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--only", nargs="+", help="only these models; what others have stays")
    parser.add_argument("--minilm", type=Path, help="folder that minilm.py --write made")
    parser.add_argument("--profile", default="jetson-orin-nano-8gb")
    args = parser.parse_args()
    models = sorted((args.data / "models").glob("*.onnx"))
    models += [args.minilm / "minilm.onnx"] if args.minilm else []
    if not models:
        print(f"skipped: no models in {args.data / 'models'}", file=sys.stderr)
    for model in models:
        if args.only and model.stem not in args.only:
            continue
        with tempfile.TemporaryDirectory() as work, contextlib.redirect_stdout(sys.stderr):
            result = measure(model, args.data, args.profile, Path(work))
        write(result, args.profile)
        print(f"{model.stem}: done", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
