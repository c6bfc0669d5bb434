"""Results of stages are found again, whole or not at all."""

from __future__ import annotations

import logging
import os

import msgspec
import pytest

from edge.conversion import cache as caching
from edge.conversion.cache import StageCache


class _Result(msgspec.Struct, frozen=True):
    number: int


@pytest.fixture
def cache(tmp_path):
    return StageCache(tmp_path / "cache")


def _write(folder, calls):  # type: ignore[no-untyped-def]
    calls.append(folder)
    (folder / "deep").mkdir()
    (folder / "deep" / "model.bin").write_bytes(b"weights")
    return _Result(7)


def _files(cache, into, calls, **key):  # type: ignore[no-untyped-def]
    into.mkdir()
    return cache.files("convert", key, _Result, into, lambda folder: _write(folder, calls))


def test_a_value_is_made_once_for_one_key(cache):
    calls = []
    for number in (1, 1, 2):
        value = cache.value("judge", {"n": number}, _Result, lambda: calls.append(0) or _Result(3))
        assert value == _Result(3)
    assert len(calls) == 2


def test_files_come_back_as_they_were(cache, tmp_path):
    calls = []
    assert _files(cache, tmp_path / "one", calls) == _files(cache, tmp_path / "two", calls)
    assert len(calls) == 1
    assert (tmp_path / "two" / "deep" / "model.bin").read_bytes() == b"weights"


def test_a_damaged_file_is_made_again(cache, tmp_path, caplog):
    calls = []
    _files(cache, tmp_path / "one", calls)
    (kept,) = cache.root.rglob("model.bin")
    kept.write_bytes(b"weightz")
    with caplog.at_level(logging.WARNING):
        _files(cache, tmp_path / "two", calls)
    assert len(calls) == 2
    assert (tmp_path / "two" / "deep" / "model.bin").read_bytes() == b"weights"
    assert "model.bin is damaged" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b'{"stage": 3}'])
def test_a_damaged_entry_is_made_again(cache, content):
    for _ in range(2):
        assert cache.value("judge", {}, _Result, lambda: _Result(5)) == _Result(5)
        (entry,) = cache.root.rglob("entry.json")
        entry.write_bytes(content)


def test_a_failing_stage_leaves_nothing(cache):
    def fail() -> _Result:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.value("judge", {}, _Result, fail)
    assert cache.usage() == []


def test_other_versions_of_the_tools_are_another_key(cache, monkeypatch):
    calls = []
    for version in ("1.0", "2.0"):
        monkeypatch.setattr(caching, "tools", lambda version=version: {"onnx": version})
        cache.value("judge", {}, _Result, lambda: calls.append(0) or _Result(1))
    assert len(calls) == 2


def test_a_cache_that_can_not_be_written_costs_a_warning_only(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = StageCache(tmp_path / "file" / "cache")
    assert cache.value("judge", {}, _Result, lambda: _Result(1)) == _Result(1)
    assert "can not be kept" in caplog.text


def test_what_is_used_longest_ago_goes_first(cache, tmp_path, monkeypatch):
    for number in range(3):
        _files(cache, tmp_path / str(number), [], n=number)
    oldest, second, third = sorted(
        (p.parent for p in cache.root.rglob("entry.json")), key=lambda p: p.stat().st_mtime_ns
    )
    os.utime(oldest, (1, 1))
    os.utime(second, (2, 2))
    size = caching._size(third)
    monkeypatch.setattr(caching, "LIMIT_BYTES", 3 * size)
    _files(cache, tmp_path / "3", [], n=3)
    assert not oldest.exists()
    assert second.exists()
    assert third.exists()


def test_usage_counts_by_stage_and_clear_empties(cache, tmp_path):
    cache.value("judge", {}, _Result, lambda: _Result(1))
    _files(cache, tmp_path / "one", [])
    assert {usage.stage: usage.entries for usage in cache.usage()} == {"judge": 1, "convert": 1}
    assert all(usage.size_bytes > 0 for usage in cache.usage())
    cache.clear()
    assert cache.usage() == []
