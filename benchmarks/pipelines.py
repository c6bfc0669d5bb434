"""What a declared pipeline adds to its models called by hand, and what batches of crops give.

    python benchmarks/pipelines.py

All contenders share the models' sessions and get pictures that are decoded already; they take
turns picture by picture, in an order that changes. By hand means `Model.predict` for the picture,
slices of the array for its boxes, and then either `Model.predict` for each, or `Model.prepare` for
each, one `numpy.concatenate`, `Model.infer` and `Model.decode`: what a user would write.
A pipeline whose batches have one row has its crops in the model's queue all at once.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime

import edge
from edge.bundle import pack
from edge.core.machine import machine
from edge.core.manifest import Manifest, Variant
from edge.core.pipelines import PipelineSpec
from edge.core.spec import ImageSpec, ModelSpec, OutputSpec, Resize, load_spec
from edge.core.tensor import TensorSpec
from edge.host.pipelines import Pipeline
from edge.vision import load_image

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DATA = HERE.parent.parent / "shared" / "data"
ROUNDS = 7
PHOTOS = 20
GRID = 32
CROPS = (1, 2, 4, 8, 16, 32)
CROP_RUNS = 12
STEP_RUNS = 2000
TARGET_RATIO = 1.05

Spread = tuple[float, float, float]
"""Median, lowest and highest of the rounds."""
Call = Callable[[Any], object]

REAL = """
[steps.things]
model = "yolox-nano"
[steps.kinds]
model = "squeezenet1.1"
crop = "things"
"""
CUT = """
[steps.grid]
model = "grid"
[steps.kinds]
model = "squeezenet1.1"
crop = "grid"
limit = {crops}
"""
STEPS = """
[steps.first]
model = "zeros"
inputs = { x = "input.x" }
[steps.second]
model = "zeros"
inputs = { x = "first.x" }
"""


class Row(msgspec.Struct, frozen=True):
    """``ratio`` is to the best of those by hand, in the same round."""

    what: str
    contender: str
    ms: Spread
    ratio: Spread


class Result(msgspec.Struct, frozen=True):
    machine: str
    versions: dict[str, str]
    rounds: int
    boxes_per_photo: float
    rows: tuple[Row, ...]


def bundle(spec: ModelSpec, model: bytes | None, labels: str, folder: Path) -> None:
    """The model as it is; without one, the engine that answers zeros."""
    engine = "onnxruntime" if model else "null"
    place = folder / f"parts-{spec.name}" / "variants" / "raw"
    place.mkdir(parents=True)
    inputs = outputs = (TensorSpec("x", "float32", (1, 16)),)
    if model:
        (place / "model.onnx").write_bytes(model)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        inputs, outputs = (
            tuple(TensorSpec(one.name, "float32", tuple(one.shape)) for one in tensors)
            for tensors in (session.get_inputs(), session.get_outputs())
        )
    if labels:
        (place.parent.parent / "labels.txt").write_text((DATA / "labels" / labels).read_text())
    manifest = Manifest(
        schema=1,
        name=spec.name,
        version="1",
        task=spec.task,
        profile="host",
        source_sha256="0" * 64,
        variants=(Variant("raw", engine, "fp32", (), inputs, outputs),),
        image=spec.image,
        output=spec.output,
        labels="labels.txt" if labels else "",
    )
    pack(manifest, place.parent.parent, folder / f"{spec.name}.edge")


def grid() -> bytes:
    """Answers the same ``GRID`` boxes to any picture, each an eighth by a quarter of it."""
    cells = [(n % 8, n // 8) for n in range(GRID)]
    boxes = [(x, 2 * y, x + 1, 2 * y + 2, 0.9, 0) for x, y in cells]
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        make.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        make.make_node("Mul", ["top", "zero"], ["nothing"]),
        make.make_node("Add", ["boxes", "nothing"], ["y"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array([boxes], np.float32), "boxes"),
        onnx.numpy_helper.from_array(np.float32(0), "zero"),
    ]
    io = [
        make.make_tensor_value_info(name, kind, shape)
        for name, shape in (("x", (1, 3, 8, 8)), ("y", (1, GRID, 6)))
    ]
    graph = make.make_graph(nodes, "grid", io[:1], io[1:], constants)
    opsets = [make.make_opsetid("", 17)]
    return bytes(make.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def write_models(folder: Path) -> None:
    for stem, labels in (("yolox_nano", "coco80.txt"), ("squeezenet1.1", "imagenet1k.txt")):
        model = (DATA / "models" / f"{stem}.onnx").read_bytes()
        bundle(load_spec(HERE / "specs" / f"{stem}.toml"), model, labels, folder)
    image = ImageSpec("x", resize=Resize(exact=(8, 8)))
    finder = ModelSpec("grid", task="detection", image=image, output=OutputSpec("detections"))
    bundle(finder, grid(), "", folder)
    bundle(ModelSpec("zeros"), None, "", folder)


class ByHand:
    """A detector and a classifier, as a user would put them together."""

    def __init__(self, detector: edge.Model, classifier: edge.Model, limit: int | None) -> None:
        self._detector, self._classifier, self._limit = detector, classifier, limit

    def one_by_one(self, picture: Any) -> list[Any]:
        return [self._classifier.predict(crop) for crop in self._crops(picture)]

    def batch(self, picture: Any) -> list[Any]:
        model = self._classifier
        prepared = [model.prepare(crop) for crop in self._crops(picture)]
        if not prepared:
            return []
        rows = np.concatenate([tensor for feeds, _ in prepared for tensor in feeds.values()])
        outputs = model.infer({model.inputs[0].name: rows})
        return [
            model.decode({name: array[n : n + 1] for name, array in outputs.items()}, geometry)
            for n, (_, geometry) in enumerate(prepared)
        ]

    def _crops(self, picture: Any) -> list[Any]:
        boxes: Any = self._detector.predict(picture)
        sides = [(round(b.x0), round(b.y0), round(b.x1), round(b.y1)) for b in boxes[: self._limit]]
        return [picture[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] for x0, y0, x1, y1 in sides]


def measure(calls: dict[str, Call], pictures: list[Any]) -> dict[str, list[float]]:
    """Milliseconds per picture, of each round; the contenders alternate picture by picture."""
    clock = time.perf_counter
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls.items())
    for number in range(ROUNDS + 1):  # the first one warms up
        times: dict[str, list[float]] = {name: [] for name in calls}
        for turn, picture in enumerate(pictures):
            first = (turn + number) % len(order)
            for name, call in order[first:] + order[:first]:
                start = clock()
                call(picture)
                times[name].append((clock() - start) * 1e3)
        if number:
            for name, spent in times.items():
                rounds[name].append(statistics.fmean(spent))
    return rounds


def rows(what: str, rounds: dict[str, list[float]]) -> list[Row]:
    by_hand = [spent for name, spent in rounds.items() if name.startswith("by hand")]
    best = [min(one[number] for one in by_hand) for number in range(ROUNDS)]
    return [
        Row(
            what,
            name,
            spread(spent, 4),
            spread([mine / b for mine, b in zip(spent, best, strict=True)], 3),
        )
        for name, spent in rounds.items()
    ]


def spread(values: list[float], digits: int) -> Spread:
    middle, low, high = statistics.median(values), min(values), max(values)
    return round(middle, digits), round(low, digits), round(high, digits)


def row_by_row(pipeline: Pipeline, picture: Any) -> Pipeline:
    """The pipeline with batches of one crop."""
    pipeline.run(picture)
    feeder: Any = pipeline._works["kinds"]._feeder
    feeder.max_rows = 1
    return pipeline


def pictures_and_crops(runtime: edge.Runtime, photos: list[Any]) -> list[Row]:
    classifier, found = runtime.model("squeezenet1.1"), []
    hand = ByHand(runtime.model("yolox-nano"), classifier, None)
    calls: dict[str, Call] = {
        "by hand, one by one": hand.one_by_one,
        "by hand, one batch": hand.batch,
        "pipeline, one by one": row_by_row(runtime.pipeline("real-single"), photos[0]).run,
        "pipeline": runtime.pipeline("real").run,
    }
    found += rows("yolox_nano, then squeezenet1.1", measure(calls, photos))
    for crops in CROPS:
        hand = ByHand(runtime.model("grid"), classifier, crops)
        single = runtime.pipeline(f"cut-single-{crops}")
        calls = {
            "by hand, one by one": hand.one_by_one,
            "by hand, one batch": hand.batch,
            "pipeline, one by one": row_by_row(single, photos[0]).run,
            "pipeline": runtime.pipeline(f"cut-{crops}").run,
        }
        found += rows(f"{crops} crops, squeezenet1.1", measure(calls, photos[:1] * CROP_RUNS))
    return found


def steps_alone(runtime: edge.Runtime) -> list[Row]:
    """What two steps cost that do nothing: threads, queues, and our Python."""
    model, pipeline = runtime.model("zeros"), runtime.pipeline("steps")
    tensor = np.zeros((1, 16), np.float32)
    calls: dict[str, Call] = {
        "by hand, infer": lambda x: model.infer(model.infer({"x": x})),
        "by hand, submit": lambda x: model.submit(model.submit({"x": x}).result()).result(),
        "pipeline": lambda x: pipeline.run({"x": x}),
    }
    return rows("two steps of no work", measure(calls, [tensor] * STEP_RUNS))


def declared() -> dict[str, PipelineSpec]:
    texts = {"real": REAL, "real-single": REAL, "steps": STEPS}
    for crops in CROPS:
        texts |= dict.fromkeys((f"cut-{crops}", f"cut-single-{crops}"), CUT.format(crops=crops))
    return {name: msgspec.toml.decode(text, type=PipelineSpec) for name, text in texts.items()}


def shown(value: Spread, digits: int) -> str:
    return "{:.{d}f} ({:.{d}f}–{:.{d}f})".format(*value, d=digits)


def markdown(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [
        "# Pipelines",
        "",
        f"On {result.machine}; {versions}.",
        "Made by `python benchmarks/pipelines.py`; the figures are in `pipelines.json`.",
        "",
        f"Medians of {result.rounds} alternating rounds, with the lowest and the highest, on the",
        "same sessions in FP32; ratios are to the best of those by hand in the same round. The",
        f"{PHOTOS} photos are decoded before, and have {result.boxes_per_photo} boxes each on",
        f"average. To reach: at most {TARGET_RATIO} of the models called by hand. Two steps of no",
        "work show what a step costs by itself, most of which is the way to the model's thread and",
        "back; the engine that answers zeros takes almost nothing. A pipeline's time includes its",
        f"answer as plain data: of all {GRID} boxes where crops are cut from a grid of so many.",
        "",
        "| what | contender | ms | ratio |",
        "|---|---|---:|---:|",
    ]
    lines += [
        f"| {row.what} | {row.contender} | {shown(row.ms, 3)} | {shown(row.ratio, 3)} |"
        for row in result.rows
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    paths = sorted((DATA / "photos" / "coco").glob("*.jpg"))[:PHOTOS]
    photos = [load_image(path) for path in paths]
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        with edge.Runtime(folder, fallback="deny", pipelines=declared()) as runtime:
            boxes = [len(runtime.pipeline("real").run(photo)["things"]) for photo in photos]
            found = (*pictures_and_crops(runtime, photos), *steps_alone(runtime))
    versions = {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
    mean = round(statistics.fmean(boxes), 1)
    result = Result(machine(), versions, ROUNDS, mean, found)
    table = markdown(result)
    print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pipelines.md").write_text(table)
    encoded = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (RESULTS / "pipelines.json").write_bytes(encoded + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
