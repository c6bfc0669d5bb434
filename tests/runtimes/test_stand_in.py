"""ONNX Runtime runs what was made for TensorRT; its providers are faked, its CPU is real."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from patience import LONG_S

import edge
from edge.bundle import open_bundle, pack, save_tensors
from edge.core import plugins
from edge.core.build import PLAN_FILE, BuildPlan
from edge.core.contracts import Availability, Session
from edge.core.errors import UnavailableError
from edge.core.manifest import FileEntry, Golden, Manifest, Variant
from edge.core.profile import load_profile
from edge.core.tensor import TensorSpec
from runtimes import onnxruntime as backend

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

TENSORRT, CUDA, CPU = (f"{name}ExecutionProvider" for name in ("Tensorrt", "CUDA", "CPU"))
X, Y = TensorSpec("x", "float32", (1, 4)), TensorSpec("y", "float32", (1, 4))
GIB = 2**30


@pytest.fixture(scope="module")
def rounding() -> bytes:
    """``y`` is ``x`` rounded to halves: a pair of Q and DQ, as TensorRT wants them."""
    helper, kind = onnx.helper, onnx.TensorProto
    scale = helper.make_tensor("scale", kind.FLOAT, [], [0.5])
    zero = helper.make_tensor("zero", kind.INT8, [], [0])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info(name, kind.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "rounding", infos[:1], infos[1:], [scale, zero])
    opsets = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


class Providers:
    """ONNX Runtime of a wheel with NVIDIA's providers, as far as sessions are made.

    ``broken`` fail to start with an error, ``dropped`` are left out without a word.
    """

    def __init__(self) -> None:
        self.here = [TENSORRT, CUDA, CPU]
        self.broken: set[str] = set()
        self.dropped: set[str] = set()
        self.asked: list[list[tuple[str, dict[str, str]]]] = []
        self.make = ort.InferenceSession

    def session(self, path: str, options: Any, *, providers: Any, enable_fallback: int) -> Any:
        assert enable_fallback == 0
        self.asked.append(providers)
        names = [name for name, _ in providers]
        if self.broken & set(names):
            raise RuntimeError(f"{names[0]}: no CUDA-capable device is detected")
        names = [name for name in names if name not in self.dropped]
        real = self.make(path, options, providers=[CPU])
        part = SimpleNamespace(ep_name=names[0], get_nodes=lambda: [None])
        return SimpleNamespace(
            get_providers=lambda: names,
            get_provider_graph_assignment_info=lambda: [part],
            get_inputs=real.get_inputs,
            get_outputs=real.get_outputs,
            run=real.run,
        )


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Providers:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    providers = Providers()
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers.here)
    monkeypatch.setattr(ort, "InferenceSession", providers.session)
    stems, backend = plugins.stems, plugins.backend

    def with_tensorrt(package: str, suffix: str = ".py") -> list[str]:
        return sorted({*stems(package, suffix), *(["tensorrt"] if package == "runtimes" else [])})

    def or_absent(name: str) -> Any:
        return Absent() if name == "tensorrt" else backend(name)

    monkeypatch.setattr(plugins, "stems", with_tensorrt)
    monkeypatch.setattr(plugins, "backend", or_absent)
    return providers


class Absent:
    """TensorRT where it is not installed."""

    name = "tensorrt"

    def availability(self) -> Availability:
        return Availability(ready=False, reason="tensorrt can not be imported", hint="flash it")


MakeBundle = Callable[..., Path]


@pytest.fixture
def make_bundle(tmp_path: Path, rounding: bytes) -> MakeBundle:
    """A bundle of the graph for these engines, the first chosen, with a golden for all."""

    def make(*engines: str, plan: BuildPlan | None = None, expected: float = 1.0) -> Path:
        parts = tmp_path / "parts"
        files = {"model.onnx": rounding, PLAN_FILE: msgspec.json.encode(plan or BuildPlan())}
        entries = tuple(
            FileEntry(name, hashlib.sha256(data).hexdigest(), len(data))
            for name, data in files.items()
        )
        variants = []
        for engine in engines:
            folder = parts / "variants" / f"{engine}-int8"
            folder.mkdir(parents=True)
            for name, data in files.items():
                (folder / name).write_bytes(data)
            variants.append(
                Variant(
                    id=f"{engine}-int8",
                    engine=engine,
                    precision="int8",
                    files=entries,
                    inputs=(X,),
                    outputs=(Y,),
                    options={"device": "gpu"} if engine == "tensorrt" else {},
                    requires={"tensorrt": ">=10.3"} if engine == "tensorrt" else {},
                    chosen=engine == engines[0],
                )
            )
        golden = Golden("goldens/i.npz", "goldens/e.npz", {v.id: {"y": 0.01} for v in variants})
        (parts / "goldens").mkdir()
        save_tensors(parts / "goldens/i.npz", {"x": np.full((1, 4), 1.1, np.float32)})
        save_tensors(parts / "goldens/e.npz", {"y": np.full((1, 4), expected, np.float32)})
        manifest = Manifest(
            schema=1,
            name="rounding",
            version="1",
            task="tensors",
            profile="jetson-orin-nano-8gb",
            source_sha256="0" * 64,
            variants=tuple(variants),
            goldens=(golden,),
        )
        return pack(manifest, parts, tmp_path / "rounding.edge")

    return make


def test_the_provider_for_tensorrt_is_second_choice_and_says_so(
    providers: Providers, make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    with edge.load(make_bundle("tensorrt", "onnxruntime")) as model:
        assert (model.variant.id, model.engine, model.is_fallback) == (
            "tensorrt-int8",
            "onnxruntime",
            True,
        )
        placement = model.placement
        assert (placement.requested, placement.actual) == ("tensorrt", "tensorrt")
        assert placement.shares == {TENSORRT: 1.0}
        assert placement.is_fallback
        assert placement.reason == (
            "onnxruntime stands in for tensorrt: "
            "tensorrt is not available: tensorrt can not be imported"
        )
        assert model.choice.endswith("onnxruntime runs tensorrt-int8 on tensorrt")
        assert all(result.passed for result in model.verify_goldens())
    assert [name for name, _ in providers.asked[0]] == [TENSORRT, CUDA, CPU]
    assert "tensorrt can not be imported" in caplog.text


def test_the_provider_gets_our_cache_and_what_the_plan_says(
    providers: Providers, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    plan = BuildPlan(workspace_bytes=2 * GIB, flags=("int8", "fp16", "fp8"))
    with edge.load(make_bundle("tensorrt", plan=plan)):
        pass
    ((_, options), *others) = providers.asked[0]
    cache = tmp_path / "cache/edge/engines/onnxruntime"
    assert Path(options.pop("trt_engine_cache_path")).parent == cache
    assert options == {
        "trt_engine_cache_enable": "True",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(cache),
        "trt_max_workspace_size": str(2 * GIB),
        "trt_int8_enable": "True",
        "trt_fp16_enable": "True",
    }
    assert cache.is_dir()
    assert others == [(CUDA, {}), (CPU, {})]


def test_the_providers_workspace_is_bounded_where_the_plan_says_nothing(
    providers: Providers, make_bundle: MakeBundle
) -> None:
    with edge.load(make_bundle("tensorrt")):
        pass
    (_, options) = providers.asked[0][0]
    assert options["trt_max_workspace_size"] == str(GIB)  # an eighth of a Nano's memory
    assert "trt_int8_enable" not in options


@pytest.mark.parametrize("how", ["broken", "dropped"])
def test_a_provider_that_does_not_start_gives_way_to_the_next(
    how: str, providers: Providers, make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    getattr(providers, how).add(TENSORRT)
    with edge.load(make_bundle("tensorrt", "onnxruntime")) as model:
        assert (model.engine, model.placement.actual) == ("onnxruntime", "cuda")
        assert model.variant.id == "tensorrt-int8"
        assert model.placement.precision == "float"
    (warning,) = caplog.records
    assert warning.getMessage().endswith("onnxruntime runs tensorrt-int8 on cuda")


@pytest.mark.parametrize("how", ["broken", "dropped", "absent"])
def test_an_ordinary_variant_on_the_cpu_comes_before_a_stand_in_there(
    how: str, providers: Providers, make_bundle: MakeBundle
) -> None:
    if how == "absent":
        providers.here = [CPU]
    else:
        getattr(providers, how).update((TENSORRT, CUDA))
    with edge.load(make_bundle("tensorrt", "onnxruntime")) as model:
        assert (model.variant.id, model.placement.actual) == ("onnxruntime-int8", "cpu")
        assert model.is_fallback


def test_the_cpu_stands_in_where_nothing_else_runs(
    providers: Providers, make_bundle: MakeBundle
) -> None:
    providers.here = [CPU]
    path = make_bundle("tensorrt")
    with edge.load(path) as model:
        placement = model.placement
        assert (placement.requested, placement.actual) == ("tensorrt", "cpu")
        assert placement.precision == "fp32"  # the pairs run as they are written
        answer = model.infer({"x": np.array([[0.7, -0.7, 9.0, 0.1]], np.float32)})["y"]
        assert answer.tolist() == [[0.5, -0.5, 9.0, 0.0]]
    with pytest.raises(UnavailableError, match="fallback is denied"):
        edge.load(path, fallback="deny")
    with pytest.raises(UnavailableError, match="can not be imported") as caught:
        edge.load(path, engine="tensorrt")
    assert caught.value.hint == "flash it"


def wait_for_builds() -> None:
    for thread in threading.enumerate():
        if thread.name == "edge-build":
            thread.join(LONG_S)


def test_a_stand_in_that_answers_wrongly_does_not_serve(
    providers: Providers, make_bundle: MakeBundle
) -> None:
    with edge.Runtime(make_bundle("tensorrt", expected=3.0)) as runtime:
        runtime.load_all()
        wait_for_builds()
        (status,) = runtime.status()
        assert status.state == "failed"
        assert "does not answer as the source model did" in status.reason


def test_the_provider_builds_in_the_background_while_the_next_one_serves(
    providers: Providers, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its engine takes minutes, like any other."""
    begun, go = threading.Event(), threading.Event()
    make = providers.session

    def build_slowly(path: str, options: Any, **given: Any) -> Any:
        if given["providers"][0][0] == TENSORRT:
            begun.set()
            assert go.wait(LONG_S)
        return make(path, options, **given)

    monkeypatch.setattr(ort, "InferenceSession", build_slowly)
    with edge.Runtime(make_bundle("tensorrt", "onnxruntime")) as runtime:
        model = runtime.model("rounding")
        assert begun.wait(LONG_S)
        (status,) = runtime.status()
        assert (status.state, status.variant, status.engine) == (
            "ready",
            "tensorrt-int8",
            "onnxruntime",
        )
        assert status.placement is not None
        assert (status.placement.requested, status.placement.actual) == ("tensorrt", "cuda")
        assert status.reason == "tensorrt-int8 is being built: 0 % (opening)"
        go.set()
        wait_for_builds()
        assert model.placement.actual == "tensorrt"
        assert runtime.status()[0].is_fallback


def test_an_ordinary_variant_whose_provider_breaks_runs_on_the_cpu_and_says_why(
    providers: Providers, make_bundle: MakeBundle
) -> None:
    providers.broken.add(CUDA)
    with edge.load(make_bundle("onnxruntime"), options={"device": "cuda"}) as model:
        assert (model.placement.requested, model.placement.actual) == ("cuda", "cpu")
        assert "no CUDA-capable device is detected" in model.placement.reason
        assert model.is_fallback


def test_what_another_engine_was_told_is_not_for_this_one(
    providers: Providers, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """A variant's own device, ``gpu``, is one that ONNX Runtime does not have."""
    make_bundle("tensorrt")
    folder = tmp_path / "parts/variants/tensorrt-int8"
    with open_bundle(tmp_path / "rounding.edge") as bundle:
        (variant,) = bundle.manifest.variants
    session: Session = backend.BACKEND.open(variant, folder, load_profile("host"))
    assert session.placement.actual == "cpu"
