"""Whether a device fits what goes there: said before a byte moves, with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from edge.core import plugins
from edge.core.contracts import Availability
from edge.core.errors import ProfileError
from edge.core.manifest import Manifest, Variant
from edge.core.profile import DeviceProfile, load_profile
from edge.core.versions import meets
from edge.deploy.facts import Facts
from edge.deploy.release import Parcel
from edge.host.catalog import version_key
from edge.host.choice import Machine, Wish, choose
from edge.settings import Settings

SPARE_BYTES = 200_000_000
"""Of the disk that stay free for the system, logs, and what models are unpacked to."""

_UNPACKED_TWICE = 2  # a bundle itself, and its variant in the cache
_SOFTWARE = {
    "l4t": "flash JetPack {need}, or convert with the profile of this release (edge profiles)",
    "cuda": "install CUDA {need}, or convert with the profile of this device",
    "tensorrt": "install TensorRT {need}, or convert with the profile of this device",
    "npu_driver": "install the NPU driver {need}",
}


class Difference(msgspec.Struct, frozen=True):
    """What the device has not as it is needed. One that only ``warns`` stops nothing."""

    what: str
    needs: str
    has: str
    do: str
    kind: Literal["stops", "warns"] = "stops"

    def __str__(self) -> str:
        return f"{self.what}: needs {self.needs}, has {self.has or 'none'}"


def device_differences(facts: Facts) -> list[Difference]:
    """Whether our software can be there at all; asked before anything is fetched for it."""
    found = []
    if not facts.has_systemd:
        do = "use the container image (packaging/), or start edge serve by what starts programs"
        found.append(Difference("init", "systemd", facts.init, do))
    if not facts.python:
        has = ", ".join(python.version for python in facts.pythons)
        do = "install one beside it, such as apt-get install python3.10, or use the container image"
        found.append(Difference("python", ">=3.10 with its module venv", has, do))
    if not facts.glibc:
        do = "there are wheels for glibc only: use the container image"
        found.append(Difference("libc", "glibc", "another C library", do))
    if not facts.can_write:
        do = "mount it writable, or mount another file system there"
        found.append(Difference("/opt/edge", "to be writable", "a read-only file system", do))
    return found


def lost_settings(parcel: Parcel, held: Mapping[str, int]) -> list[Difference]:
    """Those that the device served by and has not any more, so that nobody has them."""
    part = parcel.release.settings
    if part.sha256 in parcel.contents or held.get(part.sha256) == part.size_bytes:
        return []
    do = "give them again: --config edge.toml"
    return [Difference("settings", f"the {part.name} that it serves by", "", do)]


def release_differences(
    parcel: Parcel, facts: Facts, *, missing_bytes: int, is_forced: bool
) -> list[Difference]:
    """What of a release the device does not meet.

    Args:
        missing_bytes: What is still to be sent.
        is_forced: An older version may replace a newer one, another device's bundle may go there.
    """
    has_wheel = any(part.name.startswith("pycuda-") for part in parcel.release.runtime.wheels)
    has_pycuda = facts.has_pycuda or has_wheel
    found = [
        difference
        for manifest in parcel.manifests
        for difference in _of_bundle(manifest, parcel.settings, facts, has_pycuda=has_pycuda)
    ]
    found += _downgrades(parcel, facts)
    if is_forced:
        found = [_weakened(one) if one.what in _FORCEABLE else one for one in found]
    return [*found, *_room(parcel, facts, missing_bytes)]


_FORCEABLE = ("arch", "version")


def _weakened(difference: Difference) -> Difference:
    return msgspec.structs.replace(difference, kind="warns")


def _of_bundle(
    manifest: Manifest, settings: Settings, facts: Facts, *, has_pycuda: bool
) -> Iterator[Difference]:
    try:
        profile = load_profile(manifest.profile)
    except ProfileError:
        profile = load_profile("host")
    is_for_any = profile.device.probed
    if not is_for_any and profile.device.arch not in ("", facts.arch):
        do = "give it to another host, convert for this one, or --force"
        yield Difference("arch", f"{profile.device.arch} ({manifest.profile})", facts.arch, do)
        return
    needs_gpu = _is_for(manifest, "tensorrt")
    if not is_for_any:
        yield from _of_profile(profile, facts, is_wanted=needs_gpu)
    yield from _of_variants(manifest, profile, settings, facts, has_pycuda=has_pycuda)


def _of_profile(profile: DeviceProfile, facts: Facts, *, is_wanted: bool) -> Iterator[Difference]:
    """Only ever warns: what a variant can not do without is in its ``requires``."""
    wanted = {"l4t": profile.software.l4t, "npu_driver": profile.software.npu_driver}
    if is_wanted:
        wanted |= {"cuda": profile.software.cuda}
        if profile.compute.sm not in ("", facts.sm):
            do = f"convert it with the profile of this device; it was for {profile.name}"
            yield Difference("sm", profile.compute.sm, facts.sm, do, "warns")
    for name, need in wanted.items():
        have = getattr(facts, name)
        if need and not meets(have, need) and not _is_minor_of(have, need):
            yield Difference(name, need, have, _SOFTWARE[name].format(need=need), "warns")


def _is_minor_of(have: str, need: str) -> bool:
    """Whether ``12.6.11`` is what a profile calls ``12.6``."""
    return have.startswith(f"{need}.")


def _of_variants(
    manifest: Manifest,
    profile: DeviceProfile,
    settings: Settings,
    facts: Facts,
    *,
    has_pycuda: bool,
) -> Iterator[Difference]:
    """By the rules that the runtime there will choose by."""
    machine = _machine(profile, facts, has_pycuda=has_pycuda)
    wish = Wish(engine=settings.serve.engine, fallback=settings.serve.fallback)
    choice = choose(manifest, machine, wish)
    best = choice.candidates[0] if choice.candidates else None
    if best is not None and best.variant is choice.preferred and not best.is_stand_in:
        return
    preferred = choice.preferred
    why = choice.obstacles.get(preferred.id, "its engine is not there")
    what = f"{manifest.name} {preferred.id}"
    if best is None or wish.fallback == "deny":
        do = "convert the model for this device: edge convert --profile …"
        yield Difference(what, _needs(preferred), why, choice.hint or do)
        return
    do = f"{best.label} serves instead" + (f"; else {choice.hint}" if choice.hint else "")
    yield Difference(what, _needs(preferred), why, do, "warns")


def _machine(profile: DeviceProfile, facts: Facts, *, has_pycuda: bool) -> Machine:
    """What the runtime will find there once it is installed.

    Wheels of all engines but TensorRT go along.
    """
    engines = {
        name: Availability(ready=True, devices=("cpu",)) for name in plugins.stems("runtimes")
    }
    if facts.npu_driver:
        engines["openvino"] = Availability(ready=True, devices=("cpu", "npu"))
    has_tensorrt = bool(facts.tensorrt) and has_pycuda
    reason = "pycuda is not installed there" if facts.tensorrt else "TensorRT is not installed"
    hint = "sudo apt-get install nvidia-jetpack"
    if facts.tensorrt:
        hint = "pip wheel pycuda on one such device, and name the folder with --wheels"
    engines["tensorrt"] = Availability(
        ready=has_tensorrt,
        devices=("gpu",),
        reason="" if has_tensorrt else reason,
        hint="" if has_tensorrt else hint,
    )
    engines["onnxruntime"] = Availability(
        ready=True, devices=("cpu",), stands_in={"tensorrt": ("cpu",)}
    )
    facts_asked = ("l4t", "cuda", "tensorrt", "sm", "npu_driver")
    known = {name: getattr(facts, name) for name in facts_asked if getattr(facts, name)}
    return Machine(engines, profile.runtimes.order, profile.runtimes.options, known)


def _needs(variant: Variant) -> str:
    needs = ", ".join(f"{name} {value}" for name, value in variant.requires.items())
    return needs or variant.engine


def _is_for(manifest: Manifest, engine: str) -> bool:
    return any(variant.engine == engine for variant in manifest.variants)


def _downgrades(parcel: Parcel, facts: Facts) -> Iterator[Difference]:
    serving = [(one.name, one.version) for one in facts.updates]
    serving += [(one.name, one.version) for one in facts.release.models] if facts.release else []
    for model in parcel.release.models:
        versions = [version for name, version in serving if name == model.name]
        there = max(versions, key=version_key, default=model.version)
        if version_key(there) > version_key(model.version):
            do = f"--force puts {model.version} in the place of {there}"
            yield Difference("version", f"{model.name} <={model.version}", there, do)


def _room(parcel: Parcel, facts: Facts, missing_bytes: int) -> Iterator[Difference]:
    release = parcel.release
    has_runtime = facts.release and facts.release.runtime.digest == release.runtime.digest
    models = sum(model.size_bytes for model in release.models)
    needed = missing_bytes + SPARE_BYTES + (_UNPACKED_TWICE - 1) * models
    needed += 0 if has_runtime else release.runtime.unpacked_bytes
    if needed > facts.free_disk_bytes:
        do = "make room, or mount a larger file system at /opt/edge"
        yield Difference("disk", _mb(needed), f"{_mb(facts.free_disk_bytes)} free", do)
    largest = max(
        (min(v.size_bytes for v in manifest.variants) for manifest in parcel.manifests), default=0
    )
    if largest > facts.memory_bytes > 0:
        do = "use a smaller model, or fewer bits"
        yield Difference("memory", _mb(largest), _mb(facts.memory_bytes), do)
    elif largest > facts.free_memory_bytes > 0:
        do = "end what else runs there, or use a smaller model"
        has = f"{_mb(facts.free_memory_bytes)} free"
        yield Difference("memory", _mb(largest), has, do, "warns")


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"
