"""Whether requests for a model may run as one batch, and how they are put together and apart."""

from __future__ import annotations

import logging
from math import prod
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edge.core.errors import EdgeError, EngineError
from edge.core.tensor import TensorSpec, alike, check_feeds, kind_of
from edge.host.benchmark import synthetic_feeds

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.bundle import Bundle
    from edge.core.contracts import Session
    from edge.core.tensor import Array, Feeds, Kind
    from edge.host.opening import Opened
    from edge.host.queueing import Request

    Run = Callable[[Feeds], dict[str, Array]]

log = logging.getLogger(__name__)

_SCALE = 8
"""The proof's other row has values of another size: ranges that an engine takes from the whole
batch would show."""

_TOLERANCES = {"fp32": 1e-4}
_COARSE = 1e-2
"""Shares of the largest value by which answers in a batch may differ: kernels for another size
add up in another order, and below FP32 that shows."""


class BatchPlan(msgspec.Struct, frozen=True):
    """How many rows may run as one; ``reason`` says why it is one, where more were wished for.

    ``is_padded`` if the model takes batches of just ``max_rows``. ``inputs`` are what one request
    may hold: its first axis is free.
    """

    max_rows: int = 1
    is_padded: bool = False
    inputs: tuple[TensorSpec, ...] = ()
    reason: str = ""

    @property
    def is_on(self) -> bool:
        return self.max_rows > 1


class Admission:
    """Looks at requests before they wait, and remembers the last one: most are like it."""

    def __init__(self, plan: BatchPlan) -> None:
        self.plan = plan
        self._last: tuple[Kind | None, int, Kind | None] = (None, 1, None)

    def admit(self, request: Request) -> None:
        """Find out who ``request`` can run with.

        Raises:
            InputError: It does not fit the model, and must not spoil anybody's batch.
        """
        feeds = request.feeds
        known, rows, kind = self._last
        if not alike(feeds, known):
            check_feeds(self.plan.inputs, feeds)
            rows, kind = self._rows_and_kind(feeds)
            self._last = kind_of(feeds), rows, kind
        request.rows, request.kind = rows, kind

    def _rows_and_kind(self, feeds: Feeds) -> tuple[int, Kind | None]:
        rows = {array.shape[0] for array in feeds.values()}
        count = rows.pop()
        if rows or not 0 < count < self.plan.max_rows:
            return count, None
        arrays = [(spec.name, feeds[spec.name]) for spec in self.plan.inputs]
        return count, tuple((name, array.dtype, array.shape[1:]) for name, array in arrays)


class BatchBuffer:
    """Memory for the inputs of one batch at a time, kept for the next one."""

    def __init__(self) -> None:
        self._memory: dict[str, Array] = {}

    def fill(self, requests: list[Feeds], rows: int, capacity: int) -> dict[str, Array]:
        """Inputs one after the other, then the first row again until there are ``rows``.

        Args:
            capacity: Rows to allot memory for, so that larger batches need no more.
        """
        batch: dict[str, Array] = {}
        for name, first in requests[0].items():
            array = self._array(name, first, max(rows, capacity))[:rows]
            end = 0
            for feeds in requests:
                begin, end = end, end + len(feeds[name])
                array[begin:end] = feeds[name]
            array[end:] = first[:1]
            batch[name] = array
        return batch

    def _array(self, name: str, like: Array, rows: int) -> Array:
        shape, dtype = (rows, *like.shape[1:]), like.dtype.newbyteorder("=")
        if dtype.hasobject:
            return np.empty(shape, dtype)
        size_bytes = prod(shape) * dtype.itemsize
        memory = self._memory.get(name)
        if memory is None or memory.nbytes < size_bytes:
            memory = self._memory[name] = np.empty(size_bytes, np.uint8)
        array: Array = np.ndarray(shape, dtype, buffer=memory)
        return array


def split(outputs: dict[str, Array], rows: list[int], total: int) -> list[dict[str, Array]]:
    """The part of each request, which it owns.

    Raises:
        EngineError: An output does not have ``total`` rows.
    """
    for name, array in outputs.items():
        if array.shape[:1] != (total,):
            raise EngineError(f"output {name!r} of a batch of {total} has the shape {array.shape}")
    parts: list[dict[str, Array]] = []
    end = 0
    for count in rows:
        begin, end = end, end + count
        parts.append({name: array[begin:end].copy() for name, array in outputs.items()})
    return parts


