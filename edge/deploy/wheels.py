"""Collects on the workstation what a device installs without a network."""

from __future__ import annotations

import hashlib
import importlib.machinery
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from edge.core.cache import default_cache
from edge.core.errors import InputError, UnavailableError
from edge.core.lazy import DISTRIBUTION
from edge.core.manifest import Manifest
from edge.deploy.own_wheel import own_wheel
from edge.settings import Settings

_SYSTEM_PACKAGES = {"tensorrt": "pycuda"}
"""Engines that a device has from its own package manager, so that no wheel of them is sent; and
what each needs besides, of which the index has no wheel either."""

_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}  # of manylinux wheels, as 2.x
_LEGACY_TAGS = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}

# Of pip, whose --python-version chooses files but evaluates `python_version < "3.11"` by the
# interpreter that it runs in (https://github.com/pypa/pip/issues/11664): a dependency of 3.10 alone
# would be left out by a workstation with 3.11.
_PIP = """
import json, sys
target = json.loads(sys.argv.pop(1))
from pip._vendor.packaging import markers
here = markers.default_environment
markers.default_environment = lambda: {**here(), **target}
from pip._internal.cli.main import main
sys.exit(main())
"""


class Target(msgspec.Struct, frozen=True):
    """What wheels are for: ``python`` as ``3.10``, ``arch`` as uname says it, ``glibc`` as 2.35."""

    python: str
    arch: str
    glibc: str

    @property
    def platforms(self) -> list[str]:
        """Platform tags, those of the newest wheels first."""
        minor = int(self.glibc.split(".")[1])
        oldest = _OLDEST_GLIBC.get(self.arch, 17)
        tags = []
        for number in range(minor, oldest - 1, -1):
            tags.append(f"manylinux_2_{number}_{self.arch}")
            if number in _LEGACY_TAGS:
                tags.append(f"{_LEGACY_TAGS[number]}_{self.arch}")
        return [*tags, f"linux_{self.arch}"]

    @property
    def markers(self) -> dict[str, str]:
        """What conditions of dependencies (PEP 508) ask for."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "platform_machine": self.arch,
            "platform_system": "Linux",
            "sys_platform": "linux",
            "os_name": "posix",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }


class Wheelhouse(msgspec.Struct, frozen=True):
    """Wheels for one kind of device; ``unpacked_bytes`` is what they take there, installed."""

    target: Target
    wheels: tuple[Path, ...]
    unpacked_bytes: int
    has_system_packages: bool = False


def extras_for(manifests: Iterable[Manifest], settings: Settings) -> tuple[str, ...]:
    """The extras of this project that serve these bundles by these settings, sorted."""
    wanted = {"sign", *settings.mqtt.formats}  # who operates a device sends it signed bundles
    for manifest in manifests:
        wanted |= {variant.engine for variant in manifest.variants}
        wanted |= {"vision"} if manifest.image is not None else set()
    return tuple(sorted(wanted))


def collect(
    extras: Iterable[str],
    target: Target,
    *,
    more: Path | None = None,
    cache: Path | None = None,
    is_fresh: bool = False,
) -> Wheelhouse:
    """This project with those of ``extras`` that it has, and all that they need, for ``target``.

    What was collected once is taken from the cache, without a network, until ``is_fresh`` asks for
    newer versions; this project itself is always as it is here.

    Args:
        more: A folder of wheels to choose from besides those of the index.
    Raises:
        InputError: There is no wheel of some package for the target.
        UnavailableError: Wheels are missing and the index can not be reached.
    """
    own = own_wheel(cache)
    head = _metadata(own)
    wanted = sorted(set(extras) & set(re.findall(r"^Provides-Extra: (\S+)", head, re.MULTILINE)))
    from_index = [extra for extra in wanted if extra not in _SYSTEM_PACKAGES]
    of_user = [_SYSTEM_PACKAGES[extra] for extra in wanted if extra in _SYSTEM_PACKAGES]
    besides = [name for name in of_user if more and any(more.glob(f"{name}-*.whl"))]
    folder = (cache or default_cache()) / "wheels" / _key(head, from_index, target, more)
    if is_fresh:
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.is_dir():
        _download([_own_requirement(own, from_index), *besides], target, more, folder)
    others = [path for path in folder.glob("*.whl") if not _is_own(path)]
    wheels = sorted([*others, own], key=lambda path: path.name)
    return Wheelhouse(
        target=target,
        wheels=tuple(wheels),
        unpacked_bytes=sum(_unpacked_bytes(wheel) for wheel in wheels),
        has_system_packages=bool(of_user),
    )


def _metadata(wheel: Path) -> str:
    """What a wheel says of itself, without its description."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        return archive.read(name).decode().partition("\n\n")[0]


def _key(head: str, extras: list[str], target: Target, more: Path | None) -> str:
    """Another set of dependencies of ours is another key, another line of our code is not."""
    needs = sorted(line for line in head.splitlines() if line.startswith("Requires-Dist"))
    files = sorted((path.name, path.stat().st_size) for path in more.iterdir()) if more else []
    facts = (needs, extras, msgspec.to_builtins(target), files)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _own_requirement(own: Path, extras: list[str]) -> str:
    return f"{own}[{','.join(extras)}]" if extras else str(own)


def _download(wanted: list[str], target: Target, more: Path | None, folder: Path) -> None:
    # Not by importlib.util: setuptools hooks into that, and may warn of distutils.
    if importlib.machinery.PathFinder.find_spec("pip") is None:
        raise UnavailableError(
            "pip is not installed here, and it is what fetches wheels",
            hint=f"{sys.executable} -m ensurepip, or uv pip install pip",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        command = [sys.executable, "-c", _PIP, json.dumps(target.markers)]
        command += ["download", "--quiet", "--disable-pip-version-check", "--dest", name]
        command += ["--only-binary", ":all:", "--implementation", "cp"]
        command += ["--python-version", target.python]
        for platform in target.platforms:
            command += ["--platform", platform]
        command += ["--find-links", str(more)] if more else []
        done = subprocess.run(
            [*command, *wanted, "pip"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise _explained(done.stderr, target)
        Path(name).replace(folder)
        Path(name).mkdir()  # the context manager deletes it


def _explained(stderr: str, target: Target) -> InputError | UnavailableError:
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR")]
    reason = (lines or stderr.strip().splitlines() or ["pip failed"])[-1].removeprefix("ERROR: ")
    device = f"Python {target.python} on {target.arch} with glibc {target.glibc}"
    missing = re.search(r"No matching distribution found for (\S+)", stderr)
    if missing and not re.search(r"NewConnectionError|Temporary failure|ConnectTimeout", stderr):
        return InputError(
            f"there is no wheel of {missing[1]} for {device}",
            hint="build one on such a device (pip wheel) and name its folder with --wheels DIR",
        )
    return UnavailableError(
        f"wheels for {device} can not be fetched: {reason}",
        hint="run it once with a network, or name a folder that has them with --wheels DIR",
    )


def _is_own(path: Path) -> bool:
    return path.name.startswith(DISTRIBUTION.replace("-", "_") + "-")


def _unpacked_bytes(wheel: Path) -> int:
    with zipfile.ZipFile(wheel) as archive:
        return sum(entry.file_size for entry in archive.infolist())
