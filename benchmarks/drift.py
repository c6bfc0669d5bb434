"""How soon a shift of the input is told of, how often wrongly, and what looking costs requests.

    python benchmarks/drift.py [--data DIR] [--costs]

Needs squeezenet1.1 and the pictures that SOURCES.md in the data folder describes; they are not
part of this project. A picture is looked at once, by the code that looks on a device; streams are
drawn from these looks. A false alarm is one from pictures of the very collection that the reference
was drawn from, none of them in both. A delay is counted in looks from the first changed picture,
after 400 others; at the default rate a look is a second. Costs: `on` and `off` are two runtimes of
one bundle in one process, called in turn, in either order; a round gives the ratio of their
medians and of their 99th percentiles, and the table the median of the rounds with the lowest and
the highest. One thread, whose CPU time is told too: on a machine that is not idle, time by the
clock says more of the others. With `--costs` these are measured anew and the rest is kept.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import cv2
import msgspec
import numpy as np
import onnxruntime

import edge
from edge.bundle import open_bundle
from edge.core.machine import machine
from edge.core.spec import load_spec
from edge.host.health.accuracy import AccuracyWatch
from edge.host.health.distribution import MAJOR, stability_index
from edge.host.health.drift import DriftWatch
from edge.host.health.looks import Look, Looker
from edge.host.health.reference import SOURCE, Gathering, Reference, reference_of
from edge.settings import Health
from edge.vision import ImagePipeline

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MODEL = "squeezenet1.1"
REFERENCES = (100, 300, 500)
WINDOW = Health().window
SPLITS = 300
CHANGED = 300
BEFORE, AFTER = 400, 2000
TRIALS = 50
ROUNDS = 9
PAIRS = {"digits": 3000, MODEL: 300}

Picture = Any
Change = Callable[[Picture, np.random.Generator], Picture]


def _bytes(picture: Any) -> Picture:
    return np.clip(picture, 0, 255).astype(np.uint8)


def scaled(share: float) -> Change:
    return lambda picture, _: _bytes(picture * share)


def noise(sigma: float) -> Change:
    return lambda picture, random: _bytes(picture + random.normal(0, sigma, picture.shape))


def blur(sigma: float) -> Change:
    return lambda picture, _: cv2.GaussianBlur(picture, (0, 0), sigma)


def flat(share: float) -> Change:
    return lambda picture, _: _bytes(128 + (picture - 128.0) * share)


def grey(picture: Picture, _: np.random.Generator) -> Picture:
    return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


CHANGES: dict[str, Change] = {
    "10 % darker": scaled(0.9),
    "30 % darker": scaled(0.7),
    "60 % darker": scaled(0.4),
    "half the contrast": flat(0.5),
    "blur, σ 2 pixels of 256": blur(2),
    "blur, σ 4": blur(4),
    "noise, σ 10 of 255": noise(10),
    "noise, σ 30": noise(30),
    "no colours": grey,
}


class Alarms(msgspec.Struct, frozen=True):
    """Streams that were told to have left, of so many; ``naive`` by an index above 0.25 alone."""

    pictures: str
    reference: int
    streams: int
    looks: int
    alarms: int
    naive: int


class Delay(msgspec.Struct, frozen=True):
    """Looks until it was told of: median and the slowest of those that were; and by what."""

    change: str
    told: int
    trials: int
    median: float
    slowest: int
    moved: dict[str, int]


Spread = tuple[float, float, float]


class Cost(msgspec.Struct, frozen=True):
    """Ratios of on to off: median, lowest and highest of the rounds."""

    model: str
    off_p50_us: float
    off_p99_us: float
    p50: Spread
    p99: Spread
    cpu_p50: Spread
    cpu_p99: Spread


class Result(msgspec.Struct, frozen=True):
    machine: str
    versions: dict[str, str]
    window: int
    alarms: tuple[Alarms, ...]
    delays: tuple[Delay, ...]
    costs: tuple[Cost, ...]
    parts_us: dict[str, float]


class Kept(msgspec.Struct, frozen=True):
    """Of an earlier result, what ``--costs`` does not measure."""

    alarms: tuple[Alarms, ...]
    delays: tuple[Delay, ...]


class Eye:
    """Looks at pictures as a device does."""

    def __init__(self, data: Path) -> None:
        path = data / "models" / f"{MODEL}.onnx"
        spec = load_spec(HERE / "specs" / f"{MODEL}.toml")
        assert spec.image is not None
        self.pipeline = ImagePipeline(spec.image)
        self.looker = Looker(spec.task, spec.image, spec.output)
        self.session = onnxruntime.InferenceSession(path)

    def feeds(self, picture: Picture) -> dict[str, Any]:
        return {"data": self.pipeline(picture)}

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(None, feeds), strict=True))

    def looks(self, pictures: Iterable[Picture]) -> list[Look]:
        found = []
        for picture in pictures:
            feeds = self.feeds(picture)
            found.append(self.looker.look(self.looker.take(feeds, self.run(feeds))))
        return found


def small(path: Path) -> Picture:
    """A picture whose shorter side is 256, as the model sees it: changes are made at that size."""
    picture = cv2.imread(str(path))
    scale = 256 / min(picture.shape[:2])
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def drawn(looks: Sequence[Look], chosen: Iterable[int]) -> Reference:
    gathering = Gathering()
    picked = [looks[at] for at in chosen]
    for look in picked:
        gathering.add(look)
    made = reference_of("drawn", len(picked), {SOURCE: gathering.distributions()})
    assert made is not None
    return made


def alarms(title: str, looks: Sequence[Look], count: int) -> Alarms:
    random = np.random.default_rng(0)
    found = naive = 0
    rest = len(looks) - count
    for _ in range(SPLITS):
        order = random.permutation(len(looks))
        reference = drawn(looks, order[:count])
        watch = DriftWatch("stream", reference, WINDOW)
        has_left = has_left_naively = False
        for at in order[count:]:
            watch.add(SOURCE, looks[at])
            has_left |= watch.status.state == "drifted"
        stream = [looks[at] for at in order[count:]]
        for start in range(0, rest - WINDOW + 1, WINDOW):
            has_left_naively |= naive_index(reference, stream[start : start + WINDOW]) > MAJOR
        found += has_left
        naive += has_left_naively
    return Alarms(title, count, SPLITS, SPLITS * rest, found, naive)


def naive_index(reference: Reference, window: Sequence[Look]) -> float:
    """The largest index of all statistics, with nothing taken off."""
    known = reference.of(SOURCE)
    return max(
        stability_index(each.counts, each.binned([look[name] for look in window]))
        for name, each in known.items()
    )


def delay(title: str, looks: Sequence[Look], changed: Sequence[Look], *, is_same: bool) -> Delay:
    """Reference and first pictures are never those that are changed, where they are the same."""
    random = np.random.default_rng(0)
    delays, moved = [], Counter[str]()
    for _ in range(TRIALS):
        free = random.permutation(np.arange(len(changed) if is_same else 0, len(looks)))
        watch = DriftWatch("stream", drawn(looks, free[:300]), WINDOW)
        for at in random.choice(free[300:], BEFORE):
            watch.add(SOURCE, looks[at])
        for number, at in enumerate(random.choice(len(changed), AFTER), 1):
            watch.add(SOURCE, changed[at])
            if watch.status.state == "drifted":
                delays.append(number)
                moved.update(each.name for each in watch.status.moved)
                break
    median = statistics.median(delays) if delays else 0.0
    slowest = max(delays, default=0)
    return Delay(title, len(delays), TRIALS, median, slowest, dict(moved.most_common(4)))


def all_delays(
    eye: Eye, pictures: Sequence[Picture], looks: Sequence[Look], others: Sequence[Look]
) -> Iterator[Delay]:
    random = np.random.default_rng(0)
    for title, change in CHANGES.items():
        changed = eye.looks(change(picture, random) for picture in pictures[:CHANGED])
        yield delay(title, looks, changed, is_same=True)
    yield delay("Caltech 101 in place of ImageNet", looks, others, is_same=False)


def cost(name: str, bundle: Path, feeds: dict[str, Any]) -> Cost:
    rounds = []
    one: dict[str, Any] = {"options": {"threads": 1}}
    with edge.Runtime(bundle, **one) as off, edge.Runtime(bundle, health=Health(), **one) as on:
        model_name = off.names()[0]
        models = {"off": off.model(model_name), "on": on.model(model_name)}
        for _ in range(50):
            for model in models.values():
                model.infer(feeds)
        for _ in range(ROUNDS):
            times: dict[str, list[tuple[float, float]]] = {"off": [], "on": []}
            for pair in range(PAIRS[name]):
                for key in ("off", "on") if pair % 2 else ("on", "off"):
                    start, cpu = time.perf_counter_ns(), time.thread_time_ns()
                    models[key].infer(feeds)
                    spent = time.thread_time_ns() - cpu
                    times[key].append(((time.perf_counter_ns() - start) / 1e3, spent / 1e3))
            rounds.append(
                {k: np.percentile(each, (50, 99), axis=0).T.ravel() for k, each in times.items()}
            )
    ratios = np.array([each["on"] / each["off"] for each in rounds])
    base = np.median([each["off"] for each in rounds], axis=0)
    spreads = [
        (float(np.median(column)), float(column.min()), float(column.max())) for column in ratios.T
    ]
    return Cost(name, float(base[0]), float(base[1]), *spreads)


def spent_us(call: Callable[[], object], count: int = 400) -> float:
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1e3


def parts(eye: Eye, picture: Picture, looks: Sequence[Look], bundle: Path) -> dict[str, float]:
    feeds = eye.feeds(picture)
    outputs = eye.run(feeds)
    sample = eye.looker.take(feeds, outputs)
    reference = drawn(looks, range(300))
    watch = DriftWatch("stream", reference, WINDOW)
    for look in looks[:WINDOW]:
        watch.add(SOURCE, look)
    with open_bundle(bundle) as opened:
        manifest = opened.manifest
    accuracy = AccuracyWatch(manifest, (), 1000, 2.0)
    return {
        "a look, in the request: copy": spent_us(lambda: eye.looker.take(feeds, outputs)),
        "the same look, in the thread: statistics": spent_us(lambda: eye.looker.look(sample)),
        "an evaluation, in the thread, each 20 looks": spent_us(watch._evaluate),
        "an answer remembered for its label": spent_us(
            lambda: accuracy.remember("one", outputs, None, None)
        ),
    }


def converted(data: Path, folder: Path) -> dict[str, Path]:
    digits = HERE.parent / "examples" / "digits"
    pictures = data / "imagenet-1k-sample"
    common: dict[str, Any] = {"precision": "fp32", "engines": ["onnxruntime"]}
    edge.convert(
        digits / "digits.onnx",
        spec=digits / "model.toml",
        evaluation=digits / "eval",
        output=folder / "digits.edge",
        **common,
    )
    edge.convert(
        data / "models" / f"{MODEL}.onnx",
        spec=HERE / "specs" / f"{MODEL}.toml",
        evaluation=pictures,
        output=folder / "model.edge",
        **common,
    )
    return {"digits": folder / "digits.edge", MODEL: folder / "model.edge"}


def share_text(values: Spread) -> str:
    return f"{values[0]:.3f} ({values[1]:.3f} to {values[2]:.3f})"


def markdown(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [
        "# Drift: false alarms, delays, costs",
        "",
        f"On {result.machine}; {versions}.",
        "Made by `python benchmarks/drift.py`; the figures are in `drift.json`.",
        "",
        f"{MODEL}, windows of {result.window} looks, 8 statistics.",
        "",
        "False alarms on stable streams. `index > 0.25` is the rule of thumb: the index as it is,",
        "of each full window, any statistic.",
        "",
        "| pictures | reference | streams | looks | ours | index > 0.25 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.pictures} | {row.reference} | {row.streams} | {row.looks:,} "
        f"| {row.alarms} | {row.naive} |"
        for row in result.alarms
    ]
    lines += [
        "",
        f"Looks until a change is told of; reference of 300, {TRIALS} trials of {AFTER} looks.",
        "",
        "| change | told of | median | slowest | by what |",
        "|---|---:|---:|---:|---|",
    ]
    for each in result.delays:
        by = ", ".join(each.moved)
        figures = f"{each.median:.0f} | {each.slowest}" if each.told else "– | –"
        lines.append(f"| {each.change} | {each.told} of {each.trials} | {figures} | {by} |")
    lines += [
        "",
        "Inference with health looked after (a look a second), against without.",
        "",
        "| model | off, p50 | off, p99 | p50 | p99 | CPU, p50 | CPU, p99 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {each.model} | {each.off_p50_us:.0f} µs | {each.off_p99_us:.0f} µs "
        f"| {share_text(each.p50)} | {share_text(each.p99)} "
        f"| {share_text(each.cpu_p50)} | {share_text(each.cpu_p99)} |"
        for each in result.costs
    ]
    lines += ["", f"| {MODEL} | µs |", "|---|---:|"]
    lines += [f"| {name} | {spent:.0f} |" for name, spent in result.parts_us.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--costs", action="store_true")
    args = parser.parse_args()
    data = args.data
    if not (data / "models" / f"{MODEL}.onnx").exists():
        print(f"skipped: no {MODEL} in {data}", file=sys.stderr)
        return 0
    logging.disable(logging.WARNING)  # each stream that leaves would say so
    eye = Eye(data)
    imagenet = [small(path) for path in sorted((data / "imagenet-1k-sample").glob("*.jpg"))]
    order = np.random.default_rng(0).permutation(len(imagenet))
    imagenet = [imagenet[at] for at in order]
    looks = eye.looks(imagenet)
    with tempfile.TemporaryDirectory() as folder:
        bundles = converted(data, Path(folder))
        feeds = {
            "digits": {"image": np.zeros((1, 1, 8, 8), np.float32)},
            MODEL: eye.feeds(imagenet[0]),
        }
        costs = tuple(cost(name, path, feeds[name]) for name, path in bundles.items())
        spent = parts(eye, imagenet[0], looks, bundles[MODEL])
    file = RESULTS / "drift.json"
    if args.costs:
        kept = msgspec.json.decode(file.read_bytes(), type=Kept)
        false, delays = kept.alarms, kept.delays
    else:
        caltech = eye.looks(small(path) for path in sorted((data / "caltech101").glob("*.jpg")))
        false = tuple(
            alarms(title, pool, count)
            for title, pool in (("ImageNet", looks), ("Caltech 101", caltech))
            for count in REFERENCES
        )
        delays = tuple(all_delays(eye, imagenet, looks, caltech))
    versions = {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
    result = Result(machine(), versions, WINDOW, false, delays, costs, spent)
    table = markdown(result)
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "drift.md").write_text(table)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
    file.write_bytes(encoded + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
