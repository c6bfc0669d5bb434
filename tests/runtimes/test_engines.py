"""What ONNX Runtime, OpenVINO and null do each in their own way."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge.core import plugins
from edge.core.contracts import Session
from edge.core.errors import EngineError, InputError, MissingDependencyError, UnsupportedError
from edge.core.manifest import Variant
from edge.core.tensor import TensorSpec
from runtimes import onnxruntime as ort_backend
from runtimes import openvino as openvino_backend

OpenSession = Callable[..., Session]
VariantOf = Callable[..., Variant]
OneNode = Callable[..., Variant]
SDK_ENGINES = ("onnxruntime", "openvino")


@pytest.fixture(params=SDK_ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return ready(request.param)


def ready(name: str) -> str:
    availability = plugins.backend(name).availability()
    if not availability.ready:
        pytest.skip(availability.reason)
    return name


@pytest.mark.parametrize("name", SDK_ENGINES)
def test_an_sdk_that_is_not_installed_is_said_with_what_to_type(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str, *, extra: str) -> Any:
        raise MissingDependencyError(f"no {module}", hint=f"pip install '[{extra}]'")

    module = {"onnxruntime": ort_backend, "openvino": openvino_backend}[name]
    monkeypatch.setattr(module, "require", missing)
    availability = plugins.backend(name).availability()
    assert (availability.ready, availability.reason) == (False, f"no {name}")
    assert name in availability.hint


@pytest.mark.parametrize("name", SDK_ENGINES)
def test_an_sdk_that_breaks_is_not_ready_rather_than_an_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __getattr__(self, _: str) -> Any:
            raise RuntimeError("driver on fire")

    module = {"onnxruntime": ort_backend, "openvino": openvino_backend}[name]
    monkeypatch.setattr(module, "require", lambda *_, **__: Broken())
    monkeypatch.setattr(openvino_backend, "_core", Broken)
    availability = plugins.backend(name).availability()
    assert not availability.ready
    assert "driver on fire" in availability.reason


@pytest.mark.parametrize("content", [b"", b"garbage" * 50, None])
def test_a_file_that_is_no_model_is_an_engine_error(
    engine: str,
    content: bytes | None,
    product: bytes,
    variant_of: VariantOf,
    open_session: OpenSession,
) -> None:
    truncated = product[: len(product) // 2]
    variant = variant_of(engine, {"model.onnx": truncated if content is None else content})
    with pytest.raises(EngineError, match=r"can not load model\.onnx") as caught:
        open_session(variant)
    assert caught.value.__cause__ is not None
    assert "edge verify" in caught.value.hint


def test_a_property_that_openvino_does_not_know_is_an_engine_error(
    product: bytes, variant_of: VariantOf, open_session: OpenSession
) -> None:
    variant = variant_of(ready("openvino"), {"model.onnx": product})
    with pytest.raises(EngineError, match="Unsupported property NO_SUCH") as caught:
        open_session(variant, NO_SUCH="1")
    assert "Exception from" not in str(caught.value)


def test_a_wrong_number_of_threads_is_an_engine_error(
    engine: str, product: bytes, variant_of: VariantOf, open_session: OpenSession
) -> None:
    with pytest.raises(EngineError):
        open_session(variant_of(engine, {"model.onnx": product}), threads="many")


def test_threads_are_passed_on(
    product: bytes, variant_of: VariantOf, open_session: OpenSession
) -> None:
    variant = variant_of(ready("openvino"), {"model.onnx": product})
    session: Any = open_session(variant, threads=1)
    assert session._compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_tensors_come_from_the_file_where_none_are_declared(
    engine: str, one_node: OneNode, open_session: OpenSession
) -> None:
    tensor = ("BOOL", ["n", 2, None])
    session = open_session(one_node(engine, "Not", {"a": tensor}, {"b": tensor}))
    (a,) = session.inputs
    assert (a.name, a.dtype, a.shape[1], a.shape[2]) == ("a", "bool", 2, "a_2")
    assert isinstance(a.shape[0], str)
    answer = session.run({"a": np.array([[[True], [False]]])})["b"]
    np.testing.assert_array_equal(answer, [[[False], [True]]])


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("FLOAT", "float32"),
        ("DOUBLE", "float64"),
        ("FLOAT16", "float16"),
        ("INT64", "int64"),
        ("INT32", "int32"),
        ("INT8", "int8"),
        ("UINT8", "uint8"),
        ("BOOL", "bool"),
    ],
)
def test_each_dtype_goes_through_unchanged(
    engine: str, kind: str, dtype: str, one_node: OneNode, open_session: OpenSession
) -> None:
    declared = {
        "inputs": (TensorSpec("x", dtype, ("n",)),),
        "outputs": (TensorSpec("y", dtype, ("n",)),),
    }
    tensor = (kind, ["n"])
    session = open_session(one_node(engine, "Identity", {"x": tensor}, {"y": tensor}, **declared))
    x = np.array([0, 1, 1], dtype)
    for given in (x, np.array([], dtype)):
        answer = session.run({"x": given})["y"]
        assert answer.dtype == dtype
        np.testing.assert_array_equal(answer, given)


def test_a_scalar_stays_a_scalar(engine: str, one_node: OneNode, open_session: OpenSession) -> None:
    variant = one_node(engine, "Neg", {"x": ("INT64", [])}, {"y": ("INT64", [])})
    answer = open_session(variant).run({"x": np.array(5, ">i8")})["y"]
    assert (answer.shape, answer.item()) == ((), -5)


@pytest.fixture
def text_variant(one_node: OneNode) -> Callable[[str], Variant]:
    tensor = ("STRING", ["n"])
    return lambda engine: one_node(engine, "Identity", {"x": tensor}, {"y": tensor})


@pytest.mark.parametrize(
    "given",
    [
        np.array(["a", "ü"]),
        np.array(["a", "ü"], object),
        np.array([b"a", "ü".encode()]),
        np.array([b"a", "ü"], object),
    ],
)
def test_onnxruntime_takes_text_as_str_or_utf8(
    given: np.ndarray, text_variant: Callable[[str], Variant], open_session: OpenSession
) -> None:
    session = open_session(text_variant(ready("onnxruntime")))
    assert session.inputs[0].dtype == "string"
    assert session.run({"x": given})["y"].tolist() == ["a", "ü"]


@pytest.mark.parametrize("item", [b"\xff", 1, None])
def test_onnxruntime_refuses_what_is_no_text(
    item: object, text_variant: Callable[[str], Variant], open_session: OpenSession
) -> None:
    session = open_session(text_variant(ready("onnxruntime")))
    with pytest.raises(InputError, match="tensor 'x'"):
        session.run({"x": np.array(["a", item], object)})


def test_openvino_refuses_text(
    text_variant: Callable[[str], Variant], open_session: OpenSession
) -> None:
    with pytest.raises(UnsupportedError, match="holds text"):
        open_session(text_variant(ready("openvino")))


def test_an_engine_that_fails_while_it_runs_is_an_engine_error(
    engine: str, one_node: OneNode, open_session: OpenSession
) -> None:
    """Shapes that the declared dimensions allow and the operator does not."""
    io = {"a": ("FLOAT", ["n", "k"]), "b": ("FLOAT", ["l", "m"])}, {"c": ("FLOAT", ["n", "m"])}
    session = open_session(one_node(engine, "MatMul", *io))
    ones = np.ones((2, 2), np.float32)
    with pytest.raises(EngineError, match="failed") as caught:
        session.run({"a": ones, "b": np.ones((3, 2), np.float32)})
    assert caught.value.__cause__ is not None
    np.testing.assert_array_equal(session.run({"a": ones, "b": ones})["c"], ones * 2)


@pytest.mark.parametrize("hint", ["f32", "bf16"])
def test_openvino_says_the_precision_that_really_runs(
    hint: str, product: bytes, variant_of: VariantOf, open_session: OpenSession
) -> None:
    import openvino

    ready("openvino")
    if hint == "bf16" and "BF16" not in openvino.Core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        pytest.skip("this CPU has no BF16")
    variant = variant_of("openvino", {"model.onnx": product})
    placement = open_session(variant, INFERENCE_PRECISION_HINT=hint).placement
    assert placement.precision == {"f32": "fp32", "bf16": "bf16"}[hint]


def test_onnxruntime_says_that_fp16_runs_as_fp32_on_x86(
    one_node: OneNode, open_session: OpenSession
) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("Arm has FP16 kernels")
    tensor = ("FLOAT16", [1])
    variant = one_node(ready("onnxruntime"), "Neg", {"x": tensor}, {"y": tensor}, precision="fp16")
    assert open_session(variant).placement.precision == "fp32"


def ort_session(providers: list[str], nodes: dict[str, int]) -> Any:
    """An ``InferenceSession`` as far as its placement goes; no GPU is needed to read one."""
    parts = [
        SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [None] * count)
        for name, count in nodes.items()
    ]
    return SimpleNamespace(
        get_providers=lambda: providers, get_provider_graph_assignment_info=lambda: parts
    )


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def test_onnxruntime_counts_the_nodes_of_each_provider() -> None:
    placement = ort_backend._placement(ort_session([CUDA, CPU], {CUDA: 9, CPU: 1}), "cuda", "fp16")
    assert placement.shares == {CUDA: 0.9, CPU: 0.1}
    assert (placement.actual, placement.precision, placement.is_fallback) == ("cuda", "fp16", False)


def test_a_provider_that_onnxruntime_dropped_is_a_fallback() -> None:
    placement = ort_backend._placement(ort_session([CPU], {CPU: 1}), "cuda", "fp32")
    assert (placement.requested, placement.actual, placement.is_fallback) == ("cuda", "cpu", True)
    assert placement.reason == f"ONNX Runtime dropped {CUDA} while loading"


def test_a_provider_that_got_no_node_is_a_fallback() -> None:
    placement = ort_backend._placement(ort_session([CUDA, CPU], {CPU: 3}), "cuda", "fp32")
    assert (placement.actual, placement.is_fallback) == ("cpu", True)
    assert "not one node" in placement.reason


def ov_compiled(*devices: str) -> Any:
    def no_model() -> Any:
        raise RuntimeError("not implemented")

    return SimpleNamespace(get_property=lambda _: list(devices), get_runtime_model=no_model)


@pytest.mark.parametrize(
    ("asked", "got", "is_fallback"),
    [("gpu", ("GPU.0",), False), ("gpu.1", ("GPU.1",), False), ("npu", ("CPU",), True)],
)
def test_openvino_placement_compares_what_was_asked_for(
    asked: str, got: tuple[str, ...], is_fallback: bool
) -> None:
    placement = openvino_backend._placement(ov_compiled(*got), asked, "fp16")
    assert placement.is_fallback is is_fallback
    assert bool(placement.reason) is is_fallback
    assert placement.precision == "fp16"


def test_engines_write_nothing_to_the_terminal(
    engine: str,
    product: bytes,
    variant_of: VariantOf,
    open_session: OpenSession,
    capfd: pytest.CaptureFixture[str],
) -> None:
    session = open_session(variant_of(engine, {"model.onnx": product}))
    session.run({"x": np.ones((1, 3), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_null_takes_dynamic_sizes_from_its_inputs(
    variant_of: VariantOf, open_session: OpenSession
) -> None:
    inputs = (TensorSpec("a", "int32", ("n", 2)), TensorSpec("b", "int32", ("m",)))
    outputs = (
        TensorSpec("sums", "int64", ("m", "n", 3)),
        TensorSpec("names", "string", ("unknown",)),
    )
    session = open_session(variant_of("null", {}, inputs=inputs, outputs=outputs))
    answer = session.run({"a": np.ones((5, 2), np.int32), "b": np.ones(4, np.int32)})
    assert (answer["sums"].shape, answer["sums"].dtype) == ((4, 5, 3), np.int64)
    assert answer["names"].tolist() == [""]


def test_a_failure_is_raised_and_not_printed_as_well(
    one_node: OneNode, open_session: OpenSession, capfd: pytest.CaptureFixture[str]
) -> None:
    io = {"a": ("FLOAT", ["n", "k"]), "b": ("FLOAT", ["l", "m"])}, {"c": ("FLOAT", ["n", "m"])}
    session = open_session(one_node(ready("onnxruntime"), "MatMul", *io))
    with pytest.raises(EngineError, match="dimension mismatch"):
        session.run({"a": np.ones((2, 2), np.float32), "b": np.ones((3, 2), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_a_variant_without_files_is_an_engine_error(
    engine: str, variant_of: VariantOf, open_session: OpenSession
) -> None:
    with pytest.raises(EngineError, match="has no file"):
        open_session(variant_of(engine, {}))


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "flags : avx2 avx512f", True),
        ("x86_64", "flags : avx2 avx_vnni", False),
        ("x86_64", "flags : avx512f avx512_vnni", False),
        ("x86_64", None, True),
        ("aarch64", "Features : asimd", False),
    ],
)
def test_onnxruntime_asks_for_exact_int8_kernels_where_the_fast_ones_may_overflow(
    machine: str, flags: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(flags)
    assert ort_backend.may_saturate(cpuinfo) is expected
