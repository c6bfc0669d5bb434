"""A real detector and a real classifier on photos: what a person sees in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.bundle import pack
from edge.core.manifest import Manifest, Variant
from edge.core.spec import load_spec
from edge.core.tensor import TensorSpec
from edge.host import Runtime
from edge.vision import load_image

SPECS = Path(__file__).parents[3] / "benchmarks" / "specs"
MODELS = {"yolox_nano": "coco80.txt", "squeezenet1.1": "imagenet1k.txt"}
PIPELINE = """
[steps.things]
model = "yolox-nano"
[steps.kinds]
model = "squeezenet1.1"
crop = "things"
labels = ["bear", "cat", "person", "tv"]
margin = 0.05
"""


@pytest.fixture(scope="module")
def runtime(
    real_data: Path, tmp_path_factory: pytest.TempPathFactory, declared: Callable[[str], Any]
) -> Iterator[Runtime]:
    folder = tmp_path_factory.mktemp("real")
    for stem, labels in MODELS.items():
        bundle(real_data, stem, labels, folder)
    with Runtime(folder, pipelines={"zoo": declared(PIPELINE)}) as runtime:
        yield runtime


def bundle(data: Path, stem: str, labels: str, folder: Path) -> None:
    """The model as it is, for ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    spec = load_spec(SPECS / f"{stem}.toml")
    place = folder / f"parts-{stem}" / "variants" / "fp32"
    place.mkdir(parents=True)
    model = (data / "models" / f"{stem}.onnx").read_bytes()
    (place / "model.onnx").write_bytes(model)
    (folder / f"parts-{stem}" / "labels.txt").write_bytes((data / "labels" / labels).read_bytes())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs, outputs = (
        tuple(TensorSpec(one.name, "float32", tuple(one.shape)) for one in tensors)
        for tensors in (session.get_inputs(), session.get_outputs())
    )
    manifest = Manifest(
        schema=1,
        name=spec.name,
        version="1",
        task=spec.task,
        profile="host",
        source_sha256="0" * 64,
        variants=(Variant("fp32", "onnxruntime", "fp32", (), inputs, outputs),),
        image=spec.image,
        output=spec.output,
        labels="labels.txt",
    )
    pack(manifest, folder / f"parts-{stem}", folder / f"{spec.name}.edge")


def test_a_bear_is_found_and_named(runtime: Runtime, real_data: Path) -> None:
    answer = runtime.pipeline("zoo").run(real_data / "photos" / "coco" / "000000000285.jpg")
    (bear,) = answer["things"]
    assert bear["name"] == "bear"
    assert "bear" in bear["kinds"][0]["name"]
    assert msgspec.json.decode(msgspec.json.encode(answer)) == answer


def test_the_answers_are_those_of_the_models_called_by_hand(
    runtime: Runtime, real_data: Path
) -> None:
    detector, classifier = runtime.model("yolox-nano"), runtime.model("squeezenet1.1")
    pipeline = runtime.pipeline("zoo")
    looked_at = 0
    for path in sorted((real_data / "photos" / "coco").glob("*.jpg"))[:16]:
        picture = load_image(path)
        found: Any = detector.predict(picture)
        answer = pipeline.run(path)["things"]
        assert [box["name"] for box in answer] == [box.name for box in found]
        for box, said in zip(found, answer, strict=True):
            if said["kinds"] is None:
                assert box.name not in ("bear", "cat", "person", "tv")
                continue
            looked_at += 1
            x, y = 0.05 * (box.x1 - box.x0), 0.05 * (box.y1 - box.y0)
            crop = picture[
                max(0, round(box.y0 - y)) : round(box.y1 + y),
                max(0, round(box.x0 - x)) : round(box.x1 + x),
            ]
            labels = classifier.classify(crop)
            assert [label["name"] for label in said["kinds"]] == [one.name for one in labels]
            scores = [label["score"] for label in said["kinds"]]
            assert scores == pytest.approx([one.score for one in labels], abs=1e-4)
    assert looked_at > 20
