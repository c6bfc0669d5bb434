"""What a deployment costs: pauses of the service while it switches, and many hosts at once.

    python benchmarks/deploy.py            # as root, with sshd: devices are namespaces here

The devices share this machine's cores, disk and loopback link: a fleet has its own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests/fakes" / name) for name in ("machine", "systemd")]

from ssh_device import Device, needs  # noqa: E402

from edge.bundle import pack, save_tensors  # noqa: E402
from edge.core.manifest import FileEntry, Golden, Manifest, Variant  # noqa: E402
from edge.core.tensor import TensorSpec  # noqa: E402
from edge.deploy.release import read_bundles, read_settings  # noqa: E402
from edge.deploy.rollout import Depot, Order, Outcome, deploy  # noqa: E402

MODEL_BYTES = 10_000_000
ROUNDS = 5
HOSTS = 20
RESULTS = Path(__file__).parent / "results" / "deploy.json"


def make_model(seed: int) -> bytes:
    """A graph with 10 MB of weights, other ones for each seed."""
    import onnx

    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    side = int((MODEL_BYTES / 4) ** 0.5)
    weights = np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)
    graph = make.make_graph(
        [make.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [make.make_tensor_value_info("x", kind, ["batch", side])],
        [make.make_tensor_value_info("y", kind, ["batch", side])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opsets = [make.make_opsetid("", 17)]
    data: bytes = make.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


def make_bundle(folder: Path, version: int) -> Path:
    """With a golden that ONNX Runtime answers right."""
    import onnxruntime

    model = make_model(version)
    side = int((MODEL_BYTES / 4) ** 0.5)
    parts = folder / f"parts-{version}"
    place, golden = parts / "variants/onnxruntime-fp32", parts / "goldens/0"
    place.mkdir(parents=True)
    golden.mkdir(parents=True)
    (place / "model.onnx").write_bytes(model)
    feeds = {"x": np.ones((1, side), np.float32)}
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    save_tensors(golden / "inputs.npz", feeds)
    save_tensors(golden / "expected.npz", {"y": session.run(["y"], feeds)[0]})
    variant = Variant(
        id="onnxruntime-fp32",
        engine="onnxruntime",
        precision="fp32",
        files=(FileEntry("model.onnx", hashlib.sha256(model).hexdigest(), len(model)),),
        inputs=(TensorSpec("x", "float32", ("batch", side)),),
        outputs=(TensorSpec("y", "float32", ("batch", side)),),
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


@contextmanager
def client(device: Device) -> Iterator[dict[str, Any]]:
    """Infers without a pause, a connection each; gives the longest wait and what failed."""
    side = int((MODEL_BYTES / 4) ** 0.5)
    data = [{"name": "x", "shape": [1, side], "datatype": "FP32", "data": [1.0] * side}]
    body = json.dumps({"inputs": data}).encode()
    told: dict[str, Any] = {"answers": 0, "failures": [], "longest_ms": 0.0}
    done = threading.Event()

    def infer() -> None:
        last = time.monotonic()
        while not done.is_set():
            try:
                request = urllib.request.Request(f"http://{device.http}/v2/models/m/infer", body)
                with urllib.request.urlopen(request, timeout=30) as answer:
                    answer.read()
            except OSError as error:
                told["failures"].append(str(error))
                continue
            now = time.monotonic()
            told["longest_ms"] = max(told["longest_ms"], (now - last) * 1000)
            told["answers"] += 1
            last = now

    thread = threading.Thread(target=infer)
    thread.start()
    try:
        yield told
    finally:
        done.set()
        thread.join()


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


def measure_switch(device: Device, folder: Path, wheels: Callable[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    version = 1
    for how in ("live", "restart"):
        rounds = []
        for number in range(ROUNDS):
            version += 1
            more = f"drain_s = {10 + number}\n"
            config = settings_for(device, folder, more) if how == "restart" else None
            with client(device) as told:
                (outcome,) = bring([device], make_bundle(folder, version), config, wheels)
                time.sleep(0.5)
            if outcome.takeover != how:
                raise SystemExit(f"{outcome.takeover} instead of {how}")
            rounds.append({**told, "failures": len(told["failures"])})
        longest = [one["longest_ms"] for one in rounds]
        found[how] = {
            "longest_wait_ms": {"median": statistics.median(longest), "max": max(longest)},
            "failures": sum(one["failures"] for one in rounds),
            "answers": sum(one["answers"] for one in rounds),
            "rounds": rounds,
        }
    return found


def measure_hosts(disk: Path, folder: Path, wheels: Callable[..., Any]) -> dict[str, Any]:
    """An update of one model to one host, and to all."""
    devices = []
    try:
        for number in range(HOSTS):
            place = folder / f"host{number}"
            place.mkdir()
            device = Device(place, f"host{number}")
            device.make(disk)
            device.boot()
            devices.append(device)
        for device in devices:
            while device.versions() != {"m": "1"}:
                time.sleep(0.1)
        seconds: dict[str, list[float]] = {"one": [], "all": []}
        cpu_s = []
        for number in range(3):
            for name, some in (("one", devices[:1]), ("all", devices)):
                bundle = make_bundle(folder, 100 + 2 * number + (name == "all"))
                before = _cpu_s()
                start = time.monotonic()
                bring(some, bundle, None, wheels)
                seconds[name].append(time.monotonic() - start)
                if name == "all":
                    cpu_s.append(_cpu_s() - before)
        one, every = (statistics.median(seconds[name]) for name in ("one", "all"))
        return {
            "hosts": HOSTS,
            "one_s": one,
            "all_s": every,
            "ratio": every / one,
            "workstation_cpu_s": statistics.median(cpu_s),
            "rounds": seconds,
        }
    finally:
        for device in devices:
            device.cut_power()


def _cpu_s() -> float:
    """Of this process and of the ssh that it started and that has ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, who))


