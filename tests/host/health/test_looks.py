"""What is seen of an inference."""

from __future__ import annotations

import numpy as np
import pytest

from edge.core.spec import ImageSpec, OutputSpec
from edge.host.health.looks import LOOKED_AT, Looker

IMAGE = ImageSpec("x", color="rgb")
RANDOM = np.random.default_rng(0)


def picture(layout: str = "nchw") -> np.ndarray:
    planes = RANDOM.normal(size=(3, 64, 96)).astype(np.float32) + np.array(
        [1, 2, 3], np.float32
    ).reshape(3, 1, 1)
    return planes[None] if layout == "nchw" else planes.transpose(1, 2, 0)[None]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_picture_is_seen_by_its_channels_spread_and_detail(layout: str) -> None:
    looker = Looker("classification", ImageSpec("x", layout=layout), None)
    scores = np.zeros((1, 10), np.float32)
    scores[0, 7] = 5.0
    look = looker.look(looker.take({"x": picture(layout)}, {"y": scores}))
    assert [round(look[f"input.x.mean.{c}"]) for c in "rgb"] == [1, 2, 3]
    assert look["output.class"] == 7
    assert look["output.confidence"] == pytest.approx(np.exp(5) / (np.exp(5) + 9))
    assert set(look) == {
        *("input.x.mean.r", "input.x.mean.g", "input.x.mean.b"),
        *("input.x.spread", "input.x.detail"),
        *("output.confidence", "output.margin", "output.class"),
    }


def test_blur_takes_detail_and_brightness_does_not() -> None:
    looker = Looker("tensors", IMAGE, None)
    sharp = picture()
    blurred = (sharp + np.roll(sharp, 1, 3) + np.roll(sharp, 2, 3)) / 3

    def detail(array: np.ndarray) -> float:
        return looker.look(looker.take({"x": array}, {}))["input.x.detail"]

    assert detail(blurred) < 0.7 * detail(sharp)
    assert detail(sharp + 5) == pytest.approx(detail(sharp), rel=1e-4)


def test_what_is_taken_does_not_change_with_the_callers_arrays() -> None:
    looker = Looker("detection", IMAGE, OutputSpec("yolox"))
    feeds = {"x": np.ones((1, 3, 64, 64), np.float32)}
    outputs = {"y": np.ones((1, 84, 8), np.float32)}
    sample = looker.take(feeds, outputs)
    feeds["x"][:] = outputs["y"][:] = 0
    assert sample.inputs["x"].all()
    assert sample.outputs["y"].all()


def test_no_more_of_a_large_tensor_is_copied_than_is_looked_at() -> None:
    looker = Looker("tensors", None, None)
    sample = looker.take({"x": np.zeros((1, 4, 1000, 1000))}, {"y": np.zeros(3_000_000)})
    assert sample.inputs["x"].size <= LOOKED_AT
    assert sample.outputs["y"].size <= LOOKED_AT


def test_boxes_are_counted() -> None:
    looker = Looker("detection", IMAGE, OutputSpec("detections", score_threshold=0.3))
    table = np.array(
        [[[1, 1, 9, 9, 0.9, 2], [20, 20, 30, 30, 0.5, 1], [0, 0, 5, 5, 0.1, 0]]], np.float32
    )
    look = looker.look(looker.take({"x": np.zeros((1, 3, 32, 32), np.float32)}, {"boxes": table}))
    assert look["output.boxes"] == 2
    assert look["output.score"] == pytest.approx(0.9)
    assert look["output.class"] == 2


def test_a_large_mask_is_thinned_and_keeps_its_shares() -> None:
    looker = Looker("segmentation", IMAGE, OutputSpec("argmax-mask"))
    scores = np.zeros((1, 3, 512, 512), np.float32)
    scores[:, 1, :, :128] = 1
    scores[:, 2, :, 128:] = 1
    sample = looker.take({"x": np.zeros((1, 3, 512, 512), np.float32)}, {"y": scores})
    assert sample.outputs["y"].shape == (1, 3, 128, 128)
    look = looker.look(sample)
    assert (look["output.class"], look["output.share"], look["output.regions"]) == (2, 0.75, 2)


def test_of_a_batch_the_first_row_is_seen() -> None:
    looker = Looker("classification", None, None)
    scores = np.eye(4, 10, k=3, dtype=np.float32) * 9
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    look = looker.look(looker.take({"x": rows}, {"y": scores}))
    assert (look["input.x.0"], look["input.x.1"], look["output.class"]) == (0, 1, 3)


def test_text_is_not_looked_at() -> None:
    looker = Looker("tensors", None, None)
    look = looker.look(looker.take({"x": np.array(["a", "b"])}, {"y": np.array([1.5])}))
    assert look == {"output.y.0": 1.5}


def test_outputs_of_another_form_than_declared_are_missing() -> None:
    looker = Looker("detection", IMAGE, OutputSpec("yolox"))
    feeds = {"x": np.zeros((1, 3, 32, 32), np.float32)}
    look = looker.look(looker.take(feeds, {"y": np.zeros((1, 5), np.float32)}))
    assert not any(name.startswith("output.") for name in look)
