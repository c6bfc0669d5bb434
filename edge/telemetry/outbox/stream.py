"""The segments of one kind of messages: written at the end, read from the beginning."""

from __future__ import annotations

import contextlib
import errno
import re
from collections import deque
from collections.abc import Callable

import msgspec

from edge.telemetry.outbox.files import Files
from edge.telemetry.outbox.record import Damage, Record, frame, scan

_NAME = re.compile(r"([a-z]+)-([0-9a-f]{16})-([0-9a-f]{8})\.log")


class Kind(msgspec.Struct, frozen=True):
    """A class of messages and its bounds.

    ``commit_s`` is how long one may wait in memory before it is written. Of more than
    ``max_bytes`` on disk, and of what is older than ``max_age_s``, the oldest is given up.
    """

    name: str
    number: int
    commit_s: float
    max_bytes: int
    max_age_s: int


class Segment(msgspec.Struct):
    """A file of records. ``size`` is what was synced: bytes behind it do not count."""

    name: str
    first: int
    last: int
    size: int
    begun_s: int


class Broken(msgspec.Struct, frozen=True):
    """A stretch of a segment that can't be read, and its intact neighbours."""

    segment: str
    damage: Damage
    before: Record | None
    after: Record | None


class Stream:
    """Not for several threads at once.

    A run never appends to what another has written, so that a torn end is left as it is. The name
    of a segment tells the ``seq`` of its first record and the clock when it was begun.
    """

    def __init__(
        self, kind: Kind, files: Files, segment_bytes: int, tell: Callable[[Broken], None]
    ) -> None:
        self.kind = kind
        self.segments: list[Segment] = []
        self.clock_s = 0
        self._files = files
        self._segment_bytes = segment_bytes
        self._tell = tell
        self._active: Segment | None = None
        self._upcoming: deque[Record] = deque()
        self._loaded = (0, 0)  # the first number and the size of the segment that was read last
        self._told: set[tuple[str, int]] = set()

    def open(self, sizes: dict[str, int]) -> None:
        """Find the segments of earlier runs; only the newest is read."""
        for name, size in sizes.items():
            match = _NAME.fullmatch(name)
            if match and match[1] == self.kind.name:
                first = int(match[2], 16)
                self.segments.append(Segment(name, first, first, size, int(match[3], 16)))
        self.segments.sort(key=lambda segment: segment.first)
        for segment, following in zip(self.segments, self.segments[1:], strict=False):
            segment.last = max(segment.first, following.first - 1)
        if self.segments:
            newest = self.segments[-1]
            self.clock_s = newest.begun_s
            try:
                data = self._files.read(newest.name)
            except OSError:  # told when it is to be sent; its numbers are not given again
                data, newest.last = b"", newest.first + newest.size
            for item in scan(data):
                if isinstance(item, Record):
                    newest.last = max(newest.last, item.seq)
                    self.clock_s = max(self.clock_s, item.clock_s)

    @property
    def size_bytes(self) -> int:
        return sum(segment.size for segment in self.segments)

    @property
    def last(self) -> int:
        return self.segments[-1].last if self.segments else 0

    def append(self, records: list[Record]) -> None:
        """Write ``records``; when this returns, they survive a power cut.

        Raises:
            OSError: They were not written, or maybe in part. The next call begins a new segment,
                as nobody knows what a sync that failed has left.
        """
        data = b"".join(map(frame, records))
        if self._active and self._active.size + len(data) > self._segment_bytes:
            self._seal()
        is_new = self._active is None
        segment = self._active or self._new_segment(records[0])
        self._active = segment
        try:
            if is_new:
                self._files.create(segment.name)
            self._files.append(segment.name, data)
            self._files.sync(segment.name)
            if is_new:
                self._files.sync_folder()
        except OSError:
            self._abandon(segment)
            raise
        segment.size += len(data)
        segment.last = records[-1].seq
        self.clock_s = records[-1].clock_s
        if is_new:
            self.segments.append(segment)

    def remove(self, segment: Segment) -> None:
        """Raises OSError if the file can't be removed."""
        self._files.unlink(segment.name)
        self.segments.remove(segment)
        if segment is self._active:
            self._active = None
        if self._loaded[0] == segment.first:
            self._upcoming.clear()

    def rewind(self) -> None:
        """Read from the beginning again."""
        self._loaded = (0, 0)
        self._upcoming.clear()

    def next_after(self, seq: int) -> Record | None:
        """The first intact record beyond ``seq``, which must not fall until a ``rewind``.

        Raises:
            OSError: A segment can't be read now, and may be later.
        """
        while True:
            while self._upcoming and self._upcoming[0].seq <= seq:
                self._upcoming.popleft()
            if self._upcoming:
                return self._upcoming[0]
            segment = self._next_to_load(seq)
            if segment is None:
                return None
            self._upcoming.extend(self.load(segment))
            self._loaded = (segment.first, segment.size)

    def load(self, segment: Segment) -> list[Record]:
        """What is intact of a segment; what is not is told, once.

        Raises:
            OSError: It can't be read now, and may be later.
        """
        try:
            data = self._files.read(segment.name)[: segment.size]
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ENOENT):
                raise
            data = b""
        items: list[Record | Damage] = list(scan(data))
        if len(data) < segment.size:
            items.append(Damage(len(data), segment.size - len(data)))
        records = [item for item in items if isinstance(item, Record)]
        for place, item in enumerate(items):
            if isinstance(item, Damage) and (segment.name, item.offset) not in self._told:
                self._told.add((segment.name, item.offset))
                self._tell(Broken(segment.name, item, *_neighbours(items, place)))
        return records

    def _next_to_load(self, seq: int) -> Segment | None:
        """A segment that was not read yet, or has grown since."""
        for segment in self.segments:
            if segment.last > seq and (segment.first, segment.size) > self._loaded:
                return segment
        return None

    def _new_segment(self, first: Record) -> Segment:
        name = f"{self.kind.name}-{first.seq:016x}-{first.clock_s:08x}.log"
        return Segment(name, first.seq, first.seq, 0, first.clock_s)

    def _seal(self) -> None:
        if self._active:
            self._files.close(self._active.name)
            self._active = None

    def _abandon(self, segment: Segment) -> None:
        """Take back what a failed write has left, as far as that works."""
        with contextlib.suppress(OSError):
            if segment.size:
                self._files.truncate(segment.name, segment.size)
            else:
                self._files.unlink(segment.name)
        self._seal()


def _neighbours(items: list[Record | Damage], place: int) -> tuple[Record | None, Record | None]:
    """Two stretches of damage never touch, so that a neighbour is a record or the end."""
    before = items[place - 1] if place else None
    after = items[place + 1] if place + 1 < len(items) else None
    return (
        before if isinstance(before, Record) else None,
        after if isinstance(after, Record) else None,
    )
