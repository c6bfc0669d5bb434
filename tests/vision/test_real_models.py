"""Real weights on real pictures: the answers that a person sees in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.conversion.datasets import open_dataset
from edge.conversion.samples import Dataset
from edge.core.spec import ModelSpec, load_spec
from edge.core.tensor import TensorSpec
from edge.vision import Mask, TopAccuracy, decode

SPECS = Path(__file__).parents[2] / "benchmarks" / "specs"


class Opened:
    """One of the models, its spec and its class names."""

    def __init__(self, data: Path, model: str, labels: str = "") -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self.spec: ModelSpec = load_spec(SPECS / f"{model}.toml")
        self.labels = (data / "labels" / labels).read_text().splitlines() if labels else []
        self.session = onnxruntime.InferenceSession(
            data / "models" / f"{model}.onnx", options, providers=["CPUExecutionProvider"]
        )

    def dataset(self, path: Path, limit: int | None = None) -> Dataset:
        inputs = tuple(
            TensorSpec(node.name, "float32", tuple(node.shape))
            for node in self.session.get_inputs()
        )
        return open_dataset(path, "eval", self.spec, inputs, labels=self.labels, limit=limit)

    def predict(self, path: Path, limit: int | None = None) -> dict[str, Any]:
        return {
            Path(example.source).stem: self.answer(example.feeds, example.geometry)
            for example in self.dataset(path, limit)
        }

    def answer(self, feeds: Any, geometry: Any) -> Any:
        names = [node.name for node in self.session.get_outputs()]
        outputs = dict(zip(names, self.session.run(None, feeds), strict=True))
        assert self.spec.output is not None
        return decode(outputs, self.spec.output, geometry=geometry, labels=self.labels)


def test_yolox_finds_what_the_photos_show(shared_data: Path) -> None:
    model = Opened(shared_data, "yolox_nano", "coco80.txt")
    found = model.predict(shared_data / "photos" / "coco")
    assert [box.name for box in found["000000000285"]] == ["bear"]
    assert {box.name for box in found["000000000785"]} == {"person", "skis"}
    assert {"tv", "laptop", "keyboard", "mouse"} <= {box.name for box in found["000000001503"]}
    skier = found["000000000785"][0]
    corners = (skier.x0, skier.y0, skier.x1, skier.y1)
    assert corners == pytest.approx((280, 44, 497, 392), abs=15)  # of 640x425
    assert 140 <= sum(map(len, found.values())) <= 180


def test_ultraface_finds_the_faces(shared_data: Path) -> None:
    model = Opened(shared_data, "ultraface_version-RFB-320")
    found = model.predict(shared_data / "photos" / "faces")
    assert 330 <= sum(map(len, found.values())) <= 370
    for boxes in found.values():
        assert boxes
        assert all(box.index == 1 and box.score > 0.7 for box in boxes)


def test_deeplab_paints_what_the_photos_show(shared_data: Path, tmp_path: Path) -> None:
    model = Opened(shared_data, "deeplabv3_mnv2_voc", "voc21.txt")
    (tmp_path / "bear.jpg").symlink_to(shared_data / "photos" / "coco" / "000000000285.jpg")
    bear = model.predict(tmp_path)["bear"]
    assert isinstance(bear, Mask)
    assert (bear.height, bear.width) == (640, 586)
    assert (bear.regions[0].name, bear.regions[0].share) == ("dog", pytest.approx(0.75, abs=0.05))
    assert bear.to_array()[500, 300] == model.labels.index("dog")
    assert bear.to_array()[10, 10] == 0


@pytest.mark.parametrize(
    ("model", "folder", "labels", "top1"),
    [
        ("squeezenet1.1", "imagenet-1k-sample", "imagenet1k.txt", 58.6),
        ("mobilenetv2_caltech101", "caltech101", "caltech101.txt", 90.69),
        ("mobilenetv2_bn_caltech101", "caltech101", "caltech101.txt", 79.31),
    ],
)
@pytest.mark.slow
def test_classifiers_reach_the_accuracy_known_for_their_weights(
    shared_data: Path, model: str, folder: str, labels: str, top1: float
) -> None:
    assert accuracy(Opened(shared_data, model, labels), shared_data / folder) == pytest.approx(
        top1, abs=0.4
    )


def test_squeezenet_names_most_of_a_few_pictures_right(shared_data: Path) -> None:
    model = Opened(shared_data, "squeezenet1.1", "imagenet1k.txt")
    assert accuracy(model, shared_data / "imagenet-1k-sample", limit=100) == pytest.approx(
        55, abs=10
    )


def accuracy(model: Opened, folder: Path, limit: int | None = None) -> float:
    accuracy = TopAccuracy()
    for example in model.dataset(folder, limit):
        assert example.label is not None
        accuracy.add(model.answer(example.feeds, example.geometry), example.label)
    assert accuracy.top1 is not None
    return accuracy.top1


def test_every_spec_reads_and_names_inputs_of_its_model(shared_data: Path) -> None:
    for path in sorted((shared_data / "models").glob("*.onnx")):
        model = Opened(shared_data, path.stem)
        assert model.spec.name
        if model.spec.image is not None:
            names = [node.name for node in model.session.get_inputs()]
            assert names == [model.spec.image.input]
