"""Versions that come, take over once they are proven, and are taken back."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from patience import LONG_S, wait_until

import edge
from edge.core.errors import EngineError, InputError, NotFoundError, UnavailableError
from edge.core.manifest import Variant
from edge.host import Probation
from edge.host.activation import MOST_REJECTIONS, Activation, Rejection, Rejections
from edge.host.folders import FolderWatch, bundles_in
from edge.host.slot import Slot

MakeBundle = Callable[..., Path]
MakeVariant = Callable[..., Variant]
ONES = np.ones((2, 3), np.float32)
ZEROS = np.zeros((1, 4), np.float32)
LOOK_S = 0.01


def active(runtime: edge.Runtime, name: str = "product") -> str:
    return next(s.version for s in runtime.status() if s.name == name and s.is_active)


def state(runtime: edge.Runtime, version: str) -> str:
    return runtime.status_of("product", version).state


@pytest.fixture
def bundles(make_bundle: MakeBundle, tmp_path: Path) -> Callable[..., Path]:
    """Pack a version and put it into a served folder at once, as a deployer does."""
    served = tmp_path / "served"
    served.mkdir()

    def put(version: str, place: str = "", *variants: Variant, **fields: Any) -> Path:
        made = make_bundle(*variants, version=version, file=f"{version}.packed", **fields)
        target = served / (place or f"product-{version}.edge")
        target.parent.mkdir(exist_ok=True)
        os.replace(made, target)
        return target

    return put


def test_a_version_that_comes_takes_over_and_the_former_one_is_kept(
    bundles: Callable[..., Path],
) -> None:
    folder = bundles("1", expected=ZEROS).parent
    with edge.Runtime(folder, watch_s=LOOK_S, probation=Probation(seconds=0)) as runtime:
        runtime.load_all()
        former = runtime.model("product")
        bundles("2", expected=ZEROS)
        wait_until(lambda: active(runtime) == "2", "version 2 to take over")
        assert runtime.model("product").version == "2"
        assert runtime.versions("product") == ["1", "2"]
        wait_until(lambda: state(runtime, "1") == "idle", "version 1 to rest")
        assert former.infer({"x": ONES})  # who held on to it is not let down
        assert runtime.infer("product", {"x": ONES}, "1")


def test_no_request_is_lost_while_versions_take_over(bundles: Callable[..., Path]) -> None:
    folder = bundles("0", expected=ZEROS).parent
    with edge.Runtime(folder, watch_s=LOOK_S) as runtime, ThreadPoolExecutor(4) as pool:
        runtime.load_all()
        is_over = threading.Event()

        def ask() -> int:
            count = 0
            while not is_over.is_set():
                model = runtime.model("product")
                answer = model.infer({"x": ONES}) if count % 2 else model.submit({"x": ONES})
                assert (answer if isinstance(answer, dict) else answer.result(LONG_S))["y"].size
                count += 1
            return count

        asking = [pool.submit(ask) for _ in range(4)]
        for version in "12345":
            bundles(version, expected=ZEROS)
            wait_until(lambda version=version: active(runtime) == version, version)
        is_over.set()
        assert all(future.result(LONG_S) for future in asking)


def test_a_version_that_fails_its_goldens_never_serves(bundles: Callable[..., Path]) -> None:
    folder = bundles("1", expected=ZEROS).parent
    with edge.Runtime(folder, watch_s=LOOK_S) as runtime:
        runtime.load_all()
        bundles("2", expected=ZEROS + 1)
        wait_until(lambda: "2" in runtime.versions("product"), "version 2 to be found")
        wait_until(lambda: state(runtime, "2") == "failed", "version 2 to fail")
        assert "does not answer as the source model did" in runtime.status_of("product", "2").reason
        assert (active(runtime), runtime.model("product").version) == ("1", "1")
        assert runtime.is_ready


def test_an_older_version_that_comes_waits_to_be_asked_for(bundles: Callable[..., Path]) -> None:
    folder = bundles("2").parent
    with edge.Runtime(folder, watch_s=LOOK_S) as runtime:
        runtime.load_all()
        bundles("1")
        wait_until(lambda: runtime.versions("product") == ["1", "2"], "version 1 to be found")
        assert active(runtime) == "2"
        runtime.activate("product", "1")
        assert active(runtime) == "1"
        assert runtime.model("product").version == "1"


def test_a_bundle_that_is_replaced_in_its_place_takes_over(bundles: Callable[..., Path]) -> None:
    path = bundles("1", "product.edge")
    with edge.Runtime(path.parent, watch_s=LOOK_S) as runtime:
        runtime.load_all()
        before = runtime.model("product")
        bundles("1", "product.edge", labels="labels.txt", texts={"labels.txt": "x"})
        wait_until(lambda: runtime.status_of("product").digest != before.digest, "the other digest")
        assert runtime.infer("product", {"x": ONES})
        assert runtime.versions("product") == ["1"]
        bundles("2", "product.edge")
        wait_until(lambda: active(runtime) == "2", "version 2 to take over")


def test_a_damaged_bundle_changes_nothing_and_is_taken_once_it_is_whole(
    bundles: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = bundles("1", "product.edge")
    with edge.Runtime(path.parent, watch_s=LOOK_S) as runtime:
        runtime.load_all()
        whole = tmp_path / "whole"
        shutil.copy(bundles("2", "two.edge"), whole)
        wait_until(lambda: active(runtime) == "2", "version 2 to take over")
        data = whole.read_bytes()
        (path.parent / "three.edge").write_bytes(data[: len(data) // 2])
        wait_until(lambda: "three" in runtime.names(), "the damaged one to be listed")
        assert runtime.status_of("three").state == "failed"
        path.write_bytes(b"no bundle")  # in place, under a model that is kept
        wait_until(lambda: "what was in it goes on" in caplog.text, "it to be seen")
        assert runtime.infer("product", {"x": ONES}, "1")
        bundles("3", "three.edge")
        wait_until(lambda: active(runtime) == "3", "version 3 to take over")
        assert "three" not in runtime.names()


def test_a_bundle_that_is_deleted_goes_and_the_version_below_serves(
    bundles: Callable[..., Path],
) -> None:
    first, second = bundles("1"), bundles("2")
    with edge.Runtime(first.parent, watch_s=LOOK_S) as runtime:
        runtime.load_all()
        assert active(runtime) == "2"
        second.unlink()
        wait_until(lambda: runtime.versions("product") == ["1"], "version 2 to go")
        assert runtime.infer("product", {"x": ONES})
        first.unlink()
        wait_until(lambda: not runtime.names(), "version 1 to go")
        with pytest.raises(NotFoundError):
            runtime.model("product")


def test_a_folder_that_vanishes_leaves_its_models(
    bundles: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = bundles("1").parent
    with edge.Runtime(folder, watch_s=LOOK_S) as runtime:
        runtime.load_all()
        os.rename(folder, folder.with_name("away"))
        wait_until(lambda: "stay as they are" in caplog.text, "the log")
        runtime.model("product").seat.evict("room")
        assert runtime.infer("product", {"x": ONES})
        os.rename(folder.with_name("away"), folder)
        bundles("2")
        wait_until(lambda: active(runtime) == "2", "version 2 to take over")
    assert caplog.text.count("stay as they are") == 1


def test_folders_by_name_and_version_hold_what_they_say(
    bundles: Callable[..., Path], make_bundle: MakeBundle
) -> None:
    folder = bundles("1", "product/1.edge").parent.parent
    bundles("2", "product/3.edge")
    with edge.Runtime(folder) as runtime:
        runtime.load_all()
        reasons = {status.name: status.reason for status in runtime.status()}
        assert "holds product version 2" in reasons["3"]
        assert runtime.model("product").version == "1"


def test_two_bundles_that_claim_one_version_are_refused(bundles: Callable[..., Path]) -> None:
    folder = bundles("1").parent
    bundles("1", "other.edge", expected=ZEROS)
    with pytest.raises(InputError, match="are both product version 1"):
        edge.Runtime(folder)


def test_a_second_claim_that_comes_later_is_left_out(
    bundles: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    first = bundles("1")
    with edge.Runtime(first.parent, watch_s=LOOK_S) as runtime:
        runtime.load_all()
        bundles("1", "other.edge", expected=ZEROS)
        wait_until(lambda: "other.edge is left out" in caplog.text, "the log")
        assert runtime.status_of("product").path == str(first)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the engine fail under one version of the model."""
    from edge.host.model import Model

    real = Model.infer
    versions: set[str] = set()

    def infer(self: Model, feeds: Any, **given: Any) -> Any:
        if self.version in versions:
            self._run = _fail
        return real(self, feeds, **given)

    def _fail(feeds: Any) -> Any:
        raise EngineError("the device is lost")

    monkeypatch.setattr(Model, "infer", infer)
    return versions.add


