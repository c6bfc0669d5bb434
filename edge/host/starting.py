"""From a variant's files to a session that has its room in memory, here or in a process apart."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from edge.core import plugins
from edge.core.build import EngineBuilder
from edge.host import costs
from edge.host.machine import profile_of

if TYPE_CHECKING:
    from pathlib import Path

    from edge.bundle import Bundle
    from edge.core.build import EngineBuild, Progress
    from edge.core.contracts import Session
    from edge.core.manifest import Manifest
    from edge.host.choice import Candidate, Wish
    from edge.host.residency import Residency, Room
    from edge.settings import ModelSettings

log = logging.getLogger(__name__)


class Starter:
    """Starts the candidates of one bundle.

    Args:
        residency: Where sessions get their room from; None if memory is the caller's concern.
    """

    def __init__(
        self, manifest: Manifest, wish: Wish, settings: ModelSettings, residency: Residency | None
    ) -> None:
        self.profile = profile_of(manifest)
        self.may_evict = True
        self._name = manifest.name
        self._wish = wish
        self._settings = settings
        self._residency = residency

    def start(self, bundle: Bundle, candidate: Candidate) -> tuple[Session, Room | None]:
        """A session, once there is room for it.

        Raises:
            NoRoomError: There is no room for it now.
            EdgeError: The engine refused the files, or is not here, or the model can not fit.
        """
        if self._residency is None:
            return self._session(bundle, candidate), None
        room = self._residency.admit(
            self._name,
            self._cost_key(bundle, candidate),
            sum(file.size_bytes for file in candidate.variant.files),
            is_pinned=self._settings.pinned,
            may_evict=self.may_evict,
        )
        try:
            return self._session(bundle, candidate), room
        except BaseException:
            room.leave()
            raise

    def build(
        self, bundle: Bundle, candidate: Candidate, progress: Progress | None
    ) -> EngineBuild | None:
        """Make the engine of a candidate, or find it; None if it needs none.

        Raises:
            UnavailableError: There is no device or no room.
            EngineError: The engine can't be built.
        """
        builder = _builder_of(candidate)
        if builder is None:
            return None
        variant = candidate.variant
        folder = bundle.extract_variant(variant.id)
        options = self._options(candidate)
        return builder.build(variant, folder, self.profile, options, progress)

    def is_built(self, bundle: Bundle, candidate: Candidate) -> bool:
        """Whether ``start`` finds all that it needs."""
        builder = _builder_of(candidate)
        if builder is None:
            return True
        variant = candidate.variant
        folder = bundle.extract_variant(variant.id)
        return builder.is_built(variant, folder, self.profile, self._options(candidate))

    def _session(self, bundle: Bundle, candidate: Candidate) -> Session:
        variant = candidate.variant
        folder = bundle.extract_variant(variant.id)
        start_s = time.monotonic()
        is_built = self.is_built(bundle, candidate)
        if not is_built:
            log.info("%s: building the engine of %s for this machine", self._name, variant.id)
        session = self._open(candidate, folder, is_built=is_built)
        if not is_built:
            log.info("%s: built in %.1f s", self._name, time.monotonic() - start_s)
        return session

    def _open(self, candidate: Candidate, folder: Path, *, is_built: bool) -> Session:
        variant, options = candidate.variant, self._options(candidate)
        if self._settings.isolation == "inproc":
            backend = plugins.backend(candidate.engine)
            return backend.open(variant, folder, self.profile, options)
        from edge.host.isolation.limits import limits_of
        from edge.host.isolation.session import open_isolated
        from edge.host.isolation.wire import Order

        order = Order(self._name, candidate.engine, variant, folder, self.profile, options)
        return open_isolated(order, limits_of(self._settings, has_to_build=not is_built))

    def _cost_key(self, bundle: Bundle, candidate: Candidate) -> str:
        engine = candidate.engine
        version = plugins.backend(engine).availability().version
        how = repr((self._settings.isolation, sorted(self._options(candidate).items())))
        return costs.key_of(bundle.digest, candidate.variant.id, engine, version, how)

    def _options(self, candidate: Candidate) -> dict[str, Any]:
        of_profile = self.profile.runtimes.options.get(candidate.engine, {})
        of_model: dict[str, Any] = {}
        instances = self._settings.instances
        if instances > 1 and plugins.backend(candidate.engine).availability().needs_instances:
            of_model["instances"] = instances
        return {**of_profile, **of_model, **self._wish.options, "device": candidate.device}


def _builder_of(candidate: Candidate) -> EngineBuilder | None:
    if candidate.is_stand_in:
        return None
    backend = plugins.backend(candidate.engine)
    return backend if isinstance(backend, EngineBuilder) else None
