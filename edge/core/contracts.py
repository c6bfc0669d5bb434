"""What an engine and a converter promise to the rest of the project."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import msgspec

from edge.core.errors import EngineError, UnavailableError
from edge.core.manifest import Variant
from edge.core.profile import DeviceProfile
from edge.core.spec import BuildSpec
from edge.core.tensor import TensorSpec, alike, check_feeds, kind_of, plain

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds, Kind


class Availability(msgspec.Struct, frozen=True):
    """Whether an engine or converter can be used here, and if not, why and what to do.

    ``stands_in`` says whose variants an engine can run as well, on which of its own devices, best
    first. ``facts`` are those that a variant's ``requires`` may ask for, such as ``sm``. An engine
    that ``needs_instances`` runs as many inferences at a time as its option ``instances`` says.
    """

    ready: bool
    version: str = ""
    devices: tuple[str, ...] = ()
    reason: str = ""
    hint: str = ""
    stands_in: dict[str, tuple[str, ...]] = {}
    facts: dict[str, str] = {}
    needs_instances: bool = False


class Placement(msgspec.Struct, frozen=True):
    """Where a model runs: what was asked for, what was got, and why they differ.

    ``shares`` is the share of graph nodes per device or provider, as far as the engine tells;
    ``precision`` is the one the engine says it executes in.
    """

    requested: str
    actual: str
    shares: dict[str, float]
    precision: str
    is_fallback: bool = False
    reason: str = ""


class WorkerStatus(msgspec.Struct, frozen=True):
    """A process that a session has for itself; ``failure`` says why there is none any more.

    ``pid`` is 0 while there is none, ``restarts`` says how often it had to be started again.
    """

    pid: int
    restarts: int
    resident_bytes: int
    failure: str = ""


class Session(ABC):
    """One loaded variant on one engine. ``run`` may be called from several threads."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    placement: Placement
    _last_kind: Kind | None = None

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run one batch.

        Args:
            feeds: Input name -> array, e.g. images float32 (batch, 3, H, W) in [0, 1].
        Returns:
            Output name -> array, owned by the caller.
        Raises:
            InputError: A name, dtype or fixed dimension differs from ``inputs``.
            EngineError: The engine failed.
            UnavailableError: The session is closed.
        """
        # The same names, dtypes and shapes as last time need no second look: on a model of 1 ms,
        # which leaves the CPU's caches cold, looking costs 10 to 18 µs.
        if not alike(feeds, self._last_kind):
            check_feeds(self.inputs, feeds)
            feeds = plain(feeds)
            self._last_kind = kind_of(feeds)
        return self._run(feeds)

    @abstractmethod
    def _run(self, feeds: Feeds) -> dict[str, Array]:
        """Run feeds that were checked and are C-contiguous, aligned and in native byte order."""

    def outside_bytes(self) -> int:
        """What it holds outside of this process: on a device, or in a process of its own."""
        return 0

    def outside_peak_bytes(self) -> int:
        """What it held there at most so far, as far as that is known."""
        return self.outside_bytes()

    def await_ready(self) -> None:
        """Wait for what a run would have to wait for, such as a process that is started again.

        Raises:
            UnavailableError: It does not come.
        """
        return

    def worker_status(self) -> WorkerStatus | None:
        """Of the process that it has for itself; None if it runs in this one."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Give the engine's memory back; a second call does nothing."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Backend(Protocol):
    """An engine that can run variants."""

    name: str

    def availability(self) -> Availability:
        """Say whether the engine is usable here; never raises."""
        ...

    def open(
        self,
        variant: Variant,
        folder: Path,
        profile: DeviceProfile,
        options: Mapping[str, Any] | None = None,
    ) -> Session:
        """Load ``variant``, whose files lie in ``folder``.

        Args:
            options: Override the variant's own ``options`` (``device``, ``threads``, …).
        Raises:
            UnavailableError: The engine or the device that was asked for is not here.
            EngineError: The engine refused the files.
        """
        ...


class Finding(msgspec.Struct, frozen=True):
    """One thing a check found. An ``error`` stops the conversion, a ``warning`` does not."""

    severity: Literal["error", "warning", "info"]
    message: str
    hint: str = ""
    nodes: tuple[str, ...] = ()


def shape_findings(inputs: tuple[TensorSpec, ...], profile: DeviceProfile) -> list[Finding]:
    """An error for each input with a dynamic shape on a device that takes fixed ones only."""
    if not profile.shapes.static:
        return []
    return [
        Finding(
            "error",
            f"input {spec.name!r} has the dynamic shape {spec.shape_text}; "
            f"{profile.name} takes fixed shapes only",
            hint="fix the batch axis with --batch 1, or every axis with --shape "
            f"{spec.name}={'x'.join('1' if isinstance(d, str) else str(d) for d in spec.shape)}",
        )
        for spec in inputs
        if not spec.is_static
    ]


