"""Messages that wait for the broker: bounded in bytes, and what is dropped is counted."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from edge.telemetry.envelope import Envelope

MAX_BYTES = 1024 * 1024
_OVERHEAD_BYTES = 512  # of a message in memory, beside its metrics


class Message(msgspec.Struct, frozen=True):
    """A message for the broker. When memory is short, telemetry goes before events."""

    topic: str
    envelope: Envelope
    is_event: bool = False
    is_retained: bool = False

    @property
    def cost_bytes(self) -> int:
        return memoryview(self.envelope.m).nbytes + _OVERHEAD_BYTES


class Backlog:
    """First in, first out; any thread may call.

    Over ``max_bytes`` the oldest telemetry is dropped, then the oldest events. What was dropped
    is told next, as ``gap {from, to, count, reason}`` in terms of ``seq``.
    """

    def __init__(
        self, gap_message: Callable[[dict[str, Any]], Message], max_bytes: int = MAX_BYTES
    ) -> None:
        self._gap_message = gap_message
        self._max_bytes = max_bytes
        self._telemetry: deque[Message] = deque()
        self._events: deque[Message] = deque()
        self._gap: tuple[int, int, int] | None = None
        self._lock = threading.Lock()
        self.size_bytes = 0
        self.dropped_count = 0

    def put(self, message: Message) -> None:
        with self._lock:
            self._queue_of(message).append(message)
            self._grown(message)

    def put_back(self, message: Message) -> None:
        """Return a message that was taken and did not arrive; the one taken last comes first."""
        with self._lock:
            self._queue_of(message).appendleft(message)
            self._grown(message)

    def take(self) -> Message | None:
        """The next message to send, or None."""
        with self._lock:
            if self._gap is not None:
                (first, last, count), self._gap = self._gap, None
                return self._gap_message(
                    {"gap": {"from": first, "to": last, "count": count, "reason": "memory"}}
                )
            queues = [queue for queue in (self._telemetry, self._events) if queue]
            if not queues:
                return None
            message = min(queues, key=lambda queue: queue[0].envelope.seq).popleft()
            self.size_bytes -= message.cost_bytes
            return message

    def __len__(self) -> int:
        return len(self._telemetry) + len(self._events)

    def _queue_of(self, message: Message) -> deque[Message]:
        return self._events if message.is_event else self._telemetry

    def _grown(self, message: Message) -> None:
        self.size_bytes += message.cost_bytes
        while self.size_bytes > self._max_bytes and len(self) > 1:
            dropped = (self._telemetry or self._events).popleft()
            self.size_bytes -= dropped.cost_bytes
            self.dropped_count += 1
            seq = dropped.envelope.seq
            first, last, count = self._gap or (seq, seq, 0)
            self._gap = (min(first, seq), max(last, seq), count + 1)
