"""What the operator wants a device to be, by a ``rev`` that only rises; kept over restarts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edge.core.durable import replacing, sync_folder
from edge.telemetry.commands.order import OWN_PREFIX, RefusedError
from edge.telemetry.commands.verbs.power import Power

log = logging.getLogger(__name__)

_FILE = "desired.json"


class DesiredModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``version`` is to be active; ``loaded`` is as by the commands load and unload. What is left
    out stays as it is.
    """

    version: str = ""
    loaded: bool | None = None


class Desired(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Models that are not named, and power that is not said, stay as they are."""

    rev: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
    models: dict[str, DesiredModel] = {}
    power: Power = Power()


class Kept(msgspec.Struct, frozen=True):
    """``reached``: models that were what they should be once, under this ``rev``."""

    desired: Desired
    reached: tuple[str, ...] = ()


_decode = msgspec.json.Decoder(Kept).decode


def read(payload: bytes, most_bytes: int) -> Desired:
    """Raises ``RefusedError``: it can't be read, or says what nobody knows."""
    if len(payload) > most_bytes:
        raise RefusedError(f"desired has more than {most_bytes} bytes", kind="invalid")
    try:
        document: dict[str, Any] = msgspec.json.decode(payload, type=dict[str, Any])
        said = {k: v for k, v in document.items() if not k.startswith(OWN_PREFIX)}
        return msgspec.convert(said, Desired)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RefusedError(f"desired can not be read: {error}", kind="invalid") from error


class Store:
    """The newest that was desired.

    Args:
        folder: None to forget it with this process.
    """

    def __init__(self, folder: Path | None) -> None:
        self.kept: Kept | None = None
        self._path = None if folder is None else folder / _FILE

    def open(self) -> None:
        if self._path is None:
            return
        try:
            self.kept = _decode(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, ValueError) as error:
            log.warning("what was desired of this device can not be read: %s", error)

    def accept(self, desired: Desired) -> bool:
        """Whether it is new; raises ``RefusedError`` for what an older or equal ``rev`` forbids."""
        known = self.kept.desired if self.kept else None
        if known == desired:
            return False
        if known is not None and desired.rev < known.rev:
            raise RefusedError(
                f"rev {desired.rev} is older than {known.rev}, which holds", kind="invalid"
            )
        if known is not None and desired.rev == known.rev:
            raise RefusedError(
                f"rev {desired.rev} was another one before, which holds",
                kind="invalid",
                hint="raise rev with each change",
            )
        self._keep(Kept(desired))
        return True

    def reach(self, name: str) -> None:
        """Remember that a model was what it should be."""
        if self.kept is not None and name not in self.kept.reached:
            self._keep(msgspec.structs.replace(self.kept, reached=(*self.kept.reached, name)))

    def forget(self) -> None:
        self.kept = None
        try:
            if self._path is not None:
                self._path.unlink(missing_ok=True)
                sync_folder(self._path.parent)
        except OSError as error:
            log.warning("what was desired before comes back with a restart: %s", error)

    def _keep(self, kept: Kept) -> None:
        self.kept = kept
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(self._path) as stream:
                stream.write(msgspec.json.encode(kept))
        except OSError as error:
            log.warning("a restart will not know what is desired: %s", error)
