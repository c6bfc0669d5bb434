"""What looks after a runtime while it serves: heat and power, costs, and the health of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.core.errors import UnsupportedError
from edge.host.fairness import FairShare
from edge.settings import Cost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge.host.governor import Governor, Strain
    from edge.host.health.keeper import HealthKeeper
    from edge.host.health.truth import Truth
    from edge.host.metering import CostMeter, CostReport
    from edge.host.status import ModelStatus
    from edge.settings import Health, Power


class Oversight:
    """Two threads at most: one reads the sensors, for limits and costs, one looks at models.

    Args:
        concurrency: How many batches run at the same time; with ``power``, fewer if need be.
        cost: Metered wherever ``power`` has sensors read.
        status: What models did so far.
    """

    def __init__(
        self,
        concurrency: int,
        power: Power | None,
        cost: Cost | None,
        health: Health | None,
        status: Callable[[], Sequence[ModelStatus]],
    ) -> None:
        is_governed = power is not None and power.policy != "off"
        self._status = status
        self.turns = FairShare(concurrency) if concurrency or is_governed else None
        self.health = self._keeper(health) if health is not None else None
        self._power = power if is_governed else None
        self._cost = cost or Cost()
        self._meter: CostMeter | None = None
        self._governor: Governor | None = None

    def start(self) -> None:
        """Begin to look.

        Raises:
            SettingsError: There are no sensors where ``power`` looks for them.
        """
        if self._power is not None and self.turns is not None:
            from edge.host.governor import Governor
            from edge.host.metering import CostMeter

            self._meter = CostMeter(self._cost, self._power.interval_s)
            self._governor = Governor(self._power, self.turns, self._status, meter=self._meter)
            self._governor.start()
        if self.health is not None:
            self.health.start()

    def close(self) -> None:
        """A second call does nothing."""
        if self._governor is not None:
            self._governor.close()
        if self.health is not None:
            self.health.close()

    @property
    def strain(self) -> Strain | None:
        return self._governor.strain if self._governor is not None else None

    @property
    def cost(self) -> CostReport | None:
        return self._meter.report if self._meter is not None else None

    @property
    def power(self) -> Power | None:
        """What gives way, and when; None if nobody looks."""
        return self._governor.settings if self._governor is not None else None

    def set_power(self, power: Power) -> None:
        """Look after other limits, until this process ends.

        Raises:
            UnsupportedError: Nobody looks after power here, or it is not to be looked after.
        """
        if self._governor is None or power.policy == "off":
            raise UnsupportedError(
                "whether heat and power are looked after is settled at the start",
                hint='set policy in [power] of edge.toml; "watch" holds nothing back',
            )
        self._governor.configure(power)

    def label(self, name: str, versions: Sequence[str], request_id: str, truth: Truth) -> None:
        """Say what was right for a request that one of these versions answered.

        Raises:
            UnsupportedError: Nobody looks after the health of models.
            EdgeError: See ``HealthKeeper.label``.
        """
        if self.health is None:
            raise UnsupportedError(
                "nobody looks after the health of models here",
                hint="give the Runtime health = edge.settings.Health(labels=1000)",
            )
        self.health.label(name, versions, request_id, truth)

    def _keeper(self, health: Health) -> HealthKeeper:
        from edge.host.health.keeper import HealthKeeper  # as all here, only for who wants it

        return HealthKeeper(health, lambda: (self._status(), self.strain))
