"""What the trials of a repair ask for again and again: measurements of the same float model."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge.core.tensor import Feeds

Value = TypeVar("Value")

MOST = 2
"""Of each kind: a network evened out for one engine, and as it is for another."""


class Remembered(Generic[Value]):
    """The last few results by what they were made of. They are large, so no more are kept."""

    def __init__(self) -> None:
        self._results: OrderedDict[str, Value] = OrderedDict()

    def get(self, key: str, make: Callable[[], Value]) -> Value:
        if key not in self._results:
            self._results[key] = make()
        self._results.move_to_end(key)
        while len(self._results) > MOST:
            self._results.popitem(last=False)
        return self._results[key]


def key_of(model: ModelProto, samples: Iterable[Feeds], *details: str) -> str:
    """Digest of a model, samples and what else a result depends on."""
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    for feeds in samples:
        for name in sorted(feeds):
            digest.update(feeds[name].tobytes())
    digest.update("\0".join(details).encode())
    return digest.hexdigest()
