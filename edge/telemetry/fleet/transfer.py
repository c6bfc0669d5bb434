"""Sends a bundle to devices in chunks over MQTT: the operator's side of ``update``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge.core.durable import sha256_of
from edge.core.errors import InputError

CHUNK_BYTES = 64 * 1024
"""Below what all brokers take: AWS IoT Core has the smallest limit, 128 KiB."""

_AHEAD = 128


class ChunkSource:
    """A bundle's file, cut; for any number of devices, on one thread.

    Raises:
        InputError: It can't be read.
    """

    def __init__(self, path: Path, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._chunk_bytes = chunk_bytes
        self._sha256 = sha256_of(path)
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"can not read {path}: {error.strerror}") from error
        self._size_bytes = os.fstat(self._descriptor).st_size

    @property
    def count(self) -> int:
        return -(-self._size_bytes // self._chunk_bytes)

    def fields(self) -> dict[str, Any]:
        """What the command ``update`` says of it."""
        transfer = {"size_bytes": self._size_bytes, "chunk_bytes": self._chunk_bytes}
        return {"sha256": self._sha256, "transfer": transfer}

    def chunk(self, index: int) -> bytes:
        """The payload for ``…/chunk/<index>``."""
        return os.pread(self._descriptor, self._chunk_bytes, index * self._chunk_bytes)

    def close(self) -> None:
        os.close(self._descriptor)


class _Answer(msgspec.Struct):
    """Of what a device answers, what says how far it is."""

    missing: list[tuple[int, int]]
    received_bytes: int = 0
    round: int = 0


class Pace:
    """Which chunks one device is to be sent, and when; remembers nothing that it could not do
    without, so that an operator who comes back makes a new one.

    Within a round of the device's, each chunk goes once, and no more than ``ahead`` beyond what
    the device has told to have: what the broker would drop, it need not be sent.
    """

    def __init__(self, chunk_bytes: int = CHUNK_BYTES, ahead: int = _AHEAD) -> None:
        self._chunk_bytes = chunk_bytes
        self._ahead = ahead
        self._round = -1
        self._sent: set[int] = set()
        self._had = 0  # chunks, when the round began
        self._has = 0
        self._due: Iterator[int] = iter(())

    def heard(self, answer: Mapping[str, Any]) -> None:
        """Take what the device says; what is no answer to a transfer changes nothing."""
        try:
            said = msgspec.convert(answer, _Answer)
        except msgspec.ValidationError:
            return
        self._has = said.received_bytes // self._chunk_bytes
        if said.round != self._round:
            self._round, self._had = said.round, self._has
            self._sent.clear()
        wanted = (index for start, end in said.missing for index in range(start, end))
        self._due = (index for index in wanted if index not in self._sent)

    def next(self) -> int | None:
        """The chunk to send now; None until the device has told of more."""
        if len(self._sent) - max(0, self._has - self._had) >= self._ahead:
            return None
        index = next(self._due, None)
        if index is not None:
            self._sent.add(index)
        return index
