"""Devices to deploy to, and what is brought to them."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import LONG_S
from ssh_device import Device, needs

from edge.bundle import pack, save_tensors
from edge.core.manifest import FileEntry, Golden, Manifest, Variant
from edge.core.tensor import TensorSpec
from edge.deploy.release import read_bundles, read_settings
from edge.deploy.rollout import Depot, Order, Outcome, Report, deploy
from edge.deploy.wheels import Wheelhouse

ROOT = Path(__file__).parents[2]
INPUTS = (TensorSpec("x", "float32", ("batch", 2)),)
MakeBundle = Callable[..., Path]
Bring = Callable[..., Outcome]
OUTPUTS = (TensorSpec("y", "float32", ("batch", 3)),)


@pytest.fixture
def make_device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Device]]:
    """Make and boot devices with empty disks."""
    if reason := needs():
        pytest.skip(reason)
    devices: list[Device] = []

    def make(name: str = "device", disk: Path | None = None) -> Device:
        device = Device(tmp_path_factory.mktemp(name, numbered=True), name)
        device.make(disk)
        devices.append(device)
        device.boot()
        return device

    yield make
    for device in devices:
        device.cut_power()


@pytest.fixture
def device(make_device: Callable[[], Device]) -> Device:
    return make_device()


@pytest.fixture
def served(
    make_device: Callable[..., Device],
    bring: Bring,
    make_bundle: MakeBundle,
    settings: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Device:
    """A device that serves version 1, installed over SSH the first time this is asked for."""
    disk = tmp_path_factory.getbasetemp() / "served-disk"
    if not disk.exists():
        first = make_device()
        assert bring(first, make_bundle("1"), config=settings(first)).state == "done"
        first.cut_power()
        disk.mkdir()
        first.copy_to(disk)
    return make_device(disk=disk)


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Wheelhouse]:
    return checkout_wheels(tmp_path_factory.mktemp("wheels"))


def checkout_wheels(folder: Path) -> Callable[..., Wheelhouse]:
    """A real pip, and a wheel that stands for this project: it leads to this checkout."""
    own = folder / "edge_runtime-0.1.0-py3-none-any.whl"
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    _write_wheel(own, {"edge_checkout.pth": f"{ROOT}\n{packages}\n"})
    pip = next(_pip_wheels(folder), None)
    if pip is None:
        pytest.skip("needs a wheel of pip: Python's own, the system's, or one from the network")
    return lambda extras, target: Wheelhouse(target, (own, pip), 1_000_000)


def _pip_wheels(folder: Path) -> Iterator[Path]:
    """Debian has taken Python's own away from Python."""
    import ensurepip

    system = sysconfig.get_config_var("WHEEL_PKG_DIR")
    known = [Path(ensurepip.__file__).parent / "_bundled", *([Path(system)] if system else [])]
    for place in known:
        yield from place.glob("pip-*.whl")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "pip"]
    subprocess.run([*command, "--dest", str(folder)], capture_output=True, check=False)
    yield from folder.glob("pip-*.whl")


def _write_wheel(path: Path, files: dict[str, str]) -> None:
    info = "edge_runtime-0.1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: edge-runtime\nVersion: 0.1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{name},sha256={digest.decode()},{len(text)}\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(name, text)


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Pack a bundle for the null engine, which answers zeros: right unless told otherwise."""

    def make(version: str = "1", *, name: str = "m", answer: float = 0.0, **fields: Any) -> Path:
        parts = tmp_path / f"parts-{name}-{version}"
        place = parts / "goldens" / "0"
        place.mkdir(parents=True)
        save_tensors(place / "inputs.npz", {"x": np.ones((1, 2), np.float32)})
        save_tensors(place / "expected.npz", {"y": np.full((1, 3), answer, np.float32)})
        variant: dict[str, Any] = {"id": "null-fp32", "engine": "null", "precision": "fp32"}
        variant |= {"files": (), "inputs": INPUTS, "outputs": OUTPUTS}
        variant |= fields.pop("variant", {})
        files = _notes(parts, fields.pop("notes_bytes", 0))
        golden = Golden(
            "goldens/0/inputs.npz", "goldens/0/expected.npz", {variant["id"]: {"y": 1e-4}}
        )
        given = {"task": "tensors", "profile": "host", "source_sha256": "0" * 64, **fields}
        manifest = Manifest(
            schema=1,
            name=name,
            version=version,
            variants=(Variant(**variant),),
            goldens=(golden,),
            files=files,
            **given,
        )
        return pack(manifest, parts, tmp_path / f"{name}-{version}.edge")

    return make


def _notes(parts: Path, size: int) -> tuple[FileEntry, ...]:
    """A file that makes a bundle as large as wanted."""
    if not size:
        return ()
    data = np.random.default_rng(size).bytes(size)
    (parts / "report").mkdir()
    (parts / "report/report.html").write_bytes(data)
    return (FileEntry("report/report.html", hashlib.sha256(data).hexdigest(), size),)


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Path]:
    """The settings of a device, looking at its folder often."""

    def write(device: Device, more: str = "", watch_s: float = 0.1) -> Path:
        path = tmp_path / f"edge-{device.name}.toml"
        path.write_text(f'[serve]\nhttp = "{device.http}"\nwatch_s = {watch_s}\n{more}')
        return path

    return write


@pytest.fixture
def bring(wheelhouse: Callable[..., Wheelhouse], settings: Callable[..., Path]) -> Bring:
    """Deploy bundles to one device."""

    def act(
        device: Device,
        *bundles: Path,
        config: Path | None = None,
        report: Report = lambda *_: None,
        **fields: Any,
    ) -> Outcome:
        order = Order(
            bundles=read_bundles(bundles),
            settings=read_settings(config) if config else None,
            ssh_options=("-F", str(device.config)),
            **{"timeout_s": LONG_S, **fields},
        )
        (outcome,) = deploy(order, [device.name], report, Depot(order, wheelhouse))
        return outcome

    return act
