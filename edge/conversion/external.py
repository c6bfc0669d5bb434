"""The files that a model consists of: its own, and those that ONNX keeps weights in beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from edge.core.lazy import require

CHUNK_BYTES = 1 << 20


class Identity(NamedTuple):
    """What tells a model from another: all its files' SHA-256 and size."""

    sha256: str
    size_bytes: int


def identity(source: Path) -> Identity:
    """Of ``source`` and the external data it names; of the file alone where it is no ONNX model.

    Raises:
        OSError: A file can not be read.
    """
    total, size = hashlib.sha256(), 0
    for path in (source, *external_files(source)):
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                total.update(chunk)
                size += len(chunk)
    return Identity(total.hexdigest(), size)


def external_files(source: Path) -> tuple[Path, ...]:
    """Files in the folder of ``source``, or below it, that its tensors name and that are there."""
    data = source.read_bytes()
    if b"location" not in data:  # spares most models being parsed
        return ()
    onnx = require("onnx", extra="convert")
    try:
        model = onnx.load_model_from_string(data)
    except Exception:  # protobuf's DecodeError: said where the model is read
        return ()
    names = {
        entry.value
        for tensor in onnx.external_data_helper._get_all_tensors(model)
        for entry in tensor.external_data
        # A damaged name is bytes, or holds a NUL: said where the model is read.
        if entry.key == "location" and isinstance(entry.value, str) and "\0" not in entry.value
    }
    folder = source.parent.resolve()
    paths = {(folder / name).resolve() for name in names}
    return tuple(sorted(p for p in paths if p.is_relative_to(folder) and p.is_file()))