def test_a_version_that_fails_in_service_is_taken_back_and_not_tried_again(
    bundles: Callable[..., Path], failing: Callable[[str], None]
) -> None:
    folder = bundles("1").parent
    probation = Probation(seconds=60, max_faults=0.2, min_faults=3)
    with edge.Runtime(folder, watch_s=LOOK_S, probation=probation) as runtime:
        runtime.load_all()
        bundles("2")
        wait_until(lambda: active(runtime) == "2", "version 2 to take over")
        for _ in range(5):
            with pytest.raises(InputError):  # a client's mistakes are not the version's
                runtime.infer("product", {"nothing": ONES})
        assert runtime.infer("product", {"x": ONES})
        runtime._activation.look()
        assert active(runtime) == "2"
        failing("2")
        for _ in range(3):
            with pytest.raises(EngineError):
                runtime.infer("product", {"x": ONES}, "2")
        wait_until(lambda: active(runtime) == "1", "version 1 to come back")
        assert runtime.infer("product", {"x": ONES})
        wait_until(lambda: state(runtime, "2") == "failed", "version 2 to be rejected")
        reason = runtime.status_of("product", "2").reason
        assert reason == "3 of 4 requests failed after it took over"
        assert runtime.is_ready
    with edge.Runtime(folder) as runtime:
        assert runtime.model("product").version == "1"
        runtime.activate("product", "2")
        assert runtime.model("product").version == "2"
    with edge.Runtime(folder) as runtime:
        assert runtime.model("product").version == "2"


