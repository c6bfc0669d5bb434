"""What can not be a source is refused with what to do instead."""

from __future__ import annotations

import pytest

from edge.conversion.cache import StageCache
from edge.conversion.sources import REFUSED, as_file, is_factory, title_of
from edge.core.errors import ModelError
from edge.core.profile import load_profile


@pytest.mark.parametrize("suffix", sorted(REFUSED))
def test_other_formats_are_refused_with_what_to_do(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"whatever")
    with pytest.raises(ModelError, match="can not be converted") as caught:
        as_file(str(path), load_profile("host"), tmp_path, StageCache(tmp_path / "cache"))
    assert caught.value.hint


def test_onnx_files_are_taken_as_they_are(tmp_path):
    path = tmp_path / "model.onnx"
    cache = StageCache(tmp_path / "cache")
    assert as_file(str(path), load_profile("host"), tmp_path, cache) == path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nets:build", True),
        ("my.package.nets:build", True),
        ("model.onnx", False),
        ("C:/models/m.onnx", False),
        ("folder/nets:build", False),
    ],
)
def test_factories_are_told_from_files(source, expected):
    assert is_factory(source) is expected


def test_titles_are_the_stem_or_the_module():
    assert title_of("some/model.v2.onnx") == "model.v2"
    assert title_of("my.package.nets:build") == "nets"
