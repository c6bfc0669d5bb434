from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.bundle import archive, open_bundle, pack, packing
from edge.core.errors import BundleError, InputError
from edge.core.manifest import FileEntry, Manifest


def test_what_is_packed_can_be_read_back(
    manifest: Manifest, parts: Path, bundle_path: Path
) -> None:
    with open_bundle(bundle_path) as bundle:
        on_disk = {
            path.relative_to(parts).as_posix(): path.read_bytes()
            for path in parts.rglob("*")
            if path.is_file()
        }
        assert {n: bundle.read(n) for n in bundle.names() if n != "manifest.json"} == on_disk
        assert bundle.names()[0] == "manifest.json"
        assert bundle.manifest.name == manifest.name
        assert bundle.labels == ("zero", "one", "zwölf")


def test_same_parts_give_the_same_bytes(manifest: Manifest, parts: Path, tmp_path: Path) -> None:
    first = pack(manifest, parts, tmp_path / "first.edge").read_bytes()
    other = tmp_path / "other"
    mask = os.umask(0o077)
    try:
        for path in sorted(parts.rglob("*"), reverse=True):
            if path.is_file():
                target = other / path.relative_to(parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
                os.utime(target, (1, 2_000_000_000))
                target.chmod(0o700)
        second = pack(manifest, other, tmp_path / "second.edge").read_bytes()
    finally:
        os.umask(mask)
    assert first == second


def test_layout_stays_as_it_was_released() -> None:
    entries = [archive.Entry("manifest.json", 2, 0xA3FF2AB1), archive.Entry("a/ü", 1, 7)]
    data = b"".join(map(archive.local_header, entries)) + archive.directory(entries)
    # A change here means that bundles made before are refused: the layout is a promise.
    assert (
        hashlib.sha256(data).hexdigest()
        == "f48db544c6150738b35707fe3cca5fd6e9f03f7ac8481c60d9e853b969f50754"
    )


def test_other_tools_can_read_a_bundle(bundle_path: Path, parts: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle_path) as other:
        assert other.testzip() is None
        other.extractall(tmp_path / "out")
        dates = {info.date_time for info in other.infolist()}
    assert dates == {(1980, 1, 1, 0, 0, 0)}
    assert (tmp_path / "out/labels.txt").read_bytes() == (parts / "labels.txt").read_bytes()


def test_order_of_a_variants_files_is_kept(manifest: Manifest, parts: Path, tmp_path: Path) -> None:
    wanted = ("model.xml", "model.bin")
    files = tuple(FileEntry(path=path, sha256="", size_bytes=0) for path in wanted)
    first, second = manifest.variants
    ordered = msgspec.structs.replace(second, files=files)
    manifest = msgspec.structs.replace(manifest, variants=(first, ordered))
    with open_bundle(pack(manifest, parts, tmp_path / "a.edge")) as bundle:
        assert tuple(f.path for f in bundle.variant("openvino-fp32").files) == wanted


@pytest.mark.parametrize(
    ("stray", "complaint"),
    [
        ("notes.txt", "no place in the bundle for notes.txt"),
        ("variants/tensorrt-fp16/model.plan", "no place"),
        ("goldens/1/inputs.npz", "no place"),
        ("manifest.json", "outside of its place"),
        ("report/.hidden", "not safe"),
    ],
)
def test_pack_refuses_a_file_without_a_place(
    manifest: Manifest, parts: Path, tmp_path: Path, stray: str, complaint: str
) -> None:
    path = parts / stray
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"?")
    with pytest.raises(BundleError, match=complaint):
        pack(manifest, parts, tmp_path / "a.edge")
    assert not (tmp_path / "a.edge").exists()


def test_pack_refuses_a_missing_file(manifest: Manifest, parts: Path, tmp_path: Path) -> None:
    (parts / "labels.txt").unlink()
    with pytest.raises(BundleError, match=r"refers to labels\.txt"):
        pack(manifest, parts, tmp_path / "a.edge")


def test_pack_refuses_a_link(manifest: Manifest, parts: Path, tmp_path: Path) -> None:
    (parts / "report/secret").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="report/secret is no plain file"):
        pack(manifest, parts, tmp_path / "a.edge")


def test_pack_refuses_figures_that_json_can_not_hold(
    manifest: Manifest, parts: Path, tmp_path: Path
) -> None:
    tolerances = {"onnx-fp32": {"y": float("nan")}}
    golden = msgspec.structs.replace(manifest.goldens[0], tolerances=tolerances)
    manifest = msgspec.structs.replace(manifest, goldens=(golden,))
    with pytest.raises(BundleError, match="not valid"):
        pack(manifest, parts, tmp_path / "a.edge")


def test_a_failing_write_leaves_the_old_bundle_and_nothing_else(
    manifest: Manifest, parts: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bundle_path.read_bytes()
    names = sorted(os.listdir(bundle_path.parent))

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        pack(manifest, parts, bundle_path)
    assert bundle_path.read_bytes() == before
    assert sorted(os.listdir(bundle_path.parent)) == names


def test_pack_refuses_a_file_that_changes_meanwhile(
    manifest: Manifest, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = packing._fill

    def fill_and_change(*given: object) -> Manifest:
        (parts / "labels.txt").write_text("other\n")
        return fill(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(packing, "_fill", fill_and_change)
    with pytest.raises(BundleError, match=r"labels\.txt changed while it was packed"):
        pack(manifest, parts, tmp_path / "a.edge")
    assert not list(tmp_path.glob("*.partial"))


def test_pack_says_which_folder_is_missing(manifest: Manifest, parts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        pack(manifest, tmp_path / "nowhere", tmp_path / "a.edge")
    with pytest.raises(InputError, match="No such file"):
        pack(manifest, parts, tmp_path / "nowhere/a.edge")


NAME = st.from_regex(r"\A[A-Za-z0-9_]([A-Za-z0-9._+-]{0,20}[A-Za-z0-9_+-])?\Z")


@settings(max_examples=60)
@given(files=st.dictionaries(NAME.map(str.lower), st.binary(max_size=200), min_size=1, max_size=6))
def test_any_files_survive_packing(
    manifest: Manifest, parts: Path, tmp_path: Path, files: dict[str, bytes]
) -> None:
    folder = parts / "report"
    shutil.rmtree(folder)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with open_bundle(pack(manifest, parts, tmp_path / "a.edge")) as bundle:
        assert {name: bundle.read(f"report/{name}") for name in files} == files
