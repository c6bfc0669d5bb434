"""A set of numbers that is mostly a few long ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

MAX_RANGES = 256


class Ranges:
    """Which messages are done. Beyond ``MAX_RANGES`` the shortest is forgotten: they come twice."""

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in pairs:
            self.add(first, last)

    def add(self, first: int, last: int) -> None:
        """Add ``first`` to ``last``, both included; nothing if there is none between."""
        if last < first:
            return
        begin = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if begin < end:
            first = min(first, self._firsts[begin])
            last = max(last, self._lasts[end - 1])
        self._firsts[begin:end] = [first]
        self._lasts[begin:end] = [last]
        if len(self._firsts) > MAX_RANGES:
            self._forget_shortest()

    def covers(self, first: int, last: int) -> bool:
        place = bisect_left(self._lasts, last)
        return place < len(self._lasts) and self._firsts[place] <= first

    def __contains__(self, number: int) -> bool:
        return self.covers(number, number)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._firsts, self._lasts, strict=True))

    @property
    def highest(self) -> int:
        return self._lasts[-1] if self._lasts else 0

    def _forget_shortest(self) -> None:
        place = min(
            range(len(self._firsts)), key=lambda index: self._lasts[index] - self._firsts[index]
        )
        del self._firsts[place], self._lasts[place]
