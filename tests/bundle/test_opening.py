from __future__ import annotations

import gc
import io
import os
import random
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.bundle import open_bundle
from edge.core.errors import BundleError, NotFoundError

Rewrite = Callable[..., Path]


def refuse(path: Path, complaint: str) -> BundleError:
    with pytest.raises(BundleError, match=complaint) as caught:
        open_bundle(path)
    assert str(path) in str(caught.value)
    return caught.value


def edited(bundle_path: Path, edit: Callable[[dict], object]) -> bytes:  # type: ignore[type-arg]
    """The manifest after ``edit`` changed its JSON."""
    with open_bundle(bundle_path) as bundle:
        tree = msgspec.json.decode(bundle.read("manifest.json"))
    edit(tree)
    return msgspec.json.encode(tree)


def test_any_flipped_byte_is_refused(bundle_path: Path) -> None:
    original = bundle_path.read_bytes()
    assert len(original) < 8000
    chance = random.Random(7)
    for at in range(len(original)):
        data = bytearray(original)
        data[at] ^= 1 << chance.randrange(8)
        bundle_path.write_bytes(data)
        with pytest.raises(BundleError):
            open_bundle(bundle_path)


def test_a_flipped_byte_is_told_by_the_entry_it_is_in(bundle_path: Path) -> None:
    data = bundle_path.read_bytes()
    bundle_path.write_bytes(data.replace(b"graphgraph", b"graphgrapi", 1))
    error = refuse(bundle_path, "variants/onnx-fp32/model.onnx differs from its digest")
    assert "copy it again" in error.hint


def test_any_truncation_is_refused(bundle_path: Path) -> None:
    original = bundle_path.read_bytes()
    for length in range(0, len(original), 37):
        bundle_path.write_bytes(original[:length])
        with pytest.raises(BundleError):
            open_bundle(bundle_path)


@pytest.mark.parametrize("size", [1, 22, 4096])
def test_appended_and_prepended_bytes_are_refused(bundle_path: Path, size: int) -> None:
    original = bundle_path.read_bytes()
    for data in (original + bytes(size), bytes(size) + original, original + original):
        bundle_path.write_bytes(data)
        with pytest.raises(BundleError):
            open_bundle(bundle_path)


def test_a_file_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.edge"
    for data in (b"", b"PK", b"PK\3\4", b"\x08\x07onnx" * 50, b"PK\5\6" + bytes(18)):
        path.write_bytes(data)
        with pytest.raises(BundleError):
            open_bundle(path)
    refuse(tmp_path / "none.edge", "no such file")
    refuse(tmp_path, "no file")


@settings(max_examples=300)
@given(
    cuts=st.lists(
        st.tuples(st.integers(0, 6000), st.integers(0, 60), st.binary(max_size=60)),
        min_size=1,
        max_size=4,
    )
)
def test_random_damage_gives_an_error_of_ours(
    bundle_path: Path, tmp_path: Path, cuts: list[tuple[int, int, bytes]]
) -> None:
    original = bundle_path.read_bytes()
    data = bytearray(original)
    for start, length, put in cuts:
        data[start : start + length] = put
    path = tmp_path / "damaged.edge"
    path.write_bytes(data)
    if data == original:
        open_bundle(path).close()
    else:
        with pytest.raises(BundleError):
            open_bundle(path)


# Each value of the manifest in turn gets replaced by each of these, with checksums made right.
POISON = [None, -1, 2**70, 1.5, "", "../x", "a\n", "/etc/passwd", [], {}, [{}], {"a": 1}, True]


