"""What the device draws while nothing runs, learned from times when nothing did."""

from __future__ import annotations

_SETTLE_S = 3.0
"""Clocks and voltages stay up for a while after the last work."""

_LEAST_S = 5.0
_MEMORY_S = 300.0


class Idle:
    """The mean power of quiet times, the newest few minutes of them counting most."""

    def __init__(self) -> None:
        self._quiet_s = 0.0
        self._known_s = 0.0
        self._watts = 0.0

    @property
    def watts(self) -> float | None:
        """None until it was quiet for long enough."""
        return self._watts if self._known_s >= _LEAST_S else None

    def learn(self, seconds: float, joules: float, *, is_quiet: bool) -> None:
        """Take in a stretch of time; what else than models runs on the device counts as idle."""
        self._quiet_s = self._quiet_s + seconds if is_quiet else 0.0
        if self._quiet_s <= _SETTLE_S or seconds <= 0.0:
            return
        self._known_s = min(self._known_s + seconds, _MEMORY_S)
        self._watts += (joules / seconds - self._watts) * min(1.0, seconds / self._known_s)
