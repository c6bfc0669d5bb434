"""Whether a bundle was made for a device like this one."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from edge.core.errors import UnsupportedError
from edge.host.choice import Wish, choose, unmet
from edge.host.machine import machine_for, profile_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge.core.manifest import Manifest


def check_device(manifest: Manifest, engine: str = "") -> None:
    """Refuse a bundle that is for another device, though some of it might run here.

    Args:
        engine: The only one that may serve; empty for any.
    Raises:
        UnsupportedError: It is, with all the differences.
        NotFoundError: It has no variant for that engine.
    """
    differences = list(_differences(manifest, engine))
    if differences:
        raise UnsupportedError(
            f"{manifest.name} {manifest.version} is for another device: {'; '.join(differences)}",
            hint=f"it was made for {manifest.profile}; convert it with the --profile of this one",
        )


def _differences(manifest: Manifest, engine: str) -> Iterator[str]:
    profile, here = profile_of(manifest), platform.machine()
    if profile.device.arch not in ("", here):
        yield f"{profile.name} is {profile.device.arch}, this machine is {here}"
    machine = machine_for(manifest, profile)
    choice = choose(manifest, machine, Wish(engine=engine))
    needs = list(unmet(choice.preferred, machine))
    yield from (f"{choice.preferred.id}: {need}" for need in needs)
    if not needs and not choice.candidates:
        yield from (f"{name}: {reason}" for name, reason in choice.obstacles.items())