def places(tree: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    pairs = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    return [p for key, value in pairs for p in [(*path, key), *places(value, (*path, key))]]


def test_wrong_values_in_a_manifest_give_an_error_of_ours_or_none(
    bundle_path: Path, rewrite: Rewrite
) -> None:
    from edge.bundle import contents

    with open_bundle(bundle_path) as bundle:
        data = bundle.read("manifest.json")
    refused = 0
    for place in places(msgspec.json.decode(data)):
        for poison in POISON:
            tree = msgspec.json.decode(data)
            parent = tree
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = poison
            try:
                contents.decode_manifest(msgspec.json.encode(tree))
            except BundleError:
                refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda m: m.update(schema=2), "schema 2, this edge reads 1"),
        (lambda m: m.update(colour="red"), "unknown field `colour`"),
        (lambda m: m["variants"][0].update(run="x.py"), "unknown field `run`"),
        (lambda m: m["variants"][0]["inputs"][0].update(a=1), "unknown field `a`"),
        (lambda m: m["variants"][0].update(id="../../etc"), "regex"),
        (lambda m: m["variants"][1].update(id="ONNX-fp32"), "one id"),
        (lambda m: m["variants"][0].update(agreement=1.5), "<= 1"),
        (lambda m: m["variants"][0]["files"][0].update(path="../model.onnx"), "regex"),
        (lambda m: m["variants"][0]["files"][0].update(path="/model.onnx"), "regex"),
        (lambda m: m["variants"][0]["files"][0].update(path="C:\\model.onnx"), "regex"),
        (lambda m: m["variants"][0]["files"][0].update(path="a/../../b"), "regex"),
        (lambda m: m["variants"][0]["files"][0].update(size_bytes=99), "has not the size"),
        (lambda m: m["variants"][0]["files"][0].update(sha256="0" * 64), "differs from its digest"),
        (lambda m: m["variants"][0]["inputs"][0].update(dtype="object"), "can not be object"),
        (lambda m: m["variants"][0]["inputs"][0].update(shape=[-1]), r"can not be float32 \(-1\)"),
        (lambda m: m["files"].append(m["files"][0]), "lists a file twice"),
        (lambda m: m["files"].pop(), "is not listed|does not list"),
        (lambda m: m["files"][0].update(path="variants/x/y"), "outside of its place"),
        (lambda m: m["files"][0].update(path="manifest.json"), "outside of its place"),
        (lambda m: m.update(labels="classes.txt"), r"refers to classes\.txt"),
        (lambda m: m["goldens"][0].update(inputs="x.npz"), r"refers to x\.npz"),
        (lambda m: m["goldens"][0]["tolerances"].update(other={}), "unknown other"),
        (lambda m: m["goldens"][0]["tolerances"]["onnx-fp32"].update(z=1), "z, which variant"),
        (lambda m: m.update(variants=[]), "no variant"),
        (lambda m: m.update(name="a/b"), "regex"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(
    bundle_path: Path,
    rewrite: Rewrite,
    edit: Callable[[dict], object],  # type: ignore[type-arg]
    complaint: str,
) -> None:
    refuse(rewrite({"manifest.json": edited(bundle_path, edit)}), complaint)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"schema":1}', b"[" * 100_000]
)
def test_a_manifest_that_is_no_manifest_is_refused(rewrite: Rewrite, data: bytes) -> None:
    refuse(rewrite({"manifest.json": data}), "not valid")


def test_deep_options_are_refused(bundle_path: Path, rewrite: Rewrite) -> None:
    data = edited(bundle_path, lambda m: m["variants"][0].update(options="MARK"))
    deep = data.replace(b'"MARK"', b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}")
    refuse(rewrite({"manifest.json": deep}), "not valid")


def test_an_oversized_manifest_is_refused_before_it_is_read(rewrite: Rewrite) -> None:
    refuse(rewrite({"manifest.json": b" " * (5 * 1024 * 1024)}), "at most 4,194,304 may")


def test_a_missing_entry_is_refused(rewrite: Rewrite) -> None:
    refuse(rewrite({"variants/openvino-fp32/model.bin": None}), r"model\.bin is missing")
    refuse(rewrite({"manifest.json": None}), r"manifest\.json is not the first")


def test_an_unlisted_entry_is_refused(rewrite: Rewrite) -> None:
    refuse(rewrite({"extra.txt": b"x"}), r"extra\.txt is not listed")


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/passwd", "a\\b", "C:/x", "a//b", "a/./b", "a/", "x\0y", ".hidden", "a b"],
)
def test_an_unsafe_name_is_refused(rewrite: Rewrite, name: str) -> None:
    refuse(rewrite({name: b"x"}), "is not safe")


