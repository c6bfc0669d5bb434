"""What a bundle holds of the distributions at conversion, and what comes of bundles without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.bundle import open_bundle, pack, save_tensors
from edge.core.errors import BundleError
from edge.core.manifest import FileEntry, Golden, Manifest, Variant
from edge.host.health.distribution import FEWEST
from edge.host.health.looks import Looker
from edge.host.health.reference import (
    FILE,
    MAX_BYTES,
    SOURCE,
    Gathering,
    Reference,
    encode,
    read_reference,
    reference_of,
)

MakeBundle = Callable[..., Path]


def gathered(offset: float = 0.0) -> Gathering:
    gathering = Gathering()
    for value in range(FEWEST):
        gathering.add({"input.x.mean": float(value), "output.y.mean": value + offset})
    return gathering


def reference() -> Reference:
    forms = {SOURCE: gathered().distributions(), "null-fp32": gathered(100).distributions()}
    made = reference_of("60 samples of somewhere", FEWEST, forms)
    assert made is not None
    return made


def read(path: Path) -> Reference:
    with open_bundle(path) as bundle:
        return read_reference(bundle, Looker.of(bundle.manifest))


def test_a_bundle_gives_back_what_it_was_given(make_bundle: MakeBundle) -> None:
    path = make_bundle(texts={FILE: encode(reference()).decode()}, reference=FILE)
    assert read(path) == reference()


def test_outputs_are_those_of_the_variant_and_else_of_the_source() -> None:
    made = reference()
    assert made.of("null-fp32")["output.y.mean"].median == 130
    assert made.of("another")["output.y.mean"].median == 30
    assert made.of("another")["input.x.mean"] == made.of("null-fp32")["input.x.mean"]


def test_too_few_samples_make_none() -> None:
    gathering = Gathering()
    for value in range(FEWEST - 1):
        gathering.add({"input.x.mean": float(value)})
    assert reference_of("", FEWEST - 1, {SOURCE: gathering.distributions()}) is None


def test_a_statistic_that_was_not_always_a_number_is_left_out() -> None:
    gathering = gathered()
    gathering.add({"input.x.mean": float("inf"), "output.y.mean": 1.0})
    assert list(gathering.distributions()) == ["output.y.mean"]


def test_equal_references_are_equal_bytes_and_small() -> None:
    assert encode(reference()) == encode(reference())
    assert len(encode(reference())) < 1000


def test_a_bundle_without_one_says_what_to_do(make_bundle: MakeBundle) -> None:
    with pytest.raises(BundleError, match="0 goldens make none") as caught:
        read(make_bundle())
    assert "--eval" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"schema": 1}', '{"schema": 1, "samples": "many"}']
)
def test_a_damaged_one_is_refused(make_bundle: MakeBundle, text: str) -> None:
    path = make_bundle(texts={FILE: text}, reference=FILE)
    with pytest.raises(BundleError, match="is not valid"):
        read(path)


def test_one_that_is_too_large_is_not_read(make_bundle: MakeBundle) -> None:
    path = make_bundle(texts={FILE: encode(reference()).decode() + " " * MAX_BYTES}, reference=FILE)
    with pytest.raises(BundleError, match="larger than"):
        read(path)


@given(st.data())
def test_whatever_stands_in_it_is_a_reference_or_an_error(data: st.DataObject) -> None:
    """Bytes that were changed, cut or put in."""
    text = bytearray(encode(reference()))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
        text = text or bytearray(b" ")

    class Damaged:
        path = Path("m.edge")
        manifest = Manifest(
            1, "m", "1", "tensors", "host", "0" * 64, (), (), (FileEntry(FILE, "0" * 64, 9),)
        )

        def read(self, name: str) -> bytes:
            return bytes(text)

    Damaged.manifest = msgspec.structs.replace(Damaged.manifest, reference=FILE)
    bundle: Any = Damaged()
    try:
        made = read_reference(bundle, Looker.of(bundle.manifest))
    except BundleError:
        return
    for known in made.of(SOURCE).values():
        assert sum(known.binned([0.0, 1e9, float("nan")])) == 3


def test_edges_that_fall_are_refused(make_bundle: MakeBundle) -> None:
    text = encode(reference()).decode().replace("[19.5,39.5]", "[39.5,19.5]")
    with pytest.raises(BundleError, match="rising edges"):
        read(make_bundle(texts={FILE: text}, reference=FILE))


def test_one_of_a_later_schema_says_so(make_bundle: MakeBundle) -> None:
    later = msgspec.structs.replace(reference(), schema=2)
    path = make_bundle(texts={FILE: encode(later).decode()}, reference=FILE)
    with pytest.raises(BundleError, match="has schema 2") as caught:
        read(path)
    assert "upgrade" in caught.value.hint


def test_a_bundle_that_names_none_of_its_files_is_refused(make_bundle: MakeBundle) -> None:
    with pytest.raises(BundleError, match=FILE):
        make_bundle(reference=FILE)


def test_enough_goldens_make_one(tmp_path: Path, make_variant: Callable[..., Variant]) -> None:
    parts = tmp_path / "parts"
    goldens = []
    for number in range(FEWEST):
        place = parts / "goldens" / str(number)
        place.mkdir(parents=True)
        save_tensors(place / "inputs.npz", {"x": np.full((1, 3), number, np.float32)})
        save_tensors(place / "expected.npz", {"y": np.full((1, 4), -number, np.float32)})
        at = f"goldens/{number}"
        goldens.append(Golden(f"{at}/inputs.npz", f"{at}/expected.npz", {}))
    manifest = Manifest(
        schema=1,
        name="m",
        version="1",
        task="tensors",
        profile="host",
        source_sha256="0" * 64,
        variants=(make_variant(),),
        goldens=tuple(goldens),
    )
    made = read(pack(manifest, parts, tmp_path / "m.edge"))
    assert made.data == f"{FEWEST} goldens"
    assert made.of("null-fp32")["output.y.0"].median == -FEWEST / 2 + 1
