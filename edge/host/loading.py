"""From a bundle to a model that runs: opens the best variant that this machine can take."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from edge.bundle import Bundle, open_bundle
from edge.core import plugins
from edge.core.contracts import Placement, Session
from edge.core.errors import (
    EdgeError,
    EngineError,
    ProfileError,
    UnavailableError,
    UnsupportedError,
)
from edge.core.manifest import Manifest
from edge.core.profile import load_profile
from edge.host.choice import Candidate, Choice, Fallback, Machine, Wish, choose, explain
from edge.host.model import Model

if TYPE_CHECKING:
    from edge.core.profile import DeviceProfile

log = logging.getLogger(__name__)


def load(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
    fallback: Fallback = "warn",
) -> Model:
    """Load the best variant of a bundle for this machine; the model says which and why.

    Args:
        options: For the engine: ``device`` (cpu, gpu, npu), ``threads``, or its own by name.
        fallback: Whether another variant or device than the preferred one may run.
    Raises:
        BundleError: The bundle can't be read, is damaged or altered.
        NotFoundError: It has no variant of that id or engine.
        UnavailableError: Nothing in it can run here, or ``fallback`` is ``deny`` and had to be.
        EngineError: The engine refused the variant's files.
    """
    bundle = open_bundle(path)
    try:
        return load_bundle(
            bundle, engine=engine, variant=variant, options=options, fallback=fallback
        )
    except BaseException:
        bundle.close()
        raise


def load_bundle(
    bundle: Bundle,
    *,
    engine: str | None = None,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
    fallback: Fallback = "warn",
) -> Model:
    """``load`` for an open bundle, which the model owns from then on."""
    wish = Wish(variant or "", engine or "", dict(options or {}), fallback)
    manifest = bundle.manifest
    if wish.engine:
        plugins.backend(wish.engine)  # an engine that does not exist has an error of its own
    profile = _profile_of(manifest)
    choice = choose(manifest, _machine(manifest, profile), wish)
    if not choice.candidates:
        raise _nothing_runs(manifest, choice)
    obstacles = dict(choice.obstacles)
    errors: list[EdgeError] = []
    for candidate in choice.candidates:
        reason = explain(candidate, choice.preferred, obstacles, wish)
        is_fallback = candidate.variant is not choice.preferred
        is_fallback |= candidate.device != candidate.wanted
        try:
            if is_fallback:
                _permit(manifest, reason, wish)
            session = _open(bundle, candidate, profile, wish)
        except (EngineError, UnavailableError, UnsupportedError) as error:
            errors.append(error)
            obstacles[candidate.variant.id] = str(error)
            continue
        is_fallback |= session.placement.is_fallback
        return Model(bundle, candidate.variant, session, choice=reason, is_fallback=is_fallback)
    raise errors[0]


def _open(bundle: Bundle, candidate: Candidate, profile: DeviceProfile, wish: Wish) -> Session:
    variant = candidate.variant
    folder = bundle.extract_variant(variant.id)
    of_profile = profile.runtimes.options.get(variant.engine, {})
    options = {**of_profile, **wish.options, "device": candidate.device}
    session = plugins.backend(variant.engine).open(variant, folder, profile, options)
    if session.placement.is_fallback:
        try:
            _permit(bundle.manifest, session.placement.reason, wish)
        except UnavailableError:
            session.close()
            raise
    session.placement = _seen_from_outside(session.placement, candidate)
    return session


def _seen_from_outside(placement: Placement, candidate: Candidate) -> Placement:
    """The engine was asked for the device that is here; the variant wanted another one."""
    if candidate.device == candidate.wanted:
        return placement
    return msgspec.structs.replace(
        placement,
        requested=candidate.wanted,
        is_fallback=True,
        reason=f"there is no {candidate.wanted} here",
    )


def _permit(manifest: Manifest, reason: str, wish: Wish) -> None:
    """Let a fallback pass as the caller wished: silently, with a warning, or not at all."""
    if wish.fallback == "deny":
        raise UnavailableError(
            f"{manifest.name} can not run as it is meant to, and fallback is denied: {reason}",
            hint="allow it with fallback='warn'",
        )
    if wish.fallback == "warn":
        log.warning("%s falls back: %s", manifest.name, reason)


def _nothing_runs(manifest: Manifest, choice: Choice) -> UnavailableError:
    why = "; ".join(f"{name}: {obstacle}" for name, obstacle in choice.obstacles.items())
    return UnavailableError(f"no variant of {manifest.name} can run here: {why}", hint=choice.hint)


def _machine(manifest: Manifest, profile: DeviceProfile) -> Machine:
    names = set(plugins.stems("runtimes")) & {variant.engine for variant in manifest.variants}
    engines = {name: plugins.backend(name).availability() for name in sorted(names)}
    versions = {name: availability.version for name, availability in engines.items()}
    return Machine(
        engines=engines,
        order=profile.runtimes.order,
        options=profile.runtimes.options,
        facts={name: version for name, version in versions.items() if version},
    )


def _profile_of(manifest: Manifest) -> DeviceProfile:
    """The device that the bundle was made for; this machine if that one is not known here."""
    try:
        return load_profile(manifest.profile)
    except ProfileError:
        log.info("%s was made for %s, which is not known here", manifest.name, manifest.profile)
        return load_profile("host")
