from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from patience import LONG_S

from edge.bundle import Bundle, open_bundle
from edge.core.cache import default_cache
from edge.core.errors import BundleError, UnavailableError


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*")}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_variant_is_extracted_once(bundle_path: Path, cache: Path) -> None:
    with open_bundle(bundle_path) as bundle:
        folder = bundle.extract_variant("openvino-fp32", cache=cache)
        assert contents(folder) == {"model.xml": b"<net/>", "model.bin": bytes(range(64))}
        inode = (folder / "model.xml").stat().st_ino
        assert bundle.extract_variant("openvino-fp32", cache=cache) == folder
        assert (folder / "model.xml").stat().st_ino == inode
        assert bundle.extract_variant("onnx-fp32", cache=cache) != folder


def test_bundles_with_the_same_variant_share_it(bundle_path: Path, rewrite, cache: Path) -> None:  # type: ignore[no-untyped-def]
    with open_bundle(bundle_path) as bundle:
        renamed = bundle.read("manifest.json").replace(b'"digits"', b'"others"')
    with open_bundle(bundle_path) as one, open_bundle(rewrite({"manifest.json": renamed})) as two:
        assert one.digest != two.digest
        first = one.extract_variant("onnx-fp32", cache=cache)
        assert two.extract_variant("onnx-fp32", cache=cache) == first


def test_the_cache_is_where_xdg_says(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    with open_bundle(bundle_path) as bundle:
        folder = bundle.extract_variant("onnx-fp32")
    assert folder.is_relative_to(tmp_path / "xdg/edge")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home/.cache/edge"


def test_an_incomplete_or_altered_extraction_is_done_again(bundle_path: Path, cache: Path) -> None:
    with open_bundle(bundle_path) as bundle:
        folder = bundle.extract_variant("openvino-fp32", cache=cache)
        (folder / "model.bin").unlink()
        assert "model.bin" in contents(bundle.extract_variant("openvino-fp32", cache=cache))
        (folder / "model.xml").chmod(0o644)
        (folder / "model.xml").write_bytes(b"<net>longer</net>")
        again = bundle.extract_variant("openvino-fp32", cache=cache)
    assert contents(again)["model.xml"] == b"<net/>"


def test_what_a_killed_process_left_is_cleared(bundle_path: Path, cache: Path) -> None:
    with open_bundle(bundle_path) as bundle:
        folder = bundle.extract_variant("onnx-fp32", cache=cache)
        left = folder.with_name(f".{folder.name}.partial")
        folder.rename(left)
        (left / "junk").write_bytes(b"x")
        assert sorted(contents(bundle.extract_variant("onnx-fp32", cache=cache))) == ["model.onnx"]
    assert not left.exists()


def test_damage_between_opening_and_extracting_leaves_nothing(
    bundle_path: Path, cache: Path
) -> None:
    with open_bundle(bundle_path) as bundle:
        at = bundle_path.read_bytes().index(b"graphgraph")
        with open(bundle_path, "r+b") as stream:
            stream.seek(at)
            stream.write(b"other")
        with pytest.raises(BundleError, match="differs from its digest"):
            bundle.extract_variant("onnx-fp32", cache=cache)
    assert [p.name for p in (cache / "variants").iterdir() if p.is_dir()] == []


def test_a_cache_that_can_not_be_written_is_told(bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        open_bundle(bundle_path) as bundle,
        pytest.raises(UnavailableError, match="can not extract the model") as caught,
    ):
        bundle.extract_variant("onnx-fp32", cache=tmp_path / "file")
    assert "XDG_CACHE_HOME" in caught.value.hint


def test_a_full_disk_is_told_and_leaves_nothing(
    bundle_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    with open_bundle(bundle_path) as bundle:
        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(UnavailableError, match="No space left") as caught:
            bundle.extract_variant("onnx-fp32", cache=cache)
    assert "free some space" in caught.value.hint
    assert [p.name for p in (cache / "variants").iterdir() if p.is_dir()] == []


def test_threads_that_extract_at_once_get_one_whole_folder(bundle_path: Path, cache: Path) -> None:
    def extract(bundle: Bundle) -> dict[str, bytes]:
        return contents(bundle.extract_variant("openvino-fp32", cache=cache))

    with open_bundle(bundle_path) as bundle, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(extract, [bundle] * 24))
    assert all(found[0] == other for other in found)
    assert sorted(found[0]) == ["model.bin", "model.xml"]


_EXTRACT = """
import sys
from pathlib import Path
from edge.bundle import open_bundle
bundle = open_bundle(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
folder = bundle.extract_variant("openvino-fp32", cache=Path(sys.argv[2]))
print({path.name: path.stat().st_size for path in sorted(folder.iterdir())})
bundle.close()
"""


def test_processes_that_extract_at_once_get_one_whole_folder(
    bundle_path: Path, cache: Path
) -> None:
    command = [sys.executable, "-c", _EXTRACT, str(bundle_path), str(cache)]
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = {worker.communicate(timeout=LONG_S)[0] for worker in workers}
    assert answers == {"{'model.bin': 64, 'model.xml': 6}\n"}
    assert len([path for path in (cache / "variants").iterdir() if path.is_dir()]) == 1
