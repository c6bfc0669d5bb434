"""``[trust]``: whose bundles this device takes."""

from __future__ import annotations

from typing import Literal

import msgspec


class Trust(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``keys`` are files of Ed25519 public keys, or folders of ``*.pub`` and ``*.pem`` files.

    ``require`` says which bundles have to be signed by one of them: those that an ``update``
    command brings, ``always`` also those that lie in a served folder, or ``never`` any. A signature
    of one of ``keys`` that is wrong is refused in each case.
    """

    keys: tuple[str, ...] = ()
    require: Literal["never", "update", "always"] = "update"

    def __post_init__(self) -> None:
        if self.require == "always" and not self.keys:
            raise ValueError('require = "always" needs keys, files of public keys or folders')
