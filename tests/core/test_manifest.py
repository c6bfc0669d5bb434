from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge.core.manifest import SCHEMA, FileEntry, Golden, Latency, Manifest, Metric, Variant
from edge.core.spec import ImageSpec, OutputSpec
from edge.core.tensor import TensorSpec

DIGEST = "0" * 64
IMAGE = TensorSpec("image", "float32", ("batch", 1, 8, 8))
VARIANT = Variant(
    id="openvino-int8",
    engine="openvino",
    precision="int8",
    files=(FileEntry("model.xml", DIGEST, 10), FileEntry("model.bin", DIGEST, 32)),
    inputs=(IMAGE,),
    outputs=(TensorSpec("logits", "float32", ("batch", 10)),),
    options={"device": "NPU", "threads": 2},
    requires={"sm": "87"},
    metric=Metric("top1", 99.8),
    agreement=0.998,
    latency_ms=Latency(0.1, 0.2),
    chosen=True,
)
MANIFEST = Manifest(
    schema=SCHEMA,
    name="digits",
    version="1",
    task="classification",
    profile="host",
    source_sha256=DIGEST,
    variants=(VARIANT,),
    goldens=(Golden("goldens/0/in.npz", "goldens/0/out.npz", {"openvino-int8": {"logits": 0.1}}),),
    files=(FileEntry("labels.txt", DIGEST, 20),),
    image=ImageSpec("image", color="gray"),
    output=OutputSpec(top=3),
    labels="labels.txt",
)


def decode(**changes: Any) -> Manifest:
    return msgspec.convert({**msgspec.to_builtins(MANIFEST), **changes}, Manifest)


def test_json_keeps_everything() -> None:
    assert msgspec.json.decode(msgspec.json.encode(MANIFEST), type=Manifest) == MANIFEST


def test_the_same_manifest_gives_the_same_bytes() -> None:
    assert msgspec.json.encode(decode()) == msgspec.json.encode(MANIFEST)


def test_size_of_a_variant_is_that_of_its_files() -> None:
    assert VARIANT.size_bytes == 42


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "a\n", "ü", "x" * 101, "dot."])
def test_names_that_do_not_fit_in_paths_and_topics_are_refused(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.name"):
        decode(name=name)


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../b", "a\\b", "a//b", "./a", "a/"])
def test_paths_that_leave_the_bundle_are_refused(path: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.files\[0\]\.path"):
        decode(files=[{"path": path, "sha256": DIGEST, "size_bytes": 1}])


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"source_sha256": "abc"}, "source_sha256"),
        ({"files": [{"path": "a", "sha256": DIGEST, "size_bytes": -1}]}, "size_bytes"),
        ({"task": "guessing"}, "task"),
        ({"later": 1}, "later"),
        ({"image": {"input": "x", "std": [0]}}, "image"),
    ],
)
def test_other_wrong_values_are_named(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=place):
        decode(**changes)
