"""What a model saw and answered when it was converted, as its bundle holds it."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from edge.core.errors import BundleError
from edge.host.health.distribution import FEWEST, Distribution, distribution

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.host.health.looks import Look, Looker

SCHEMA = 1
FILE = "reference.json"
MAX_BYTES = 1024 * 1024
SOURCE = "source"

_INPUT = "input."

Distributions = dict[str, Distribution]
"""By the name of the statistic."""


class Reference(msgspec.Struct, frozen=True):
    """Distributions over ``samples``, and what those were.

    ``outputs`` are by variant, as each answers in its own way; ``source`` stands for those that
    could not be run.
    """

    schema: int
    samples: int
    data: str
    inputs: Distributions
    outputs: dict[str, Distributions]

    def of(self, variant_id: str) -> Distributions:
        """What is to be expected of inferences with a variant."""
        return self.inputs | self.outputs.get(variant_id, self.outputs.get(SOURCE, {}))


class Gathering:
    """Adds up looks until they make distributions."""

    def __init__(self) -> None:
        self._values: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, look: Look) -> None:
        for name, value in look.items():
            self._values[name].append(value)

    def distributions(self) -> Distributions:
        """Of the statistics of which there are enough values, and all of them numbers."""
        return {
            name: distribution(values)
            for name, values in sorted(self._values.items())
            if len(values) >= FEWEST and all(map(math.isfinite, values))
        }


# Made at import, by one thread: msgspec crashes where two learn a type at once.
_decode = msgspec.json.Decoder(Reference).decode


def reference_of(data: str, samples: int, forms: dict[str, Distributions]) -> Reference | None:
    """What is written into a bundle.

    Args:
        forms: By variant, and ``source`` for the source model.
    Returns:
        None where there were too few samples.
    """
    inputs = {k: v for k, v in forms.get(SOURCE, {}).items() if k.startswith(_INPUT)}
    if not inputs:
        return None
    outputs = {
        form: {name: each for name, each in known.items() if not name.startswith(_INPUT)}
        for form, known in sorted(forms.items())
    }
    return Reference(SCHEMA, samples, data, inputs, outputs)


def encode(reference: Reference) -> bytes:
    """The same bytes for equal references, a line for each distribution or so."""
    return msgspec.json.encode(reference, order="deterministic") + b"\n"


def read_reference(bundle: Bundle, looker: Looker) -> Reference:
    """What the bundle holds; for want of that, what its goldens make.

    Raises:
        BundleError: There is neither, or it can't be read.
    """
    name = bundle.manifest.reference
    if not name:
        return _from_goldens(bundle, looker)
    size = next(entry.size_bytes for entry in bundle.manifest.files if entry.path == name)
    if size > MAX_BYTES:
        raise BundleError(f"{bundle.path}: {name} is larger than {MAX_BYTES:,} bytes")
    try:
        reference = _decode(bundle.read(name))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{bundle.path}: {name} is not valid: {error}") from error
    if reference.schema != SCHEMA:
        raise BundleError(
            f"{bundle.path}: {name} has schema {reference.schema}, this edge reads {SCHEMA}",
            hint="upgrade edge here, or convert the model again with this version",
        )
    return reference


def _from_goldens(bundle: Bundle, looker: Looker) -> Reference:
    goldens = bundle.manifest.goldens
    if len(goldens) < FEWEST:
        raise BundleError(
            f"the bundle holds no distribution, and {len(goldens)} goldens make none "
            f"({FEWEST} would)",
            hint=f"convert the model again with --eval or --calib of {FEWEST} samples or more",
        )
    gathering = Gathering()
    for golden in goldens:
        gathering.add(looker.look(looker.take(*bundle.golden(golden))))
    known = gathering.distributions()
    reference = reference_of(f"{len(goldens)} goldens", len(goldens), {SOURCE: known})
    if reference is None:
        raise BundleError("the goldens hold nothing that can be looked at")
    return reference
