from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edge.core.errors import InputError, ModelError, SettingsError
from edge.core.spec import OutputSpec
from edge.vision import Box, Geometry, Label, Mask, decode, decoder_names
from edge.vision.boxes import iou, suppress

SQUARE = Geometry.identity((64, 64))


def yolox_output(*rows: tuple[int, list[float]], classes: int = 2) -> dict[str, np.ndarray]:
    """An empty head for 64x64 (84 anchors), with ``rows`` set."""
    output = np.zeros((1, 84, 5 + classes), np.float32)
    for anchor, values in rows:
        output[0, anchor] = values
    return {"output": output}


def test_decoders_are_found_by_their_file_names() -> None:
    assert {"argmax-mask", "softmax", "ssd", "yolox"} <= set(decoder_names())


def test_unknown_decoder_lists_those_there_are() -> None:
    with pytest.raises(SettingsError, match="magic") as caught:
        decode({}, OutputSpec("magic"))
    assert "argmax-mask, softmax" in caught.value.hint


def test_softmax_names_the_most_probable_classes() -> None:
    scores = np.log(np.array([[1.0, 6.0, 3.0]], np.float32)) + 100
    labels = decode({"logits": scores}, OutputSpec(top=2), labels=("a", "b", "c"))
    assert [(label.index, label.name) for label in labels] == [(1, "b"), (2, "c")]
    assert [label.score for label in labels] == pytest.approx([0.6, 0.3], abs=1e-5)


def test_softmax_leaves_probabilities_as_they_are() -> None:
    labels = decode({"p": np.array([[0.1, 0.7, 0.2]], np.float32)}, OutputSpec())
    assert labels[0] == Label(1, "1", pytest.approx(0.7))


def test_softmax_takes_scores_with_axes_of_size_one() -> None:
    labels = decode({"logits": np.array([1.0, 5.0]).reshape(1, 2, 1, 1)}, OutputSpec())
    assert labels[0].index == 1


@pytest.mark.parametrize("shape", [(2, 3), (1, 1), ()])
def test_softmax_refuses_what_are_no_class_scores(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="class scores"):
        decode({"x": np.zeros(shape, np.float32)}, OutputSpec())


def test_too_few_labels_are_an_error_not_a_wrong_name() -> None:
    with pytest.raises(InputError, match="answers class 1, the labels name 1"):
        decode({"x": np.array([[0.0, 1.0]])}, OutputSpec(), labels=("only",))


def test_yolox_decodes_grid_and_strides() -> None:
    # Anchor 9 is cell (1, 1) of stride 8; anchor 83 is cell (1, 1) of stride 32.
    head = yolox_output(
        (9, [0.5, 0.25, np.log(2.0), 0.0, 0.8, 0.1, 0.9]),
        (83, [0.0, 0.0, 0.0, 0.0, 1.0, 0.5, 0.0]),
    )
    boxes = decode(head, OutputSpec("yolox"), geometry=SQUARE, labels=("cat", "dog"))
    assert [box.name for box in boxes] == ["dog", "cat"]
    first, second = (msgspec.structs.astuple(box) for box in boxes)
    assert first[:4] == pytest.approx((4.0, 6.0, 20.0, 14.0), abs=1e-5)
    assert first[6] == pytest.approx(0.72)
    assert second[:4] == pytest.approx((16.0, 16.0, 48.0, 48.0))


def test_yolox_boxes_go_back_to_the_picture() -> None:
    geometry = Geometry((128, 64), (64, 32), (64, 64))
    head = yolox_output((9, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]))
    (box,) = decode(head, OutputSpec("yolox"), geometry=geometry)
    assert (box.x0, box.y0, box.x1, box.y1) == (8.0, 8.0, 24.0, 24.0)


def test_yolox_keeps_the_better_of_two_that_overlap_in_a_class_only() -> None:
    same = [0.0, 0.0, 2.0, 2.0]
    head = yolox_output(
        (9, [*same, 0.9, 1.0, 0.0]), (10, [*same, 0.8, 1.0, 0.0]), (17, [*same, 0.7, 0.0, 1.0])
    )
    boxes = decode(head, OutputSpec("yolox"), geometry=SQUARE)
    assert [(box.index, round(box.score, 3)) for box in boxes] == [(0, 0.9), (1, 0.7)]


def test_yolox_answers_nothing_below_the_threshold() -> None:
    head = yolox_output((9, [0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.0]))
    assert decode(head, OutputSpec("yolox"), geometry=SQUARE) == ()


def test_yolox_survives_a_broken_head() -> None:
    head = yolox_output((9, [0.0, 0.0, 3e38, np.inf, 1.0, 1.0, 0.0]))
    (box,) = decode(head, OutputSpec("yolox"), geometry=SQUARE)
    assert (box.x0, box.y0, box.x1, box.y1) == (0.0, 0.0, 64.0, 64.0)


