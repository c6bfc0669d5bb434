"""What this machine has to run a bundle on: engines, facts, and the device it was made for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edge.core import plugins
from edge.core.build import EngineBuilder
from edge.core.errors import ProfileError
from edge.core.profile import load_profile
from edge.host.choice import Machine

if TYPE_CHECKING:
    from edge.core.contracts import Availability
    from edge.core.manifest import Manifest
    from edge.core.profile import DeviceProfile

log = logging.getLogger(__name__)


def machine_for(manifest: Manifest, profile: DeviceProfile) -> Machine:
    known = plugins.stems("runtimes")
    own = {variant.engine for variant in manifest.variants}
    engines = {name: plugins.backend(name).availability() for name in known if name in own}
    if any(_may_need_a_stand_in(name, engines.get(name)) for name in own):
        others = [name for name in known if name in profile.runtimes.order and name not in own]
        engines |= {name: plugins.backend(name).availability() for name in others}
    facts: dict[str, str] = {}
    for name, engine in engines.items():
        facts |= engine.facts
        if engine.version:
            facts[name] = engine.version
    return Machine(
        engines=engines,
        order=profile.runtimes.order,
        options=profile.runtimes.options,
        facts=facts,
    )


def _may_need_a_stand_in(name: str, engine: Availability | None) -> bool:
    """Other engines are asked only then: that imports their SDKs."""
    return engine is None or not engine.ready or isinstance(plugins.backend(name), EngineBuilder)


def profile_of(manifest: Manifest) -> DeviceProfile:
    """The device that the bundle was made for; this machine if that one is not known here."""
    try:
        return load_profile(manifest.profile)
    except ProfileError:
        log.info("%s was made for %s, which is not known here", manifest.name, manifest.profile)
        return load_profile("host")
