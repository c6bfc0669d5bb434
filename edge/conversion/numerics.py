"""Errors by layer: how far the values inside a variant are from those inside its source."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.conversion.noise import CAP_DB, NoiseSums
from edge.conversion.report import LayerError
from edge.conversion.tapping import Node, TappedFile, open_tapped
from edge.core import plugins
from edge.core.contracts import main_file
from edge.core.errors import InputError
from edge.core.manifest import FileEntry, Variant
from edge.core.profile import load_profile

if TYPE_CHECKING:
    from edge.core.contracts import Session
    from edge.core.tensor import Feeds

log = logging.getLogger(__name__)

NEGLIGIBLE_DB = 35.0
LARGE_FALL_DB = 10.0
"""A layer that is well quantized to INT8 costs 1 to 5 dB. A fall counts from ``NEGLIGIBLE_DB``
down: from an exact input to the first rounding is no break."""

RESCALED_DB = 6.0
"""What a factor per channel has to gain before a layer counts as scaled on purpose."""

CHUNK_TENSORS = 256
CHUNK_BYTES = 2**27
"""What comes out of a model in one run. A model with more is run several times."""


class ModelForm(msgspec.Struct, frozen=True):
    """A model as one engine runs it; the files of ``variant`` lie in ``folder``."""

    variant: Variant
    folder: Path


class LayerRow(msgspec.Struct, frozen=True):
    """The error of one layer, and by how many dB it is worse than the worst that it reads.

    ``fall_db`` is None for a layer that nothing comparable comes before.
    """

    error: LayerError
    fall_db: float | None
    is_output: bool


class Comparison(msgspec.Struct, frozen=True):
    """Layers in execution order; ``skipped`` counts those without a counterpart."""

    rows: tuple[LayerRow, ...]
    skipped: int

    @property
    def broke_at(self) -> LayerRow | None:
        """The first layer that is far worse than what it reads, and than all layers before it.

        None where the error grows little by little.
        """
        lowest = NEGLIGIBLE_DB
        for row in self.rows:
            sqnr_db = row.error.sqnr_db
            before = CAP_DB if row.fall_db is None else sqnr_db + row.fall_db
            if min(before, NEGLIGIBLE_DB) - sqnr_db >= LARGE_FALL_DB and sqnr_db < lowest:
                return row
            lowest = min(lowest, sqnr_db)
        return None


def layer_errors(
    source: Path, variant: Variant, folder: Path, samples: Iterable[Feeds]
) -> tuple[LayerError, ...]:
    """The error of every layer of ``variant`` that ``source`` has too, in execution order.

    Args:
        source: The FP32 ONNX file that the variant, whose files lie in ``folder``, was made of.
        samples: 8 to 16 do: sums over all values of a tensor change little with more.
    Raises:
        InputError: They have no layer in common.
        EngineError: The engine can't run one of them with more outputs.
    """
    found = compare(onnx_form(source), ModelForm(variant, folder), samples)
    return tuple(row.error for row in found.rows)


def onnx_form(path: Path) -> ModelForm:
    """An ONNX file as ONNX Runtime runs it."""
    entry = FileEntry(path.name, "", path.stat().st_size)
    return ModelForm(Variant(path.stem, "onnxruntime", "fp32", (entry,), (), ()), path.parent)


def compare(reference: ModelForm, other: ModelForm, samples: Iterable[Feeds]) -> Comparison:
    """Run both over ``samples`` on the CPU and compare the values between their layers.

    Raises:
        InputError: They have no layer in common, or there are no samples.
    """
    files = [open_tapped(main_file(form.variant, form.folder)) for form in (reference, other)]
    layers = [node for node in files[0].nodes if node.is_layer]
    pairs = [(n, value) for n in layers if (value := _counterpart(n, files[1])) is not None]
    feeds = list(samples)
    if not feeds:
        raise InputError("there are no samples to compare on")
    sums = {node.result: NoiseSums() for node, _ in pairs}
    for chunk in _chunks(pairs):
        _accumulate(chunk, list(zip(files, (reference, other), strict=True)), feeds, sums)
    sums = {result: found for result, found in sums.items() if found.is_comparable}
    rescaled = _rescaled(files[0], sums)
    errors = {
        node.result: _error(node, sums[node.result], is_rescaled=node.result in rescaled)
        for node in layers
        if node.result in sums
    }
    if not errors:
        raise InputError(
            f"{reference.variant.id} and {other.variant.id} have no layer in common",
            hint="compare two forms of one model: tensors are matched by their names",
        )
    log.info("%d layers compared, %d have no counterpart", len(errors), len(layers) - len(errors))
    return Comparison(tuple(_rows(files[0], errors)), len(layers) - len(errors))


def _counterpart(node: Node, other: TappedFile) -> str | None:
    return next((other.values[name] for name in node.names if name in other.values), None)


def _chunks(pairs: Sequence[tuple[Node, str]]) -> Iterator[list[tuple[Node, str]]]:
    chunk: list[tuple[Node, str]] = []
    size_bytes = 0
    for pair in pairs:
        if chunk and (len(chunk) == CHUNK_TENSORS or size_bytes + pair[0].size_bytes > CHUNK_BYTES):
            yield chunk
            chunk, size_bytes = [], 0
        chunk.append(pair)
        size_bytes += pair[0].size_bytes
    if chunk:
        yield chunk


def _accumulate(
    chunk: Sequence[tuple[Node, str]],
    forms: Sequence[tuple[TappedFile, ModelForm]],
    samples: Sequence[Feeds],
    sums: dict[str, NoiseSums],
) -> None:
    """Add what ``samples`` give in one chunk of layers; one sample's values are held at a time."""
    wanted = [[node.value for node, _ in chunk], [value for _, value in chunk]]
    with tempfile.TemporaryDirectory(prefix="edge-layers-") as work:
        opened = [
            _open(file, form, values, Path(work) / str(number))
            for number, ((file, form), values) in enumerate(zip(forms, wanted, strict=True))
        ]
        (first, first_names), (second, second_names) = opened
        with first, second:
            _refuse_unless_alike(first, second)
            for feeds in samples:
                expected, got = first.run(feeds), second.run(feeds)
                for node, value in chunk:
                    sums[node.result].add(
                        expected[first_names[node.value]], got[second_names[value]]
                    )


