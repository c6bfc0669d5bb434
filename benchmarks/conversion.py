"""Converts every model of a folder, beside what the tools' own settings make of it.

    python benchmarks/conversion.py [--data DIR] [--only NAME] [--minilm DIR]

Needs the models and pictures that SOURCES.md in the data folder describes; they are not part of
this project. Calibration and evaluation never share a sample. Ours and the peers are judged on the
same samples and timed in one alternating run on one sample, with the engine's own number of
threads; FP32 is true FP32 (OpenVINO is told so). ``--minilm`` names a folder that
``minilm.py --write`` made.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import msgspec
import numpy as np
import peers
import sound

import edge
from edge.bundle import open_bundle
from edge.conversion.cache import StageCache
from edge.conversion.gate import bound_for
from edge.conversion.latency import Timings, measure_latency
from edge.conversion.measurement import Reference, measure
from edge.conversion.metrics import load_metric
from edge.conversion.opening import open_variants
from edge.conversion.sampling import open_sampling
from edge.core import plugins
from edge.core.contracts import Session
from edge.core.machine import machine
from edge.core.manifest import Latency, Variant
from edge.core.profile import load_profile
from edge.core.spec import ModelSpec, OutputSpec, load_spec

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TABLE_DATA = {
    "squeezenet1.1": "imagenet-1k-sample",
    "mobilenetv2_caltech101": "caltech101",
    "mobilenetv2_bn_caltech101": "caltech101",
}
PHOTOS = {
    "deeplabv3_mnv2_voc": "photos/coco",
    "yolox_nano": "photos/coco",
    "ultraface_version-RFB-320": "photos/faces",
    "super_resolution_10": "photos/coco",
}
AT_LEAST = {"super_resolution_10": 45.0, "minilm": 98.0}
MAX_DROP = {
    "nsnet2": 0.3,
    "ultraface_version-RFB-320": 1.5,
    "deeplabv3_mnv2_voc": 3.0,
    "yolox_nano": 3.0,
}
"""Gates: classifiers and voice detection may lose half a point, others what stands here."""

SLOW = ("deeplabv3_mnv2_voc.onnx", "yolox_nano.onnx")
"""These come last."""

INTRODUCTION = """\
# Conversion, measured

On {machine}. Made by `python benchmarks/conversion.py`; the figures are in `conversion.json`.

Per engine: FP32, what `edge convert` keeps, and what the tools' own settings give, judged on the
same samples and timed in one alternating run. `agreement` is with the source: same top-1, F1 of
boxes at IoU 0.5, mIoU of masks, or share of elements within 1 % of the output's range. `× FP32` is
the p50 of the same engine in true FP32 over the row's. Bold is what `--precision auto` keeps for
that engine under the gate in the heading; *italic* rows are the peers that miss it.
Seconds are those of the first conversion and of the second one. Models are measured one by one, and
not all by the same revision of the code.
"""


class Row(msgspec.Struct, frozen=True):
    """One variant, ours or a peer's."""

    id: str
    engine: str
    is_ours: bool
    size_bytes: int
    metric: float | None
    agreement: float | None
    latency_ms: Latency | None
    over_fp32: float | None
    passes: bool
    note: str = ""


class Result(msgspec.Struct, frozen=True):
    """One model; ``seconds`` of the first conversion and of the second."""

    model: str
    gate: str
    metric: str
    source_metric: float | None
    rows: tuple[Row, ...]
    seconds: tuple[float, float]
    refused: str = ""


class Case(msgspec.Struct, frozen=True):
    """A model with its samples and its gate."""

    model: Path
    spec: Path
    calibration: Path
    evaluation: Path
    max_drop: float | None
    at_least: float | None


def halves(folder: Path, work: Path) -> tuple[Path, Path]:
    """Links to every other picture of ``folder``: one half to calibrate, one to measure."""
    places = work / "calib", work / "eval"
    for place in places:
        place.mkdir()
    for number, picture in enumerate(sorted(folder.iterdir())):
        (places[number % 2] / picture.name).symlink_to(picture.resolve())
    return places


