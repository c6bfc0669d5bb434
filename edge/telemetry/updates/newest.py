"""The newest version of each model that an update has brought: an old signature stays valid."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from edge.core.cache import default_state
from edge.core.durable import locked, replacing
from edge.core.errors import UnavailableError
from edge.host.catalog import version_key

log = logging.getLogger(__name__)

# Made at import, by one thread: msgspec crashes where two learn a type at once.
_decode = msgspec.json.Decoder(dict[str, str]).decode


class Newest:
    """Remembered on this machine's disk, also once that version was deleted."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or default_state() / "updates.json"

    def of(self, name: str) -> str:
        """Empty if no update has brought any.

        Raises:
            UnavailableError: It can't be read: nobody knows what is old then.
        """
        return self._read().get(name, "")

    def raise_to(self, name: str, version: str) -> None:
        """Remember a version, unless a newer one is; it is on the disk when this returns."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._path.with_suffix(".lock")):
                known = self._read()
                if version_key(known.get(name, "")) >= version_key(version):
                    return
                with replacing(self._path) as stream:
                    stream.write(msgspec.json.encode({**known, name: version}))
        except OSError as error:
            log.warning("that %s %s was brought is not kept: %s", name, version, error)

    def _read(self) -> dict[str, str]:
        try:
            return _decode(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError(
                f"which versions updates have brought can not be read: {self._path}: {error}",
                hint="if it is damaged, delete it: what is served there still counts",
            ) from error
