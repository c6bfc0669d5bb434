"""Labels that come back over HTTP, and what the metrics then say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.bundle import pack
from edge.core.manifest import Manifest, Metric, Variant
from edge.core.tensor import TensorSpec

Start = Callable[..., Any]

BOX = b'{"x0": 0, "y0": 0, "x1": 1, "y1": 1, "label": 0}'
MASK = b'{"id": "a", "mask": {"height": 1, "width": 1, "values": [0], "lengths": [1]}}'
MANY_BOXES = b'{"id": "a", "boxes": [' + b",".join([BOX] * 100) + b"]}"


@pytest.fixture(scope="module")
def live(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Serves ``pets``, which always answers the first of three classes, and ``sums``."""
    folder = tmp_path_factory.mktemp("labels")
    (folder / "edge.toml").write_text("[health]\nlabels = 100\n")
    return _started(start, folder)


def _started(start: Start, folder: Path) -> Any:
    paths = [_bundle(folder, "pets", "classification"), _bundle(folder, "sums", "tensors")]
    live = start(*paths, cwd=folder)
    live.wait_until_ready()
    return live


def _bundle(folder: Path, name: str, task: Any) -> Path:
    parts = folder / f"parts-{name}"
    parts.mkdir()
    (parts / "labels.txt").write_text("cat\ndog\nbird\n")
    inputs = (TensorSpec("x", "float32", ("batch", 2)),)
    outputs = (TensorSpec("y", "float32", ("batch", 3)),)
    metric = Metric("top1", 80.0)
    manifest = Manifest(
        schema=1,
        name=name,
        version="1",
        task=task,
        profile="host",
        source_sha256="0" * 64,
        variants=(Variant("null", "null", "fp32", (), inputs, outputs, metric=metric),),
        labels="labels.txt",
    )
    return pack(manifest, parts, folder / f"{name}.edge")


def infer(live: Any, request_id: str, rows: int = 1, model: str = "pets") -> None:
    tensor = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": [0.0] * 2 * rows}
    request = {"inputs": [tensor], **({"id": request_id} if request_id else {})}
    assert live.infer(model, request).status == 200


def label(live: Any, *labels: Any, path: str = "/v2/models/pets") -> Any:
    body = msgspec.json.encode({"labels": labels})
    return live.request("POST", f"{path}/labels", body)


def test_labels_are_counted_and_shown(start: Start, tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text("[health]\nlabels = 100\n")
    live = _started(start, tmp_path)  # its own, where nobody else has counted
    for request_id in "abcd":
        infer(live, request_id)
    answer = label(
        live, {"id": "a", "label": 0}, {"id": "b", "label": "cat"}, {"id": "c", "label": "dog"}
    )
    assert (answer.status, answer.json) == (200, {"accepted": 3, "refused": []})
    answer = label(live, {"id": "d", "label": 0}, path="/v2/models/pets/versions/1")
    assert answer.json["accepted"] == 1
    metrics = live.get("/metrics").body.decode()
    assert 'edge_model_accuracy_ratio{model="pets",version="1",metric="top1"} 0.75' in metrics
    assert 'edge_model_accuracy_labels{model="pets",version="1"} 4' in metrics
    assert 'state="gathering"} 1' in metrics


def test_what_can_not_be_counted_is_said_beside_what_can(live: Any) -> None:
    infer(live, "known")
    answer = label(live, {"id": "known", "label": 0}, {"id": "unknown", "label": 0})
    assert answer.status == 200
    assert answer.json["accepted"] == 1
    (refused,) = answer.json["refused"]
    assert refused["id"] == "unknown"
    assert "remembers no answer" in refused["error"]


def test_an_unknown_id_is_404_and_says_what_to_do(live: Any) -> None:
    answer = label(live, {"id": "nobody", "label": 0})
    assert answer.status == 404
    assert "give the request that is to be labelled this id" in answer.error


ONE_PIXEL = {"height": 1, "width": 1, "values": [0], "lengths": [1]}


@pytest.mark.parametrize(
    "wrong", [{"label": 3}, {"label": "wolf"}, {"label": -1}, {"mask": ONE_PIXEL}]
)
def test_a_wrong_class_is_400(live: Any, wrong: dict[str, Any]) -> None:
    infer(live, "w")
    answer = label(live, {"id": "w", **wrong})
    assert answer.status == 400
    assert "class" in answer.error


def test_a_batch_can_not_be_labelled(live: Any) -> None:
    infer(live, "batch", rows=4)
    answer = label(live, {"id": "batch", "label": 0})
    assert answer.status == 404
    assert "can not be labelled" in answer.error


def test_a_label_that_is_too_late_says_so(live: Any) -> None:
    for number in range(101):
        infer(live, f"late-{number}")
    assert "too late" in label(live, {"id": "late-0", "label": 0}).error


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b'{"labels": 3}', b'{"labels": [{"id": 3, "label": 1}]}'),
        *(b'{"labels": [{"id": "a"}]}', b'{"labels": [{"id": "a", "label": true}]}'),
        b'{"labels": [{"id": "a", "label": 1, "boxes": []}]}',
        b'{"labels": [{"id": "a", "label": 1, "weight": 2}]}',
        b'{"labels": [{"id": "a", "label": 1, "mask": {}}]}',
        b'{"labels": [{"id": "a", "mask": {"height": 1, "width": 1}}]}',
        b'{"labels": [' + b",".join([MASK] * 33) + b"]}",
        b'{"labels": [{"id": "a", "boxes": [{"x0": "left"}]}]}',
        b"\xff\xfe",
        b'{"labels": ' + b"[" * 5000,
        b'{"labels": [' + b",".join([b'{"id": "a", "label": 1}'] * 1001) + b"]}",
        b'{"labels": [' + b",".join([MANY_BOXES] * 101) + b"]}",
    ],
)
def test_what_are_no_labels_is_400(live: Any, body: bytes) -> None:
    answer = live.request("POST", "/v2/models/pets/labels", body)
    assert answer.status == 400
    assert "not labels" in answer.error


def test_an_unknown_model_is_404(live: Any) -> None:
    assert label(live, path="/v2/models/nobody").status == 404
    assert label(live, path="/v2/models/pets/versions/9").status == 404


def test_a_model_of_tensors_takes_no_labels(live: Any) -> None:
    infer(live, "t", model="sums")
    answer = label(live, {"id": "t", "label": 0}, path="/v2/models/sums")
    assert answer.status == 501
    assert "classification" in answer.error


def test_labels_are_posted(live: Any) -> None:
    assert live.get("/v2/models/pets/labels").status == 405


def test_by_default_nothing_is_remembered(start: Start, tmp_path: Path) -> None:
    live = _started(start, tmp_path)
    infer(live, "a")
    answer = label(live, {"id": "a", "label": 0})
    assert answer.status == 501
    assert "labels = 1000 under [health]" in answer.error