def _refuse_unless_alike(first: Session, second: Session) -> None:
    names = [sorted(spec.name for spec in session.inputs) for session in (first, second)]
    if names[0] != names[1]:
        taken = [", ".join(each) for each in names]
        raise InputError(
            f"the models take different inputs: {taken[0]}, and {taken[1]}",
            hint="compare two forms of one model",
        )


def _open(
    file: TappedFile, form: ModelForm, values: Sequence[str], folder: Path
) -> tuple[Session, dict[str, str]]:
    folder.mkdir()
    path = main_file(form.variant, form.folder)
    names = file.expose(dict.fromkeys(values), folder / path.name)
    # What the engine finds in the file counts: it has more outputs than the variant declares.
    tapped = msgspec.structs.replace(
        form.variant, files=(FileEntry(path.name, "", 0),), inputs=(), outputs=()
    )
    backend = plugins.backend(form.variant.engine)
    return backend.open(tapped, folder, load_profile("host"), {"device": "cpu"}), names


def _rescaled(file: TappedFile, sums: Mapping[str, NoiseSums]) -> set[str]:
    """Layers whose channels were scaled on purpose, by what the layers that read them undo.

    Quantizers even out channels so, and it is no error: with a factor per channel such a layer is
    far nearer, and its readers without one are nearer by half of that at least.
    """
    readers: dict[str, set[str]] = {}
    found: set[str] = set()
    sqnr_db = {name: each.sqnr_db for name, each in sums.items()}
    for node in reversed(file.nodes):
        own = readers.get(node.result, set()) | readers.get(node.value, set())
        if node.result in sums:
            raw, scaled = sqnr_db[node.result], sums[node.result].scaled_sqnr_db
            undone = raw + (scaled - raw) / 2
            if own and scaled - raw >= RESCALED_DB and min(sqnr_db[n] for n in own) >= undone:
                found.add(node.result)
                sqnr_db[node.result] = scaled
            own = {node.result}
        for name in node.reads:
            readers.setdefault(name, set()).update(own)
    return found


def _error(node: Node, sums: NoiseSums, *, is_rescaled: bool) -> LayerError:
    sqnr_db = sums.scaled_sqnr_db if is_rescaled else sums.sqnr_db
    cosine = sums.scaled_cosine if is_rescaled else sums.cosine
    return LayerError(node.label, node.op, round(sqnr_db, 2), round(cosine, 6))


def _rows(file: TappedFile, errors: dict[str, LayerError]) -> Iterator[LayerRow]:
    """The errors in order, each against the worst of the layers that it reads."""
    before: dict[str, float] = {}
    for node in file.nodes:
        known = [before[name] for name in node.reads if name in before]
        error = errors.get(node.result)
        if error:
            fall = round(min(known) - error.sqnr_db, 2) if known else None
            yield LayerRow(error, fall, node.is_output)
        if error or known:
            before[node.result] = before[node.value] = error.sqnr_db if error else min(known)
