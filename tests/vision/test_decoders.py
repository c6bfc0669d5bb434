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
    assert "argmax-mask, detections, " in caught.value.hint


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


def yolo_rows(classes: int, *rows: tuple[int, list[float]]) -> np.ndarray:
    """(1, 84, columns) of nothing, with ``rows`` set."""
    table = np.zeros((1, 84, classes), np.float32)
    for at, values in rows:
        table[0, at] = values
    return table


def corners_of(box: Box) -> tuple[float, ...]:
    return box.x0, box.y0, box.x1, box.y1


def test_yolov5_multiplies_objectness_and_suppresses_within_a_class() -> None:
    table = yolo_rows(
        7,
        (3, [20, 30, 10, 20, 0.9, 0.1, 0.8]),
        (4, [20, 30, 10, 19, 0.8, 0.1, 0.8]),
        (5, [40, 40, 10, 10, 0.5, 0.5, 0.1]),
    )
    (box,) = decode({"output0": table}, OutputSpec("yolov5"), geometry=SQUARE, labels=("a", "b"))
    assert (box.name, box.score) == ("b", pytest.approx(0.72))
    assert corners_of(box) == (15, 20, 25, 40)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_yolov8_reads_boxes_without_objectness_in_rows_or_columns(is_transposed: bool) -> None:
    table = yolo_rows(6, (3, [20, 30, 10, 20, 0.1, 0.8]), (4, [20, 30, 10, 19, 0.1, 0.7]))
    output = table if is_transposed else table.transpose(0, 2, 1)
    for labels in ((), ("0", "1")):
        (box,) = decode({"y": output}, OutputSpec("yolov8"), geometry=SQUARE, labels=labels)
        assert (box.name, box.score) == ("1", pytest.approx(0.8))
        assert corners_of(box) == (15, 20, 25, 40)


def test_yolov8_lets_the_labels_tell_classes_from_anchors() -> None:
    # 8 boxes of 4 + 8 classes: the longer axis is that of a box.
    output = np.zeros((1, 12, 8), np.float32)
    output[0, :, 2] = [20, 30, 10, 20, *[0.0] * 7, 0.9]
    labels = tuple("abcdefgh")
    (box,) = decode({"y": output}, OutputSpec("yolov8"), geometry=SQUARE, labels=labels)
    assert box.name == "h"


@pytest.mark.parametrize(("decoder", "shape"), [("yolov5", (1, 84, 5)), ("yolov8", (1, 4, 84))])
def test_yolo_heads_without_classes_are_refused(decoder: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=f"{decoder} reads"):
        decode({"y": np.zeros(shape, np.float32)}, OutputSpec(decoder), geometry=SQUARE)


BOXES = np.array([[8, 8, 16, 16], [32, 0, 64, 32], [0, 0, 9, 9]], np.float32)
SCORES = np.array([0.6, 0.9, 0.1], np.float32)
CLASSES = np.array([1, 0, 1])


def suppressed_forms() -> dict[str, dict[str, np.ndarray]]:
    images = np.array([0, 0, -1], np.float32)
    six = np.column_stack((BOXES, SCORES, CLASSES)).astype(np.float32)
    seven = np.column_stack((images, CLASSES, SCORES, BOXES / 64)).astype(np.float32)
    padded = np.full(3, 0.95, np.float32)
    padded[:2] = SCORES[:2]
    return {
        "torchvision": {"boxes": BOXES, "labels": CLASSES, "scores": SCORES},
        "unnamed": {"850": BOXES, "851": CLASSES, "852": SCORES},
        "counted": {
            "num_detections": np.array([[2]], np.int32),
            "detection_boxes": BOXES[None] / 64,
            "detection_classes": CLASSES[None].astype(np.float32),
            "detection_scores": padded[None],
        },
        "yolov10": {"output0": six[None]},
        "caffe": {"detection_out": seven[None, None]},
    }


@pytest.mark.parametrize("form", suppressed_forms())
def test_detections_reads_what_the_graph_suppressed(form: str) -> None:
    outputs = suppressed_forms()[form]
    boxes = decode(outputs, OutputSpec("detections"), geometry=SQUARE, labels=("cat", "dog"))
    assert [box.name for box in boxes] == ["cat", "dog"]
    assert [corners_of(box) for box in boxes] == [(32, 0, 64, 32), (8, 8, 16, 16)]


@pytest.mark.parametrize(
    "outputs",
    [
        {"x": np.zeros((1, 5, 5), np.float32)},
        {"boxes": BOXES, "scores": SCORES},
        {"boxes": BOXES, "more": BOXES, "scores": SCORES},
    ],
)
def test_detections_says_which_forms_it_reads(outputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(ModelError, match=r"detections reads \(1, N, 6\)"):
        decode(outputs, OutputSpec("detections"), geometry=SQUARE)


def test_detections_of_an_empty_picture_are_none() -> None:
    empty = {"boxes": BOXES[:0], "labels": CLASSES[:0], "scores": SCORES[:0]}
    assert decode(empty, OutputSpec("detections"), geometry=SQUARE) == ()


def test_sigmoid_gives_each_label_its_own_probability() -> None:
    labels = decode({"y": np.array([[0.0, 2.0, -2.0]])}, OutputSpec("sigmoid", top=2))
    assert [(each.index, round(each.score, 4)) for each in labels] == [(1, 0.8808), (0, 0.5)]
    chances = decode({"y": np.array([[0.9, 0.8, 0.0]])}, OutputSpec("sigmoid", top=2))
    assert [each.score for each in chances] == [0.9, 0.8]


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 1, 2, 2)])
def test_argmax_mask_takes_classes_that_the_graph_has_chosen(shape: tuple[int, ...]) -> None:
    chosen = np.array([0, 1, 1, 2], np.int64).reshape(shape)
    mask = decode({"y": chosen}, OutputSpec("argmax-mask"), geometry=Geometry.identity((2, 2)))
    assert isinstance(mask, Mask)
    assert mask.to_array().tolist() == [[0, 1], [1, 2]]
