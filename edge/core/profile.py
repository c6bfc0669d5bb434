"""Device profiles: what this project knows of a device, as data."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge.core import plugins
from edge.core.errors import ProfileError

PACKAGE = "device_profiles"
PRECISIONS = ("fp32", "bf16", "fp16", "fp8", "int8", "fp4", "int4")
TOTAL = "total"


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``arch`` as ``platform.machine()`` says it; ``probed`` fills it in on the machine itself.

    ``family`` is the heading that lists put the device under.
    """

    title: str
    arch: str = ""
    family: str = "Generic"
    probed: bool = False
    notes: tuple[str, ...] = ()


class Software(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Versions and version ranges on the device (``">=10.3,<10.4"``); empty when unknown."""

    jetpack: str = ""
    l4t: str = ""
    ubuntu: str = ""
    python: str = ""
    glibc: str = ""
    cuda: str = ""
    cudnn: str = ""
    tensorrt: str = ""
    npu_driver: str = ""


class Compute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Engines on the chip and their dense peak rates.

    ``peak_tops`` is in 1e12 op/s, by engine and precision; ``total`` stands for all engines where
    the vendor gives no more than their sum. ``sm`` is an NVIDIA GPU's compute capability without
    its dot, ``npu`` the platform number by which OpenVINO knows an Intel NPU.
    """

    engines: tuple[str, ...] = ("cpu",)
    cpu: str = ""
    cores: int = 0
    sm: str = ""
    npu: str = ""
    peak_tops: dict[str, dict[str, float]] = {}

    def __post_init__(self) -> None:
        unknown = sorted(set(self.peak_tops) - {*self.engines, TOTAL})
        if unknown:
            raise ValueError(f"peak_tops names {', '.join(unknown)}, which engines does not")

    def peak(self, precision: str) -> float:
        """Rate of the whole chip, 0 when unknown."""
        return sum((rates.get(precision, 0.0) for rates in self.peak_tops.values()), 0.0)


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

    def __post_init__(self) -> None:
        unknown = [name for name in self.legal if name not in PRECISIONS]
        if unknown or not self.legal:
            raise ValueError(f"legal takes {', '.join(PRECISIONS)}, got {unknown or 'none'}")
        illegal = [name for name in self.preference if name not in self.legal]
        if illegal:
            raise ValueError(f"preference names {', '.join(illegal)}, which legal does not")


class Shapes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether the device takes fixed shapes only."""

    static: bool = False


class Runtimes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Engines in the order of preference, and options for each."""

    order: tuple[str, ...]
    options: dict[str, dict[str, Any]] = {}

    def __post_init__(self) -> None:
        if not self.order:
            raise ValueError("order names no engine")


class Power(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Power modes by the vendor's names, and the rails whose sum is what the board takes."""

    modes: tuple[str, ...] = ()
    idle_watts: float = 0.0
    peak_watts: float = 0.0
    rails: tuple[str, ...] = ()


class Flash(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the vendor's flashing ``tool`` calls the board, and where the system can go.

    ``module`` is the board number and SKU of the module on it, ``usb`` the product that it is on
    USB while it is in recovery mode.
    """

    tool: Literal["", "l4t", "virtual"] = ""
    board: str = ""
    module: str = ""
    usb: str = ""
    storage: tuple[str, ...] = ()

    @property
    def has_internal(self) -> bool:
        """Whether there is storage for a system on the board itself."""
        return "internal" in self.storage


class DeviceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One device. ``sources`` names, by section, where its facts came from."""

    name: str
    device: Device
    software: Software = Software()
    compute: Compute = Compute()
    memory: Memory = Memory()
    onnx: Onnx
    precision: Precision
    shapes: Shapes = Shapes()
    runtimes: Runtimes
    power: Power = Power()
    flash: Flash = Flash()
    sources: dict[str, str] = {}


# msgspec learns a type when it first meets it, and crashes where two threads do that at once (seen
# with 0.22, one in 40 starts of a server with telemetry). Importing is done by one.
msgspec.json.Decoder(DeviceProfile)


def profile_names() -> list[str]:
    """Names of all profiles and of their releases, sorted."""
    stems = plugins.stems(PACKAGE, ".toml")
    return sorted(
        [*stems, *(f"{stem}-{name}" for stem in stems for name in profile_releases(stem))]
    )


def load_profile(name: str) -> DeviceProfile:
    """Read the profile ``name``; a probed one is completed with what this machine says.

    Raises:
        ProfileError: There is no such profile, or its file is not valid.
    """
    stem, release = _file_of(name)
    tables = _tables(stem)
    releases = tables.pop("releases", {})
    if release:
        tables = _overlay(tables, releases[release])
    try:
        profile = msgspec.convert({**tables, "name": name}, DeviceProfile)
    except msgspec.ValidationError as error:
        raise ProfileError(f"device profile {stem}.toml: {error}") from error
    return _probe(profile) if profile.device.probed else profile


def _file_of(name: str) -> tuple[str, str]:
    """The stem of the file that describes the device ``name``, and which release of it, if any."""
    stems = plugins.stems(PACKAGE, ".toml")
    if name in stems:
        return name, ""
    for stem in stems:
        release = name.removeprefix(f"{stem}-")
        if release != name and release in profile_releases(stem):
            return stem, release
    known = profile_names()
    raise ProfileError(f"no device profile named {name!r}", hint=_suggestion(name, known))


def profile_releases(name: str) -> list[str]:
    """Later releases of the software of the device ``name``; each is the end of a profile's name.

    In the file each is a table that is laid over the rest.
    """
    is_file = name in plugins.stems(PACKAGE, ".toml")
    return list(_tables(name).get("releases", {})) if is_file else []


def _suggestion(name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else "list them with: edge profiles"


def _tables(name: str, extended_by: tuple[str, ...] = ()) -> dict[str, Any]:
    """The raw tables of a profile, laid over those of the one that it ``extends``.

    A base that is no device of its own has a name that starts with an underscore.
    """
    if name in extended_by:
        raise ProfileError(
            f"device profiles extend each other: {' -> '.join((*extended_by, name))}"
        )
    try:
        tables: dict[str, Any] = msgspec.toml.decode(_path(name).read_bytes())
    except msgspec.DecodeError as error:
        raise ProfileError(f"device profile {name}.toml: {error}") from error
    base = tables.pop("extends", None)
    if base is None:
        return tables
    return _overlay(_tables(str(base), (*extended_by, name)), tables)


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
    raise ProfileError(f"no device profile {name}.toml to extend")


def _probe(profile: DeviceProfile) -> DeviceProfile:
    replace = msgspec.structs.replace
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return replace(
        profile,
        device=replace(profile.device, arch=platform.machine()),
        compute=replace(profile.compute, cpu=_cpu_title(), cores=cores or 1),
        memory=replace(profile.memory, bytes=_memory_bytes()),
    )


def _memory_bytes() -> int:
    """Physical memory; 0 where the system does not say (Windows has no ``sysconf``)."""
    try:
        return max(0, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return 0


def _cpu_title(root: Path = Path("/")) -> str:
    """What Linux says of the processor: its model on x86, the board's on Arm."""
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if models:
            return models[0]
        return (root / "proc/device-tree/model").read_text().rstrip("\0\n")
    except OSError:
        return platform.processor() or platform.machine()
