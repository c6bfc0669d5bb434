"""An engine that computes nothing: zeros of the declared shapes, to measure and test the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.core.contracts import Availability, Placement, Session
from edge.core.manifest import Variant
from edge.core.profile import DeviceProfile
from edge.core.tensor import TensorSpec

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds


class NullSession(Session):
    """A dynamic dimension of an output takes the size that an input gives the same name, else 1."""

    def __init__(self, variant: Variant) -> None:
        self.inputs = variant.inputs
        self.outputs = variant.outputs
        self.placement = Placement("cpu", "cpu", {"cpu": 1.0}, variant.precision)

    def _run(self, feeds: Feeds) -> dict[str, Array]:
        import numpy as np

        sizes = {
            dim: size
            for spec in self.inputs
            for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        }

        def zeros(spec: TensorSpec) -> Array:
            shape = [dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in spec.shape]
            if spec.dtype == "string":
                return np.full(shape, b"", dtype=object)
            return np.zeros(shape, spec.dtype)

        return {spec.name: zeros(spec) for spec in self.outputs}

    def close(self) -> None:
        pass


class NullBackend:
    """Ready everywhere; reads no files."""

    name = "null"

    def availability(self) -> Availability:
        return Availability(ready=True, version="1", devices=("cpu",))

    def open(
        self,
        variant: Variant,
        folder: Path,
        profile: DeviceProfile,
        options: Mapping[str, Any] | None = None,
    ) -> NullSession:
        return NullSession(variant)


BACKEND = NullBackend()
