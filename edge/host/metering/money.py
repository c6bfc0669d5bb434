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
    """An amount and its parts; a part that has no price, or can't be told, is None.

    ``total`` is told only if all that has a price can be.
    """

    energy: float | None = None
    device: float | None = None
    total: float | None = None


class Tariff(msgspec.Struct, frozen=True):
    """Prices; 0 where none was set."""

    currency: str = ""
    per_joule: float = 0.0
    per_device_s: float = 0.0

    def price(self, joules: float | None, device_s: float | None) -> Price:
        priced = [
            (amount, price)
            for amount, price in ((joules, self.per_joule), (device_s, self.per_device_s))
            if price
        ]
        parts = [amount * price for amount, price in priced if amount is not None]
        return Price(
            None if joules is None or not self.per_joule else joules * self.per_joule,
            None if device_s is None or not self.per_device_s else device_s * self.per_device_s,
            sum(parts) if parts and len(parts) == len(priced) else None,
        )


def tariff(settings: Cost) -> Tariff:
    years = settings.device_years
    return Tariff(
        settings.currency,
        settings.per_kwh / JOULES_PER_KWH,
        settings.device_price / (years * SECONDS_PER_YEAR) if years else 0.0,
    )
