"""Looks at some of a model's inferences, in passing: what they cost is a copy of little."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from edge.core.errors import BundleError
from edge.host.health.accuracy import AccuracyWatch
from edge.host.health.drift import DriftWatch
from edge.host.health.looks import Looker
from edge.host.health.reference import Reference, read_reference
from edge.host.health.status import Drift

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge.bundle import Bundle
    from edge.core.manifest import Variant
    from edge.core.tensor import Array, Feeds
    from edge.host.health.looks import Sample
    from edge.settings import Health
    from edge.vision import Geometry

    Run = Callable[[Feeds], dict[str, Array]]

log = logging.getLogger(__name__)

_MOST_WAITING = 32
"""Samples that wait for `work`: a few seconds of them at the highest rates that make sense."""

_clock = time.monotonic


class ModelWatch:
    """Drift and accuracy of one model; requests come through ``around``.

    A defect in here costs what it should have told, is logged once, and no inference.
    """

    def __init__(self, bundle: Bundle, settings: Health) -> None:
        manifest = bundle.manifest
        self.name, self.version = manifest.name, manifest.version
        self.variants = {variant.id: variant for variant in manifest.variants}
        self._looker = Looker.of(manifest)
        self.accuracy = AccuracyWatch(
            manifest, bundle.labels, settings.labels, settings.accuracy_margin
        )
        self._waiting: deque[tuple[str, Sample]] = deque(maxlen=_MOST_WAITING)
        self._every_s = 1.0 / settings.looks_per_s
        self._due_s = 0.0
        self._working = threading.Lock()
        self._failed = ""
        self._has_forgotten = False
        self._why_not = "drift = false in [health]"
        self._drift: DriftWatch | None = None
        if settings.drift:
            reference = self._read(bundle)
            if reference is not None:
                self._drift = DriftWatch(f"{self.name} {self.version}", reference, settings.window)
        self._is_off = not settings.drift

    def around(self, run: Run, variant: Variant) -> Run:
        """``run``, with now and then a look at what it gets and gives."""
        if self._drift is None:
            return run
        variant_id = variant.id

        def looked_at(feeds: Feeds) -> dict[str, Array]:
            outputs = run(feeds)
            if _clock() >= self._due_s:
                self._take(variant_id, feeds, outputs)
            return outputs

        return looked_at

    def work(self) -> None:
        """Look at what was taken since the last time."""
        drift = self._drift
        if drift is None or self._failed:
            return
        with self._working:
            try:
                while self._waiting:
                    variant_id, sample = self._waiting.popleft()
                    drift.add(variant_id, self._looker.look(sample))
            except Exception as error:
                self._fail(error)

    def drift(self) -> Drift:
        if self._failed:
            return Drift("no-reference", self._failed)
        if self._drift is not None:
            return self._drift.status
        return Drift("off" if self._is_off else "no-reference", self._why_not)

    def remember(
        self,
        request_id: str,
        feeds: Feeds,
        outputs: Mapping[str, Array],
        variant: Variant,
        geometry: Geometry | None = None,
    ) -> None:
        """Keep an answer until its label comes, where answers are kept.

        Args:
            geometry: Where the picture lies in ``feeds``; else boxes are in pixels of the tensor.
        """
        if not self.accuracy.is_on:
            return
        try:
            geometry = geometry or self._looker.geometry(feeds)
            self.accuracy.remember(request_id, outputs, variant.metric, geometry)
        except Exception:
            if not self._has_forgotten:
                log.exception("answers of %s can not be remembered", self.name)
            self._has_forgotten = True

    def _take(self, variant_id: str, feeds: Feeds, outputs: Mapping[str, Array]) -> None:
        """Two threads may come at the same time: then there is one look more."""
        self._due_s = _clock() + self._every_s
        if self._failed:
            self._due_s = float("inf")
            return
        try:
            self._waiting.append((variant_id, self._looker.take(feeds, outputs)))
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failed = f"looking failed: {type(error).__name__}: {error}"
        log.exception("%s is not looked at any more", self.name)

    def _read(self, bundle: Bundle) -> Reference | None:
        try:
            return read_reference(bundle, self._looker)
        except BundleError as error:
            self._why_not = f"{error} ({error.hint})" if error.hint else str(error)
            log.info("drift of %s %s is not watched: %s", self.name, self.version, self._why_not)
        except Exception as error:
            self._why_not = f"its reference can not be read: {type(error).__name__}: {error}"
            log.exception("drift of %s %s is not watched", self.name, self.version)
        return None
