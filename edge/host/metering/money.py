"""Money for joules and for the time that a device is used up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from edge.settings import Cost

JOULES_PER_KWH = 3.6e6
SECONDS_PER_YEAR = 365.25 * 86_400
MILLION = 1_000_000


class Price(msgspec.Struct, frozen=True):
    """An amount in its parts; one that nobody set a price for, or can't be told, is None."""

    energy: float | None = None
    device: float | None = None

    @property
    def total(self) -> float | None:
        """Of the parts that are there."""
        parts = [part for part in (self.energy, self.device) if part is not None]
        return sum(parts) if parts else None


class Tariff(msgspec.Struct, frozen=True):
    """Prices; 0 where none was set."""

    currency: str = ""
    per_joule: float = 0.0
    per_device_s: float = 0.0

    def price(self, joules: float | None, device_s: float | None) -> Price:
        return Price(
            None if joules is None or not self.per_joule else joules * self.per_joule,
            None if device_s is None or not self.per_device_s else device_s * self.per_device_s,
        )


def tariff(settings: Cost) -> Tariff:
    years = settings.device_years
    return Tariff(
        settings.currency,
        settings.per_kwh / JOULES_PER_KWH,
        settings.device_price / (years * SECONDS_PER_YEAR) if years else 0.0,
    )
