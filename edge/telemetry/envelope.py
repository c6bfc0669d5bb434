"""The envelope around every message: its number, and when it was made."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from edge.core.errors import InputError
from edge.telemetry import clock

VERSION = 1

_DAMAGE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Envelope(msgspec.Struct, frozen=True):
    """``m`` is what the message says, encoded.

    ``seq`` rises by one for each message of a ``boot``, which is one run of a publisher: readers
    drop duplicates on ``(boot, seq)``. ``ts_ms`` is Unix time, to be believed if ``synced``;
    ``hist`` says that the message had to wait for a connection.
    """

    v: int
    id: str
    seq: int
    boot: str
    mono_ns: int
    ts_ms: int
    synced: bool
    hist: bool
    m: msgspec.Raw

    def metrics(self) -> dict[str, Any]:
        """``m``, decoded.

        Raises:
            InputError: It is no object.
        """
        try:
            return msgspec.json.decode(self.m, type=dict[str, Any])
        except _DAMAGE as error:
            raise InputError(f"the metrics of a message can't be read: {error}") from error


class Sealer:
    """Numbers messages and says when they were made; any thread may seal."""

    def __init__(self) -> None:
        self.boot = str(uuid.uuid4())
        self._seq = 0
        self._lock = threading.Lock()

    def seal(self, metrics: Mapping[str, Any]) -> Envelope:
        m = msgspec.Raw(msgspec.json.encode(metrics))
        with self._lock:
            self._seq += 1
            seq = self._seq
        return Envelope(
            v=VERSION,
            id=f"{self.boot}:{seq}",
            seq=seq,
            boot=self.boot,
            mono_ns=time.monotonic_ns(),
            ts_ms=clock.now_ms(),
            synced=clock.is_synchronized(),
            hist=False,
            m=m,
        )


def encode(envelope: Envelope) -> bytes:
    return msgspec.json.encode(envelope)


def decode(payload: bytes) -> Envelope:
    """Read a message that came from outside.

    Raises:
        InputError: It is no envelope, or one of another version.
    """
    try:
        envelope = msgspec.json.decode(payload, type=Envelope)
    except _DAMAGE as error:
        raise InputError(f"not an envelope: {error}") from error
    if envelope.v != VERSION:
        raise InputError(f"an envelope of version {envelope.v}, this edge reads {VERSION}")
    return envelope