def test_double_names_are_refused(bundle_path: Path, rewrite: Rewrite) -> None:
    with open_bundle(bundle_path) as bundle:
        names = bundle.names()
    refuse(rewrite({}, order=[*names, names[-1]]), "two entries named")
    refuse(rewrite({"Labels.txt": b"x"}), "two entries named")


def test_a_file_that_is_also_a_folder_is_refused(rewrite: Rewrite) -> None:
    refuse(rewrite({"labels.txt/x": b"x"}), "both a file and a folder")


def test_entries_in_another_order_are_refused(bundle_path: Path, rewrite: Rewrite) -> None:
    with open_bundle(bundle_path) as bundle:
        names = bundle.names()
    refuse(rewrite({}, order=[*names[1:], names[0]]), "not the first entry")
    refuse(rewrite({}, order=[names[0], *reversed(names[1:])]), "of sorted ones")


def repacked(bundle_path: Path, change: Callable[[zipfile.ZipInfo], None]) -> Path:
    """The same contents, written by a common ZIP tool."""
    output = bundle_path.with_name("repacked.edge")
    with zipfile.ZipFile(bundle_path) as old, zipfile.ZipFile(output, "w") as new:
        for info in old.infolist():
            copy = zipfile.ZipInfo(info.filename, info.date_time)
            copy.external_attr, copy.create_system = info.external_attr, 3
            change(copy)
            new.writestr(copy, old.read(info))
    return output


def test_compressed_entries_are_refused(bundle_path: Path) -> None:
    def deflate(info: zipfile.ZipInfo) -> None:
        info.compress_type = zipfile.ZIP_DEFLATED

    refuse(repacked(bundle_path, deflate), "is compressed")


def test_a_zip_bomb_is_refused_without_being_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.edge"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    refuse(path, "is compressed")


def test_sizes_beyond_the_file_are_refused(bundle_path: Path) -> None:
    data = bytearray(bundle_path.read_bytes())
    at = data.rindex(b"PK\1\2")
    for size in (2**31, 2**32 - 2):
        struct.pack_into("<II", data, at + 20, size, size)
        bundle_path.write_bytes(data)
        refuse(bundle_path, "entries claim")


def test_symbolic_links_are_refused(bundle_path: Path) -> None:
    def link(info: zipfile.ZipInfo) -> None:
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    refuse(repacked(bundle_path, link), "is a symbolic link")


def test_an_archive_packed_anew_by_another_tool_is_refused(bundle_path: Path) -> None:
    def later(info: zipfile.ZipInfo) -> None:
        info.date_time = (2024, 5, 1, 0, 0, 0)

    assert "edge convert" in refuse(repacked(bundle_path, later), "was altered").hint


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    from edge.bundle import archive

    entries = [archive.Entry(f"f{number:05}", 0, 0) for number in range(10_001)]
    path = tmp_path / "many.edge"
    path.write_bytes(b"".join(map(archive.local_header, entries)) + archive.directory(entries))
    refuse(path, "more than 10,000 entries")


def test_an_entry_beyond_4_gib_is_located(tmp_path: Path) -> None:
    from edge.bundle import archive

    entries = [archive.Entry("a", 5 * 2**30, 0), archive.Entry("b", 3, 0x352441C2)]
    path = tmp_path / "large.zip"
    with open(path, "wb") as stream:  # sparse: takes no space
        for located in archive.locate(entries):
            header = archive.local_header(located.entry)
            stream.seek(located.offset - len(header))
            stream.write(header)
        stream.write(b"abc" + archive.directory(entries))
    with open(path, "rb") as stream:
        found = archive.read_directory(stream.fileno())
        assert [item.entry for item in found] == entries
        assert archive.read_exactly(stream.fileno(), 3, found[1].offset) == b"abc"
    with zipfile.ZipFile(path) as other:
        assert [(i.filename, i.file_size) for i in other.infolist()] == [("a", 5 * 2**30), ("b", 3)]
        assert other.read("b") == b"abc"


