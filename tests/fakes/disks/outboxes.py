"""Outboxes of numbered messages, on disks that fail and on clocks that a test sets."""

from __future__ import annotations

from typing import Any

import msgspec

from edge.telemetry.outbox import Bounds, Files, Gap, Kind, Outbox

TELEMETRY = Kind("telemetry", 1, commit_s=60.0, max_bytes=1 << 20, max_age_s=1 << 20)
EVENT = Kind("event", 2, commit_s=0.25, max_bytes=1 << 20, max_age_s=1 << 20)
KINDS = (TELEMETRY, EVENT)
SMALL = Bounds(segment_bytes=400, history_burst=1 << 30, min_free_bytes=0, fresh_s=0.0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def describe(gap: Gap) -> bytes:
    first, last = (record and record.payload.decode()[:8] for record in (gap.first, gap.last))
    body = {"reason": gap.reason, "count": gap.count, "first": first, "last": last}
    return b"gap" + msgspec.json.encode(body)


def gaps(payloads: list[bytes]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(payload[3:]) for payload in payloads if payload[:3] == b"gap"]


def messages(payloads: list[bytes]) -> list[bytes]:
    return [payload for payload in payloads if payload[:3] != b"gap"]


class Box(Outbox):
    """An outbox with a clock to set, and one call to get all that is in it."""

    def __init__(
        self, files: Files | None, bounds: Bounds = SMALL, kinds: tuple[Kind, ...] = KINDS
    ) -> None:
        self.clock = Clock()
        super().__init__(files, kinds, describe, bounds, self.clock)

    def pass_time(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.work()

    def drain(self, *, acknowledged: bool = True) -> list[bytes]:
        """All payloads, as they come on a new connection."""
        self.begin()
        payloads = []
        while taken := self.take():
            payloads.append(taken[0].payload)
            if acknowledged:
                self.acknowledge(taken[0].seq)
        return payloads
