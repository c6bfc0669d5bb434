"""What the benchmark of deployments brings, and how."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests/fakes" / name) for name in ("systemd", "machine")]

from ssh_device import Device  # noqa: E402

from edge.bundle import pack, save_tensors  # noqa: E402
from edge.core.manifest import FileEntry, Golden, Manifest, Variant  # noqa: E402
from edge.core.tensor import TensorSpec  # noqa: E402
from edge.deploy.release import read_bundles, read_settings  # noqa: E402
from edge.deploy.rollout import Depot, Order, Outcome, deploy  # noqa: E402

MODEL_BYTES = 10_000_000
SIDE = int((MODEL_BYTES / 4) ** 0.5)


def make_model(seed: int) -> bytes:
    """A graph with 10 MB of weights, other ones for each seed."""
    import onnx

    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(seed).standard_normal((SIDE, SIDE)).astype(np.float32)
    graph = make.make_graph(
        [make.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [make.make_tensor_value_info("x", kind, ["batch", SIDE])],
        [make.make_tensor_value_info("y", kind, ["batch", SIDE])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opsets = [make.make_opsetid("", 17)]
    data: bytes = make.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


def make_bundle(folder: Path, version: int) -> Path:
    """With a golden that ONNX Runtime answers right."""
    import onnxruntime

    model = make_model(version)
    parts = folder / f"parts-{version}"
    place, golden = parts / "variants/onnxruntime-fp32", parts / "goldens/0"
    place.mkdir(parents=True)
    golden.mkdir(parents=True)
    (place / "model.onnx").write_bytes(model)
    feeds = {"x": np.ones((1, SIDE), np.float32)}
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    save_tensors(golden / "inputs.npz", feeds)
    save_tensors(golden / "expected.npz", {"y": session.run(["y"], feeds)[0]})
    variant = Variant(
        id="onnxruntime-fp32",
        engine="onnxruntime",
        precision="fp32",
        files=(FileEntry("model.onnx", hashlib.sha256(model).hexdigest(), len(model)),),
        inputs=(TensorSpec("x", "float32", ("batch", SIDE)),),
        outputs=(TensorSpec("y", "float32", ("batch", SIDE)),),
        chosen=True,
    )
    manifest = Manifest(
        schema=1,
        name="m",
        version=str(version),
        task="tensors",
        profile="host",
        source_sha256=hashlib.sha256(model).hexdigest(),
        variants=(variant,),
        goldens=(
            Golden("goldens/0/inputs.npz", "goldens/0/expected.npz", {variant.id: {"y": 1e-2}}),
        ),
    )
    return pack(manifest, parts, folder / f"m-{version}.edge")


def settings_for(device: Device, folder: Path, more: str = "") -> Path:
    path = folder / f"{device.folder.name}.toml"
    path.write_text(f'[serve]\nhttp = "{device.http}"\n{more}')
    return path


def bring(
    devices: list[Device], bundle: Path, config: Path | None, wheels: Callable[..., Any]
) -> list[Outcome]:
    """To all devices at once, through one ssh_config."""
    text = "\n".join(device.config.read_text() for device in devices)
    merged = devices[0].folder / "all_hosts"
    merged.write_text(text)
    order = Order(
        read_bundles([bundle]),
        read_settings(config) if config else None,
        ssh_options=("-F", str(merged)),
        parallel=len(devices),
    )
    names = [device.name for device in devices]
    outcomes = deploy(order, names, lambda *_: None, Depot(order, wheels))
    for outcome in outcomes:
        if outcome.state != "done":
            raise SystemExit(str(outcome))
    return outcomes


def stand_in_wheels(folder: Path) -> Callable[..., Any]:
    """The stand-in for all packages that the tests use: it leads to this checkout."""
    spec = importlib.util.spec_from_file_location("conftest", ROOT / "tests/deploy/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wheels: Callable[..., Any] = module.checkout_wheels(folder)
    return wheels
