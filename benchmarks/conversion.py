"""Converts every model of a folder for this machine, and tables what each variant kept and gained.

    python benchmarks/conversion.py [--data DIR] [--only NAME]

Needs the models and pictures that SOURCES.md in the data folder describes; they are not part of
this project. Calibration and evaluation never share a sample. Latency is taken alternating, on
one sample, with the engine's own number of threads; FP32 is true FP32 (OpenVINO is told so).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import sound

import edge
from edge.conversion.opening import machine
from edge.conversion.report import Report

HERE = Path(__file__).parent
CLASSIFIER_DATA = {
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
MAX_DROP = {"top1": 0.5}
AGREEMENT_DROP = 3.0
INTRODUCTION = f"""\
# Conversion, measured

On {{machine}}. Made by `python benchmarks/conversion.py`; the figures are in `conversion.json`.

`agreement` is with the source in FP32: same top-1, F1 of boxes at IoU 0.5, mIoU of masks, or share
of elements within 1 % of the output's range. `× source` is the source's p50 (FP32, ONNX Runtime)
over the variant's, `× own FP32` that of the same engine in true FP32. Bold is what
`--precision auto` chose under a gate of {MAX_DROP["top1"]} points of top-1,
or {AGREEMENT_DROP:g} points of agreement where there are no labels. Of two INT8 recipes the one
that loses less on the evaluation stands, the other is among the refused: with 500 pictures and
an agreement of 95 %, a difference of a point of top-1 is within chance.

| model | variant | size, MB | top-1 | agreement | p50, ms | × source | × own FP32 |
|---|---|---:|---:|---:|---:|---:|---:|
"""


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
    if name in CLASSIFIER_DATA:
        folder = data / CLASSIFIER_DATA[name]
        return folder, folder
    if name in PHOTOS:
        return halves(data / PHOTOS[name], work)
    if name == "nsnet2":
        return npz_halves(sound.nsnet2_inputs(data / "audio"), work)
    return npz_halves(sound.silero_inputs(model, data / "audio"), work)


def convert(model: Path, data: Path) -> Report | str:
    """The report of one conversion, or the error that refused it."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        calibration, evaluation = samples(model, data, work)
        is_classifier = model.stem in CLASSIFIER_DATA
        try:
            return edge.convert(
                model,
                spec=HERE / "specs" / f"{model.stem}.toml",
                calibration=calibration,
                evaluation=evaluation,
                max_drop=MAX_DROP["top1"] if is_classifier else AGREEMENT_DROP,
                output=work / "out.edge",
            ).report
        except edge.EdgeError as error:
            return f"{type(error).__name__}: {error}"


def speed_over_own_fp32(report: Report, engine: str, p50: float) -> str:
    base = [v for v in report.variants if v.engine == engine and v.precision == "fp32"]
    return f"{base[0].latency_ms.p50 / p50:.2f}×" if base and base[0].latency_ms else ""


def markdown(reports: dict[str, Report | str], where: str) -> str:
    """One table over all models; the chosen variant in bold."""
    lines = INTRODUCTION.format(machine=where).splitlines()
    for name, report in reports.items():
        if isinstance(report, str):
            lines.append(f"| {name} | refused: {report} | | | | | | |")
            continue
        top1 = f"{report.source.metric.value:.2f}" if report.source.metric else ""
        size, p50 = report.source.size_bytes / 1e6, report.source.latency_ms.p50
        lines.append(f"| {name} | source | {size:.2f} | {top1} | | {p50:.2f} | 1.00× | |")
        for row in report.variants:
            if row.latency_ms is None:
                continue
            title = f"**{row.id}**" if row.chosen else row.id
            top1 = f"{row.metric.value:.2f}" if row.metric else ""
            agreement = f"{100 * row.agreement:.2f} %" if row.agreement is not None else ""
            own = speed_over_own_fp32(report, row.engine, row.latency_ms.p50)
            lines.append(
                f"| | {title} | {row.size_bytes / 1e6:.2f} | {top1} | {agreement} "
                f"| {row.latency_ms.p50:.2f} | {row.speedup:.2f}× | {own} |"
            )
        for why in dict.fromkeys(item.why for item in report.tried):
            names = ", ".join(item.id for item in report.tried if item.why == why)
            lines.append(f"| | refused {names}: {why} | | | | | | |")
    return "\n".join(lines) + "\n"


def write(reports: dict[str, Report | str]) -> None:
    """The table and its figures; after every model, so that a long run can be cut short."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "conversion.md").write_text(markdown(reports, machine()))
    (results / "conversion.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(reports), indent=1) + b"\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--only", help="only the models whose name holds this; writes no table")
    args = parser.parse_args()
    models = sorted((args.data / "models").glob("*.onnx"))
    if not models:
        print(f"skipped: no models in {args.data / 'models'}", file=sys.stderr)
        return 0
    reports: dict[str, Report | str] = {}
    for model in models:
        if args.only and args.only not in model.stem:
            continue
        with contextlib.redirect_stdout(sys.stderr):
            reports[model.stem] = convert(model, args.data)
        print(f"{model.stem}: done", file=sys.stderr)
        if not args.only:
            write(reports)
    print(markdown(reports, machine()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