def test_rolling_back_by_request_goes_to_the_version_before(bundles: Callable[..., Path]) -> None:
    folder = bundles("1").parent
    bundles("2")
    bundles("3")
    with edge.Runtime(folder) as runtime:
        runtime.load_all()
        runtime.activate("product", "1")
        runtime.activate("product", "3")
        assert runtime.roll_back("product") == "1"
        assert active(runtime) == "1"
        with pytest.raises(UnavailableError, match="no version to go back to"):
            runtime.roll_back("product")
        assert active(runtime) == "1"


def test_after_its_probation_a_version_stays_and_the_former_one_rests(
    bundles: Callable[..., Path],
) -> None:
    folder = bundles("1").parent
    bundles("2")
    with edge.Runtime(folder, probation=Probation(seconds=0.01)) as runtime:
        runtime.load_all()
        assert runtime.infer("product", {"x": ONES}, "1")
        runtime.activate("product", "1")
        wait_until(lambda: state(runtime, "2") == "idle", "version 2 to rest")
        assert active(runtime) == "1"


def test_at_the_start_an_older_version_serves_where_the_newest_does_not_load(
    bundles: Callable[..., Path], make_variant: MakeVariant
) -> None:
    folder = bundles("1").parent
    bundles("2", "", make_variant("v", "no-such-engine"))
    with edge.Runtime(folder) as runtime:
        runtime.load_all()
        assert active(runtime) == "1"
        assert state(runtime, "2") == "failed"
        assert runtime.infer("product", {"x": ONES})


