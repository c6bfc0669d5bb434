from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.bundle import pack, save_tensors
from edge.core.manifest import Golden, Manifest, Variant
from edge.core.tensor import TensorSpec

MANIFEST = Manifest(
    schema=1,
    name="digits",
    version="1.2",
    task="classification",
    profile="host",
    source_sha256="0" * 64,
    labels="labels.txt",
    goldens=(
        Golden(
            inputs="goldens/0/inputs.npz",
            expected="goldens/0/expected.npz",
            tolerances={"onnx-fp32": {"y": 0.001}},
        ),
    ),
    variants=tuple(
        Variant(
            id=variant_id,
            engine=engine,
            precision="fp32",
            files=(),
            inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4)),),
            outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 2)),),
            options={"threads": 2, "device": "CPU"},
        )
        for variant_id, engine in (("onnx-fp32", "onnxruntime"), ("openvino-fp32", "openvino"))
    ),
)
"""A manifest for the folder that ``parts`` makes."""


@pytest.fixture
def manifest() -> Manifest:
    return MANIFEST


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder laid out as a bundle; the engines' files are only bytes here."""
    folder = tmp_path / "parts"
    contents = {
        "variants/onnx-fp32/model.onnx": b"graph" * 20,
        "variants/openvino-fp32/model.xml": b"<net/>",
        "variants/openvino-fp32/model.bin": bytes(range(64)),
        "report/report.json": b"{}",
        "labels.txt": "zero\none\r\nzwölf\n".encode(),
    }
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "goldens/0").mkdir(parents=True)
    save_tensors(folder / "goldens/0/inputs.npz", {"x": np.ones((1, 4), np.float32)})
    save_tensors(folder / "goldens/0/expected.npz", {"y": np.zeros((1, 2), np.float32)})
    return folder


@pytest.fixture
def bundle_path(manifest: Manifest, parts: Path, tmp_path: Path) -> Path:
    return pack(manifest, parts, tmp_path / "digits.edge")


@pytest.fixture
def rewrite(bundle_path: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the bundle anew in its own layout, as one who wants to deceive the reader would."""
    import zlib

    from edge.bundle import archive, open_bundle

    def build(replace: dict[str, bytes | None], order: list[str] | None = None) -> Path:
        with open_bundle(bundle_path) as bundle:
            found = {name: bundle.read(name) for name in bundle.names()}
        found.update({name: data for name, data in replace.items() if data is not None})
        names = order or sorted(found, key=lambda name: (name != "manifest.json", name))
        kept = [(name, found[name]) for name in names if replace.get(name, b"") is not None]
        entries = [archive.Entry(name, len(data), zlib.crc32(data)) for name, data in kept]
        output = tmp_path / "rewritten.edge"
        body = b"".join(
            archive.local_header(e) + d for e, (_, d) in zip(entries, kept, strict=True)
        )
        output.write_bytes(body + archive.directory(entries))
        return output

    return build
