"""What a host and its worker tell each other; the tensors themselves lie in shared memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edge.core import errors
from edge.core.contracts import Placement
from edge.core.errors import EdgeError, EngineError
from edge.core.manifest import Variant
from edge.core.profile import DeviceProfile
from edge.core.tensor import TensorSpec

LIMIT_BYTES = 128 * 1024
"""Of one message; the kernel takes about 200 KiB at once."""

SAME = b"="
"""Instead of a layout: names, dtypes and shapes are those of the time before."""

_TEXT_LIMIT = 8000


class Order(msgspec.Struct, frozen=True):
    """What a worker is to open; ``name`` is the model's, for the log."""

    name: str
    engine: str
    variant: Variant
    folder: Path
    profile: DeviceProfile
    options: dict[str, Any] = {}
    log_level: int = 0


class Opened(msgspec.Struct, frozen=True, tag=True):
    """What a worker has opened."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    placement: Placement


class Failure(msgspec.Struct, frozen=True, tag=True):
    """An error of the worker, which the host raises."""

    kind: str
    message: str
    hint: str = ""

    @staticmethod
    def of(error: Exception) -> Failure:
        if isinstance(error, EdgeError):
            return Failure(type(error).__name__, str(error)[:_TEXT_LIMIT], error.hint[:_TEXT_LIMIT])
        return Failure("EngineError", f"{type(error).__name__}: {error}"[:_TEXT_LIMIT])

    @property
    def error(self) -> EdgeError:
        kind = getattr(errors, self.kind, EngineError)
        error: EdgeError = kind(self.message, hint=self.hint)
        return error


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a tensor lies; one of text, which is encoded, takes ``text_bytes``; others have -1."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    text_bytes: int = -1


class Layout(msgspec.Struct, frozen=True, tag=True):
    """Where tensors lie in an arena, of which they take ``size_bytes``."""

    places: tuple[Place, ...]
    size_bytes: int


def _plain(value: object) -> str:
    if isinstance(value, (Path, str)):  # also subclasses, such as numpy's
        return str(value)
    raise NotImplementedError


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError


# Made at import, by one thread: msgspec crashes where two learn a type at once.
_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
encode = _encoder.encode
decode_order = msgspec.msgpack.Decoder(Order, dec_hook=_path).decode
decode_opening = msgspec.msgpack.Decoder[Opened | Failure](Opened | Failure).decode
decode_request = msgspec.msgpack.Decoder(Layout).decode
decode_reply = msgspec.msgpack.Decoder[Layout | Failure](Layout | Failure).decode
decode_text = msgspec.msgpack.Decoder(list[Any]).decode
