"""A response cache that also answers frames of a video that barely differ from an inferred one."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import msgspec

from edge.host.resemblance import Look, difference, look_at
from edge.host.response_cache import CacheCounts, Question, ResponseCache

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.core.tensor import Array, Feeds
    from edge.settings import ModelSettings

log = logging.getLogger(__name__)

SCENES = 8
"""Frames to compare with: as many cameras may share a model."""


class _Scene:
    """A frame that was inferred, what came of it, and how long that may stand for others."""

    def __init__(self, look: Look, outputs: Mapping[str, Array], settings: ModelSettings) -> None:
        self.look = look.kept()
        self.outputs = {name: array.copy() for name, array in outputs.items()}
        self.size_bytes = look.size_bytes + sum(array.nbytes for array in outputs.values())
        self.contrast = look.contrast()
        self._frames_left = settings.cache_frames
        self._until_s = look.seen_s + settings.cache_age_s

    @property
    def is_over(self) -> bool:
        return self._frames_left <= 0 or time.monotonic() > self._until_s

    def difference(self, look: Look, limit: float) -> float | None:
        """As a share of the contrast; None if it is over ``limit``."""
        found = difference(look, self.look, limit * self.contrast)
        return None if found is None or not self.contrast else found / self.contrast

    def use(self) -> None:
        self._frames_left -= 1


class PerceptualCache(ResponseCache):
    """Compares frames with the last ones that were *inferred*, so that nothing drifts away.

    An inference stands for ``cache_frames`` others at most, until ``cache_age_s`` after its frame
    was seen. The same bytes get the same answer for ever, and inputs that are no pictures are
    answered only so.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings.cache_bytes)
        self._settings = settings
        self._scenes: dict[bytes, _Scene] = {}  # the one inferred last is the last
        self._perceptual = 0
        self._has_warned = False

    def keep(self, question: Question, outputs: Mapping[str, Array]) -> None:
        super().keep(question, outputs)
        if question.look is None or any(array.dtype.hasobject for array in outputs.values()):
            return
        scene = _Scene(question.look, outputs, self._settings)
        with self._lock:
            self._drop(question.key)
            self._scenes[question.key] = scene
            self._bytes += scene.size_bytes
            while len(self._scenes) > SCENES or self._scene_bytes() > self._max_bytes:
                self._drop(next(iter(self._scenes)))
            self._trim()
            is_too_large = question.key not in self._scenes
        if is_too_large and not self._has_warned:
            self._has_warned = True
            log.warning(
                "cache_bytes = %d has no room for a frame of %d bytes: none is recognized",
                self._max_bytes,
                scene.size_bytes,
            )

    def forget(self) -> None:
        with self._lock:
            self._scenes.clear()
        super().forget()

    def counts(self) -> CacheCounts:
        return msgspec.structs.replace(super().counts(), perceptual=self._perceptual)

    def _ask(self, feeds: Feeds) -> Question:
        return super()._ask(feeds)._replace(look=look_at(feeds))

    def _look_up(self, question: Question) -> tuple[Mapping[str, Array], float | None] | None:
        same = super()._look_up(question)
        if same is not None or question.look is None:
            return same
        for key in [key for key, scene in self._scenes.items() if scene.is_over]:
            self._drop(key)
        for scene in reversed(self._scenes.values()):
            found = scene.difference(question.look, self._settings.cache_difference)
            if found is not None:
                scene.use()
                self._perceptual += 1
                return scene.outputs, found
        return None

    def _scene_bytes(self) -> int:
        return sum(scene.size_bytes for scene in self._scenes.values())

    def _drop(self, key: bytes) -> None:
        scene = self._scenes.pop(key, None)
        self._bytes -= scene.size_bytes if scene else 0
