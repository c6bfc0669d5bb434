"""Puts a bundle together from chunks that come in any order, more than once, or not at all."""

from __future__ import annotations

import logging
import queue
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Annotated, Any, NamedTuple

import msgspec

from edge.core.durable import replacing
from edge.core.errors import BundleError, UnavailableError
from edge.telemetry.updates.partial import Partial, Room

log = logging.getLogger(__name__)

MAX_CHUNK_BYTES = 8 * 1024 * 1024
_WAITING_BYTES = 16 * 1024 * 1024
_KEEP_BYTES = 4 * 1024 * 1024  # what a power cut may cost, and how often the disk is asked to sync
_KEEP_S = 5.0
_MOST_RANGES = 32
_ROUND_S = 2.0
_LONGEST_ROUND_S = 60.0
_MOST_WRONG = 2
_MOST_DIGITS = 10


class Geometry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a file is cut: all chunks have ``chunk_bytes`` but for the last."""

    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 42)]
    chunk_bytes: Annotated[int, msgspec.Meta(ge=1024, le=MAX_CHUNK_BYTES)]

    @property
    def count(self) -> int:
        return -(-self.size_bytes // self.chunk_bytes)

    def length(self, index: int) -> int:
        return min(self.chunk_bytes, self.size_bytes - index * self.chunk_bytes)


class Ranges:
    """A set of whole numbers as half-open ranges: large sets of neighbours take no memory."""

    def __init__(self, ranges: Sequence[tuple[int, int]] = ()) -> None:
        self._starts = [start for start, _ in ranges]
        self._ends = [end for _, end in ranges]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def __contains__(self, number: int) -> bool:
        place = bisect_left(self._starts, number + 1) - 1
        return place >= 0 and number < self._ends[place]

    def add(self, number: int) -> None:
        if number in self:
            return
        place = bisect_left(self._starts, number)
        joins_left = place > 0 and self._ends[place - 1] == number
        joins_right = place < len(self._starts) and self._starts[place] == number + 1
        if joins_left and joins_right:
            self._ends[place - 1] = self._ends.pop(place)
            del self._starts[place]
        elif joins_left:
            self._ends[place - 1] = number + 1
        elif joins_right:
            self._starts[place] = number
        else:
            self._starts.insert(place, number)
            self._ends.insert(place, number + 1)

    def gaps(self, count: int) -> Iterator[tuple[int, int]]:
        """Ranges of what is not in it, below ``count``."""
        start = 0
        for found, end in self:
            if found > start:
                yield start, found
            start = end
        if start < count:
            yield start, count


class _Kept(msgspec.Struct, frozen=True):
    """What a restart finds: chunks that were safe on the disk when this was written."""

    geometry: Geometry
    received: list[tuple[int, int]]

    @property
    def makes_sense(self) -> bool:
        ends = [end for both in self.received for end in both]
        is_rising = all(one < other for one, other in pairwise([-1, *ends]))
        return is_rising and all(end <= self.geometry.count for end in ends)


# Made at import, by one thread: msgspec crashes where two learn a type at once.
_decode = msgspec.json.Decoder(_Kept).decode


class Inbox:
    """Chunks between the thread that talks to the broker and the one that writes them.

    What does not fit is dropped: it is missing then, and will be asked for.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        most = max(2, _WAITING_BYTES // geometry.chunk_bytes)
        self._queue: queue.Queue[tuple[int, bytes]] = queue.Queue(min(most, 4096))

    def put(self, path: tuple[str, ...], payload: bytes) -> None:
        """Take what came below the topic of the command, if it is a chunk of this file."""
        if len(path) != 2 or path[0] != "chunk" or len(path[1]) > _MOST_DIGITS:
            return
        if not (path[1].isascii() and path[1].isdigit()):
            return
        index = int(path[1])
        if index >= self._geometry.count or len(payload) != self._geometry.length(index):
            return
        try:
            self._queue.put_nowait((index, payload))
        except queue.Full:
            return

    def get(self, timeout_s: float) -> tuple[int, bytes] | None:
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None


class Terms(NamedTuple):
    """``check`` is called between steps, and raises to stop."""

    room: Room
    patience_s: float
    told: Callable[[float, dict[str, Any]], None]
    check: Callable[[], None]


class Assembly:
    """Takes chunks from ``inbox`` until all are there; one thread uses it."""

    def __init__(self, partial: Partial, geometry: Geometry, inbox: Inbox, terms: Terms) -> None:
        self._partial = partial
        self._geometry = geometry
        self._inbox = inbox
        self._terms = terms
        self._received = Ranges()
        self._received_count = 0
        self._unsafe_bytes = 0
        self._kept_s = time.monotonic()
        self._round = 0

    def run(self) -> None:
        """Gather until the file is whole.

        Raises:
            InputError: The file is larger than any may be.
            BundleError: All came, twice, and is not what its digest says.
            UnavailableError: No chunk came for the time of patience, or the disk takes no more.
        """
        self._begin()
        for _ in range(_MOST_WRONG):
            try:
                self._gather()
            finally:  # also when the process is about to end, or the operator gave up
                self._keep()
            digest = self._partial.digest()
            if digest == self._partial.sha256:
                return
            log.warning("an update came with the SHA-256 %s; asking for all of it again", digest)
            self._forget()
        raise BundleError(
            f"what came has the SHA-256 {digest}, not {self._partial.sha256}",
            hint="name the digest of the file that is sent: sha256sum FILE",
        )

    def _begin(self) -> None:
        """Go on with what an earlier update with the same contents, and the same cuts, has kept."""
        try:
            kept = _decode(self._partial.notes_path.read_bytes())
            is_ours = kept.geometry == self._geometry and kept.makes_sense
            is_whole = self._partial.size_bytes == self._geometry.size_bytes
        except (OSError, msgspec.MsgspecError, ValueError):
            is_ours = is_whole = False
        if is_ours and is_whole:
            self._received = Ranges(kept.received)
            self._received_count = sum(end - start for start, end in kept.received)
        missing_bytes = (self._geometry.count - self._received_count) * self._geometry.chunk_bytes
        self._terms.room.check(self._geometry.size_bytes, missing_bytes)
        if not (is_ours and is_whole):
            self._forget()

    def _forget(self) -> None:
        self._received, self._received_count = Ranges(), 0
        self._partial.truncate()
        self._partial.truncate(self._geometry.size_bytes)
        self._keep()

    def _gather(self) -> None:
        came_s = asked_s = time.monotonic()
        wait_s = _ROUND_S
        self._tell()
        while self._received_count < self._geometry.count:
            self._terms.check()
            item = self._inbox.get(min(wait_s, 0.5))
            now_s = time.monotonic()
            if item is not None:
                self._take(*item)
                came_s = asked_s = now_s
                wait_s = _ROUND_S
            elif now_s - asked_s > wait_s:  # the sender hears that these are not on their way
                asked_s, wait_s = now_s, min(2 * wait_s, _LONGEST_ROUND_S)
                self._round += 1
                self._tell()
            elif now_s - came_s > self._terms.patience_s:
                raise UnavailableError(
                    f"no chunk came for {self._terms.patience_s:g} s, "
                    f"{self._geometry.count - self._received_count} are missing",
                    hint="send the command again under another id: what came is kept",
                )
            if self._unsafe_bytes and now_s - self._kept_s > _KEEP_S:
                self._keep()

    def _take(self, index: int, data: bytes) -> None:
        if index in self._received:
            return
        if self._unsafe_bytes + len(data) > _KEEP_BYTES:
            self._terms.room.check(self._geometry.size_bytes, len(data))
            self._keep()
        self._partial.write(data, index * self._geometry.chunk_bytes)
        self._received.add(index)
        self._received_count += 1
        self._unsafe_bytes += len(data)
        self._tell()

    def _keep(self) -> None:
        """Write down which chunks are there, once they are safe on the disk.

        Raises:
            UnavailableError: The disk failed.
        """
        self._partial.sync()
        kept = _Kept(self._geometry, list(self._received))
        try:
            with replacing(self._partial.notes_path) as stream:
                stream.write(msgspec.json.encode(kept))
        except OSError as error:
            raise UnavailableError(
                f"can not write {self._partial.notes_path}: {error.strerror}"
            ) from error
        self._unsafe_bytes, self._kept_s = 0, time.monotonic()

    def _tell(self) -> None:
        gaps = self._received.gaps(self._geometry.count)
        missing = list(islice(gaps, _MOST_RANGES))
        received_bytes = min(
            self._received_count * self._geometry.chunk_bytes, self._geometry.size_bytes
        )
        told = {"received_bytes": received_bytes, "missing": missing, "round": self._round}
        self._terms.told(self._received_count / self._geometry.count, told)
