"""Which variant of a bundle runs on this machine, and why not a better one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from edge.core.contracts import Availability
from edge.core.errors import NotFoundError, UnavailableError
from edge.core.manifest import Manifest, Variant
from edge.core.profile import DeviceProfile

Fallback = Literal["deny", "warn", "allow"]
CPU = "cpu"


class Choice(msgspec.Struct, frozen=True):
    """``is_fallback``: it is not the first choice of the conversion, or not on its device."""

    variant: Variant
    device: str
    reason: str
    is_fallback: bool


def choose(
    manifest: Manifest,
    profile: DeviceProfile,
    engines: Mapping[str, Availability],
    *,
    engine: str | None = None,
    variant: str | None = None,
    device: str | None = None,
) -> Choice:
    """Take the first variant, in the order of the bundle, whose engine and device are here.

    Args:
        engines: What each engine of this machine says of itself.
        engine: Only variants of this engine.
        variant: Only the variant with this id.
        device: Only on this device; default is what the profile names for the engine.
    Raises:
        NotFoundError: The bundle has no such variant.
        UnavailableError: None of its variants can run here; the message says why, one by one.
    """
    candidates = [
        v for v in manifest.variants if engine in (None, v.engine) and variant in (None, v.id)
    ]
    if not candidates:
        raise NotFoundError(
            f"{manifest.name} has no variant {variant or f'for the engine {engine}'}",
            hint=f"it has {', '.join(v.id for v in manifest.variants)}",
        )
    wanted = {v.id: device or _device(v, profile) for v in candidates}
    attempts = [(v, wanted[v.id]) for v in candidates]
    if device is None:
        attempts += [(v, CPU) for v in candidates if wanted[v.id] != CPU]
    refused: list[str] = []
    for candidate, place in attempts:
        obstacle = _obstacle(candidate, place, engines)
        if not obstacle:
            return _choice(candidate, place, refused, manifest, is_only=len(candidates) == 1)
        refused.append(f"{candidate.id}: {obstacle}")
    hints = [
        a.hint for name, a in engines.items() if a.hint and name in {v.engine for v in candidates}
    ]
    raise UnavailableError(
        f"no variant of {manifest.name} runs here: {'; '.join(dict.fromkeys(refused))}",
        hint=next(filter(None, hints), "") or "see what is ready with: edge devices",
    )


def _choice(
    variant: Variant, device: str, refused: list[str], manifest: Manifest, *, is_only: bool
) -> Choice:
    if refused:
        return Choice(variant, device, f"fallback, as {'; '.join(refused)}", is_fallback=True)
    if variant.chosen:
        reason = f"best under the gate for {manifest.profile}"
    elif is_only:
        reason = "the only one that was asked for"
    else:
        reason = "the first of those that were asked for"
    return Choice(variant, device, reason, is_fallback=False)


def _device(variant: Variant, profile: DeviceProfile) -> str:
    options = {**profile.runtimes.options.get(variant.engine, {}), **variant.options}
    return str(options.get("device", CPU)).lower()


def _obstacle(variant: Variant, device: str, engines: Mapping[str, Availability]) -> str:
    availability = engines.get(variant.engine)
    if availability is None:
        return f"this build has no engine {variant.engine}"
    if not availability.ready:
        return availability.reason
    if device not in availability.devices:
        return f"{variant.engine} sees no {device} here"
    return ""
