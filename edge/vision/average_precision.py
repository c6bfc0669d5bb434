"""COCO's mean average precision of boxes against annotated ones, as pycocotools computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edge.vision.boxes import area, corners, intersection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.core.tensor import Array
    from edge.vision.predictions import Box

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST_BOXES = 100
"""Of one class in one picture: COCO counts the best so many."""

LOWEST_SCORE = 0.01
"""Boxes below are not looked at. A precision over all recalls needs the doubtful boxes too, which
the threshold of an application drops; below 1 % they add almost nothing, and NMS takes long."""


class TrueBox(msgspec.Struct, frozen=True):
    """An annotated object in pixels of the picture; a crowd is a region of many, not counted."""

    x0: float
    y0: float
    x1: float
    y1: float
    index: int
    is_crowd: bool = False


class _Class(msgspec.Struct):
    """What was found of one class: a score per box, and per threshold whether it is right."""

    objects: int = 0
    scores: list[Array] = []
    is_right: list[Array] = []


class AveragePrecision:
    """mAP in percent over IoU 0.50 to 0.95, all sizes, at most 100 boxes of a class per picture."""

    def __init__(self) -> None:
        self._classes: dict[int, _Class] = {}

    def add(self, found: Sequence[Box], truth: Sequence[TrueBox]) -> None:
        """Take in one picture."""
        for index in {box.index for box in found} | {box.index for box in truth}:
            self._add_class(
                self._classes.setdefault(index, _Class()),
                [box for box in found if box.index == index],
                [box for box in truth if box.index == index],
            )

    @property
    def value(self) -> float | None:
        """None when there are no objects at all."""
        each = [_average(known) for known in self._classes.values() if known.objects]
        return 100.0 * float(np.mean(each)) if each else None

    def _add_class(self, known: _Class, found: list[Box], truth: list[TrueBox]) -> None:
        best = sorted(found, key=lambda box: -box.score)[:MOST_BOXES]
        truth = sorted(truth, key=lambda box: box.is_crowd)
        crowds = np.array([box.is_crowd for box in truth], bool)
        known.objects += int((~crowds).sum())
        if not best:
            return
        scores = np.array([box.score for box in best])
        is_right, is_counted = _match(_overlaps(best, truth, crowds), crowds)
        # A box in a crowd is neither right nor wrong, at the thresholds where it lies in one.
        known.scores.append(scores)
        known.is_right.append(np.where(is_counted, is_right, -1))


def _overlaps(found: Sequence[Box], truth: Sequence[TrueBox], crowds: Array) -> Array:
    """IoU; with a crowd, the share of the found box that lies in it."""
    if not truth:
        return np.zeros((len(found), 0))
    one, two = corners(found), corners(truth)
    shared = intersection(one, two)
    own = np.broadcast_to(area(one)[:, None], shared.shape)
    whole = np.where(crowds, own, own + area(two) - shared)
    overlaps: Array = shared / np.maximum(whole, np.finfo(np.float64).tiny)
    return overlaps


def _match(overlaps: Array, crowds: Array) -> tuple[Array, Array]:
    """Greedy by score: (thresholds, found) arrays of what is right, and of what counts at all.

    Each box takes the object it overlaps most that is free, or else a crowd, which stays free.
    """
    is_right = np.zeros((len(IOU_THRESHOLDS), len(overlaps)), bool)
    is_counted = np.ones_like(is_right)
    for at, threshold in enumerate(IOU_THRESHOLDS):
        is_free = ~crowds
        for row, overlap in enumerate(overlaps):
            objects = np.where(is_free, overlap, -1.0)
            if objects.size and objects.max() >= threshold:
                # Of equal ones the last, as pycocotools does.
                taken = len(objects) - 1 - int(objects[::-1].argmax())
                is_free[taken] = False
                is_right[at, row] = True
            elif (overlap[crowds] >= threshold).any():
                is_counted[at, row] = False
    return is_right, is_counted


def _average(known: _Class) -> float:
    """Precision at 101 recalls, each the best at that recall or above, averaged."""
    if not known.scores:
        return 0.0
    order = np.argsort(-np.concatenate(known.scores), kind="stable")
    outcomes = np.concatenate(known.is_right, axis=1)[:, order]
    averages = []
    for outcome in outcomes:
        right = np.cumsum(outcome == 1)
        wrong = np.cumsum(outcome == 0)
        precision = right / np.maximum(right + wrong, 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(right / known.objects, RECALLS, side="left")
        averages.append(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())
    return float(np.mean(averages))
