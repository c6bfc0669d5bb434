"""From a float network to files for three generations of TensorRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from converters._quantization.onnx_sensitivity import answers
from converters._tensorrt import rules, trial
from converters._tensorrt.calibration import magnitudes, peaks
from converters._tensorrt.network import network_of
from converters._tensorrt.writing import LEAST_HALF, joined
from edge.core import plugins
from edge.core.build import ShapeRange, read_plan
from edge.core.contracts import ConvertRequest
from edge.core.errors import InputError, ModelError
from edge.core.profile import load_profile
from edge.core.spec import BuildSpec

CONVERTER = plugins.converter("tensorrt")
PLAIN = BuildSpec()


@pytest.fixture
def convert(rich, pictures, tmp_path):  # type: ignore[no-untyped-def]
    """Converts the network; gives the variant and its folder."""
    source = tmp_path / "source.onnx"
    onnx.save(rich, source)

    def make(profile, precision, build=PLAIN, samples=pictures, options=None):  # type: ignore[no-untyped-def]
        into = tmp_path / f"{profile.name}-{precision}"
        into.mkdir()
        request = ConvertRequest(
            source, profile, precision, calibration=samples, options=options or {}, build=build
        )
        return CONVERTER.convert(request, into), into

    make.folder = tmp_path
    return make


def _run(variant, folder: Path, pictures):  # type: ignore[no-untyped-def]
    into = folder.with_name(f"emulated-{variant.id}")
    into.mkdir()
    emulation = CONVERTER.emulation(variant, folder, into)
    assert emulation.engine == "onnxruntime"
    model = onnx.load(into / emulation.files[0].path)
    return answers(model, pictures[:4], emulation.options)


def _signal_to_noise(expected, got) -> float:  # type: ignore[no-untyped-def]
    pairs = [(e[name], g[name]) for e, g in zip(expected, got, strict=True) for name in e]
    noise = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    return 10 * np.log10(sum(float((a**2).sum()) for a, _ in pairs) / max(noise, 1e-20))


LEAST_DB = {"fp32": 100, "fp16": 50, "int8": 20, "fp8": 15}


@pytest.mark.parametrize("precision", LEAST_DB)
def test_answers_on_thor_are_near_those_of_the_source(rich, convert, thor, pictures, precision):
    expected = answers(rich, pictures[:4])
    variant, folder = convert(thor, precision)
    assert rules.check(onnx.load(folder / "model.onnx"), pictures[0]) == []
    reached = _signal_to_noise(expected, _run(variant, folder, pictures))
    assert reached > LEAST_DB[precision]
    if precision != "fp32":
        assert reached < 100, "nothing was rounded"


def test_bf16_rounds_to_its_eight_bits(rich, convert, jetpack7, pictures):
    variant, folder = convert(jetpack7, "bf16")
    model = onnx.load(folder / "model.onnx")
    assert (model.opset_import[0].version, read_plan(folder).flags) == (22, ("bf16",))
    reached = _signal_to_noise(answers(rich, pictures[:4]), _run(variant, folder, pictures))
    assert 30 < reached < 60
    assert not any("does not build" in note for note in variant.notes)


@pytest.fixture
def products(tmp_path):  # type: ignore[no-untyped-def]
    """Two matrix products: 256 -> 128, a Relu, and a Gemm of 128 -> 64 with turned weights."""
    generator = np.random.default_rng(5)
    first, second = (generator.standard_normal(s).astype(np.float32) / 12 for s in SHAPES)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "first"], ["m"], "matmul"),
        onnx.helper.make_node("Relu", ["m"], ["r"], "relu"),
        onnx.helper.make_node("Gemm", ["r", "second"], ["y"], "gemm", transB=1),
    ]
    x, y = (
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", 256), ("y", 64))
    )
    constants = [
        numpy_helper.from_array(first, "first"),
        numpy_helper.from_array(second, "second"),
    ]
    graph = onnx.helper.make_graph(nodes, "products", [x], [y], constants)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, tmp_path / "products.onnx")
    samples = [{"x": generator.standard_normal((1, 256)).astype(np.float32)} for _ in range(8)]
    return model, samples, tmp_path / "products.onnx"


SHAPES = ((256, 128), (64, 128))


def test_int4_weights_come_in_blocks_and_answer_near_the_source(products, jetpack7, tmp_path):
    model, samples, path = products
    into = tmp_path / "int4"
    into.mkdir()
    variant = CONVERTER.convert(ConvertRequest(path, jetpack7, "int4", samples), into)
    written = onnx.load(into / "model.onnx")
    constants = {tensor.name: tensor for tensor in written.graph.initializer}
    assert constants["first/half/quantized"].data_type == TensorProto.INT4
    assert list(constants["first/half/scale"].dims) == [2, 128]
    assert list(constants["second/half/scale"].dims) == [64, 1]
    assert rules.check(written) == []
    reached = _signal_to_noise(answers(model, samples[:4]), _run(variant, into, samples))
    assert 15 < reached < 40
    if trial.is_possible():
        tried = trial.try_out(into / "model.onnx", read_plan(into))
        assert (tried.error, bool(tried.engine)) == ("", True)


@pytest.mark.parametrize("precision", ["bf16", "int4"])
def test_what_the_parser_of_a_device_is_too_old_for_is_refused(products, orin, tmp_path, precision):
    (tmp_path / "into").mkdir()
    request = ConvertRequest(products[2], orin, precision, calibration=products[1])
    with pytest.raises(ModelError, match="needs opset 2"):
        CONVERTER.convert(request, tmp_path / "into")


def test_int4_of_a_model_with_few_products_is_refused(networks, jetpack7, tmp_path):
    model, samples = networks["convolutional"]
    with pytest.raises(ModelError, match="of the weights lie in MatMul"):
        CONVERTER.convert(ConvertRequest(model, jetpack7, "int4", samples), tmp_path)


def test_tensorrt_10_gets_half_scales_and_int8_constants(convert, orin):
    variant, folder = convert(orin, "int8")
    model = onnx.load(folder / "model.onnx")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    assert (model.opset_import[0].version, model.ir_version) == (19, 9)
    assert constants["w_first/half/quantized"].data_type == TensorProto.INT8
    assert constants["w_first/half/scale"].data_type == TensorProto.FLOAT16
    assert constants["pool/half/scale"].dims == []
    assert read_plan(folder).is_strongly_typed
    assert variant.requires == {"tensorrt": ">=10.3"}
    assert variant.options == {"device": "gpu"}


def test_tensorrt_8_gets_fp32_pairs_also_on_weights_and_flags(convert, xavier, pictures):
    variant, folder = convert(xavier, "int8")
    model = onnx.load(folder / "model.onnx")
    assert model.opset_import[0].version <= 17
    assert model.ir_version <= 8
    assert not any(t.data_type == TensorProto.FLOAT16 for t in model.graph.initializer)
    pairs = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert "w_first" in pairs
    assert rules.check(model, pictures[0]) == []
    plan = read_plan(folder)
    assert not plan.is_strongly_typed
    assert plan.flags == ("int8", "fp16")
    assert variant.requires == {"tensorrt": ">=8.5,<11"}


def test_weights_dequantize_to_what_they_were_but_for_half_a_step(rich, convert, orin):
    _, folder = convert(orin, "int8", options={"refine": False})
    constants = {t.name: t for t in onnx.load(folder / "model.onnx").graph.initializer}
    quantized, scale = (
        numpy_helper.to_array(constants[f"w_first/half/{part}"]).astype(np.float32)
        for part in ("quantized", "scale")
    )
    (source,) = (t for t in rich.graph.initializer if t.name == "w_first")
    step = scale[:, None, None, None]
    error = np.abs(quantized * step - numpy_helper.to_array(source)) / step
    assert error.max() < 0.6  # half a step, and what FP16 takes off the scale


def test_scales_of_fp16_keep_their_bits(rich, convert, orin, tmp_path):
    for tensor in rich.graph.initializer:
        if tensor.name == "w_first":
            array = numpy_helper.to_array(tensor) * np.float32(1e-7)
            tensor.CopyFrom(numpy_helper.from_array(array, "w_first"))
    onnx.save(rich, tmp_path / "source.onnx")
    _, folder = convert(orin, "int8", options={"refine": False})
    scale = {t.name: t for t in onnx.load(folder / "model.onnx").graph.initializer}
    assert numpy_helper.to_array(scale["w_first/half/scale"]).min() == LEAST_HALF


def test_excluded_operators_are_left_in_fp16(convert, orin):
    _, folder = convert(orin, "int8", options={"exclude": ["first", "left"]})
    nodes = {node.name: node for node in onnx.load(folder / "model.onnx").graph.node}
    assert nodes["first"].input[1] == "w_first/half"
    assert nodes["second"].input[1] == "w_second/half/dequantized"


def test_operators_are_ranked_by_the_error_they_bring_in(convert, orin, pictures, tmp_path):
    variant, folder = convert(orin, "int8")
    request = ConvertRequest(tmp_path / "source.onnx", orin, "int8", calibration=pictures)
    ranked = CONVERTER.sensitivities(request, variant, folder)
    names = {name for each in ranked for name in each.nodes}
    assert {"first", "second", "third", "deep"} <= names
    assert all(each.noise > 0 for each in ranked)


def test_nothing_to_quantize_is_said_with_the_reasons(networks, orin, tmp_path):
    model, samples = networks["dense"]
    request = ConvertRequest(model, orin, "int8", calibration=samples)
    with pytest.raises(ModelError, match=r"pays in no layer.*rows or columns") as caught:
        CONVERTER.convert(request, tmp_path)
    assert "fp16" in caught.value.hint


def test_the_batch_axis_gets_a_range_and_other_axes_what_samples_have(networks, orin, tmp_path):
    model, samples = networks["dense"]
    CONVERTER.convert(
        ConvertRequest(model, orin, "fp32", calibration=samples, build=BuildSpec(max_batch=4)),
        tmp_path,
    )
    assert read_plan(tmp_path).shapes == {
        name: ShapeRange((1, 6), (1, 6), (4, 6)) for name in ("left", "right")
    }


def test_a_dynamic_axis_without_samples_is_refused_with_what_to_do(rich, orin, tmp_path):
    rich.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(rich, tmp_path / "source.onnx")
    request = ConvertRequest(tmp_path / "source.onnx", orin, "fp32")
    with pytest.raises(InputError, match="how long axis 'height'") as caught:
        CONVERTER.convert(request, tmp_path)
    assert "--shape image=" in caught.value.hint


def test_what_the_builder_may_do_is_in_the_plan(convert, orin):
    build = BuildSpec(workspace_mb=256, sparse=True, refit=True)
    _, folder = convert(orin, "fp16", build)
    plan = read_plan(folder)
    assert (plan.workspace_bytes, plan.is_sparse, plan.is_refittable) == (2**28, True, True)
    assert (plan.dla_core, plan.tensorrt) == (None, ">=10.3,<10.4")


def test_what_branches_read_from_outside_stays(rich, convert, orin, pictures):
    """The rest is in FP32 then, as the insides of branches are not looked at."""
    inner = onnx.helper.make_node("Mul", ["vector_raw", "factor"], ["scaled"], "inner")
    out = onnx.helper.make_tensor_value_info("scaled", TensorProto.FLOAT, None)
    branch = onnx.helper.make_graph([inner], "branch", [], [out])
    gemm = next(node for node in rich.graph.node if node.name == "vector")
    gemm.output[0] = "vector_raw"
    rich.graph.initializer.append(numpy_helper.from_array(np.float32(3), "factor"))
    rich.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    choice = onnx.helper.make_node(
        "If", ["always"], ["vector"], "choice", then_branch=branch, else_branch=branch
    )
    rich.graph.node.append(choice)
    onnx.save(rich, convert.folder / "source.onnx")
    expected = answers(rich, pictures[:4])
    variant, folder = convert(orin, "int8")
    assert any("the rest in fp32" in note for note in variant.notes)
    assert _signal_to_noise(expected, _run(variant, folder, pictures)) > 20


def test_new_weights_do_not_change_the_structure_of_a_refittable_graph(rich, convert, orin, xavier):
    build = BuildSpec(refit=True)
    first = read_plan(convert(orin, "fp16", build)[1]).structure
    for tensor in rich.graph.initializer:
        if tensor.name == "w_first":
            array = numpy_helper.to_array(tensor) * np.float32(1.5)
            tensor.CopyFrom(numpy_helper.from_array(array, "w_first"))
    onnx.save(rich, convert.folder / "source.onnx")
    assert read_plan(convert(xavier, "fp16", build)[1]).structure == first
    variant, folder = convert(orin, "int8", build)
    assert not read_plan(folder).is_refittable
    assert any("not refittable" in note for note in variant.notes)


def test_a_dla_that_the_device_has_not_is_refused(convert, orin):
    with pytest.raises(InputError, match="no DLA"):
        convert(orin, "fp16", BuildSpec(dla=0))


def test_a_dla_that_tensorrt_left_out_is_refused(convert):
    with pytest.raises(InputError, match=r"TensorRT >=10\.16,<11 .* has no DLA"):
        convert(load_profile("jetson-agx-orin-64gb-jp7"), "fp16", BuildSpec(dla=0))
    _, folder = convert(load_profile("jetson-agx-orin-64gb"), "fp16", BuildSpec(dla=1))
    assert read_plan(folder).dla_core == 1


def test_without_samples_fp16_says_that_ranges_are_not_known(convert, orin):
    variant, _ = convert(orin, "fp16", samples=None)
    assert any("no samples" in note for note in variant.notes)


def test_one_range_serves_a_concat_whose_inputs_are_alike(rich, pictures):
    network = network_of(rich, pictures[0])
    found = joined(network, {"left": 3.0, "right": 4.0, "both": 4.0})
    assert found == {"left": 4.0, "right": 4.0, "both": 4.0}
    assert joined(network, {"left": 1.0, "right": 4.0}) == {"left": 1.0, "right": 4.0}


def test_magnitudes_are_those_of_all_samples(rich, pictures):
    found = peaks(rich, ["image", "first"], pictures)
    assert found["image"] == max(float(p["image"].max()) for p in pictures)
    measured = magnitudes(rich, ["image", "first"], pictures, found)
    assert measured.holding(100.0)["first"] == found["first"]
    assert measured.holding(99.0)["first"] < found["first"]
    assert measured.holding(50.0)["image"] == pytest.approx(0.5, abs=0.01)
    assert 0 < measured.least_error()["first"] <= found["first"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_rtx_takes_every_node_and_builds_strongly_typed(convert, orin, precision):
    if not trial.is_possible():
        pytest.skip("needs tensorrt-rtx, which builds without a GPU: pip install tensorrt-rtx")
    variant, folder = convert(orin, precision)
    tried = trial.try_out(folder / "model.onnx", read_plan(folder))
    assert (tried.error, tried.nodes) == ("", ())
    assert tried.engine
    assert any("builds it" in note for note in variant.notes)


def test_tensorrt_rtx_names_what_it_does_not_take(rich, orin, convert, tmp_path):
    if not trial.is_possible():
        pytest.skip("needs tensorrt-rtx, which builds without a GPU: pip install tensorrt-rtx")
    _, folder = convert(orin, "fp32")
    model = onnx.load(folder / "model.onnx")
    next(node for node in model.graph.node if node.name == "gate").op_type = "Det"
    onnx.save(model, folder / "model.onnx")
    tried = trial.try_out(folder / "model.onnx", read_plan(folder))
    assert not tried.engine
    assert "gate" in tried.nodes


def test_the_check_asks_tensorrt_rtx_what_the_list_does_not_know(rich, orin, tmp_path):
    if not trial.is_possible():
        pytest.skip("needs tensorrt-rtx, which builds without a GPU: pip install tensorrt-rtx")
    gate = next(node for node in rich.graph.node if node.name == "gate")
    gate.op_type = "MaxPool"
    gate.attribute.append(onnx.helper.make_attribute("kernel_shape", [1, 1, 1]))
    onnx.save(rich, tmp_path / "source.onnx")
    (finding,) = CONVERTER.check(tmp_path / "source.onnx", orin)
    assert (finding.severity, finding.nodes) == ("warning", ("gate",))
    assert "TensorRT-RTX" in finding.message


def test_the_check_names_nodes_that_the_parser_refuses(rich, orin, tmp_path):
    next(node for node in rich.graph.node if node.name == "gate").op_type = "Det"
    onnx.save(rich, tmp_path / "source.onnx")
    (finding,) = CONVERTER.check(tmp_path / "source.onnx", orin)
    assert (finding.severity, finding.nodes) == ("error", ("gate",))
    assert "Det" in finding.message
