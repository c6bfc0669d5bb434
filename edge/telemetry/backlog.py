"""Messages that wait for the broker, in an outbox: on disk where there is one, or in memory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge.core.errors import InputError, UnavailableError
from edge.telemetry.envelope import Envelope, decode, encode
from edge.telemetry.outbox import Bounds, DiskFiles, Gap, Kind, Outbox, Record, Status, Worker

log = logging.getLogger(__name__)

_DAY_S = 24 * 3600
_MIB = 1024 * 1024
TELEMETRY = Kind("telemetry", 1, commit_s=60.0, max_bytes=64 * _MIB, max_age_s=30 * _DAY_S)
EVENT = Kind("event", 2, commit_s=0.25, max_bytes=16 * _MIB, max_age_s=365 * _DAY_S)
KINDS = (TELEMETRY, EVENT)
_LENGTH_BYTES = 2  # of a topic, as in MQTT
_DISK_TIMEOUT_S = 5.0
DISK_RETRY_S = 60.0  # of a folder that could not be used

SealGap = Callable[[dict[str, Any]], tuple[str, Envelope]]


class Message(msgspec.Struct, frozen=True):
    """A message for the broker; ``number`` is its place in the outbox, 0 if it has none."""

    topic: str
    payload: bytes
    number: int = 0


class Backlog:
    """First in, first out, as far as `Outbox` keeps to it; any thread may put, one takes.

    What had to be dropped is told as ``gap {from, to, count, reason}`` in terms of ``seq``, with
    ``boot`` where another run has numbered them; ``count`` is null where nobody knows.

    Args:
        folder: Where messages survive; None for memory only. One that can't be used is as none,
            until it can.
    """

    def __init__(
        self, seal_gap: SealGap, folder: Path | None = None, bounds: Bounds | None = None
    ) -> None:
        self._seal_gap = seal_gap
        self._folder = folder
        self._bounds = bounds or Bounds()
        self._lock = threading.Lock()  # for who puts, while one outbox takes the place of another
        self._dropped_before = 0
        self._outbox = self._open()
        self._retry_at_s = time.monotonic() + DISK_RETRY_S
        self._worker = Worker(self._outbox)

    def start(self) -> None:
        self._worker.start()

    def put(self, topic: str, envelope: Envelope, *, is_event: bool) -> None:
        with self._lock:
            self._outbox.put(EVENT if is_event else TELEMETRY, _pack(topic, encode(envelope)))

    def find_disk(self) -> None:
        """Take a folder into use that could not be used before; with no message on its way."""
        if self._folder is None or self._outbox.has_disk or time.monotonic() < self._retry_at_s:
            return
        self._retry_at_s = time.monotonic() + DISK_RETRY_S
        try:
            outbox = self._open_disk(self._folder)
        except (OSError, UnavailableError):
            return
        log.warning("what waits for the broker is kept in %s from now on", self._folder)
        outbox.adopt(self._outbox.drain())
        outbox.commit()
        with self._lock:
            outbox.adopt(self._outbox.drain())  # what came since
            self._dropped_before = self._outbox.status().dropped_count
            self._outbox = outbox
        self._worker.close(_DISK_TIMEOUT_S)
        self._worker = Worker(outbox)
        self._worker.start()
        outbox.begin()

    def begin(self) -> None:
        """A connection begins."""
        self._outbox.begin()

    def end(self) -> None:
        """A connection has ended: what was not acknowledged waits again."""
        self._outbox.end()

    def take(self) -> Message | None:
        """The next message to send, or None; what waited is marked as history."""
        taken = self._outbox.take()
        if taken is None:
            return None
        record, is_history = taken
        topic, payload = _unpack(record.payload)
        return Message(topic, _as_history(payload) if is_history else payload, record.seq)

    @property
    def has_history(self) -> bool:
        """Whether more may come by and by, though `take` gave None."""
        return self._outbox.has_history

    def hold_history(self) -> None:
        """Leave what waited to the next run."""
        self._outbox.hold_history()

    def acknowledge(self, number: int) -> None:
        self._outbox.acknowledge(number)

    def give_up(self, message: Message, reason: str, detail: str) -> None:
        """A message that was taken will never arrive: that is told as a gap."""
        payload = _pack(message.topic, message.payload)
        self._outbox.give_up(Record(message.number, 0, 0, payload), reason, detail)

    def commit(self) -> bool:
        """Write all that waits in memory; whether all of it is safe now. Waits for the disk."""
        return self._outbox.commit()

    def status(self) -> Status:
        status = self._outbox.status()
        dropped_count = status.dropped_count + self._dropped_before
        return msgspec.structs.replace(status, dropped_count=dropped_count)

    def close(self) -> None:
        """Write what still waits, if there is a disk."""
        self._worker.close(_DISK_TIMEOUT_S)

    def _open(self) -> Outbox:
        try:
            if self._folder is not None:
                return self._open_disk(self._folder)
        except (OSError, UnavailableError) as error:
            log.warning("what waits for the broker is kept in memory only: %s", error)
        return Outbox(None, KINDS, self._describe, self._bounds)

    def _open_disk(self, folder: Path) -> Outbox:
        files = DiskFiles(folder)
        try:
            return Outbox(files, KINDS, self._describe, self._bounds)
        except OSError:
            files.release()
            raise

    def _describe(self, gap: Gap) -> bytes:
        first, last = _envelope_of(gap.first), _envelope_of(gap.last)
        told: dict[str, Any] = {
            "from": first.seq if first else None,
            "to": last.seq if last else None,
            "count": gap.count,
            "reason": gap.reason,
        }
        if gap.detail:
            told["detail"] = gap.detail
        if gap.reason == "damaged":  # these two are what is left around it
            told["from"] = first.seq + 1 if first else None
            told["to"] = last.seq - 1 if last else None
        if first or last:
            told["boot"] = (first or last).boot  # type: ignore[union-attr]
        topic, envelope = self._seal_gap({"gap": told})
        return _pack(topic, encode(envelope))


def _pack(topic: str, payload: bytes) -> bytes:
    name = topic.encode()
    return len(name).to_bytes(_LENGTH_BYTES, "big") + name + payload


def _unpack(data: bytes) -> tuple[str, bytes]:
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    return data[_LENGTH_BYTES:end].decode(errors="replace"), data[end:]


def _envelope_of(record: Record | None) -> Envelope | None:
    if record is None:
        return None
    try:
        return decode(_unpack(record.payload)[1])
    except InputError:  # of another version of this program
        return None


def _as_history(payload: bytes) -> bytes:
    try:
        return encode(msgspec.structs.replace(decode(payload), hist=True))
    except InputError:  # of another version of this program, whose readers may know it
        return payload
