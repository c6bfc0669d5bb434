"""Opens the source and the variants on this machine, to be measured side by side."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edge.conversion import tflite_source
from edge.conversion.source import PreparedSource
from edge.core import plugins
from edge.core.contracts import Session, ensure_ready
from edge.core.errors import EdgeError
from edge.core.manifest import FileEntry, Variant
from edge.core.profile import DeviceProfile, load_profile

REFERENCE_ENGINE = "onnxruntime"


class Opened(msgspec.Struct, frozen=True):
    """Sessions by variant id; ``notes`` say by id where one runs, or why it does not."""

    sessions: dict[str, Session]
    notes: dict[str, str]


@contextmanager
def open_variants(
    variants: Sequence[Variant], profile: DeviceProfile, folder: Path
) -> Iterator[Opened]:
    """Open each variant, whose files lie in ``folder``/<id>, if its engine is here."""
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        notes: dict[str, str] = {}
        for variant in variants:
            try:
                options, note = _options_here(variant.engine, profile)
                backend = plugins.backend(variant.engine)
                session = backend.open(variant, folder / variant.id, profile, options)
            except EdgeError as error:
                notes[variant.id] = f"not measured: {error}"
                continue
            sessions[variant.id] = stack.enter_context(session)
            executed = session.placement.precision
            if executed != variant.precision:
                note = "; ".join(filter(None, (note, f"executed in {executed} on this machine")))
            if note:
                notes[variant.id] = note
        yield Opened(sessions, notes)


def machine(engine: str = "") -> str:
    """What figures that were taken here say of where: processor, cores, engine."""
    host = load_profile("host")
    parts = [host.compute.cpu, f"{host.compute.cores} cores", platform.machine()]
    if engine:
        parts.append(f"{engine} {plugins.backend(engine).availability().version}")
    return ", ".join(parts)


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


def _options_here(engine: str, profile: DeviceProfile) -> tuple[dict[str, Any], str]:
    """The profile's options for ``engine``, on the CPU where its device is not in this machine."""
    availability = plugins.backend(engine).availability()
    ensure_ready(engine, availability)
    options = dict(profile.runtimes.options.get(engine, {}))
    device = str(options.get("device", "cpu"))
    if device.lower() in {name.lower() for name in availability.devices}:
        return options, ""
    return {**options, "device": "cpu"}, f"measured on the CPU: there is no {device} here"
