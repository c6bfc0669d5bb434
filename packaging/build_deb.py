"""Builds a Debian package: all wheels are in it, so that installing it needs no network.

python packaging/build_deb.py --arch arm64 --python 3.10 --extras onnxruntime,vision -o dist
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edge import __version__
from edge.deploy.ondevice.layout import SERVICE, Layout
from edge.deploy.overlay import unit
from edge.deploy.wheels import Target, Wheelhouse, collect

HERE = Path(__file__).parent
NAME = "edge-runtime"
HOME = Path("usr/lib") / NAME
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBC = {"3.10": "2.35", "3.11": "2.36", "3.12": "2.39", "3.13": "2.41"}
"""Of the releases of Debian and Ubuntu that have this Python."""

RUN_AS = {
    "@base@/current/runtime/bin/python": f"/{HOME}/venv/bin/python",
    "@base@/current/edge.toml": "/etc/edge/edge.toml",
    "@base@/current/models @base@/current/updates": "/var/lib/edge/models",
    "EDGE_UPDATE_FOLDER=@base@/current/updates": "EDGE_UPDATE_FOLDER=/var/lib/edge/models",
    """ExecStartPre=/bin/sh -c 'mkdir -p "$(readlink -m @base@/current/updates)"'\n""": "",
    "ConditionPathExists=@base@/current\n": "",
    "StateDirectory=edge\n": "StateDirectory=edge edge/models\n",
}
"""What differs from the unit that a deployment installs: one package instead of releases."""


def build(wheelhouse: Wheelhouse, architecture: str, into: Path) -> Path:
    """``edge-runtime_VERSION_ARCH.deb`` in ``into``."""
    target = into / f"{NAME}_{__version__}_{architecture}.deb"
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _lay_files(root, wheelhouse)
        _lay_control(root, wheelhouse, architecture)
        for path in [root, *root.rglob("*")]:  # whatever this user's umask is
            path.chmod(0o755 if path.is_dir() else path.stat().st_mode | 0o644)
        # The wheels are compressed: a better method takes minutes and gains nothing.
        command = [
            "dpkg-deb",
            "--root-owner-group",
            "-Zgzip",
            "-z1",
            "--build",
            str(root),
            str(target),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


def unit_text() -> str:
    """The service's unit, for what the package installs."""
    text = unit(SERVICE, Layout(base="@base@")).decode().replace("/@base@", "@base@")
    for ours, packaged in RUN_AS.items():
        if ours not in text:
            raise SystemExit(f"{SERVICE} has no {ours!r} any more: adapt {Path(__file__).name}")
        text = text.replace(ours, packaged)
    return text


def _lay_files(root: Path, wheelhouse: Wheelhouse) -> None:
    wheels = root / HOME / "wheels"
    wheels.mkdir(parents=True)
    for wheel in wheelhouse.wheels:
        shutil.copyfile(wheel, wheels / wheel.name)
    _write(root / "lib/systemd/system" / SERVICE, unit_text())
    _write(root / "usr/bin/edge", (HERE / "deb/edge").read_text(), 0o755)
    _write(root / "etc/edge/edge.toml", (HERE / "deb/edge.toml").read_text())
    documents = root / "usr/share/doc" / NAME
    _write(documents / "copyright", (HERE / "deb/copyright").read_text())
    change = (HERE / "deb/changelog").read_text().format(version=__version__)
    with gzip.GzipFile(documents / "changelog.gz", "wb", compresslevel=9, mtime=0) as stream:
        stream.write(change.encode())
    manual = root / "usr/share/man/man1/edge.1.gz"
    manual.parent.mkdir(parents=True)
    with gzip.GzipFile(manual, "wb", compresslevel=9, mtime=0) as stream:
        stream.write((HERE / "deb/edge.1").read_bytes())


def _lay_control(root: Path, wheelhouse: Wheelhouse, architecture: str) -> None:
    major, _, minor = wheelhouse.target.python.partition(".")
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    control = (
        (HERE / "deb/control")
        .read_text()
        .format(
            version=__version__,
            architecture=architecture,
            size=(size + wheelhouse.unpacked_bytes) // 1024,
            python=wheelhouse.target.python,
            next_python=f"{major}.{int(minor) + 1}",
        )
    )
    _write(root / "DEBIAN/control", control)
    _write(root / "DEBIAN/conffiles", "/etc/edge/edge.toml\n")
    for script in ("postinst", "prerm", "postrm"):
        text = (HERE / "deb" / script).read_text()
        _write(root / "DEBIAN" / script, text.replace("@python@", wheelhouse.target.python), 0o755)
    sums = ""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and name.parts[0] != "DEBIAN":
            done = subprocess.run(["md5sum", path], capture_output=True, text=True, check=True)
            sums += f"{done.stdout.split()[0]}  {name}\n"
    _write(root / "DEBIAN/md5sums", sums)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Build a Debian package that needs no network.")
    parser.add_argument("--arch", choices=sorted(ARCHITECTURES), default="amd64")
    parser.add_argument("--python", choices=sorted(GLIBC), default="3.11", help="of the system")
    parser.add_argument("--extras", default="onnxruntime,openvino,vision,sign")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="more wheels to choose from")
    parser.add_argument("-o", "--output", type=Path, default=Path("dist"), metavar="DIR")
    args = parser.parse_args(argv)
    target = Target(args.python, ARCHITECTURES[args.arch], GLIBC[args.python])
    wheelhouse = collect(args.extras.split(","), target, more=args.wheels)
    package = build(wheelhouse, args.arch, args.output)
    print(f"{package}  {package.stat().st_size / 1e6:.1f} MB, {len(wheelhouse.wheels)} wheels")


if __name__ == "__main__":
    main()