def test_a_signature_is_permitted_and_not_taken_for_checked(rewrite: Rewrite) -> None:
    with open_bundle(rewrite({"signature.json": b"{}"})) as bundle:
        assert bundle.has_signature
    refuse(rewrite({"signature.json": b" " * 70_000}), "at most 65,536 may")


def test_unknown_entries_and_variants_are_named(bundle_path: Path) -> None:
    with open_bundle(bundle_path) as bundle:
        assert not bundle.has_signature
        with pytest.raises(NotFoundError, match="no entry 'x'"):
            bundle.read("x")
        with pytest.raises(NotFoundError, match="no variant 'x'") as caught:
            bundle.extract_variant("x")
        assert "onnx-fp32, openvino-fp32" in caught.value.hint


def test_a_change_after_opening_is_noticed(bundle_path: Path) -> None:
    with open_bundle(bundle_path) as bundle:
        data = bundle_path.read_bytes()
        with open(bundle_path, "r+b") as stream:
            stream.seek(data.index(b"graphgraph"))
            stream.write(b"other")
        with pytest.raises(BundleError, match="differs from its digest"):
            bundle.read("variants/onnx-fp32/model.onnx")


def test_goldens_are_arrays_of_ones_own(bundle_path: Path) -> None:
    with open_bundle(bundle_path) as bundle:
        inputs, expected = bundle.golden(bundle.manifest.goldens[0])
    np.testing.assert_array_equal(inputs["x"], np.ones((1, 4), np.float32))
    expected["y"][:] = 1


def test_a_golden_without_an_output_that_has_a_tolerance_is_refused(bundle_path: Path) -> None:
    with open_bundle(bundle_path) as bundle:
        golden = bundle.manifest.goldens[0]
        golden = msgspec.structs.replace(golden, tolerances={"onnx-fp32": {"y": 1, "z": 1}})
        with pytest.raises(BundleError, match=r"goldens/0/expected\.npz lacks z"):
            bundle.golden(golden)


def refill(bundle_path: Path, rewrite: Rewrite, data: bytes) -> Path:
    """The bundle with another golden, listed with its right digest."""
    import hashlib

    def relist(manifest: dict) -> None:  # type: ignore[type-arg]
        for entry in manifest["files"]:
            if entry["path"] == "goldens/0/inputs.npz":
                entry.update(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))

    manifest = edited(bundle_path, relist)
    return rewrite({"manifest.json": manifest, "goldens/0/inputs.npz": data})


def test_a_golden_that_is_a_bomb_is_refused(bundle_path: Path, rewrite: Rewrite) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros(20_000_000, np.float32))
    assert len(buffer.getvalue()) < 200_000
    path = refill(bundle_path, rewrite, buffer.getvalue())
    with (
        open_bundle(path) as bundle,
        pytest.raises(BundleError, match=r"goldens/0/inputs\.npz.*claim"),
    ):
        bundle.golden(bundle.manifest.goldens[0])


def test_a_golden_that_is_a_pickle_is_refused(
    bundle_path: Path, rewrite: Rewrite, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {touched}",)

    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([Evil()], dtype=object))
    path = refill(bundle_path, rewrite, buffer.getvalue())
    with (
        open_bundle(path) as bundle,
        pytest.raises(BundleError, match="something else than numbers"),
    ):
        bundle.golden(bundle.manifest.goldens[0])
    assert not touched.exists()


def test_labels_that_are_no_text_are_refused(manifest: object, parts: Path, tmp_path: Path) -> None:
    from edge.bundle import pack

    (parts / "labels.txt").write_bytes(b"\xff\xfe")
    with (
        open_bundle(pack(manifest, parts, tmp_path / "a.edge")) as bundle,  # type: ignore[arg-type]
        pytest.raises(BundleError, match="not UTF-8"),
    ):
        _ = bundle.labels


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc")
def test_a_refused_bundle_is_closed(bundle_path: Path, tmp_path: Path) -> None:
    bundle_path.write_bytes(bundle_path.read_bytes()[:-1])
    gc.collect()  # what tests before left open
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle_path)
    del caught
    assert set(os.listdir("/proc/self/fd")) <= before
