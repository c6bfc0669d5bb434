"""What this device is and has: what a release's requirements are compared with."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
from typing import Any

from .durable import read_json
from .layout import Layout

_PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(10, 20)))
_TEGRA_SM = {"tegra194": "72", "tegra234": "87", "tegra264": "110"}
"""By the chip's name in the device tree, as no tool on a Jetson says it before CUDA is used."""

_TENSORRT = ("python3-libnvinfer", "libnvinfer11", "libnvinfer10", "libnvinfer8")
_NPU_DRIVER = ("intel-level-zero-npu",)
"""Debian packages that a version is known by, the first that is there."""

# Of an interpreter: its version if an environment can be made with it, and whether pycuda is there.
_OF_PYTHON = """
import sys
from importlib.util import find_spec
is_ours = sys.implementation.name == "cpython" and "t" not in sys.abiflags and find_spec("venv")
version = "%d.%d" % sys.version_info[:2] if is_ours else ""
has_pycuda = find_spec("pycuda") is not None
"""


def gather(layout: Layout) -> dict[str, Any]:
    """Names as a variant's ``requires`` and a profile's ``[software]`` use them, and more."""
    root = layout.root
    found = pythons()
    packages = _packages(*_TENSORRT, *_NPU_DRIVER)
    return {
        "hostname": os.uname().nodename,
        "arch": os.uname().machine,
        "system": _system_title(root),
        "board": _read(root, "proc/device-tree/model").strip("\0\n "),
        "glibc": _glibc(),
        "pythons": found,
        "l4t": _l4t(_read(root, "etc/nv_tegra_release")),
        "cuda": _cuda(root),
        "tensorrt": _first(_TENSORRT, packages),
        "sm": _sm(root),
        "npu_driver": _npu_driver(root, _first(_NPU_DRIVER, packages)),
        "has_pycuda": _has_pycuda(found),
        "memory_bytes": _memory(root, "MemTotal"),
        "free_memory_bytes": _memory(root, "MemAvailable"),
        "free_disk_bytes": _free_disk(layout.base),
        "can_write": os.access(_existing(layout.base), os.W_OK),
        "has_systemd": os.path.isdir(os.path.join(root, "run/systemd/system")),
        "init": _read(root, "proc/1/comm").strip(),
    }


def existing(layout: Layout) -> dict[str, Any]:
    """The release that is installed; empty values where there is none."""
    return {
        "release": read_json(os.path.join(layout.current, "release.json")),
        "previous": read_json(os.path.join(layout.previous, "release.json")),
        "pending": read_json(layout.pending),
    }


def output(*command: str) -> str:
    """What a program prints; empty if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _read(root: str, path: str) -> str:
    try:
        with open(os.path.join(root, path), errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _system_title(root: str) -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read(root, "etc/os-release"), re.MULTILINE)
    return found[1] if found else os.uname().sysname


def _glibc() -> str:
    """As 2.35; empty where the C library is another one, which manylinux wheels do not fit."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return ""
    return version if name == "glibc" else ""


def pythons() -> list[dict[str, Any]]:
    """CPythons to make an environment of, which the service's user may run as well."""
    known = set()
    found: dict[str, dict[str, Any]] = {}
    for name in (sys.executable, *_PYTHONS):
        path = shutil.which(name)
        if path is None or os.path.realpath(path) in known or not _is_for_all(path):
            continue
        known.add(os.path.realpath(path))
        python = _asked(path)
        if python["version"]:
            found.setdefault(python["version"], python)
    return list(found.values())


def _asked(path: str) -> dict[str, Any]:
    """What an interpreter says of itself; this one, which is mostly all there is, at no cost."""
    said: dict[str, Any] = {"version": "", "has_pycuda": False}
    if path == sys.executable:
        exec(_OF_PYTHON, said)
    else:
        text = output(path, "-I", "-c", f"{_OF_PYTHON}print(has_pycuda, version)")
        answer, _, said["version"] = text.partition(" ")
        said["has_pycuda"] = answer == "True"
    return {"version": said["version"], "has_pycuda": said["has_pycuda"], "path": path}


def _is_for_all(path: str) -> bool:
    """Whether another user may run it: not one in somebody's home folder."""
    path = os.path.realpath(path)
    while path != "/":
        if not os.stat(path).st_mode & 0o001:
            return False
        path = os.path.dirname(path)
    return True


def _l4t(text: str) -> str:
    """``# R36 (release), REVISION: 4.3`` is 36.4.3."""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else ""


def _cuda(root: str) -> str:
    known = read_json(os.path.join(root, "usr/local/cuda/version.json"))
    if isinstance(known, dict):
        version = known.get("cuda", {}).get("version", "")
        return ".".join(str(version).split(".")[:2])
    for path in glob.glob(os.path.join(root, "usr/local/cuda*/lib*/libcudart.so.*.*.*")):
        found = re.search(r"so\.(\d+\.\d+)", path)
        if found:
            return found[1]
    return ""


def _packages(*names: str) -> dict[str, str]:
    """The versions of those that are installed."""
    command = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n", *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    # It fails where one is unknown, and has told of the others.
    found = (line.split(" ") for line in done.stdout.splitlines())
    return {name: version for state, name, version in found if state == "installed"}


def _first(names: tuple[str, ...], packages: dict[str, str]) -> str:
    for name in names:
        found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)+)", packages.get(name, ""))
        if found:
            return found[1]
    return ""


def _sm(root: str) -> str:
    chip = re.search(r"nvidia,(tegra\d+)", _read(root, "proc/device-tree/compatible"))
    if chip:
        return _TEGRA_SM.get(chip[1], "")
    answer = output("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    return answer.splitlines()[0].replace(".", "") if answer else ""


def _npu_driver(root: str, package: str) -> str:
    """The version of the user-space driver, or of the kernel's; empty without an NPU."""
    if not os.path.isdir(os.path.join(root, "sys/module/intel_vpu")):
        return ""
    kernel = _read(root, "sys/module/intel_vpu/version").strip()
    return package or kernel or "unknown"


def _has_pycuda(found: list[dict[str, Any]]) -> bool:
    """Whether the interpreter has it that an environment would see the packages of."""
    fitting = [python for python in found if python["version"] not in ("3.8", "3.9")]
    return bool(fitting) and bool(fitting[0]["has_pycuda"])


def _memory(root: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _read(root, "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _existing(path: str) -> str:
    """The nearest folder above that is there."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def _free_disk(path: str) -> int:
    known = os.statvfs(_existing(path))
    return known.f_bavail * known.f_frsize
