"""Remembers answers by id, and how many of them were right by the labels that came for them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edge.core.errors import EdgeError, NotFoundError, UnsupportedError
from edge.core.spec import OutputSpec
from edge.host.health.status import Accuracy, AccuracyState
from edge.host.health.tally import HitTally, OverlapTally, SharedTally, Tally
from edge.host.health.truth import Comparison, SeenMask, Truth

if TYPE_CHECKING:
    from edge.core.manifest import Manifest, Metric
    from edge.core.tensor import Array
    from edge.vision import Geometry

log = logging.getLogger(__name__)

FEWEST = 50
"""Labels before anything is said of accuracy."""
MAX_ID = 256
MOST_BYTES = 64 * 1024 * 1024
"""Of remembered masks: those of a street, 512 x 1024, take 0.1 to 0.4 MB each."""
_LATE = "is forgotten: its label comes too late"
_FULL = f"is forgotten: masks are remembered in {MOST_BYTES >> 20} MiB"

METRICS = {"classification": "top1", "detection": "F1", "segmentation": "mIoU"}
_TALLIES: dict[str, type[Tally[Any]]] = {
    "classification": HitTally,
    "detection": SharedTally,
    "segmentation": OverlapTally,
}


class AccuracyWatch:
    """The last ``most`` answers of one model, and as many comparisons; any thread may call it."""

    def __init__(self, manifest: Manifest, labels: Sequence[str], most: int, margin: float) -> None:
        self._name = manifest.name
        self._task = manifest.task
        self._output = manifest.output or OutputSpec()
        self._image = manifest.image
        self._class_count = len(labels)
        self._comparison = Comparison(self._name, self._task, labels)
        self._most = most
        self._margin = margin
        self._answers: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._held_bytes = 0
        self._gone: OrderedDict[str, str] = OrderedDict()
        self._tally: Tally[Any] = _TALLIES.get(self._task, SharedTally)(most)
        self._expected: Metric | None = None
        self._state: AccuracyState = "gathering"
        self._since_ms = int(time.time() * 1000)
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        return self._most > 0 and self._task in METRICS

    def check(self) -> None:
        """Raise ``UnsupportedError`` where labels mean nothing."""
        if not self._most:
            raise UnsupportedError(
                f"answers of {self._name} are not remembered, so no label can come for one",
                hint="say how many to remember with labels = 1000 under [health] of edge.toml",
            )
        if self._task not in METRICS:
            raise UnsupportedError(
                f"{self._name} does {self._task}: labels are for {', '.join(METRICS)}"
            )

    def remember(
        self,
        request_id: str,
        outputs: Mapping[str, Array],
        expected: Metric | None,
        geometry: Geometry | None,
    ) -> None:
        """Keep what ``outputs`` say of one picture; with an id that was used, in place of that.

        Args:
            expected: The accuracy of the variant that answered, by its bundle.
        """
        if len(request_id) > MAX_ID:
            return
        try:
            answer, why_not = self._answer(outputs, geometry), ""
        except EdgeError as error:  # as of a batch
            answer, why_not = (None, 0), str(error)
        with self._lock:
            self._gone.pop(request_id, None)
            if request_id in self._answers:
                self._drop(request_id)
            if why_not:
                self._forget(request_id, f"can not be labelled: {why_not}")
                return
            self._expect(expected)
            self._answers[request_id] = answer
            self._held_bytes += _size(answer[0])
            while (is_late := len(self._answers) > self._most) or self._held_bytes > MOST_BYTES:
                oldest = next(iter(self._answers))
                self._drop(oldest)
                self._forget(oldest, _LATE if is_late else _FULL)

    def knows(self, request_id: str) -> bool:
        """Whether this id was used, and lately."""
        with self._lock:
            return request_id in self._answers or request_id in self._gone

    def label(self, request_id: str, truth: Truth) -> None:
        """Compare the answer of this id with what was there.

        Raises:
            NotFoundError: There is no such answer, it was labelled before, or it is too late.
            InputError: There is no such class, or a class is given for boxes or the reverse.
            UnsupportedError: Answers are not remembered, or labels mean nothing for the task.
        """
        self.check()
        if not isinstance(truth, bool | int) and hasattr(truth, "__index__"):
            truth = int(truth)  # numpy's
        with self._lock:
            found = self._answers.get(request_id)
            if found is None:
                raise self._missing(request_id)
            self._tally.add(self._comparison.compare(found[0], truth, found[1]))
            self._drop(request_id)
            self._forget(request_id, "has its label already")
            self._decide()

    def status(self) -> Accuracy:
        if not self._most:
            return Accuracy("off", "no answers are remembered: labels = 0 in [health]")
        metric = METRICS.get(self._task, "")
        if not metric:
            return Accuracy("off", f"labels are not for {self._task}")
        with self._lock:
            return self._status(metric)

    def _status(self, metric: str) -> Accuracy:
        tally, count = self._tally, len(self._tally)
        value = low = high = None
        if count:
            value = 100.0 * tally.value
            if bounds := tally.bounds():
                low, high = (100.0 * bound for bound in bounds)
        expected = self._expected
        reason = "" if expected else f"the bundle has no {metric} to compare with"
        return Accuracy(
            self._state if expected or count < FEWEST else "no-reference",
            reason,
            metric,
            count,
            value,
            low,
            high,
            expected.value if expected else None,
            len(self._answers),
            self._since_ms,
        )

    def _expect(self, expected: Metric | None) -> None:
        """Called with the lock held. Another variant, or none that was measured, begins anew."""
        if expected is not None and expected.name != METRICS[self._task]:
            expected = None
        if expected != self._expected:
            self._expected = expected
            self._tally.clear()
            self._state, self._since_ms = "gathering", int(time.time() * 1000)

    def _decide(self) -> None:
        """Called with the lock held."""
        status = self._status(METRICS[self._task])
        if status.expected is None or status.high is None or status.count < FEWEST:
            return
        was, wanted = self._state, status.expected - self._margin
        if was == "low":
            state: AccuracyState = "normal" if (status.value or 0.0) >= wanted else "low"
        else:
            state = "low" if status.high < wanted else "normal"
        if state == was:
            return
        self._state, self._since_ms = state, int(time.time() * 1000)
        if state == "low":
            log.warning("%s is right less often than it was: %s", self._name, status.why)
        elif was == "low":
            log.info("%s is right as often as it was: %s", self._name, status.why)

    def _answer(self, outputs: Mapping[str, Array], geometry: Geometry | None) -> tuple[Any, int]:
        """The class, boxes or mask; and how many classes there are, 0 where that is not known."""
        from edge.vision import decode

        output = msgspec.structs.replace(self._output, top=1)
        prediction: Any = decode(outputs, output, geometry=geometry)
        if self._task == "classification":
            return prediction[0].index, math.prod(next(iter(outputs.values())).shape)
        if self._task == "segmentation":
            prediction = SeenMask.of(prediction)
        return prediction, self._class_count

    def _missing(self, request_id: str) -> EdgeError:
        why = self._gone.get(request_id)
        shown = request_id[:80]
        if why is None:
            return NotFoundError(
                f"{self._name} remembers no answer {shown!r}",
                hint=f"give the request that is to be labelled this id, of {MAX_ID} characters "
                "at most",
            )
        hint = "raise labels under [health] of edge.toml" if why == _LATE else ""
        return NotFoundError(f"the answer {shown!r} of {self._name} {why}", hint=hint)

    def _drop(self, request_id: str) -> None:
        """Called with the lock held."""
        answer, _ = self._answers.pop(request_id)
        self._held_bytes -= _size(answer)

    def _forget(self, request_id: str, why: str) -> None:
        """Called with the lock held."""
        self._gone[request_id] = why
        if len(self._gone) > self._most:
            self._gone.popitem(last=False)


def _size(answer: Any) -> int:
    return answer.nbytes if isinstance(answer, SeenMask) else 0