def plan_batches(bundle: Bundle, opened: Opened, max_batch: int) -> BatchPlan:
    """Up to ``max_batch`` rows as one, if tensors allow it and the session proves right with it."""
    if max_batch == 1:
        return BatchPlan()
    plan = declared_batches(opened.session.inputs, opened.session.outputs, max_batch)
    if plan.is_on:
        plan = _proven(plan, _sample(bundle, opened.session), opened)
    if plan.reason:
        log.warning("%s runs requests one by one: %s", bundle.manifest.name, plan.reason)
    return plan


def declared_batches(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], max_batch: int
) -> BatchPlan:
    """What shapes say: one and the same first axis everywhere, which is nowhere else."""
    specs = (*inputs, *outputs)
    # OpenVINO names no axes, and converters name such ones one by one: they may be the same.
    axes = {spec.shape[0] if spec.shape else "" for spec in specs}
    axes = axes - {f"{spec.name}_axis0" for spec in specs} or {"batch"}
    axis = axes.pop()
    if axes or axis == "":
        shapes = ", ".join(f"{spec.name} {spec.shape_text}" for spec in specs)
        return BatchPlan(reason=f"its tensors do not share their first axis: {shapes}")
    if isinstance(axis, str) and any(axis in spec.shape[1:] for spec in specs):
        return BatchPlan(reason=f"the axis {axis!r} is more than that of the batch")
    if axis == 1:
        return BatchPlan(reason="it was made for batches of 1")
    is_padded = isinstance(axis, int)
    return BatchPlan(
        max_rows=int(axis) if is_padded else max_batch,
        is_padded=is_padded,
        inputs=tuple(
            TensorSpec(spec.name, spec.dtype, ("batch", *spec.shape[1:])) for spec in inputs
        ),
    )


def _sample(bundle: Bundle, session: Session) -> dict[str, Array]:
    """One row: of a golden if there is one, else of noise."""
    for golden in bundle.manifest.goldens:
        inputs, _ = bundle.golden(golden)
        if all(array.ndim and len(array) for array in inputs.values()):
            return {name: array[:1] for name, array in inputs.items()}
    return {name: array[:1] for name, array in synthetic_feeds(session.inputs).items()}


def _proven(plan: BatchPlan, row: dict[str, Array], opened: Opened) -> BatchPlan:
    """With as many rows as the engine takes, if each gets the answer that it gets alone."""
    rows = (row, {name: _unlike(array) for name, array in row.items()})
    tolerance = _TOLERANCES.get(opened.session.placement.precision, _COARSE)
    run, least = opened.session.run, plan.max_rows if plan.is_padded else 1
    try:
        alone = [_answers(run, [one], least)[0] for one in rows]
    except EdgeError as error:
        return BatchPlan(reason=f"a single row fails: {error}")
    failure: Exception | None = None
    while plan.is_on:
        total = plan.max_rows
        try:
            together = _answers(run, [rows[number % 2] for number in range(total)], total)
        except EdgeError as error:
            failure = error
            plan = msgspec.structs.replace(plan, max_rows=1 if plan.is_padded else total // 2)
            continue
        for number, answer in enumerate(together):
            for name, part in answer.items():
                if not _is_same(part, alone[number % 2][name], tolerance):
                    return BatchPlan(reason=f"output {name!r} of a row depends on the others")
        return plan
    return BatchPlan(reason=f"a batch fails: {failure}")


def _answers(run: Run, rows: list[dict[str, Array]], total: int) -> list[dict[str, Array]]:
    """What each row gets in a batch of ``total``."""
    outputs = run(BatchBuffer().fill(list(rows), total, total))
    return split(outputs, [1] * len(rows), total)


def _unlike(array: Array) -> Array:
    """A row of the same kind and other values."""
    other = np.flip(array, tuple(range(1, array.ndim)))
    return other * array.dtype.type(_SCALE) if array.dtype.kind == "f" else other


def _is_same(part: Array, whole: Array, tolerance: float) -> bool:
    if part.shape != whole.shape or part.dtype.kind not in "fiub":
        return np.array_equal(part, whole)
    part, whole = part.astype(np.float64), whole.astype(np.float64)
    finite = np.abs(whole[np.isfinite(whole)])
    allowed: Any = tolerance * finite.max(initial=0.0)
    return bool(np.allclose(part, whole, rtol=0, atol=allowed, equal_nan=True))
