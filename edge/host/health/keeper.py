"""One thread that looks after the health of all models of a runtime."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from edge.core.errors import NotFoundError
from edge.host.health.latency import LatencyWatch
from edge.host.health.status import Latency, ModelHealth
from edge.host.health.watch import ModelWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge.bundle import Bundle
    from edge.host.governor import Strain
    from edge.host.health.truth import Truth
    from edge.host.status import ModelStatus
    from edge.settings import Health

log = logging.getLogger(__name__)

LOOK_S = 1.0
_CLOSE_S = 2.0

Key = tuple[str, str]


class HealthKeeper:
    """Has a watch for each model that was loaded, by name and version.

    Args:
        state: What is known of all models, and how the device bears them.
    """

    def __init__(
        self, settings: Health, state: Callable[[], tuple[Sequence[ModelStatus], Strain | None]]
    ) -> None:
        self._settings = settings
        self._state = state
        self._watches: dict[Key, tuple[ModelWatch, LatencyWatch]] = {}
        self._failing = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-health", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """A second call does nothing."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)

    def watch(self, bundle: Bundle) -> ModelWatch:
        """A watch for a model that is loaded; takes the place of one of its name and version."""
        watch = ModelWatch(bundle, self._settings)
        self._watches[watch.name, watch.version] = watch, LatencyWatch(self._settings)
        return watch

    def label(self, name: str, versions: Sequence[str], request_id: str, truth: Truth) -> None:
        """Give a label to the one of ``versions`` that knows the answer, else to the first.

        Raises:
            NotFoundError: None was loaded, or see ``AccuracyWatch.label``.
        """
        known = self._watches.copy()
        watches = [known[name, each][0] for each in versions if (name, each) in known]
        if not watches:
            raise NotFoundError(f"{name} was never loaded, and has answered nothing")
        knowing = (watch for watch in watches if watch.accuracy.knows(request_id))
        next(knowing, watches[0]).accuracy.label(request_id, truth)

    def health(self) -> list[ModelHealth]:
        """Of models that were loaded, by name and version."""
        off = Latency("off", reason="latency = false in [health]")
        return [
            ModelHealth(
                *key,
                watch.drift(),
                latency.status if self._settings.latency else off,
                watch.accuracy.status(),
            )
            for key, (watch, latency) in sorted(self._watches.copy().items())
        ]

    def look(self, now_s: float) -> None:
        """Look at what came since the last time, and at models' latency.

        Args:
            now_s: The monotonic clock.
        """
        statuses, strain = self._state()
        known = {(status.name, status.version) for status in statuses}
        for key in self._watches.keys() - known:  # removed
            del self._watches[key]
        watches = self._watches.copy()
        for watch, _ in watches.values():
            watch.work()
        if not self._settings.latency:
            return
        for status in statuses:
            found = watches.get((status.name, status.version))
            if found is not None:
                watch, latency = found
                latency.look(now_s, status, watch.variants.get(status.variant), statuses, strain)

    def _run(self) -> None:
        while not self._closing.wait(LOOK_S):
            try:
                self.look(time.monotonic())
                self._failing = False
            except Exception:
                if not self._failing:
                    log.exception("the health of models can not be looked after")
                self._failing = True
