"""Device profiles: what this project knows of a device, as data."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import msgspec

from edge.core import plugins
from edge.core.errors import ProfileError

PACKAGE = "device_profiles"


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``arch`` as ``platform.machine()`` says it; ``probed`` fills it in on the machine itself."""

    title: str
    arch: str = ""
    family: str = "generic"
    probed: bool = False


class Software(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Versions and version ranges on the device (``">=10.3,<10.4"``); empty when unknown."""

    jetpack: str = ""
    l4t: str = ""
    ubuntu: str = ""
    python: str = ""
    cuda: str = ""
    cudnn: str = ""
    tensorrt: str = ""
    npu_driver: str = ""


class Compute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Engines on the chip and the dense peak rate per engine and precision, in 1e12 op/s."""

    engines: tuple[str, ...] = ("cpu",)
    cpu: str = ""
    cores: int = 0
    sm: str = ""
    peak_tops: dict[str, dict[str, float]] = {}


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes of memory, and how fast they come. 0 where it depends on the machine."""

    bytes: int = 0
    unified: bool = False
    gb_per_s: float = 0.0
    os_bytes: int = 0


class Onnx(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Highest opset and IR version that the device's runtime takes."""

    opset: int
    ir: int


class Precision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Precisions that are legal on the device, and the order in which to prefer them."""

    legal: tuple[str, ...]
    preference: tuple[str, ...] = ()


class Shapes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    static: bool = False


class Runtimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Engines in the order of preference, and options for each."""

    order: tuple[str, ...]
    options: dict[str, dict[str, Any]] = {}


class Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    modes: tuple[str, ...] = ()
    idle_watts: float = 0.0
    peak_watts: float = 0.0
    rails: tuple[str, ...] = ()


class Flash(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    board: str = ""
    storage: tuple[str, ...] = ()
    image: str = ""


class DeviceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One device. ``sources`` names, by section or ``section.key``, where a fact came from."""

    name: str
    device: Device
    onnx: Onnx
    precision: Precision
    runtimes: Runtimes
    software: Software = Software()
    compute: Compute = Compute()
    memory: Memory = Memory()
    shapes: Shapes = Shapes()
    power: Power = Power()
    flash: Flash = Flash()
    sources: dict[str, str] = {}


def profile_names() -> list[str]:
    """Names of all profiles, sorted."""
    return plugins.stems(PACKAGE, ".toml")


def load_profile(name: str) -> DeviceProfile:
    """Read the profile ``name``; a probed one is completed with what this machine says.

    Raises:
        ProfileError: There is no such profile, or its file is not valid.
    """
    known = profile_names()
    if name not in known:
        raise ProfileError(f"no device profile named {name!r}", hint=_suggestion(name, known))
    try:
        profile = msgspec.convert({"name": name, **_tables(name)}, DeviceProfile)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ProfileError(f"device profile {name}: {error}") from error
    return _probe(profile) if profile.device.probed else profile


def _suggestion(name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else "list them with: edge profiles"


def _tables(name: str) -> dict[str, Any]:
    """The raw tables of a profile, laid over those of the one that it ``extends``."""
    tables: dict[str, Any] = msgspec.toml.decode(_path(name).read_bytes())
    base = tables.pop("extends", None)
    return tables if base is None else _overlay(_tables(base), tables)


def _overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if nested else value
    return merged


def _path(name: str) -> Path:
    for folder in plugins.folders(PACKAGE):
        path = folder / f"{name}.toml"
        if path.is_file():
            return path
    raise ProfileError(f"no file {name}.toml in {PACKAGE}")


def _probe(profile: DeviceProfile) -> DeviceProfile:
    replace = msgspec.structs.replace
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return replace(
        profile,
        device=replace(profile.device, arch=platform.machine()),
        compute=replace(profile.compute, cpu=_cpu_title(), cores=cores or 1),
        memory=replace(profile.memory, bytes=total),
    )


def _cpu_title(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        text = cpuinfo.read_text()
    except OSError:
        return platform.processor()
    found = [
        line.partition(":")[2].strip() for line in text.splitlines() if line[:10] == "model name"
    ]
    return found[0] if found else platform.processor() or platform.machine()