def npz_halves(arrays: dict[str, np.ndarray], work: Path) -> tuple[Path, Path]:
    """Every other sample to calibrate on, the rest to measure on."""
    places = work / "calib.npz", work / "eval.npz"
    for offset, place in enumerate(places):
        np.savez(place, **{name: array[offset::2] for name, array in arrays.items()})
    return places


def samples(model: Path, data: Path, work: Path) -> tuple[Path, Path]:
    """Calibration and evaluation data for a model."""
    name = model.stem
    if name in TABLE_DATA:
        folder = data / TABLE_DATA[name]
        return folder, folder
    if name in PHOTOS:
        return halves(data / PHOTOS[name], work)
    if name == "nsnet2":
        return npz_halves(sound.nsnet2_inputs(data / "audio"), work)
    if name == "minilm":
        return model.with_name("calib.npz"), model.with_name("eval.npz")
    return npz_halves(sound.silero_inputs(model, data / "audio"), work)


def run(case: Case, work: Path) -> Result:
    """Convert twice, make the peers, and measure everything side by side."""
    cache = StageCache(work / "cache")
    times = []
    for _ in range(2):
        start = time.perf_counter()
        conversion = edge.convert(
            case.model,
            spec=case.spec,
            calibration=case.calibration,
            evaluation=case.evaluation,
            max_drop=case.max_drop,
            at_least=case.at_least,
            output=work / "out.edge",
            cache=cache,
        )
        times.append(round(time.perf_counter() - start, 2))
    spec = load_spec(case.spec)
    with open_bundle(conversion.path) as bundle:
        ours = bundle.manifest.variants
        folder = work / "variants"
        folder.mkdir()
        for variant in ours:
            (folder / variant.id).symlink_to(bundle.extract_variant(variant.id))
    theirs, failed = _peers(case, spec, ours, folder)
    rows, source = _measure(case, spec, [*theirs, *ours], folder)
    gate = f"at least {case.at_least:g}" if case.at_least is not None else f"drop {case.max_drop:g}"
    return Result(
        case.model.stem,
        f"{gate} of {conversion.report.gate.measure}",
        conversion.report.gate.measure,
        source,
        (*rows, *failed),
        (times[0], times[1]),
    )


def _peers(
    case: Case, spec: ModelSpec, ours: tuple[Variant, ...], folder: Path
) -> tuple[list[Variant], list[Row]]:
    tensors = ours[0].inputs, ours[0].outputs
    sampling = open_sampling(spec, tensors[0], case.calibration, None)
    made: list[Variant] = []
    failed: list[Row] = []
    wanted = [*peers.PEERS, *([peers.TRANSFORMER] if case.model.stem == "minilm" else [])]
    for peer in wanted:
        variant = peer.variant(case.model, sampling.calibration.samples, folder, tensors)
        if isinstance(variant, str):
            failed.append(
                Row(peer.name, peer.engine, False, 0, None, None, None, None, False, variant)
            )
        else:
            made.append(variant)
    return made, failed


def _measure(
    case: Case, spec: ModelSpec, variants: list[Variant], folder: Path
) -> tuple[list[Row], float | None]:
    host = load_profile("host")
    metric = load_metric(spec.metric, HERE) if spec.metric else None
    source = Variant("source", "onnxruntime", "fp32", (), (), ())
    backend = plugins.backend("onnxruntime")
    inputs, outputs = variants[0].inputs, variants[0].outputs
    entry = msgspec.structs.replace(
        source, files=(variants[0].files[0],), inputs=inputs, outputs=outputs
    )
    sampling = open_sampling(spec, inputs, case.calibration, case.evaluation, metric)
    with (
        backend.open(entry, folder / variants[0].id, host) as reference_session,
        open_variants(variants, host, folder) as opened,
    ):
        reference = Reference(reference_session, sampling, spec.output or OutputSpec())
        own = measure(reference_session, reference, lambda *_: None)
        bound = bound_for(own.metric, case.max_drop, case.at_least)
        feeds = next(iter(sampling.measured)).feeds
        timings = measure_latency(opened.sessions, feeds)
        rows = [
            _row(variant, opened.sessions.get(variant.id), reference, bound, timings)
            for variant in variants
        ]
    return rows, own.metric.value if own.metric else None


