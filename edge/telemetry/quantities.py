"""What a metric's name says of its value: unit, type, and whether it only ever rises."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

Value = bool | int | float | str
Kind = Literal["number", "integer", "truth", "text", "time"]


class Quantity(msgspec.Struct, frozen=True):
    """How a value is to be read.

    Attributes:
        kind: A ``time`` is Unix time in milliseconds.
        unit: As it is written beside the value; empty for none.
        measures: Of what physical kind it is, in Home Assistant's words; empty for no such kind.
        is_cumulative: A counter: it rises, and begins anew with the process or the device.
    """

    kind: Kind = "number"
    unit: str = ""
    measures: str = ""
    is_cumulative: bool = False


TEXT = Quantity("text")
TRUTH = Quantity("truth")
NUMBER = Quantity()

_ENDINGS: dict[str, Quantity] = {  # the first that fits
    "since_ms": Quantity("time", measures="timestamp"),
    "per_s": Quantity(unit="1/s"),
    "count": Quantity("integer", is_cumulative=True),
    "loads": Quantity("integer", is_cumulative=True),
    "evictions": Quantity("integer", is_cumulative=True),
    "written_bytes": Quantity("integer", "B", "data_size", is_cumulative=True),
    "page_bytes": Quantity("integer", "B", "data_size", is_cumulative=True),
    "bytes": Quantity("integer", "B", "data_size"),
    "busy_s": Quantity(unit="s", measures="duration", is_cumulative=True),
    "metered_s": Quantity(unit="s", measures="duration", is_cumulative=True),
    "saved_s": Quantity(unit="s", measures="duration", is_cumulative=True),
    "celsius": Quantity(unit="°C", measures="temperature"),
    "percent": Quantity(unit="%"),
    "watts": Quantity(unit="W", measures="power"),
    "joules": Quantity(unit="J", measures="energy", is_cumulative=True),
    "mhz": Quantity(unit="MHz", measures="frequency"),
    "hz": Quantity(unit="Hz", measures="frequency"),
    "rpm": Quantity(unit="rpm"),
    "us": Quantity(unit="μs", measures="duration"),
    "ms": Quantity(unit="ms", measures="duration"),
    "s": Quantity(unit="s", measures="duration"),
}
_PER = re.compile(r"(?:^|_)joules_per_")  # and what is done with them
_MONEY = re.compile(r"(?:^|_)cost(?P<per>_per_\w+)?_(?P<currency>[a-z]{3})$")


def describe(keys: tuple[str, ...], value: Value) -> Quantity:
    """The quantity at ``keys``; the last of them that says something counts.

    That is the innermost: ``("temperature_celsius", "cpu")`` is a temperature.
    """
    if isinstance(value, bool):
        return TRUTH
    if isinstance(value, str):
        return TEXT
    for key in reversed(keys):
        if quantity := _by_name(key):
            return quantity
    return NUMBER


def _by_name(name: str) -> Quantity | None:
    if _PER.search(name):
        return Quantity(unit="J")
    if money := _MONEY.search(name):
        currency = money["currency"].upper()
        if money["per"]:
            return Quantity(unit=currency)
        return Quantity(unit=currency, measures="monetary", is_cumulative=True)
    for ending, quantity in _ENDINGS.items():
        if name == ending or name.endswith(f"_{ending}"):
            return quantity
    return None
