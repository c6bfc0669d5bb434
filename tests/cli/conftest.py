"""Bundles that were packed without converting anything."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.bundle import pack
from edge.core.manifest import FileEntry, Manifest, Variant
from edge.core.spec import load_spec
from edge.core.tensor import TensorSpec

INPUTS = (TensorSpec("image", "float32", ("batch", 1, 8, 8)),)
OUTPUTS = (TensorSpec("logits", "float32", ("batch", 10)),)

PackDigits = Callable[..., Path]


@pytest.fixture
def pack_digits(tmp_path: Path, digits: Path) -> PackDigits:
    """Pack the sample for these engines, the first one chosen; ``fields`` go to the manifest."""

    def make(*engines: str, **fields: object) -> Path:
        spec = load_spec(digits / "model.toml")
        source = digits / "digits.onnx"
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        entry = FileEntry("model.onnx", digest, source.stat().st_size)
        parts = tmp_path / "parts"
        variants = []
        for engine in engines:
            folder = parts / "variants" / f"{engine}-fp32"
            folder.mkdir(parents=True)
            shutil.copy(source, folder / "model.onnx")
            variants.append(
                Variant(
                    id=f"{engine}-fp32",
                    engine=engine,
                    precision="fp32",
                    files=(entry,),
                    inputs=INPUTS,
                    outputs=OUTPUTS,
                    chosen=engine == engines[0],
                )
            )
        shutil.copy(digits / "labels.txt", parts / "labels.txt")
        given: dict[str, object] = {
            "name": "digits",
            "task": spec.task,
            "image": spec.image,
            "output": spec.output,
            "labels": "labels.txt",
            **fields,
        }
        manifest = Manifest(
            schema=1,
            version="1",
            profile="host",
            source_sha256=digest,
            variants=tuple(variants),
            **given,  # type: ignore[arg-type]
        )
        return pack(manifest, parts, tmp_path / "digits.edge")

    return make


@pytest.fixture
def pack_variants(tmp_path: Path) -> Callable[..., Path]:
    """Pack variants named by their engines; the first is chosen."""

    tensor = TensorSpec("x", "float32", (1, 2))

    def make(*names: str, requires: dict[str, str] | None = None, name: str = "m") -> Path:
        variants = tuple(
            Variant(
                id=variant,
                engine=variant.partition("-")[0],
                precision="int8",
                files=(),
                inputs=(tensor,),
                outputs=(tensor,),
                chosen=variant == names[0],
                requires=(requires or {}) if variant.startswith("forge") else {},
            )
            for variant in names
        )
        manifest = Manifest(
            schema=1,
            name=name,
            version="1",
            task="tensors",
            profile="host",
            source_sha256="0" * 64,
            variants=variants,
        )
        (tmp_path / "parts").mkdir(exist_ok=True)
        return pack(manifest, tmp_path / "parts", tmp_path / f"{name}.edge")

    return make
