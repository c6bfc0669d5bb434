"""Opens the source and the variants on this machine, to be measured side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edge.conversion import tflite_source
from edge.conversion.source import PreparedSource
from edge.core import plugins
from edge.core.contracts import Emulator, Session, ensure_ready
from edge.core.errors import EdgeError
from edge.core.manifest import FileEntry, Variant
from edge.core.profile import DeviceProfile, load_profile

REFERENCE_ENGINE = "onnxruntime"


class Opened(msgspec.Struct, frozen=True):
    """Sessions by variant id; ``notes`` say by id where one runs, or why it does not.

    Those that are ``emulated`` answer as the variant does on its device, in another time.
    """

    sessions: dict[str, Session]
    notes: dict[str, str]
    emulated: frozenset[str] = frozenset()


class Form(msgspec.Struct, frozen=True):
    """What shows here what a variant computes: itself or an emulation, with files in ``folder``."""

    variant: Variant
    folder: Path
    is_emulated: bool = False


@contextmanager
def open_variants(
    variants: Sequence[Variant], profile: DeviceProfile, folder: Path
) -> Iterator[Opened]:
    """Open each variant, whose files lie in ``folder``/<id>, if its engine is here."""
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        notes: dict[str, str] = {}
        emulated: set[str] = set()
        for variant in variants:
            try:
                form = stack.enter_context(runnable(variant, folder / variant.id))
                options, note = _options_here(form, profile)
                backend = plugins.backend(form.variant.engine)
                session = backend.open(form.variant, form.folder, profile, options)
            except EdgeError as error:
                notes[variant.id] = f"not measured: {error}"
                continue
            sessions[variant.id] = stack.enter_context(session)
            executed = session.placement.precision
            if form.is_emulated:
                emulated.add(variant.id)
            elif executed != variant.precision:
                note = "; ".join(filter(None, (note, f"executed in {executed} on this machine")))
            if note:
                notes[variant.id] = note
        yield Opened(sessions, notes, frozenset(emulated))


@contextmanager
def runnable(variant: Variant, folder: Path) -> Iterator[Form]:
    """``variant`` itself where its engine is here, else its emulation if there is one.

    Raises:
        EdgeError: There is neither.
    """
    availability = plugins.backend(variant.engine).availability()
    emulator = next((c for c in plugins.converters().values() if c.engine == variant.engine), None)
    if availability.ready or not isinstance(emulator, Emulator):
        ensure_ready(variant.engine, availability)
        yield Form(variant, folder)
        return
    with tempfile.TemporaryDirectory(prefix="edge-emulation-") as into:
        yield Form(emulator.emulation(variant, folder, Path(into)), Path(into), is_emulated=True)


def open_source(prepared: PreparedSource) -> Session:
    """The file as it was given, in FP32: what every variant is compared with.

    Raises:
        EdgeError: It can not be run.
    """
    is_tflite = prepared.source.suffix.lower() == tflite_source.SUFFIX
    engine = tflite_source.ENGINE if is_tflite else REFERENCE_ENGINE
    backend = plugins.backend(engine)
    ensure_ready(engine, backend.availability())
    whole = Variant(
        id="source",
        engine=engine,
        precision="fp32",
        files=(FileEntry(prepared.source.name, prepared.sha256, prepared.size_bytes),),
        inputs=prepared.inputs,
        outputs=prepared.outputs,
        options={"INFERENCE_PRECISION_HINT": "f32"} if is_tflite else {},
    )
    return backend.open(whole, prepared.source.parent, load_profile("host"), {"device": "cpu"})


def _options_here(form: Form, profile: DeviceProfile) -> tuple[dict[str, Any], str]:
    """The profile's options for the engine, on the CPU where its device is not in this machine."""
    if form.is_emulated:
        return {"device": "cpu"}, f"emulated by {form.variant.engine} on the CPU of this machine"
    engine = form.variant.engine
    availability = plugins.backend(engine).availability()
    options = dict(profile.runtimes.options.get(engine, {}))
    device = str(options.get("device", form.variant.options.get("device", "cpu")))
    if device.lower() in {name.lower() for name in availability.devices}:
        return options, ""
    return {**options, "device": "cpu"}, f"measured on the CPU: there is no {device} here"
