"""``[update]``: how bundles come to this device by command."""

from __future__ import annotations

from typing import Annotated

import msgspec

_Positive = msgspec.Meta(gt=0)
_NotNegative = msgspec.Meta(ge=0)


class Update(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the ``update`` command puts bundles, and how much it may take.

    ``folder`` is one of those that are served (empty: the first). A bundle has at most
    ``max_bytes`` and leaves ``keep_free_bytes`` of the disk. ``ca`` is a file of authorities for
    ``https://`` (empty: those of the system). An update that gets nothing new for ``patience_s``
    fails; what came is kept for the next one with the same contents. Of a model, ``keep_versions``
    are left after an update and older ones deleted (0: none is); at least 2, to go back to. An
    update to an older version than the device had is refused, but for ``downgrade``.
    """

    folder: str = ""
    max_bytes: Annotated[int, _Positive] = 4 * 1024**3
    keep_free_bytes: Annotated[int, _NotNegative] = 256 * 1024**2
    ca: str = ""
    patience_s: Annotated[float, _Positive] = 600.0
    timeout_s: Annotated[float, _Positive] = 30.0
    keep_versions: Annotated[int, _NotNegative] = 0
    downgrade: bool = False

    def __post_init__(self) -> None:
        if self.keep_versions == 1:
            raise ValueError("keep_versions = 1 would leave nothing to go back to; take 2, or 0")
