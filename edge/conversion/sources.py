"""What a user may name as the source of a conversion, brought to a file that can be prepared."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from edge.conversion import torch_source
from edge.core.errors import ModelError

if TYPE_CHECKING:
    from edge.conversion.cache import StageCache
    from edge.core.profile import DeviceProfile

FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

PICKLED = "it may run code when it is opened"
REFUSED = {
    ".pt": PICKLED,
    ".pth": PICKLED,
    ".ckpt": PICKLED,
    ".bin": PICKLED,
    ".pkl": PICKLED,
    ".safetensors": "it holds weights without a network",
    ".pb": "it is a TensorFlow graph",
    ".h5": "it is a Keras model",
    ".keras": "it is a Keras model",
    ".engine": "it is a TensorRT engine, made for one device",
    ".plan": "it is a TensorRT engine, made for one device",
    ".xml": "it is an OpenVINO model, converted already",
}
HINTS = {
    PICKLED: "save the network with torch.export.save as .pt2, or name a function that builds it: "
    "module:function",
    "it holds weights without a network": "name a function that builds the network and loads them: "
    "module:function",
    "it is a TensorFlow graph": "convert it first: python -m tf2onnx.convert --graphdef IN.pb "
    "--output OUT.onnx --inputs … --outputs …",
    "it is a Keras model": "save it as a SavedModel, then: python -m tf2onnx.convert --saved-model "
    "DIR --output OUT.onnx",
}


def is_factory(source: str) -> bool:
    """Whether ``module:function`` was named, not a file."""
    return FACTORY.fullmatch(source) is not None and not Path(source).exists()


def title_of(source: str) -> str:
    """What to call a model when nobody said: the file's stem, or the factory's module."""
    return source.partition(":")[0].rpartition(".")[2] if is_factory(source) else Path(source).stem


def as_file(source: str, profile: DeviceProfile, work: Path, cache: StageCache) -> Path:
    """The file of ``source``: itself, or an ONNX file exported from PyTorch into ``work``.

    Raises:
        ModelError: It is none of the kinds that can be read, or can not be exported.
        InputError: A factory can not be imported, raises, or returns no network.
    """
    path = Path(source)
    if is_factory(source):
        return torch_source.export_factory(source, profile.onnx.opset, work)
    if path.suffix.lower() == torch_source.SUFFIX:
        return _program(path, profile, work, cache)
    why = REFUSED.get(path.suffix.lower())
    if why is not None and path.exists():
        raise ModelError(
            f"{path.name} can not be converted: {why}",
            hint=HINTS.get(why, "give the ONNX file it was made from"),
        )
    return path


def _program(path: Path, profile: DeviceProfile, work: Path, cache: StageCache) -> Path:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"can not read {path}: {error.strerror}") from error
    into = work / "exported"
    into.mkdir()
    key = {"program": digest, "opset": profile.onnx.opset}

    def export(folder: Path) -> str:
        return torch_source.export_program(path, profile.onnx.opset, folder).name

    return into / cache.files("export", key, str, into, export)
