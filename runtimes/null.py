"""An engine that computes nothing: zeros of the declared shapes, to measure and test the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.core.contracts import Availability, Placement, Session
from edge.core.errors import EngineError, UnavailableError
from edge.core.manifest import Variant
from edge.core.profile import DeviceProfile
from edge.core.tensor import TensorSpec

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds

DEVICE = "cpu"


class NullSession(Session):
    """A dynamic dimension of an output takes the size that an input gives the same name, else 1.

    Text is empty strings.
    """

    def __init__(self, variant: Variant) -> None:
        self.inputs = variant.inputs
        self.outputs = variant.outputs
        self.placement = Placement(DEVICE, DEVICE, {DEVICE: 1.0}, variant.precision)
        self._is_closed = False

    def _run(self, feeds: Feeds) -> dict[str, Array]:
        if self._is_closed:
            raise UnavailableError("this session is closed")
        sizes = {
            dim: size
            for spec in self.inputs
            for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        }
        return {spec.name: _zeros(spec, sizes) for spec in self.outputs}

    def close(self) -> None:
        self._is_closed = True


def _zeros(spec: TensorSpec, sizes: Mapping[int | str, int]) -> Array:
    import numpy as np

    shape = [dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in spec.shape]
    if spec.dtype == "string":
        return np.full(shape, "", dtype=object)
    return np.zeros(shape, spec.dtype)


class NullBackend:
    """Ready everywhere; reads no files and takes no options."""

    name = "null"

    def availability(self) -> Availability:
        return Availability(ready=True, version="1", devices=(DEVICE,))

    def open(
        self,
        variant: Variant,
        folder: Path,
        profile: DeviceProfile,
        options: Mapping[str, Any] | None = None,
    ) -> NullSession:
        device = str({**variant.options, **(options or {})}.get("device", DEVICE)).lower()
        if device != DEVICE:
            raise UnavailableError(f"the null engine has no {device}, only {DEVICE}")
        for spec in variant.outputs:
            try:
                _zeros(spec, {})
            except TypeError as error:
                raise EngineError(f"numpy has no {spec.dtype}, as {spec.name} is") from error
        return NullSession(variant)


BACKEND = NullBackend()