def _row(
    variant: Variant, session: Session | None, reference: Any, bound: Any, timings: Timings
) -> Row:
    is_ours = not any(variant.id == peer.name for peer in (*peers.PEERS, peers.TRANSFORMER))
    if session is None:
        return Row(variant.id, variant.engine, is_ours, 0, None, None, None, None, False, "no load")
    try:
        scores = measure(session, reference, lambda *_: None)
    except edge.EdgeError as error:
        note = str(error)[:120]
        return Row(variant.id, variant.engine, is_ours, 0, None, None, None, None, False, note)
    reached = scores.metric.value if scores.metric else 100 * (scores.agreement or 0)
    latency = timings.latency[variant.id]
    base = timings.latency["ort-fp32" if variant.engine == "onnxruntime" else "ov-fp32"]
    return Row(
        variant.id,
        variant.engine,
        is_ours,
        variant.size_bytes,
        scores.metric.value if scores.metric else None,
        scores.agreement,
        latency,
        round(base.p50 / latency.p50, 3),
        bound.reached - reached <= bound.points,
    )


def markdown(results: list[Result], where: str) -> str:
    """One table per model."""
    lines = INTRODUCTION.format(machine=where).splitlines()
    for result in results:
        lines += ["", f"## {result.model}: {result.gate}", ""]
        if result.refused:
            lines.append(f"Refused: {result.refused}")
            continue
        first, second = result.seconds
        lines += [
            f"{first:.0f} and {second:.1f} seconds.",
            "",
            f"| engine | variant | size, MB | {result.metric} | agreement | p50, ms | × FP32 |",
            "|---|---|---:|---:|---:|---:|---:|",
        ]
        for row in sorted(result.rows, key=lambda r: (r.engine, not r.is_ours)):
            title = f"**{row.id}**" if row.is_ours else row.id if row.passes else f"*{row.id}*"
            if row.latency_ms is None:
                lines.append(f"| {row.engine} | {title} | {row.note} | | | | |")
                continue
            metric = "" if row.metric is None else f"{row.metric:.2f}"
            agreement = "" if row.agreement is None else f"{100 * row.agreement:.2f} %"
            lines.append(
                f"| {row.engine} | {title} | {row.size_bytes / 1e6:.2f} | {metric} | {agreement} "
                f"| {row.latency_ms.p50:.2f} | {row.over_fp32:.2f}× |"
            )
    return "\n".join(lines) + "\n"


def write(result: Result) -> None:
    """Put one model's figures among those of the others; they come from runs of their own."""
    RESULTS.mkdir(exist_ok=True)
    figures = RESULTS / "conversion.json"
    known = msgspec.json.decode(figures.read_bytes(), type=list[Result]) if figures.exists() else []
    results = sorted(
        [*(each for each in known if each.model != result.model), result], key=lambda r: r.model
    )
    (RESULTS / "conversion.md").write_text(markdown(results, machine()))
    figures.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--only", nargs="+", help="only these models; what others have stays")
    parser.add_argument("--minilm", type=Path, help="folder that minilm.py --write made")
    args = parser.parse_args()
    models = sorted((args.data / "models").glob("*.onnx"), key=lambda path: path.name in SLOW)
    models += [args.minilm / "minilm.onnx"] if args.minilm else []
    if not models:
        print(f"skipped: no models in {args.data / 'models'}", file=sys.stderr)
        return 0
    results: list[Result] = []
    for model in models:
        name = model.stem
        if args.only and name not in args.only:
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            work = Path(folder)
            case = Case(
                model,
                HERE / "specs" / f"{name}.toml",
                *samples(model, args.data, work),
                None if name in AT_LEAST else MAX_DROP.get(name, 0.5),
                AT_LEAST.get(name),
            )
            try:
                results.append(run(case, work))
            except edge.EdgeError as error:
                refused = f"{type(error).__name__}: {error}"
                results.append(Result(name, "", "", None, (), (0.0, 0.0), refused))
        print(f"{name}: done", file=sys.stderr)
        write(results[-1])
    print(markdown(results, machine()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
