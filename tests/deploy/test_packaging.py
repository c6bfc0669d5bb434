"""The units as systemd reads them, and the Debian package as dpkg installs it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edge.deploy.ondevice.layout import Layout
from edge.deploy.overlay import UNITS, unit
from edge.deploy.wheels import Target, Wheelhouse

ROOT = Path(__file__).parents[2]
MOST_EXPOSED = 3.0  # of 10, as systemd-analyze security counts; 9.6 is a service with no hardening
OVERLAY = """
set -e
mount -t tmpfs none {folder}
mkdir {folder}/upper {folder}/work {folder}/root
mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work {folder}/root
mount -t proc proc {folder}/root/proc
mount --bind /dev {folder}/root/dev
cp {package} {folder}/root/package.deb
exec chroot {folder}/root sh -e -c '
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
dpkg -i /package.deb >&2
edge --version
id -un edge
test -L /etc/systemd/system/multi-user.target.wants/edge.service
dpkg -P edge-runtime >&2
test ! -e /usr/lib/edge-runtime
'
"""


@pytest.fixture(scope="module")
def packaging() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_deb", ROOT / "packaging/build_deb.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def units(tmp_path: Path, packaging: ModuleType) -> list[Path]:
    """All units, with programs at the places that they name."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    layout = Layout(base=str(tmp_path / "edge"))
    texts = {name: unit(name, layout).decode() for name in UNITS}
    packaged = packaging.unit_text().replace("/usr/lib/edge-runtime", str(tmp_path / "package"))
    python = tmp_path / "edge/current/runtime/bin/python"
    for path in (python, tmp_path / "package/venv/bin/python"):
        path.parent.mkdir(parents=True)
        path.symlink_to("/bin/true")
    paths = [tmp_path / name for name in texts]
    for path in paths:
        path.write_text(texts[path.name])
    (tmp_path / "packaged").mkdir()
    other = tmp_path / "packaged/edge.service"
    other.write_text(packaged)
    return [*paths, other]


def test_systemd_has_nothing_to_say_of_the_units(units: list[Path]) -> None:
    for path in units:
        command = ["systemd-analyze", "verify", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        told = [line for line in done.stderr.splitlines() if path.parent.as_posix() in line]
        assert (done.returncode, told) == (0, []), done.stderr


def test_the_service_is_hardened(units: list[Path]) -> None:
    for path in (one for one in units if one.name == "edge.service"):
        command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
        assert found is not None, done.stderr
        assert float(found[1]) <= MOST_EXPOSED


def test_nothing_of_the_service_closes_the_way_to_a_gpu_or_npu() -> None:
    text = unit("edge.service", Layout()).decode()
    keys = {line.partition("=")[0] for line in text.splitlines() if not line.startswith("#")}
    assert not keys & {
        *("PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow"),
        "MemoryDenyWriteExecute",
    }


@pytest.fixture
def package(packaging: ModuleType, wheelhouse: Callable[..., Wheelhouse], tmp_path: Path) -> Path:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb")
    python = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    path: Path = packaging.build(wheelhouse((), Target(python, "x86_64", "2.36")), "all", tmp_path)
    return path


def test_the_package_holds_wheels_a_unit_and_settings(package: Path) -> None:
    done = subprocess.run(["dpkg-deb", "-c", str(package)], capture_output=True, text=True)
    for name in (
        "./lib/systemd/system/edge.service",
        "./etc/edge/edge.toml",
        "./usr/bin/edge",
        "./usr/lib/edge-runtime/wheels/edge_runtime-0.1.0-py3-none-any.whl",
    ):
        assert f" {name}\n" in done.stdout
    assert {line.split()[1] for line in done.stdout.splitlines()} == {"root/root"}


@pytest.mark.slow
def test_dpkg_installs_it_without_a_network_and_takes_it_off(package: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folder = tmp_path / "system"
    folder.mkdir()
    script = OVERLAY.format(folder=folder, package=package)
    command = ["unshare", "--mount", "--net", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True)
    if "overlay" in done.stderr and "mount" in done.stderr:
        pytest.skip(f"needs overlayfs: {done.stderr}")
    assert (done.returncode, done.stdout.split()) == (0, ["edge", "0.1.0", "edge"]), done.stderr