def _wheels(folder: Path) -> Callable[..., Any]:
    """The stand-in for all packages that the tests use: it leads to this checkout."""
    spec = importlib.util.spec_from_file_location("conftest", ROOT / "tests/deploy/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wheels: Callable[..., Any] = module.checkout_wheels(folder)
    return wheels


def main() -> None:
    if reason := needs():
        raise SystemExit(reason)
    folder = Path(tempfile.mkdtemp(prefix="edge-deploy-"))
    wheels = _wheels(folder)
    device = Device(folder / "device", "device")
    device.folder.mkdir()
    try:
        device.make()
        device.boot()
        first = settings_for(device, folder)
        bring([device], make_bundle(folder, 1), first, wheels)
        device.cut_power()
        disk = folder / "disk"
        disk.mkdir()
        device.copy_to(disk)
        device.boot()
        while device.versions() != {"m": "1"}:
            time.sleep(0.1)
        switching = measure_switch(device, folder, wheels)
        device.cut_power()
        hosts = measure_hosts(disk, folder, wheels)
    finally:
        device.cut_power()
        shutil.rmtree(folder, ignore_errors=True)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    result = {"machine": machine, "model_bytes": MODEL_BYTES, "switch": switching, "hosts": hosts}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


def markdown(result: dict[str, Any]) -> str:
    rows = [
        f"| {how} | {wait['median']:.0f} ms | {wait['max']:.0f} ms "
        f"| {one['failures']} of {one['answers']:,} |"
        for how, one in result["switch"].items()
        for wait in [one["longest_wait_ms"]]
    ]
    hosts = result["hosts"]
    return "\n".join(
        [
            "# What a deployment costs",
            "",
            f"On {result['machine']}; made by `python benchmarks/deploy.py`. Devices are",
            "namespaces of this machine with an sshd each, and share its cores and its disk.",
            "",
            f"A client asks all the time while a model of {result['model_bytes'] / 1e6:.0f} MB is",
            f"replaced, {ROUNDS} times each. To reach: a pause of at most 1 s.",
            "",
            "| switch | longest wait, median | longest wait | failed |",
            "|---|---:|---:|---:|",
            *rows,
            "",
            f"{HOSTS} hosts at once: {hosts['all_s']:.1f} s, one alone {hosts['one_s']:.1f} s, so "
            f"{hosts['ratio']:.1f} times as long,",
            f"of which this side used {hosts['workstation_cpu_s']:.1f} s of a core. "
            "To reach: twice.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