def test_a_file_counts_once_it_stays_the_same(tmp_path: Path) -> None:
    found: list[str] = []
    watch = FolderWatch([tmp_path], 60, lambda path, _: found.append(path.name), lambda path: None)
    (tmp_path / "a.edge").write_text("ha")
    (tmp_path / ".b.edge").write_text("hidden: a copy in the making")
    (tmp_path / "c.txt").write_text("no bundle")
    watch.look()
    (tmp_path / "a.edge").write_text("half")
    watch.look()
    assert found == []
    watch.look()
    watch.look()
    assert found == ["a.edge"]


def test_bundles_are_found_one_folder_deep(tmp_path: Path) -> None:
    for path in ("a.edge", "m/1.edge", "m/deep/2.edge", "m/.3.edge"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert [str(path.relative_to(tmp_path)) for path in bundles_in(tmp_path)] == [
        "a.edge",
        "m/1.edge",
    ]


def test_rejections_that_are_damaged_or_can_not_be_kept_stop_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "kept" / "rejections.json"
    rejections = Rejections(path)
    rejections.add(Rejection("d", "m", "1", "it failed"))
    assert rejections.reason("d") == "it failed"
    path.write_text("{")
    assert rejections.reason("d") == ""
    assert "can not be read" in caplog.text
    path.unlink()
    path.mkdir()
    rejections.add(Rejection("d", "m", "1", "it failed"))
    assert "a restart will not know" in caplog.text


def test_rejections_of_years_do_not_add_up(tmp_path: Path) -> None:
    path = tmp_path / "rejections.json"
    known = [Rejection(f"{number}", "m", "1", "it failed") for number in range(MOST_REJECTIONS)]
    path.write_bytes(msgspec.json.encode(known))
    rejections = Rejections(path)
    rejections.add(Rejection("newest", "m", "1", "it failed"))
    assert not rejections.reason("0")
    assert rejections.reason("1")
    assert rejections.reason("newest")


def test_a_version_that_rests_while_it_is_loaded_is_not_said_to_be_idle(
    bundles: Callable[..., Path],
) -> None:
    with edge.Runtime(bundles("1").parent) as runtime:
        (slot,) = runtime._catalog.slots
        with slot._lock:  # as a load holds it
            slot.rest()
        assert slot.state == "staged"
        slot.rest()
        assert slot.state == "idle"


def look(runtime: edge.Runtime) -> None:
    """A file counts at the second look."""
    for _ in range(2):
        runtime._watch.look()  # type: ignore[union-attr]


def test_an_older_version_that_is_replaced_is_so_without_taking_over(
    bundles: Callable[..., Path],
) -> None:
    older = bundles("1")
    bundles("2")
    with edge.Runtime(older.parent, watch_s=3600) as runtime:
        runtime.load_all()
        before = runtime.status_of("product", "1").digest
        bundles("1", labels="labels.txt", texts={"labels.txt": "x"})
        look(runtime)
        assert (active(runtime), runtime.versions("product")) == ("2", ["1", "2"])
        assert runtime.status_of("product", "1").digest != before
        assert runtime.model("product", "1").labels == ("x",)


def test_what_one_file_held_goes_with_it_and_each_of_it_can_be_replaced(
    bundles: Callable[..., Path],
) -> None:
    path = bundles("1", "product.edge")
    with edge.Runtime(path.parent, watch_s=3600) as runtime:
        runtime.load_all()
        bundles("2", "product.edge")
        look(runtime)
        before = runtime.status_of("product").digest
        bundles("2", "product.edge", labels="labels.txt", texts={"labels.txt": "x"})
        look(runtime)
        assert active(runtime) == "2"
        assert runtime.status_of("product").digest != before
        path.unlink()
        look(runtime)
        assert runtime.names() == []


def test_what_is_removed_while_it_is_loaded_does_not_come_back(
    bundles: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles("1")
    path = bundles("2")
    with edge.Runtime(path.parent, watch_s=3600) as runtime:
        runtime.activate("product", "1")
        real = Slot.load

        def load_and_go(self: Slot) -> None:
            real(self)
            path.unlink()
            look(runtime)

        monkeypatch.setattr(Slot, "load", load_and_go)
        with pytest.raises(UnavailableError, match="removed meanwhile"):
            runtime.activate("product", "2")
        assert (active(runtime), runtime.versions("product")) == ("1", ["1"])


def test_where_the_active_version_failed_and_its_bundle_is_damaged_another_serves(
    bundles: Callable[..., Path],
) -> None:
    bundles("1")
    path = bundles("2", expected=ZEROS + 1)
    with edge.Runtime(path.parent, watch_s=3600) as runtime:
        with pytest.raises(EngineError):
            runtime.model("product")
        path.write_text("no bundle")
        look(runtime)
        assert active(runtime) == "1"
        assert runtime.infer("product", {"x": ONES})


def test_a_rejected_version_answers_nobody_after_a_restart_until_it_is_asked_for(
    bundles: Callable[..., Path],
) -> None:
    first, second = bundles("1"), bundles("2")
    with edge.Runtime(first.parent) as runtime:
        assert runtime.roll_back("product", "it sees ghosts") == "1"
    first.unlink()
    with edge.Runtime(second.parent) as runtime:
        with pytest.raises(UnavailableError, match="it sees ghosts"):
            runtime.infer("product", {"x": ONES})
        assert runtime.status_of("product").reason == "it sees ghosts"
        runtime.activate("product", "2")
        assert runtime.infer("product", {"x": ONES})


def test_a_version_that_was_asked_for_serves_after_a_restart_until_a_newer_one_comes(
    bundles: Callable[..., Path],
) -> None:
    folder = bundles("1").parent
    bundles("2")
    with edge.Runtime(folder) as runtime:
        assert active(runtime) == "2"
        runtime.activate("product", "1")
    with edge.Runtime(folder, watch_s=LOOK_S) as runtime:
        assert active(runtime) == "1"
        runtime.load_all()
        bundles("3")
        wait_until(lambda: active(runtime) == "3", "the version that is newer than all")
        runtime.activate("product", "2")
    with edge.Runtime(folder) as runtime:
        assert active(runtime) == "2"
        runtime.activate("product", "3")
    with edge.Runtime(folder) as runtime:
        assert active(runtime) == "3"


def test_a_version_that_came_back_for_the_one_asked_for_serves_after_a_restart(
    bundles: Callable[..., Path], failing: Callable[[str], None]
) -> None:
    folder = bundles("1").parent
    bundles("2")
    probation = Probation(seconds=60, max_faults=0.0, min_faults=1)
    with edge.Runtime(folder, probation=probation) as runtime:
        runtime.load_all()
        runtime.activate("product", "1")
        failing("1")
        with pytest.raises(EngineError):
            runtime.infer("product", {"x": ONES})
        runtime._activation.look()
        assert active(runtime) == "2"
    with edge.Runtime(folder) as runtime:
        assert active(runtime) == "2"


def test_what_failed_before_a_version_took_over_is_not_held_against_it(
    bundles: Callable[..., Path], failing: Callable[[str], None]
) -> None:
    folder = bundles("1").parent
    bundles("2")
    probation = Probation(seconds=60, max_faults=0.0, min_faults=1)
    with edge.Runtime(folder, probation=probation) as runtime:
        runtime.load_all()
        failing("1")
        with pytest.raises(EngineError):
            runtime.infer("product", {"x": ONES}, "1")
        runtime.activate("product", "1")
        runtime._activation.look()
        assert active(runtime) == "1"
        with pytest.raises(EngineError):
            runtime.infer("product", {"x": ONES})
        runtime._activation.look()
        assert active(runtime) == "2"


def test_loading_all_lets_no_other_version_serve_for_one_that_was_unloaded(
    bundles: Callable[..., Path],
) -> None:
    folder = bundles("1").parent
    bundles("2")
    with edge.Runtime(folder) as runtime:
        runtime.load_all()
        runtime.unload("product", "2")
        runtime.load_all()
        assert active(runtime) == "2"
        assert runtime.status_of("product").is_withdrawn


def test_what_is_activated_while_another_fails_to_load_stays_active(
    bundles: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles("1")
    folder = bundles("2").parent
    bundles("3", expected=ZEROS + 1)
    with edge.Runtime(folder) as runtime:
        next_below = Activation.next_below

        def activate_first(self: Activation, slot: Slot) -> Slot | None:
            below = next_below(self, slot)
            runtime.activate("product", "1")
            return below

        monkeypatch.setattr(Activation, "next_below", activate_first)
        runtime.load_all()
        assert active(runtime) == "1"


def test_what_is_activated_while_it_is_taken_back_serves_in_the_end(
    bundles: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles("1")
    with (
        edge.Runtime(bundles("2").parent) as runtime,
        ThreadPoolExecutor(1) as pool,
    ):
        runtime.load_all()
        real, activating = Rejections.add, []

        def add_late(self: Rejections, rejection: Rejection) -> None:
            activating.append(pool.submit(runtime.activate, "product", "2"))
            time.sleep(0.1)  # it does not come through now
            real(self, rejection)

        monkeypatch.setattr(Rejections, "add", add_late)
        runtime.roll_back("product")
        activating[0].result(LONG_S)
        assert (active(runtime), state(runtime, "2")) == ("2", "ready")


def test_what_is_replaced_while_it_is_loaded_to_come_back_does_not(
    bundles: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles("1")
    with edge.Runtime(bundles("2").parent, watch_s=3600) as runtime:
        runtime.load_all()
        real = Slot.load

        def load_and_go(self: Slot) -> None:
            real(self)
            bundles("1", labels="labels.txt", texts={"labels.txt": "x"})
            look(runtime)

        monkeypatch.setattr(Slot, "load", load_and_go)
        with pytest.raises(UnavailableError, match="removed meanwhile"):
            runtime.roll_back("product")
        assert active(runtime) == "2"
        assert runtime.model("product", "1").labels == ("x",)


def test_a_rejected_version_that_comes_instead_of_another_is_shown(
    bundles: Callable[..., Path],
) -> None:
    bundles("1")
    path = bundles("2")
    rejected = path.read_bytes()
    with edge.Runtime(path.parent, watch_s=3600) as runtime:
        runtime.roll_back("product", "it sees ghosts")
        bundles("2", labels="labels.txt", texts={"labels.txt": "x"})
        look(runtime)
        runtime.activate("product", "1")
        path.unlink()
        path.write_bytes(rejected)
        look(runtime)
        assert runtime.status_of("product", "2").reason == "it sees ghosts"
        assert active(runtime) == "1"


@pytest.mark.parametrize("ask", ["model", "infer"])
@pytest.mark.parametrize("how", ["rolled back", "replaced", "deleted"])
def test_a_request_that_found_a_version_which_gives_way_goes_to_the_next(
    bundles: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, ask: str, how: str
) -> None:
    bundles("1")
    path = bundles("2")
    with edge.Runtime(path.parent, watch_s=3600, probation=Probation(seconds=0)) as runtime:
        runtime.load_all()
        real, found = Slot.model, runtime._catalog.find("product", None)

        def model_that_goes(self: Slot) -> Any:
            if self is not found:
                return real(self)
            if how == "rolled back":
                runtime.roll_back("product")
            else:
                path.unlink()
                if how == "replaced":
                    bundles("2", labels="labels.txt", texts={"labels.txt": "x"})
                look(runtime)
            return real(self)

        monkeypatch.setattr(Slot, "model", model_that_goes)
        assert runtime.model("product") if ask == "model" else runtime.infer("product", {"x": ONES})
        assert active(runtime) == ("2" if how == "replaced" else "1")
