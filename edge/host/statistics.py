"""Counts and latencies of a model's inferences; recording one costs about a microsecond."""

from __future__ import annotations

import threading
import time

import msgspec

STAGES = ("queue", "input", "infer", "output")
"""Waiting for the model's thread; preparing inputs; the engine; decoding outputs."""

# Buckets split each power of two into 16, so a percentile is at most 1/32 (3 %) from the truth.
_SPLIT_BITS = 4
_SPLIT = 1 << _SPLIT_BITS
_OCTAVES = 40  # 2**40 ns is 18 minutes; what lasts longer counts in the last bucket
_BUCKETS = (_OCTAVES - _SPLIT_BITS + 1) << _SPLIT_BITS


class Total(msgspec.Struct, frozen=True):
    """How many, and how long they took together, as Triton's statistics have it."""

    count: int = 0
    ns: int = 0


class Histogram(msgspec.Struct, frozen=True):
    """Latencies of one stage, in logarithmic buckets."""

    total: Total
    buckets: tuple[int, ...]

    @property
    def count(self) -> int:
        return self.total.count

    @property
    def ns(self) -> int:
        return self.total.ns

    @property
    def mean_ms(self) -> float:
        return self.ns / self.count / 1e6 if self.count else 0.0

    @property
    def p50_ms(self) -> float:
        return self.percentile_ms(50)

    @property
    def p90_ms(self) -> float:
        return self.percentile_ms(90)

    @property
    def p99_ms(self) -> float:
        return self.percentile_ms(99)

    def percentile_ms(self, percent: float) -> float:
        """The middle of the bucket that holds the percentile; 0 when nothing was recorded."""
        rank = max(1.0, self.count * percent / 100)
        seen = 0
        for bucket, count in enumerate(self.buckets):
            seen += count
            if seen >= rank:
                low, high = _bounds(bucket)
                return (low + high - 1) / 2 / 1e6
        return 0.0

    def since(self, earlier: Histogram) -> Histogram:
        """What was recorded after ``earlier``."""
        buckets = tuple(a - b for a, b in zip(self.buckets, earlier.buckets, strict=True))
        return Histogram(_minus(self.total, earlier.total), buckets)


class Snapshot(msgspec.Struct, frozen=True):
    """Everything counted up to a moment; ``last_inference_ms`` is Unix time, 0 before the first."""

    success: Total
    fail: Total
    queue: Histogram
    input: Histogram
    infer: Histogram
    output: Histogram
    last_inference_ms: int = 0

    def since(self, earlier: Snapshot) -> Snapshot:
        """What was counted after ``earlier``: the figures of the time in between."""
        return Snapshot(
            success=_minus(self.success, earlier.success),
            fail=_minus(self.fail, earlier.fail),
            queue=self.queue.since(earlier.queue),
            input=self.input.since(earlier.input),
            infer=self.infer.since(earlier.infer),
            output=self.output.since(earlier.output),
            last_inference_ms=self.last_inference_ms,
        )


class Statistics:
    """Counters of one model. Any thread may record or take a snapshot."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._success = [0, 0]
        self._fail = [0, 0]
        self._sums = [0, 0, 0, 0]
        self._buckets = [[0] * _BUCKETS for _ in STAGES]
        self._last_inference_ms = 0

    def record(self, queue_ns: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """Count an inference that succeeded, with the time that each stage took."""
        now_ms = time.time_ns() // 1_000_000
        stages = (queue_ns, input_ns, infer_ns, output_ns)
        with self._lock:
            for stage, ns in enumerate(stages):
                self._sums[stage] += ns
                self._buckets[stage][_bucket(ns)] += 1
            self._success[0] += 1
            self._success[1] += queue_ns + input_ns + infer_ns + output_ns
            self._last_inference_ms = now_ms

    def record_failure(self, ns: int) -> None:
        """Count an inference that failed after ``ns``."""
        with self._lock:
            self._fail[0] += 1
            self._fail[1] += ns

    def snapshot(self) -> Snapshot:
        """A consistent copy of all counters."""
        with self._lock:
            success, fail = Total(*self._success), Total(*self._fail)
            sums, last = tuple(self._sums), self._last_inference_ms
            buckets = [tuple(stage) for stage in self._buckets]
        stages = {
            name: Histogram(Total(success.count, ns), counts)
            for name, ns, counts in zip(STAGES, sums, buckets, strict=True)
        }
        return Snapshot(success=success, fail=fail, last_inference_ms=last, **stages)


def _bucket(ns: int) -> int:
    """Index of the bucket of ``ns``: exact below 16, then 16 to each power of two."""
    if ns < _SPLIT:
        return ns if ns > 0 else 0
    shift = ns.bit_length() - _SPLIT_BITS - 1
    bucket = (shift << _SPLIT_BITS) + (ns >> shift)
    return bucket if bucket < _BUCKETS else _BUCKETS - 1


def _bounds(bucket: int) -> tuple[int, int]:
    """The values from the first up to, not including, the second fall into ``bucket``."""
    if bucket < _SPLIT:
        return bucket, bucket + 1
    shift = (bucket >> _SPLIT_BITS) - 1
    low = (bucket - (shift << _SPLIT_BITS)) << shift
    return low, low + (1 << shift)


def _minus(later: Total, earlier: Total) -> Total:
    return Total(later.count - earlier.count, later.ns - earlier.ns)
