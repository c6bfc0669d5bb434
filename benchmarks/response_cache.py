"""What `cache = "perceptual"` costs and what it mistakes, on real pictures and a real classifier.

    python benchmarks/response_cache.py [--data DIR]

Needs squeezenet1.1 and the pictures that SOURCES.md in the data folder describes; they are not
part of this project. Each picture is a frame that was inferred; a second one is made of it as a
camera might: noise, another exposure, a camera that moves, a small thing that enters. A *hit* is
answered without inference, a *false hit* with another top-1 than inference gives. Changes are made
on uint8 pixels, before the frame becomes a tensor. Costs: one thread, medians, one float32 tensor
of [1, 3, 224, 224].
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import cv2
import msgspec
import numpy as np
import onnxruntime

from edge.core.machine import machine
from edge.core.spec import load_spec
from edge.host.perceptual_cache import PerceptualCache
from edge.host.resemblance import difference, look_at
from edge.host.response_cache import ResponseCache
from edge.settings import ModelSettings
from edge.vision import ImagePipeline

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MODEL = "squeezenet1.1"
LIMITS = (0.01, 0.02, 0.03, 0.05)
PICTURES = 200
SIDE = 224
UNSEEN = 16  # what the model's own resize and crop cut off
DRIFT_FRAMES = 60
CALLS = 400

Picture = Any
Change = Callable[[Picture, Picture, np.random.Generator], Picture]


def noise(sigma: float) -> Change:
    def change(picture: Picture, _: Picture, random: np.random.Generator) -> Picture:
        return _bytes(picture + random.normal(0, sigma, picture.shape))

    return change


def brighter(share: float) -> Change:
    return lambda picture, _, __: _bytes(picture * (1 + share))


def moved(pixels: int) -> Change:
    return lambda picture, _, __: np.roll(picture, pixels, axis=1)


def jpeg(quality: int) -> Change:
    def change(picture: Picture, _: Picture, __: np.random.Generator) -> Picture:
        packed = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return cv2.imdecode(packed, cv2.IMREAD_COLOR)

    return change


def pasted(side: int) -> Change:
    """A thing from another picture, shrunk, somewhere in this one; on top of a camera's noise."""

    def change(picture: Picture, other: Picture, random: np.random.Generator) -> Picture:
        top, left = random.integers(UNSEEN, SIDE - UNSEEN - side, 2)
        result = picture + random.normal(0, 1, picture.shape)
        thing = cv2.resize(other, (side, side), interpolation=cv2.INTER_AREA)
        result[top : top + side, left : left + side] = thing
        return _bytes(result)

    return change


CHANGES: dict[str, Change] = {
    "noise, σ 1 of 255": noise(1),
    "noise, σ 2": noise(2),
    "noise, σ 4": noise(4),
    "JPEG, quality 90": jpeg(90),
    "JPEG, quality 70": jpeg(70),
    "1 % brighter": brighter(0.01),
    "3 % brighter": brighter(0.03),
    "10 % brighter": brighter(0.10),
    "moved by 1 pixel": moved(1),
    "moved by 4 pixels": moved(4),
    "a thing of 4 × 4 enters": pasted(4),
    "a thing of 8 × 8 enters": pasted(8),
    "a thing of 16 × 16 enters": pasted(16),
    "a thing of 32 × 32 enters": pasted(32),
}


def _bytes(picture: Picture) -> Picture:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


class Row(msgspec.Struct, frozen=True):
    """Shares of all pictures, by limit: answered from the cache, and with another top-1."""

    change: str
    top1_changes: float
    hits: dict[str, float]
    false_hits: dict[str, float]


class Drift(msgspec.Struct, frozen=True):
    """One picture that becomes another, frame by frame, all inferred frames counted."""

    limit: float
    hits: float
    false_hits: float


class Result(msgspec.Struct, frozen=True):
    machine: str
    versions: dict[str, str]
    pictures: int
    costs_us: dict[str, float]
    rows: tuple[Row, ...]
    drifts: tuple[Drift, ...]


