"""A model is told from another by its external data too, wherever it lies."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest

import edge
from edge.conversion.cache import StageCache
from edge.conversion.external import external_files, identity
from edge.core.errors import ModelError

COUNT = 2048


def _write(folder, location, value):  # type: ignore[no-untyped-def]
    """A product with weights that are all ``value``, kept at ``location``."""
    make = onnx.helper
    data = np.full((3, COUNT), value, np.float32)
    weights = onnx.numpy_helper.from_array(data, "weights")
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    values = [
        make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3]), ("y", [1, COUNT]))
    ]
    node = make.make_node("MatMul", ["x", "weights"], ["y"])
    graph = make.make_graph([node], "g", values[:1], values[1:], [weights])
    opsets = [make.make_opsetid("", 17)]
    model = make.make_model(graph, opset_imports=opsets, ir_version=9)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    (folder / location).parent.mkdir(exist_ok=True)
    (folder / location).write_bytes(data.tobytes())
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@pytest.mark.parametrize("location", ["w.data", "below/w.data"])
def test_a_second_conversion_sees_that_the_weights_changed(folder, tmp_path, location):
    answers, digests = [], []
    for value in (1.0, 5.0):
        source = _write(folder, location, value)
        digests.append(identity(source).sha256)
        made = edge.convert(
            source,
            precision="fp32",
            engines=["onnxruntime"],
            output=tmp_path / "out.edge",
            cache=StageCache(tmp_path / "cache"),
        )
        assert made.report.model.sha256 == digests[-1]
        with edge.load(made) as model:
            answers.append(model.infer({"x": np.ones((1, 3), np.float32)})["y"][0, 0])
    assert answers == [3.0, 15.0]
    assert digests[0] != digests[1]


def test_the_size_counts_the_weights(folder):
    source = _write(folder, "w.data", 1.0)
    assert identity(source).size_bytes == source.stat().st_size + 3 * COUNT * 4


def test_a_model_of_one_file_has_that_files_digest(tmp_path):
    path = tmp_path / "any.tflite"
    path.write_bytes(b"no protobuf at all")
    assert identity(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("is_absolute", [False, True])
def test_weights_outside_the_folder_are_neither_read_nor_counted(folder, tmp_path, is_absolute):
    outside = str(tmp_path / "w.data") if is_absolute else "../w.data"
    source = _write(folder, outside, 1.0)
    assert external_files(source) == ()
    with pytest.raises(ModelError, match="can not be read"):
        edge.convert(source, output=tmp_path / "out.edge", cache=StageCache(tmp_path / "cache"))


def test_weights_behind_a_link_are_refused(folder, tmp_path):
    source = _write(folder, "w.data", 1.0)
    (folder / "w.data").rename(tmp_path / "elsewhere.data")
    (folder / "w.data").symlink_to(tmp_path / "elsewhere.data")
    assert external_files(source) == ()
    with pytest.raises(ModelError, match="can not be read"):
        edge.convert(source, output=tmp_path / "out.edge", cache=StageCache(tmp_path / "cache"))
