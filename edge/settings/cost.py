"""``[cost]``: what energy and the device cost."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from edge.core.errors import ProfileError
from edge.core.profile import load_profile

_Amount = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
_Watts = Annotated[float, msgspec.Meta(ge=0, le=10_000)]


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[cost]``: what turns joules and seconds into money; without it only joules are told.

    ``per_kwh`` is the tariff, ``device_price`` what the device costs over the ``device_years`` that
    it serves, all in ``currency`` (as "EUR"); what is 0 is left out. ``idle_watts`` is what the
    device draws while nothing runs (0: measured, as soon as nothing runs), ``busy_watts`` what it
    draws while a model does. Where no sensor tells, energy is estimated by the two, and told as an
    estimate. The device profile that ``profile`` names says what they leave open.
    """

    currency: str = ""
    per_kwh: _Amount = 0.0
    device_price: _Amount = 0.0
    device_years: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    idle_watts: _Watts = 0.0
    busy_watts: _Watts = 0.0
    profile: str = ""

    def __post_init__(self) -> None:
        if self.currency and not re.fullmatch("[A-Z]{3}", self.currency):
            raise ValueError(f"currency = {self.currency!r}: it takes a code of three letters: EUR")
        if (self.per_kwh or self.device_price) and not self.currency:
            raise ValueError('per_kwh and device_price need a currency, as in currency = "EUR"')
        if bool(self.device_price) != bool(self.device_years):
            raise ValueError(
                "device_price and device_years need each other: the price is spread over the years"
            )
        if 0 < self.busy_watts < self.idle_watts:
            raise ValueError(
                f"busy_watts = {self.busy_watts:g} is less than idle_watts = {self.idle_watts:g}"
            )
        if not self.profile:
            return
        try:
            power = load_profile(self.profile).power
        except ProfileError as error:
            raise ValueError(f"profile: {error}; {error.hint}") from error
        if not power.idle_watts and not power.peak_watts:
            raise ValueError(f"profile = {self.profile!r} does not say what that device draws")
