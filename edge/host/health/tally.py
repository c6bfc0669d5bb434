"""How much was right of the last answers that labels came for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from typing import Generic, TypeVar

Z = 3.29
"""99.9 %: labels are looked at again with each one that comes."""

Compared = TypeVar("Compared")

Overlap = dict[int, tuple[int, int]]
"""Of one picture: class -> pixels that answer and truth share, and those of either."""


class Tally(ABC, Generic[Compared]):
    """The last ``most`` comparisons, and their sums: labels are counted on the event loop."""

    def __init__(self, most: int) -> None:
        self._last: deque[Compared] = deque()
        self._most = most

    def __len__(self) -> int:
        return len(self._last)

    def add(self, compared: Compared) -> None:
        self._last.append(compared)
        self._sum(compared, 1)
        if len(self._last) > self._most:
            self._sum(self._last.popleft(), -1)

    def clear(self) -> None:
        while self._last:
            self._sum(self._last.popleft(), -1)

    @property
    @abstractmethod
    def value(self) -> float:
        """0..1; 1 where there was nothing to be wrong about."""

    def bounds(self) -> tuple[float, float] | None:
        """Within which the value lies with 99.9 %; None where that can't be said."""
        return None

    @abstractmethod
    def _sum(self, compared: Compared, sign: int) -> None: ...


class SharedTally(Tally[tuple[int, int]]):
    """How much was right, of how much: what two sides share counts twice."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._right = self._of = 0

    @property
    def value(self) -> float:
        return self._right / self._of if self._of else 1.0

    def _sum(self, compared: tuple[int, int], sign: int) -> None:
        self._right += sign * compared[0]
        self._of += sign * compared[1]


class HitTally(SharedTally):
    """Each answer is right or wrong."""

    def bounds(self) -> tuple[float, float] | None:
        return wilson(self._right, self._of) if self._of else None


class OverlapTally(Tally[Overlap]):
    """Mean over classes of the IoU of their pixels in all pictures together, as in a report."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._total: Overlap = {}
        self._reach = 0.0
        self._news_count = 0

    @property
    def value(self) -> float:
        ious = self._ious()
        return sum(ious.values()) / len(ious) if ious else 1.0

    def bounds(self) -> tuple[float, float] | None:
        """By the jackknife: how much the value hangs on each of the pictures.

        That is found anew once a fiftieth of them are others: of 1,000 it takes 15 ms.
        """
        ious, count = self._ious(), len(self._last)
        if count < 2 or not ious:
            return None
        if self._news_count > count // 50:
            self._reach, self._news_count = self._jackknife(ious), 0
        return max(0.0, self.value - self._reach), min(1.0, self.value + self._reach)

    def _jackknife(self, ious: dict[int, float]) -> float:
        count = len(self._last)
        without = [self._without(overlap, ious) for overlap in self._last]
        middle = sum(without) / count
        squares = sum((value - middle) ** 2 for value in without)
        return Z * math.sqrt(squares * (count - 1) / count)

    def _ious(self) -> dict[int, float]:
        return {index: shared / of for index, (shared, of) in self._total.items() if of}

    def _without(self, overlap: Overlap, ious: dict[int, float]) -> float:
        """The value that it would be without one of the pictures."""
        total, classes = sum(ious.values()), len(ious)
        for index, (shared, of) in overlap.items():
            if not of:
                continue
            all_shared, all_of = self._total[index]
            total -= ious[index]
            if all_of > of:
                total += (all_shared - shared) / (all_of - of)
            else:
                classes -= 1
        return total / classes if classes else self.value

    def _sum(self, compared: Overlap, sign: int) -> None:
        self._news_count += 1
        for index, (shared, of) in compared.items():
            all_shared, all_of = self._total.get(index, (0, 0))
            self._total[index] = all_shared + sign * shared, all_of + sign * of


def wilson(right: int, count: int, z: float = Z) -> tuple[float, float]:
    """Wilson's interval of a share, which holds for few and for shares near 0 and 1 too."""
    share, weight = right / count, z * z / count
    middle = (share + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)