def test_yolox_refuses_a_head_for_another_size() -> None:
    with pytest.raises(ModelError, match=r"reads \(21, 5 \+ classes\) for a tensor of 32x32"):
        decode(yolox_output(), OutputSpec("yolox"), geometry=Geometry.identity((32, 32)))


def test_boxes_need_the_geometry() -> None:
    with pytest.raises(ModelError, match="geometry"):
        decode(yolox_output(), OutputSpec("yolox"))


def test_ssd_scales_boxes_and_leaves_the_background_out() -> None:
    outputs = {
        "scores": np.array([[[0.1, 0.9], [0.95, 0.05], [0.2, 0.8]]], np.float32),
        "boxes": np.array(
            [[[0.0, 0.25, 0.5, 0.75], [0.0, 0.0, 1.0, 1.0], [0.0, 0.26, 0.5, 0.75]]], np.float32
        ),
    }
    geometry = Geometry((200, 100), (40, 80), (40, 80))
    boxes = decode(outputs, OutputSpec("ssd"), geometry=geometry, labels=("background", "face"))
    assert boxes == (Box(0.0, 50.0, 50.0, 150.0, 1, "face", pytest.approx(0.9)),)


def test_ssd_tells_boxes_of_four_classes_by_name() -> None:
    scores = np.zeros((1, 1, 4), np.float32)
    scores[0, 0, 3] = 1.0
    outputs = {"class_scores": scores, "boxes": np.array([[[0.0, 0.0, 1.0, 1.0]]], np.float32)}
    (box,) = decode(outputs, OutputSpec("ssd"), geometry=SQUARE)
    assert box.index == 3


@pytest.mark.parametrize(
    "shapes",
    [
        {"scores": (1, 3, 2)},
        {"a": (1, 3, 4), "b": (1, 3, 4)},
        {"scores": (1, 3, 2), "boxes": (1, 4, 4)},
        {"scores": (1, 3, 1), "boxes": (1, 3, 4)},
        {"scores": (3, 2), "boxes": (3, 4)},
    ],
)
def test_ssd_refuses_other_heads(shapes: dict[str, tuple[int, ...]]) -> None:
    outputs = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(ModelError, match="ssd reads"):
        decode(outputs, OutputSpec("ssd"), geometry=SQUARE)


def test_argmax_mask_cuts_the_padding_off() -> None:
    classes = np.array([[0, 2, 9, 9], [1, 2, 9, 9], [9, 9, 9, 9], [9, 9, 9, 9]])
    scores = np.eye(10, dtype=np.float32)[classes].transpose(2, 0, 1)[None]
    geometry = Geometry((4, 4), (2, 2), (4, 4))
    mask = decode({"logits": scores}, OutputSpec("argmax-mask"), geometry=geometry)
    assert isinstance(mask, Mask)
    assert mask.to_array().tolist() == [[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2]]
    assert {(region.index, region.share) for region in mask.regions} == {
        (2, 0.5),
        (0, 0.25),
        (1, 0.25),
    }


def test_argmax_mask_takes_the_first_of_equal_classes() -> None:
    scores = np.random.default_rng(0).integers(0, 3, (1, 5, 16, 16)).astype(np.float32)
    geometry = Geometry.identity((16, 16))
    mask = decode({"logits": scores}, OutputSpec("argmax-mask"), geometry=geometry)
    assert isinstance(mask, Mask)
    np.testing.assert_array_equal(mask.to_array(), scores[0].argmax(axis=0))


def test_argmax_mask_refuses_another_rank() -> None:
    with pytest.raises(ModelError, match="height, width"):
        decode({"x": np.zeros((1, 5))}, OutputSpec("argmax-mask"), geometry=SQUARE)


def test_predictions_are_json() -> None:
    box = Box(0.0, 1.0, 2.0, 3.0, 4, "cat", 0.5)
    assert msgspec.json.decode(msgspec.json.encode([box]), type=list[Box]) == [box]
    mask = Mask.from_array(np.array([[1, 1], [0, -1]]), ("a", "b"))
    assert msgspec.json.decode(msgspec.json.encode(mask), type=Mask) == mask
    assert (mask.values, mask.lengths) == ((1, 0, -1), (2, 1, 1))


def test_iou_of_known_boxes() -> None:
    one = np.array([[0.0, 0.0, 2.0, 2.0]])
    other = np.array([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
    assert iou(one, other)[0].tolist() == pytest.approx([1 / 7, 1.0, 0.0])
    assert iou(np.zeros((1, 4)), np.zeros((1, 4)))[0, 0] == 0.0


def test_suppress_keeps_the_best_first_and_what_only_touches_the_suppressed() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 5, 10, 14], [0, 0, 10, 10]], float)
    scores = np.array([0.5, 0.9, 0.3, 0.8])
    keep = suppress(boxes, scores, np.array([0, 0, 0, 1]), 0.5)
    assert keep.tolist() == [1, 3, 2]
