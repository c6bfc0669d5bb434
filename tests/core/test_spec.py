from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge.core.errors import SettingsError
from edge.core.spec import ImageSpec, ModelSpec, load_spec


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.toml"


def test_an_empty_spec_has_defaults(path: Path) -> None:
    path.touch()
    assert load_spec(path) == ModelSpec()


def test_labels_are_found_beside_the_spec(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text('labels = "names.txt"')
    monkeypatch.chdir("/")
    assert Path(load_spec(path).labels) == path.parent / "names.txt"


def test_a_whole_pipeline_is_read(path: Path) -> None:
    path.write_text(
        'task = "detection"\n[image]\ninput = "x"\nresize = { longer = 416 }\n'
        'pad = { size = [416, 416], value = 114, anchor = "top-left" }\ncolor = "bgr"\n'
        "mean = [1, 2, 3]\n[output]\ndecode = 'yolox'\nscore_threshold = 0.5\n"
    )
    spec = load_spec(path)
    assert spec.image
    assert spec.image.pad
    assert spec.image.resize
    assert (spec.image.resize.longer, spec.image.pad.value) == (416, 114.0)
    assert spec.image.mean == (1.0, 2.0, 3.0)
    assert spec.output
    assert (spec.output.decode, spec.output.iou_threshold) == ("yolox", 0.45)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("tusk = 'detection'", "tusk"),
        ("task = 'guessing'", "guessing"),
        ("[image]", "input"),
        ("[image]\ninput = 'x'\nresize = {}", "exactly one"),
        ("[image]\ninput = 'x'\nresize = { shorter = 8, longer = 8 }", "exactly one"),
        ("[image]\ninput = 'x'\nresize = { shorter = 0 }", "shorter"),
        ("[image]\ninput = 'x'\nresize = { exact = [8] }", "exact"),
        ("[image]\ninput = 'x'\ncrop = [8, 1000000000]", "crop"),
        ("[image]\ninput = 'x'\ncrop = [8, 8]\npad = { size = [9, 9] }", "not both"),
        ("[image]\ninput = 'x'\ncolor = 'gray'\nmean = [1, 2, 3]", "values for gray"),
        ("[image]\ninput = 'x'\nstd = [1, 0, 1]", "std must not be 0"),
        ("[output]\nscore_threshold = 30", "score_threshold"),
        ("[output]\ntop = 0", "top"),
        ("task = ", "Invalid value"),
    ],
)
def test_what_does_not_fit_is_named(path: Path, text: str, named: str) -> None:
    path.write_text(text)
    with pytest.raises(SettingsError, match=named) as caught:
        load_spec(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file") as caught:
        load_spec(path)
    assert str(path) in str(caught.value)


def test_image_survives_json() -> None:
    image = ImageSpec("x", crop=(8, 9), color="gray", mean=(0.5,))
    assert msgspec.json.decode(msgspec.json.encode(image), type=ImageSpec) == image
    assert image.channels == 1
