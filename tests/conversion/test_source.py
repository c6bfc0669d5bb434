"""Reading a model that may be broken, and cleaning it without changing its answers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge.conversion import graph, source
from edge.core.errors import InputError, ModelError
from edge.core.profile import Device, DeviceProfile, Onnx, Precision, Runtimes, Shapes

PROFILE = DeviceProfile(
    name="board",
    device=Device(title="A board", arch="aarch64"),
    onnx=Onnx(opset=17, ir=8),
    precision=Precision(legal=("fp32", "int8")),
    runtimes=Runtimes(order=("onnxruntime",)),
)
STATIC = msgspec.structs.replace(PROFILE, shapes=Shapes(static=True))


def _tensor(name: str, shape, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:  # type: ignore[no-untyped-def]
    return helper.make_tensor_value_info(name, kind, shape)


def _constant(name: str, *shape: int) -> TensorProto:
    values = np.random.default_rng(sum(name.encode())).random(shape) + 0.5
    return numpy_helper.from_array(values.astype(np.float32), name)


def _model(
    *,
    opset: int = 13,
    ir: int = 8,
    batch: int | str | None = "batch",
    is_listed: bool = False,
) -> onnx.ModelProto:
    """Conv, BatchNormalization and ReLU."""
    weights = [_constant("w", 4, 3, 3, 3)]
    weights += [_constant(name, 4) for name in ("scale", "shift", "mean", "variance")]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], "conv"),
        helper.make_node(
            "BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["n"], "norm"
        ),
        helper.make_node("Relu", ["n"], ["features"], "relu"),
    ]
    inputs = [_tensor("image", [batch, 3, 8, 8])]
    if is_listed:
        inputs += [_tensor(w.name, list(w.dims)) for w in weights]
    outputs = [_tensor("features", [batch, 4, 6, 6])]
    made = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


@pytest.fixture
def save(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(model: onnx.ModelProto) -> Path:
        path = tmp_path / "given.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def _run(path: Path, **feeds):  # type: ignore[no-untyped-def]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def test_a_model_is_described_and_its_answers_stay(save, into):
    path = save(_model())
    prepared = source.prepare(path, PROFILE, into)
    assert prepared.path.parent == into
    assert prepared.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert prepared.size_bytes == path.stat().st_size
    assert [(s.name, s.dtype, s.shape) for s in prepared.inputs] == [
        ("image", "float32", ("batch", 3, 8, 8))
    ]
    assert prepared.outputs[0].shape == ("batch", 4, 6, 6)
    assert (prepared.opset, prepared.ir, prepared.findings) == (13, 8, ())
    image = np.random.default_rng(0).random((3, 3, 8, 8), np.float32)
    np.testing.assert_allclose(
        _run(prepared.path, image=image)[0], _run(path, image=image)[0], rtol=1e-4, atol=1e-5
    )


def test_batch_normalization_is_folded(save, into):
    assert source.prepare(save(_model()), PROFILE, into).ops == {"Conv": 1, "Relu": 1}


def test_weights_listed_as_inputs_are_no_inputs(save, into):
    prepared = source.prepare(save(_model(opset=9, ir=3, is_listed=True)), PROFILE, into)
    assert [spec.name for spec in prepared.inputs] == ["image"]
    assert prepared.ops == {"Conv": 1, "Relu": 1}


def test_the_opset_is_raised_for_int8_and_never_above_the_profile(save, into):
    path = save(_model(opset=9, ir=4))
    assert source.prepare(path, PROFILE, into).opset == 13
    old = msgspec.structs.replace(PROFILE, onnx=Onnx(opset=11, ir=6))
    prepared = source.prepare(path, old, into)
    assert (prepared.opset, prepared.ir) == (11, 6)


def test_a_newer_ir_version_is_lowered_to_the_profile(save, into):
    prepared = source.prepare(save(_model(ir=10)), PROFILE, into)
    assert prepared.ir == onnx.load(prepared.path).ir_version == 8


def test_an_opset_above_the_profile_is_refused(save, into):
    with pytest.raises(ModelError, match="opset 19; board takes up to 17") as caught:
        source.prepare(save(_model(opset=19, ir=9)), PROFILE, into)
    assert "opset_version=17" in caught.value.hint
    assert not list(into.iterdir())


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x08", bytes(range(256)) * 8])
def test_garbage_is_refused(tmp_path, into, content):
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"garbage\.onnx"):
        source.prepare(path, PROFILE, into)
    assert not list(into.iterdir())


@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_refused(tmp_path_factory, share):
    whole = _model().SerializeToString()
    path = tmp_path_factory.mktemp("cut") / "cut.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError):
        source.check_model(source.read_model(path), PROFILE)


@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_flipped_byte_is_refused_or_harmless(tmp_path_factory, position, value):
    data = bytearray(_model().SerializeToString())
    data[position % len(data)] = value
    folder = tmp_path_factory.mktemp("flipped")
    path = folder / "flipped.onnx"
    path.write_bytes(bytes(data))
    try:
        source.prepare(path, PROFILE, folder)
    except InputError:
        return
    assert (folder / "model.onnx").is_file()


def test_an_input_of_an_unknown_type_is_refused(save, into):
    model = _model()
    model.graph.input[0].type.tensor_type.elem_type = 79
    with pytest.raises(ModelError, match=r"'image'|element type"):
        source.prepare(save(model), PROFILE, into)


def test_a_missing_file_is_refused(tmp_path, into):
    with pytest.raises(ModelError, match="No such file"):
        source.prepare(tmp_path / "absent.onnx", PROFILE, into)


def test_an_unknown_operator_is_named_with_its_node(save, into):
    model = _model()
    model.graph.node[2].op_type = "Sparkle"
    with pytest.raises(ModelError, match=r"Sparkle \(node relu\)"):
        source.prepare(save(model), PROFILE, into)


def test_an_unknown_operator_inside_a_branch_is_named(save, into):
    with pytest.raises(ModelError, match=r"Sparkle \(node hidden\)"):
        source.prepare(save(_branching("Sparkle")), PROFILE, into)


def test_an_operator_of_a_later_opset_is_unknown_in_an_earlier_one(save, into):
    model = _model()
    model.graph.node[2].op_type = "Gelu"  # since opset 20
    with pytest.raises(ModelError, match=r"opset 13: Gelu"):
        source.prepare(save(model), PROFILE, into)


def test_operators_that_onnx_runtime_contributes_are_known():
    model = _model()
    model.graph.node[2].op_type = "FastGelu"
    model.graph.node[2].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert graph.unknown_ops(model) == {}


def test_missing_external_data_is_named(tmp_path, into):
    path = tmp_path / "split.onnx"
    onnx.save(_model(), path, save_as_external_data=True, location="split.data", size_threshold=0)
    assert source.prepare(path, PROFILE, into).ops == {"Conv": 1, "Relu": 1}
    (tmp_path / "split.data").unlink()
    with pytest.raises(ModelError, match=r"split\.data") as caught:
        source.prepare(path, PROFILE, into)
    assert "one folder" in caught.value.hint


def test_external_data_outside_the_folder_is_refused(tmp_path, into):
    (tmp_path / "secret").write_bytes(bytes(4096))
    inner = tmp_path / "inner"
    inner.mkdir()
    model = _model()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")
    (inner / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="can not be read"):
        source.prepare(inner / "model.onnx", PROFILE, into)


def test_a_graph_that_reads_a_tensor_nobody_makes_is_refused(save, into):
    model = _model()
    model.graph.node[2].input[0] = "nowhere"
    with pytest.raises(ModelError, match="not a valid ONNX graph"):
        source.prepare(save(model), PROFILE, into)


def test_shapes_are_fixed_and_outputs_follow(save, into):
    path = save(_model())
    for options in ({"batch": 2}, {"shapes": {"image": (2, 3, 8, 8)}}):
        prepared = source.prepare(path, PROFILE, into, **options)
        assert prepared.inputs[0].shape == (2, 3, 8, 8)
        assert prepared.outputs[0].shape == (2, 4, 6, 6)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"picture": (1, 3, 8, 8)}, "no input 'picture'"),
        ({"image": (1, 3, 8)}, "can not become"),
        ({"image": (1, 4, 8, 8)}, r"\(batch, 3, 8, 8\), which can not become \(1, 4, 8, 8\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(save, into, shapes, message):
    with pytest.raises(InputError, match=message):
        source.prepare(save(_model()), PROFILE, into, shapes=shapes)


def test_one_axis_can_not_have_two_sizes(save, into):
    add = helper.make_node("Add", ["a", "b"], ["sum"])
    made = helper.make_graph(
        [add], "sum", [_tensor("a", ["n"]), _tensor("b", ["n"])], [_tensor("sum", ["n"])]
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with pytest.raises(InputError, match="'n' can not be both 2 and 3"):
        source.prepare(save(model), PROFILE, into, shapes={"a": (2,), "b": (3,)})


def test_dynamic_shapes_are_an_error_on_a_device_of_fixed_ones(save, into):
    (finding,) = source.prepare(save(_model()), STATIC, into).findings
    assert finding.severity == "error"
    assert "(batch, 3, 8, 8)" in finding.message
    assert "--batch 1" in finding.hint
    assert source.prepare(save(_model()), STATIC, into, batch=1).findings == ()


def test_an_axis_without_a_name_gets_one(save, into):
    prepared = source.prepare(save(_model(batch=None)), PROFILE, into)
    assert prepared.inputs[0].shape == ("image_axis0", 3, 8, 8)


@pytest.mark.parametrize("damage", ["raises", "changes answers", "breaks the graph"])
def test_a_clean_up_that_goes_wrong_is_left_out_and_said(save, into, monkeypatch, damage):
    import onnxslim

    def slim(model: onnx.ModelProto) -> onnx.ModelProto:
        if damage == "raises":
            raise IndexError("list index out of range")
        if damage == "changes answers":
            weight = numpy_helper.to_array(model.graph.initializer[0]) * 1.01
            model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
        else:
            del model.graph.node[1]
        return model

    monkeypatch.setattr(onnxslim, "slim", slim)
    prepared = source.prepare(save(_model()), PROFILE, into)
    (finding,) = prepared.findings
    assert finding.severity == "warning"
    assert "onnxslim" in finding.message
    assert prepared.ops == {"Conv": 1, "BatchNormalization": 1, "Relu": 1}


def _branching(hidden: str = "Neg") -> onnx.ModelProto:
    def branch(name: str, op: str) -> onnx.GraphProto:
        node = helper.make_node(op, ["x"], [f"{name}_out"], "hidden" if op == hidden else name)
        return helper.make_graph([node], name, [], [_tensor(f"{name}_out", None)])

    choice = helper.make_node(
        "If",
        ["flag"],
        ["y"],
        "choice",
        then_branch=branch("a", "Relu"),
        else_branch=branch("b", hidden),
    )
    made = helper.make_graph(
        [choice],
        "branching",
        [_tensor("x", ["batch", 4]), _tensor("flag", [1], TensorProto.BOOL)],
        [_tensor("y", ["batch", 4])],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_both_branches_of_an_if_survive(save, into):
    path = save(_branching())
    prepared = source.prepare(path, PROFILE, into)
    x = np.array([[-1.0, 2.0, -3.0, 4.0]], np.float32)
    for flag in (True, False):
        feeds = {"x": x, "flag": np.array([flag])}
        np.testing.assert_array_equal(_run(prepared.path, **feeds)[0], _run(path, **feeds)[0])


@pytest.mark.parametrize("name", ["silero_vad", "ultraface_version-RFB-320"])
def test_real_models_with_branches_and_old_exports_are_prepared(real_data, into, name):
    path = real_data / "models" / f"{name}.onnx"
    prepared = source.prepare(path, PROFILE, into)
    assert prepared.opset >= 13
    assert len(prepared.inputs) == (3 if name == "silero_vad" else 1)
    assert not [f for f in prepared.findings if f.severity == "error"]
