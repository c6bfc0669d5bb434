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

import msgspec
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
cp -r {packages} {folder}/root/packages
mkdir -p {folder}/root/run/systemd/system {folder}/root/stub
printf '#!/bin/sh\\necho $* >> /calls\\n' > {folder}/root/stub/deb-systemd-invoke
chmod 755 {folder}/root/stub/deb-systemd-invoke
exec chroot {folder}/root sh -e -c '
export PATH=/stub:/usr/sbin:/usr/bin:/sbin:/bin
install() {{ dpkg -i /packages/edge-runtime_$1_all.deb >&2; }}
{steps}
'
"""
LIFE = """
install 0.1.0
edge --version
id -un edge
test -L /etc/systemd/system/multi-user.target.wants/edge.service
grep "restart edge.service" /calls

echo "# mine" >> /etc/edge/edge.toml
echo EDGE_MQTT_URL=mine > /etc/edge/environment
mkdir -p /var/lib/edge/models /var/cache/edge
touch /var/lib/edge/models/mine.edge
rm /calls
install 0.2.0
dpkg-query -s edge-runtime | grep ^Version
edge --version
tail -1 /etc/edge/edge.toml
cat /etc/edge/environment
ls /var/lib/edge/models
grep "restart edge.service" /calls

rm /calls
! install 0.3.0
edge --version
test ! -e /calls || ! grep restart /calls
install 0.2.0

dpkg -P edge-runtime >&2
test ! -e /usr/lib/edge-runtime
test ! -e /etc/edge
test ! -e /var/lib/edge
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
def build(
    packaging: ModuleType,
    wheelhouse: Callable[..., Wheelhouse],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[..., Path]:
    """Makes a package of a version; whatever that is, its program is this checkout's."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb")
    python = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
    ).stdout.strip()

    def make(version: str, *more: Path) -> Path:
        monkeypatch.setattr(packaging, "__version__", version)
        system = wheelhouse((), Target(python, "x86_64", "2.36"))
        with_more = msgspec.structs.replace(system, wheels=(*system.wheels, *more))
        path: Path = packaging.build(with_more, "all", tmp_path / "packages")
        return path

    return make


def test_the_package_holds_wheels_a_unit_and_settings(build: Callable[..., Path]) -> None:
    before = os.umask(0o077)
    try:
        package = build("0.1.0")
    finally:
        os.umask(before)
    done = subprocess.run(["dpkg-deb", "-c", str(package)], capture_output=True, text=True)
    for name in (
        "./lib/systemd/system/edge.service",
        "./etc/edge/edge.toml",
        "./usr/bin/edge",
        "./usr/lib/edge-runtime/wheels/edge_runtime-0.1.0-py3-none-any.whl",
    ):
        assert f" {name}\n" in done.stdout
    assert {line.split()[1] for line in done.stdout.splitlines()} == {"root/root"}
    modes = {line.split()[0] for line in done.stdout.splitlines()}
    assert modes == {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"}, "whatever the builder's umask is"


@pytest.mark.slow
def test_dpkg_installs_it_without_a_network_renews_it_and_takes_it_off(
    build: Callable[..., Path], tmp_path: Path
) -> None:
    """A new version keeps settings and models; one that can not be installed leaves the old one."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    broken = tmp_path / "broken-1.0-py3-none-any.whl"
    broken.write_bytes(b"no archive")
    build("0.1.0")
    build("0.2.0")
    packages = build("0.3.0", broken).parent
    folder = tmp_path / "system"
    folder.mkdir()
    script = OVERLAY.format(folder=folder, packages=packages, steps=LIFE)
    command = ["unshare", "--mount", "--net", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True)
    if "overlay" in done.stderr and "mount" in done.stderr:
        pytest.skip(f"needs overlayfs: {done.stderr}")
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        [
            *("edge 0.1.0", "edge", "restart edge.service"),
            *("Version: 0.2.0", "edge 0.1.0", "# mine", "EDGE_MQTT_URL=mine", "mine.edge"),
            *("restart edge.service", "edge 0.1.0"),
        ],
    ), done.stderr
