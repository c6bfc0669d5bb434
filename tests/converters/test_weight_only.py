"""Weights of matrix products in few bits, and INT8 with activations rounded as they come."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters._quantization.attention import has_attention
from converters._quantization.weight_only_onnx import round_blocks
from edge.core import plugins
from edge.core.contracts import ConvertRequest, Recipe
from edge.core.errors import InputError, ModelError

IDS = np.array([[1, 5, 9], [2, 2, 4]], np.int64)
WIDTH = 48  # no multiple of a block

BRANCHES = [
    (name, precision, title)
    for name in ("onnx", "openvino")
    for precision in ("int8", "int4")
    for title, recipe in plugins.converter(name).recipes(precision).items()
    if precision == "int4" or "method" in recipe.options
]
TOLERANCES = {"int8": 0.06, "int4": 0.2}
"""Largest difference from FP32, as a share of the largest output."""


def _values(name: str, *shape: int) -> TensorProto:
    generator = np.random.default_rng(sum(name.encode()))
    values = generator.standard_normal(shape) / np.sqrt(shape[-1])
    return numpy_helper.from_array(values.astype(np.float32), name)


def _product(left: str, right: str, out: str) -> onnx.NodeProto:
    return helper.make_node("MatMul", [left, right], [out], out)


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedding, one head of attention, a shared weight, and a Gemm turned over."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"], "x"),
        _product("x", "shared", "q"),
        _product("x", "wk", "k"),
        _product("x", "shared", "v"),
        helper.make_node("Transpose", ["k"], ["kt"], "kt", perm=[0, 2, 1]),
        _product("q", "kt", "scores"),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"], "scaled"),
        helper.make_node("Softmax", ["scaled"], ["shares"], "shares", axis=-1),
        _product("shares", "v", "mixed"),
        helper.make_node("ReduceMean", ["mixed"], ["mean"], "mean", axes=[1], keepdims=0),
        helper.make_node("Gemm", ["mean", "wo", "bias"], ["answer"], "answer", transB=1),
    ]
    weights = [
        _values("table", 400, WIDTH),
        _values("shared", WIDTH, WIDTH),
        _values("wk", WIDTH, WIDTH),
        _values("wo", 64, WIDTH),
        _values("bias", 64),
        numpy_helper.from_array(np.float32(0.5), "scale"),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", 64])
    graph = helper.make_graph(nodes, "tiny", [ids], [answer], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path_factory.mktemp("transformer") / "transformer.onnx"
    onnx.save(model, path)
    return path


class Sentences:
    def __len__(self) -> int:
        return 32

    def __iter__(self):  # type: ignore[no-untyped-def]
        generator = np.random.default_rng(3)
        for _ in range(32):
            yield {"ids": generator.integers(0, 400, (1, 5))}


def _convert(model: Path, profile, into: Path, case):  # type: ignore[no-untyped-def]
    name, precision, title = case
    converter = plugins.converter(name)
    recipe: Recipe = converter.recipes(precision)[title]
    samples = Sentences() if recipe.needs_samples else None
    request = ConvertRequest(model, profile, precision, samples, recipe.options)
    into.mkdir(exist_ok=True)
    return converter.convert(request, into)


def _answer(engine: str, file: Path, options, ids):  # type: ignore[no-untyped-def]
    if engine == "openvino":
        return openvino.Core().compile_model(file, "CPU", options)({"ids": ids})["answer"]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(["answer"], {"ids": ids})[0]


@pytest.mark.parametrize("case", BRANCHES, ids="-".join)
def test_answers_stay_near_and_axes_dynamic(transformer, profile, tmp_path, case):
    variant = _convert(transformer, profile, tmp_path, case)
    assert [isinstance(dim, str) for dim in variant.inputs[0].shape] == [True, True]
    for ids in (IDS, IDS[:1, :2], np.tile(IDS, (3, 4))):
        expected = _answer("onnxruntime", transformer, {}, ids)
        got = _answer(variant.engine, tmp_path / variant.files[0].path, variant.options, ids)
        bound = TOLERANCES[case[1]] * float(np.abs(expected).max())
        np.testing.assert_allclose(got, expected, rtol=0, atol=bound)
        assert not np.array_equal(got, expected)


@pytest.mark.parametrize("case", BRANCHES, ids="-".join)
def test_the_files_shrink_and_a_note_says_by_what(transformer, profile, tmp_path, case):
    variant = _convert(transformer, profile, tmp_path, case)
    weights = variant.files[-1].size_bytes
    assert weights < 0.55 * transformer.stat().st_size
    (note,) = variant.notes
    assert "matrix products" in note
    assert "99% of the weights" in note


@pytest.mark.parametrize("case", BRANCHES, ids="-".join)
def test_a_second_conversion_gives_the_same_bytes(transformer, profile, tmp_path, case):
    first, second = (
        _convert(transformer, profile, tmp_path / folder, case) for folder in ("a", "b")
    )
    assert first.files == second.files


@pytest.mark.parametrize("case", BRANCHES, ids="-".join)
def test_a_convolutional_network_is_refused(networks, profile, tmp_path, case):
    with pytest.raises(ModelError, match=r"\d+% of the weights lie in MatMul"):
        _convert(networks["convolutional"][0], profile, tmp_path, case)


@pytest.mark.parametrize("case", BRANCHES, ids="-".join)
def test_products_inside_branches_are_refused(branches, profile, tmp_path, case):
    with pytest.raises(ModelError, match=r"0% of the weights|can not import"):
        _convert(branches, profile, tmp_path, case)


@pytest.mark.parametrize("case", BRANCHES, ids="-".join)
def test_unknown_options_are_refused(transformer, profile, tmp_path, case):
    name, precision, title = case
    converter = plugins.converter(name)
    options = {**converter.recipes(precision)[title].options, "colour": 1}
    request = ConvertRequest(transformer, profile, precision, Sentences(), options)
    with pytest.raises(InputError, match="colour"):
        converter.convert(request, tmp_path)


def test_dynamic_int8_of_an_old_opset_is_refused(transformer, profile, tmp_path):
    model = onnx.load(transformer)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 10))
    old = tmp_path / "old.onnx"
    onnx.save(model, old)
    with pytest.raises(ModelError, match="opset 11"):
        _convert(old, profile, tmp_path / "out", ("onnx", "int8", "dynamic"))


def test_a_shared_weight_is_stored_once(transformer, profile, tmp_path):
    _convert(transformer, profile, tmp_path, ("onnx", "int4", ""))
    graph = onnx.load(tmp_path / "model.onnx").graph
    quantized = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert len(quantized) == 4
    assert len({node.input[1] for node in quantized}) == 3
    assert "shared" not in {tensor.name for tensor in graph.initializer}


@pytest.mark.parametrize(("bits", "most"), [(4, 0.5), (8, 0.51)])
def test_levels_are_within_half_a_step_or_clip_for_a_smaller_error(bits, most):
    blocks = np.random.default_rng(0).standard_normal((6, 5, 32)).astype(np.float32)
    levels, scales, zeros = round_blocks(blocks, bits)
    assert int(levels.max()) < 1 << bits
    back = (levels.astype(np.float32) - zeros[..., None]) * scales[..., None]
    full = (blocks.max(axis=2) - blocks.min(axis=2)) / ((1 << bits) - 1)
    error = np.sqrt(np.square(back - blocks).mean(axis=2))
    assert bool((error <= most * full).all())


def test_attention_is_found_by_its_shape(transformer, networks):
    assert has_attention(onnx.load(transformer))
    assert not has_attention(onnx.load(networks["dense"][0]))


def test_static_int8_of_attention_stays_near(transformer, profile, tmp_path):
    request = ConvertRequest(transformer, profile, "int8", Sentences())
    variant = plugins.converter("openvino").convert(request, tmp_path)
    expected = _answer("onnxruntime", transformer, {}, IDS)
    got = _answer("openvino", tmp_path / variant.files[0].path, variant.options, IDS)
    assert float(np.abs(got - expected).max()) < 0.25 * float(np.abs(expected).max())


def test_no_ranking_is_asked_of_weight_only_variants(transformer, profile, tmp_path):
    converter = plugins.converter("onnx")
    variant = _convert(transformer, profile, tmp_path, ("onnx", "int4", ""))
    request = ConvertRequest(transformer, profile, "int4")
    assert converter.sensitivities(request, variant, tmp_path) == ()
    assert msgspec.structs.asdict(variant)["precision"] == "int4"
