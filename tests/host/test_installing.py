"""Bundles that are put into a served folder while it is served, and what becomes of them."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edge
from edge.bundle import open_bundle
from edge.core.errors import EngineError, InputError, UnsupportedError
from edge.core.manifest import Variant
from edge.host.suitability import check_device

MakeBundle = Callable[..., Path]
MakeVariant = Callable[..., Variant]
ONES = {"x": np.ones((1, 3), np.float32)}
RIGHT, WRONG = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)


@pytest.fixture
def served(make_bundle: MakeBundle, tmp_path: Path) -> Path:
    """A folder that serves version 1."""
    folder = tmp_path / "served"
    (folder / "product").mkdir(parents=True)
    make_bundle(version="1").rename(folder / "product" / "1.edge")
    return folder


def test_what_is_installed_serves(make_bundle: MakeBundle, served: Path) -> None:
    with edge.Runtime(served) as runtime:
        bundle = make_bundle(version="2", expected=RIGHT)
        status = runtime.install(bundle, runtime.folders[0])
        assert (status.version, status.state, status.is_active) == ("2", "ready", True)
        assert not bundle.exists()
        assert runtime.status_of("product").path == str(served / "product" / "2.edge")
    with edge.Runtime(served) as runtime:
        assert runtime.status_of("product").version == "2"


def test_an_older_version_serves_too_where_it_is_asked_for(
    make_bundle: MakeBundle, served: Path
) -> None:
    with edge.Runtime(served) as runtime:
        runtime.load_all()
        assert runtime.install(make_bundle(version="0"), served).is_active
        assert runtime.versions("product") == ["0", "1"]


def test_what_is_not_to_be_active_waits_also_after_a_restart(
    make_bundle: MakeBundle, served: Path
) -> None:
    with edge.Runtime(served) as runtime:
        runtime.load_all()
        status = runtime.install(make_bundle(version="2"), served, activate=False)
        assert (status.state, status.is_active) == ("idle", False)
    with edge.Runtime(served) as runtime:
        runtime.load_all()
        assert runtime.status_of("product").version == "1"
        assert runtime.status_of("product", "2").state == "idle"
        runtime.activate("product", "2")
    with edge.Runtime(served) as runtime:
        assert runtime.status_of("product").version == "2"


def test_what_does_not_answer_right_is_not_tried_again_by_a_restart(
    make_bundle: MakeBundle, served: Path
) -> None:
    bundle = make_bundle(version="2", expected=WRONG)
    with edge.Runtime(served) as runtime:
        runtime.load_all()
        with pytest.raises(EngineError):
            runtime.install(bundle, served)
        assert runtime.status_of("product").version == "1"
        assert runtime.status_of("product", "2").state == "failed"
    with edge.Runtime(served) as runtime:
        assert runtime.status_of("product").version == "1"
        assert runtime.status_of("product", "2").state == "failed"


def test_what_ends_the_process_is_not_tried_again_by_a_restart(
    make_bundle: MakeBundle, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    with edge.Runtime(served) as runtime, monkeypatch.context() as patch:

        def die(*_: object) -> None:
            raise Killed

        patch.setattr("edge.host.slot.Slot.load", die)
        with pytest.raises(Killed):
            runtime.install(make_bundle(version="2"), served)
    with edge.Runtime(served) as runtime:
        assert runtime.status_of("product").version == "1"
        again = make_bundle(version="2")
        assert runtime.install(again, served).is_active  # it is there, and is asked for once more
        assert not again.exists()


def test_a_version_is_never_replaced_by_another_of_its_name(
    make_bundle: MakeBundle, served: Path
) -> None:
    before = (served / "product" / "1.edge").read_bytes()
    with edge.Runtime(served) as runtime:
        with pytest.raises(InputError, match="has a version 1 already"):
            runtime.install(make_bundle(version="1", expected=RIGHT), served)
        runtime.infer("product", ONES)
    assert (served / "product" / "1.edge").read_bytes() == before


def test_a_damaged_bundle_in_its_place_is_replaced(make_bundle: MakeBundle, served: Path) -> None:
    (served / "product" / "2.edge").write_bytes(b"PK, and no more")
    with edge.Runtime(served) as runtime:
        assert runtime.install(make_bundle(version="2"), served).is_active
        assert [status.state for status in runtime.status()] == ["idle", "ready"]


def test_old_versions_are_deleted_where_that_is_asked_for(
    make_bundle: MakeBundle, served: Path
) -> None:
    with edge.Runtime(served) as runtime:
        runtime.load_all()
        for version in ("2", "3"):
            runtime.install(make_bundle(version=version), served)
        with pytest.raises(EngineError):
            runtime.install(make_bundle(version="4", expected=WRONG), served, keep=2)
        assert runtime.versions("product") == ["1", "2", "3", "4"]
        runtime.install(make_bundle(version="5"), served, keep=3)
        # 4 does not do, and 3 would come back for 5.
        assert runtime.versions("product") == ["2", "3", "5"]
        runtime.install(make_bundle(version="0"), served, keep=2)
        assert runtime.versions("product") == ["0", "5"]
        assert sorted(path.stem for path in (served / "product").iterdir()) == ["0", "5"]
        assert runtime.infer("product", ONES)["y"].shape == (1, 4)
        assert runtime.roll_back("product") == "5"


def test_of_two_folders_the_first_has_the_say(
    make_bundle: MakeBundle, served: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    second = tmp_path / "updates" / "product"
    second.mkdir(parents=True)
    make_bundle(version="1", expected=RIGHT).rename(second / "1.edge")
    make_bundle(version="2").rename(second / "2.edge")
    with edge.Runtime(served, second.parent) as runtime:
        assert runtime.versions("product") == ["1", "2"]
        assert runtime.status_of("product", "1").path == str(served / "product" / "1.edge")
        assert f"{second / '1.edge'} is left out" in caplog.text
        status = runtime.install(make_bundle(version="3"), second.parent)
        assert status.path == str(second / "3.edge")


def test_a_look_at_the_folder_finds_nothing_new(make_bundle: MakeBundle, served: Path) -> None:
    with edge.Runtime(served, watch_s=3600) as runtime:
        runtime.install(make_bundle(version="2"), served)
        assert runtime._watch is not None
        runtime._watch.look()
        runtime._watch.look()
        assert runtime.versions("product") == ["1", "2"]
        assert runtime.status_of("product").state == "ready"


def test_a_bundle_for_another_processor_is_refused(make_bundle: MakeBundle) -> None:
    other = "raspberry-pi-5" if platform.machine() == "x86_64" else "intel-n100"
    with open_bundle(make_bundle(profile=other)) as bundle:
        with pytest.raises(UnsupportedError, match=f"{other} is .*, this machine is") as caught:
            check_device(bundle.manifest)
        assert other in caught.value.hint
    with open_bundle(make_bundle(version="2")) as bundle:
        check_device(bundle.manifest)


def test_all_differences_are_named(make_bundle: MakeBundle, make_variant: MakeVariant) -> None:
    needs = {"tensorrt": ">=99", "sm": "87", "shapes": "static"}
    path = make_bundle(make_variant(requires=needs))
    with open_bundle(path) as bundle, pytest.raises(UnsupportedError) as caught:
        check_device(bundle.manifest)
    assert "needs tensorrt >=99" in str(caught.value)
    assert "needs sm 87" in str(caught.value)
    assert "shapes" not in str(caught.value)