class Samples(Protocol):
    """Prepared inputs, each with its batch axis of 1; can be gone through more than once."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Feeds]: ...


class ConvertRequest(msgspec.Struct, frozen=True):
    """What a converter is to make: ``model`` is a checked, cleaned FP32 ONNX file."""

    model: Path
    profile: DeviceProfile
    precision: str
    calibration: Samples | None = None
    options: dict[str, Any] = {}
    build: BuildSpec = BuildSpec()


class Recipe(msgspec.Struct, frozen=True):
    """One way to reach a precision: ``ConvertRequest.options``, and whether it asks for samples.

    One that only ``takes_samples`` does without where there are none. A repair is tried only where
    those before it lose too much; ``what`` says what it changes.
    """

    options: dict[str, Any] = {}
    needs_samples: bool = False
    takes_samples: bool = False
    is_repair: bool = False
    what: str = ""


class Sensitivity(msgspec.Struct, frozen=True):
    """What quantizing some operators, and nothing else, does to the outputs.

    ``noise`` is the power of the error over that of the outputs, ``cost`` what the operators
    compute, in operations.
    """

    nodes: tuple[str, ...]
    noise: float
    cost: float


class Converter(Protocol):
    """Writes variants for one engine. ``precisions`` are those it knows how to write."""

    name: str
    engine: str
    precisions: tuple[str, ...]

    def availability(self) -> Availability:
        """Say whether the tools it needs are here; never raises."""
        ...

    def check(self, model: Path, profile: DeviceProfile) -> list[Finding]:
        """Say what of ``model`` the profile's engine will not take, before any work is done."""
        ...

    def recipes(self, precision: str) -> dict[str, Recipe]:
        """Ways to reach ``precision`` that are worth comparing, by name.

        The usual one comes first and has an empty name.
        """
        ...

    def convert(self, request: ConvertRequest, into: Path) -> Variant:
        """Write the files into the empty folder ``into`` and describe them.

        Raises:
            ModelError: The model can't be converted to this format or precision.
            InputError: Calibration samples are missing or do not fit.
        """
        ...

    def sensitivities(
        self, request: ConvertRequest, variant: Variant, folder: Path
    ) -> tuple[Sensitivity, ...]:
        """Find out which operators of a quantized ``variant`` cost how much accuracy.

        Empty where nothing is quantized, or the format can't tell.

        Args:
            request: The one that the variant, whose files lie in ``folder``, was made by.
        """
        ...

    def excluding(self, variant: Variant, recipe: Recipe, nodes: tuple[str, ...]) -> Recipe:
        """The ``recipe`` that ``variant`` was made by, with the operators ``nodes`` in float."""
        ...

    def faster(self, variant: Variant, profile: DeviceProfile) -> tuple[Variant, ...]:
        """The same files, with what is left in float computed in fewer bits."""
        ...


@runtime_checkable
class Emulator(Protocol):
    """What a converter has besides, if another engine can show here what its variants compute."""

    def emulation(self, variant: Variant, folder: Path, into: Path) -> Variant:
        """Write into the empty folder ``into`` what computes the same, to rounding, on this CPU.

        Its speed says nothing of the device.
        """
        ...


def ensure_ready(name: str, availability: Availability) -> None:
    """Raise ``UnavailableError`` with the reason unless ``availability`` says ready."""
    if not availability.ready:
        raise UnavailableError(
            f"{name} is not available here: {availability.reason}", hint=availability.hint
        )


def main_file(variant: Variant, folder: Path) -> Path:
    """The file that the engine opens.

    Raises:
        EngineError: The variant has none.
    """
    if not variant.files:
        raise EngineError(f"variant {variant.id} has no file", hint="convert the model again")
    return folder / variant.files[0].path


def agreed(
    declared: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...]
) -> tuple[TensorSpec, ...]:
    """The tensors that a manifest declares, which the engine must find in the file; else those.

    Raises:
        EngineError: A name or dtype differs, or one is missing.
    """
    if not declared:
        return found
    want, have = ({(spec.name, spec.dtype) for spec in specs} for specs in (declared, found))
    if want != have:
        only = [", ".join(f"{n} {d}" for n, d in sorted(s)) for s in (want - have, have - want)]
        raise EngineError(
            f"the manifest declares other tensors ({only[0]}) than the engine finds ({only[1]})",
            hint="convert the model again",
        )
    return declared