class Classifier:
    """squeezenet1.1 in FP32, on one thread."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        spec = load_spec(HERE / "specs" / f"{MODEL}.toml").image
        assert spec is not None
        self._pipeline = ImagePipeline(spec)
        self._input = spec.input

    def feeds(self, picture: Picture) -> dict[str, Any]:
        return {self._input: self._pipeline.prepare(picture)[0]}

    def infer(self, feeds: dict[str, Any]) -> dict[str, Any]:
        return {"y": self._session.run(None, feeds)[0]}

    def top1(self, outputs: dict[str, Any]) -> int:
        return int(outputs["y"].argmax())


def pictures(folder: Path) -> list[Picture]:
    """As they are before they become tensors: 224 × 224, BGR."""
    files = sorted(folder.rglob("*.[jJ][pP]*[gG]"))
    chosen = files[:: max(1, len(files) // PICTURES)][:PICTURES]
    return [_centre(cv2.imread(str(file))) for file in chosen]


def _centre(picture: Picture) -> Picture:
    scale = SIDE / min(picture.shape[:2])
    size = [max(SIDE, round(side * scale)) for side in picture.shape[1::-1]]
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    top, left = ((side - SIDE) // 2 for side in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + SIDE, left : left + SIDE])


def settings(limit: float) -> ModelSettings:
    return ModelSettings(
        cache_bytes=1 << 26, cache="perceptual", cache_difference=limit, cache_age_s=3600.0
    )


def compare(model: Classifier, seen: list[Picture]) -> Iterator[Row]:
    for name, change in CHANGES.items():
        random = np.random.default_rng(0)
        hits, false = dict.fromkeys(LIMITS, 0), dict.fromkeys(LIMITS, 0)
        changed = 0
        for number, picture in enumerate(seen):
            before = model.feeds(picture)
            after = model.feeds(change(picture, seen[number - 1], random))
            outputs = model.infer(before)
            is_other = model.top1(outputs) != model.top1(model.infer(after))
            changed += is_other
            for limit in LIMITS:
                cache = PerceptualCache(settings(limit))
                cache.keep(cache.find(before)[0], outputs)
                is_hit = cache.find(after)[1] is not None
                hits[limit] += is_hit
                false[limit] += is_hit and is_other
        yield Row(name, changed / len(seen), _shares(hits, seen), _shares(false, seen))


def _shares(counts: dict[float, int], of: list[Picture]) -> dict[str, float]:
    return {f"{limit:g}": round(count / len(of), 4) for limit, count in counts.items()}


def drift(model: Classifier, seen: list[Picture]) -> Iterator[Drift]:
    """Every tenth picture slowly becomes the next; each frame passes the cache."""
    for limit in LIMITS:
        count = hits = false = 0
        for first, last in zip(seen[::10], seen[1::10], strict=False):
            cache = PerceptualCache(settings(limit))
            for number in range(DRIFT_FRAMES):
                share = number / (DRIFT_FRAMES - 1)
                feeds = model.feeds(_bytes(first * (1 - share) + last * share))
                question, known = cache.find(feeds)
                right = model.infer(feeds)
                count += 1
                if known is None:
                    cache.keep(question, right)
                else:
                    hits += 1
                    false += model.top1(known) != model.top1(right)
        yield Drift(limit, round(hits / count, 4), round(false / count, 4))


def costs(model: Classifier, seen: list[Picture]) -> dict[str, float]:
    """Microseconds; a miss is compared with eight other scenes."""
    random = np.random.default_rng(0)
    still = model.feeds(seen[0])
    frames = [model.feeds(noise(1)(seen[0], seen[0], random)) for _ in range(20)]
    others = [model.feeds(picture) for picture in seen[1:21]]
    limits = msgspec.structs.replace(settings(0.1), cache_frames=1 << 30)
    outputs = model.infer(still)
    exact = ResponseCache(1 << 26)
    near, far = PerceptualCache(limits), PerceptualCache(settings(1e-9))
    exact.keep(exact.find(still)[0], outputs)
    near.keep(near.find(still)[0], outputs)
    for feeds in others[:8]:
        far.keep(far.find(feeds)[0], outputs)
    one, other = look_at(still), look_at(frames[0])
    assert one is not None
    assert other is not None
    assert near.find(frames[0])[1] is not None
    assert far.find(frames[0])[1] is None
    calls: dict[str, Callable[[int], object]] = {
        "inference, FP32": lambda n: model.infer(frames[n % 20]),
        "exact, hit": lambda _: exact.find(still),
        "exact, miss": lambda n: exact.find(frames[n % 20]),
        "perceptual, hit": lambda n: near.find(frames[n % 20]),
        "perceptual, miss": lambda n: far.find(frames[n % 20]),
        "of which blocks": lambda n: look_at(frames[n % 20]),
        "of which a full comparison": lambda _: difference(one, other, 1e9),
        "keeping a frame": lambda n: near.keep(near.find(others[n % 20])[0], outputs),
    }
    return {name: median_us(call) for name, call in calls.items()}


def median_us(call: Callable[[int], object]) -> float:
    spent = []
    for number in range(CALLS):
        start = time.perf_counter_ns()
        call(number)
        spent.append(time.perf_counter_ns() - start)
    return round(statistics.median(spent[CALLS // 10 :]) / 1e3, 1)


def markdown(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    titles = [f"≤ {limit:g}" for limit in LIMITS]
    default = ModelSettings().cache_difference
    lines = [
        "# The response cache on frames that barely changed",
        "",
        f"On {result.machine}; {versions}.",
        "Made by `python benchmarks/response_cache.py`; the figures are in `response_cache.json`.",
        "",
        f"{result.pictures} pictures, {MODEL}; `cache_difference` is {default:g} unless told.",
        "Shown is the share of frames answered without inference, and behind the stroke the share",
        "that got another top-1 than inference gives. `top-1 changes` says how often the change",
        "makes inference itself answer otherwise.",
        "",
        "| the second frame | top-1 changes | " + " | ".join(titles) + " |",
        "|---|---:|" + "---:|" * len(titles),
    ]
    for row in result.rows:
        cells = [
            f"{100 * row.hits[key]:.0f} % / {100 * row.false_hits[key]:.1f} %" for key in row.hits
        ]
        changes = f"{100 * row.top1_changes:.1f} %"
        lines.append(f"| {row.change} | {changes} | " + " | ".join(cells) + " |")
    cells = [f"{100 * each.hits:.0f} % / {100 * each.false_hits:.1f} %" for each in result.drifts]
    drifting = f"becomes another picture in {DRIFT_FRAMES} frames"
    lines += [f"| {drifting} | | " + " | ".join(cells) + " |", ""]
    lines += ["| per frame of 602 KB | µs |", "|---|---:|"]
    lines += [f"| {name} | {spent:.1f} |" for name, spent in result.costs_us.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    args = parser.parse_args()
    path = args.data / "models" / f"{MODEL}.onnx"
    if not path.exists():
        print(f"skipped: no {path}", file=sys.stderr)
        return 0
    model, seen = Classifier(path), pictures(args.data / "imagenet-1k-sample")
    versions = {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
    result = Result(
        machine(),
        versions,
        len(seen),
        costs(model, seen),
        tuple(compare(model, seen)),
        tuple(drift(model, seen)),
    )
    table = markdown(result)
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "response_cache.md").write_text(table)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (RESULTS / "response_cache.json").write_bytes(encoded + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
