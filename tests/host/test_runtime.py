from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edge
from edge.core import plugins
from edge.core.errors import BundleError, EngineError, InputError, NotFoundError, UnavailableError
from edge.core.manifest import Variant
from edge.settings import ModelSettings

MakeVariant = Callable[..., Variant]
MakeBundle = Callable[..., Path]
ONES = np.ones((2, 3), np.float32)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Threads in which the null engine opened a model; opening takes a while."""
    threads: list[int] = []
    backend = plugins.backend("null")
    real_open = backend.open

    def slow_open(*args: object) -> object:
        threads.append(threading.get_ident())
        time.sleep(0.05)
        return real_open(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "open", slow_open)
    return threads


def test_a_folder_is_served_by_name(make_bundle: MakeBundle) -> None:
    folder = make_bundle(name="b").parent
    make_bundle(name="a")
    (folder / "notes.txt").write_text("no bundle")
    with edge.Runtime(folder) as runtime:
        assert runtime.names() == ["a", "b"]
        assert runtime.infer("b", {"x": ONES})["y"].shape == (2, 4)


def test_nothing_is_loaded_before_its_first_use(make_bundle: MakeBundle, opened: list[int]) -> None:
    with edge.Runtime(make_bundle(name="a"), make_bundle(name="b")) as runtime:
        assert not opened
        assert [status.state for status in runtime.status()] == ["staged", "staged"]
        assert not runtime.is_ready
        runtime.model("a")
        assert len(opened) == 1
        assert [status.state for status in runtime.status()] == ["ready", "staged"]
        runtime.load_all()
        assert runtime.is_ready


def test_a_model_is_loaded_once_however_many_ask(
    make_bundle: MakeBundle, opened: list[int]
) -> None:
    with edge.Runtime(make_bundle()) as runtime, ThreadPoolExecutor(8) as pool:
        models = set(pool.map(lambda _: runtime.model("product"), range(16)))
        assert len(models) == 1
    assert len(opened) == 1


def test_the_newest_version_answers_unless_one_is_named(make_bundle: MakeBundle) -> None:
    paths = [make_bundle(version=version) for version in ("1.9", "1.10", "1.2")]
    with edge.Runtime(paths[0].parent) as runtime:
        assert runtime.names() == ["product"]
        assert runtime.versions("product") == ["1.2", "1.9", "1.10"]
        assert runtime.model("product").version == "1.10"
        assert runtime.model("product", "1.2").version == "1.2"
        with pytest.raises(NotFoundError, match="no version '3'") as caught:
            runtime.model("product", "3")
        assert "1.2, 1.9, 1.10" in caught.value.hint


def test_an_unknown_model_is_not_found(make_bundle: MakeBundle) -> None:
    with edge.Runtime(make_bundle()) as runtime:
        for ask in (runtime.model, runtime.versions):
            with pytest.raises(NotFoundError, match="no model named 'other'") as caught:
                ask("other")
            assert "product" in caught.value.hint


def test_two_bundles_of_one_name_and_version_are_refused(make_bundle: MakeBundle) -> None:
    one = make_bundle(file="one.edge")
    two = make_bundle(file="two.edge", created_with="another day")
    with pytest.raises(InputError, match="are both product version 1") as caught:
        edge.Runtime(one, two)
    assert "one.edge" in str(caught.value)
    assert "two.edge" in str(caught.value)


def test_what_an_earlier_folder_has_in_the_same_version_is_left_out(
    make_bundle: MakeBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = tmp_path / "release", tmp_path / "updates"
    for folder, task in ((first, "tensors"), (second, "classification")):
        folder.mkdir()
        make_bundle(file=task, task=task).rename(folder / "product.edge")
    with edge.Runtime(first, second) as runtime:
        assert [status.path for status in runtime.status()] == [str(first / "product.edge")]
    assert f"{second / 'product.edge'} is left out" in caplog.text


def test_one_bundle_that_is_reached_twice_is_served_once(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    with edge.Runtime(path, path.parent) as runtime:
        assert len(runtime.status()) == 1


def test_status_says_what_runs_and_why(make_bundle: MakeBundle) -> None:
    with edge.Runtime(make_bundle()) as runtime:
        (staged,) = runtime.status()
        assert (staged.state, staged.engine, staged.statistics) == ("staged", "", None)
        runtime.infer("product", {"x": ONES})
        (ready,) = runtime.status()
    assert (ready.name, ready.version, ready.state) == ("product", "1", "ready")
    assert (ready.engine, ready.variant, ready.precision) == ("null", "null-fp32", "fp32")
    assert ready.choice
    assert ready.placement is not None
    assert ready.statistics is not None
    assert ready.statistics.success_count == 1


def test_a_damaged_bundle_in_a_folder_leaves_the_others_alone(make_bundle: MakeBundle) -> None:
    folder = make_bundle(name="good").parent
    (folder / "bad.edge").write_bytes(b"PK nonsense")
    with edge.Runtime(folder) as runtime:
        runtime.load_all()
        states = {status.name: status.state for status in runtime.status()}
        assert states == {"good": "ready", "bad": "failed"}
        assert "no bundle" in runtime.status()[0].reason
        assert runtime.is_ready
        with pytest.raises(UnavailableError, match="bad failed to load"):
            runtime.model("bad")
        assert runtime.infer("good", {"x": ONES})


def test_a_damaged_bundle_that_was_named_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.edge"
    path.write_bytes(b"nonsense")
    with pytest.raises(BundleError):
        edge.Runtime(path)
    with pytest.raises(BundleError, match="no such file"):
        edge.Runtime(tmp_path / "absent.edge")


def test_a_folder_without_bundles_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \.edge file"):
        edge.Runtime(tmp_path)


def test_a_load_that_failed_stays_failed_and_says_why(
    make_bundle: MakeBundle, make_variant: MakeVariant
) -> None:
    with edge.Runtime(make_bundle(make_variant("v", "warpdrive"))) as runtime:
        for _ in range(2):
            with pytest.raises(UnavailableError, match="no engine named warpdrive"):
                runtime.model("product")
        (status,) = runtime.status()
        assert status.state == "failed"
        assert "warpdrive" in status.reason
        assert not runtime.is_ready


def test_a_model_whose_goldens_fail_does_not_serve(make_bundle: MakeBundle) -> None:
    path = make_bundle(expected=np.full((1, 4), 7, np.float32))
    with edge.Runtime(path) as runtime:
        with pytest.raises(
            EngineError, match=r"golden 0, output y is off by 7, allowed is 0\.0001"
        ):
            runtime.model("product")
        assert runtime.status()[0].state == "failed"


def test_goldens_do_not_count_as_inferences(make_bundle: MakeBundle) -> None:
    path = make_bundle(expected=np.zeros((1, 4), np.float32))
    with edge.Runtime(path) as runtime:
        assert runtime.model("product").statistics.snapshot().success_count == 0


def test_a_model_that_was_closed_is_loaded_again(make_bundle: MakeBundle) -> None:
    with edge.Runtime(make_bundle()) as runtime:
        runtime.model("product").close()
        assert runtime.status()[0].state == "idle"
        assert runtime.infer("product", {"x": ONES})
        assert runtime.status()[0].state == "ready"


def test_a_bundle_that_was_replaced_meanwhile_is_not_loaded(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    other = make_bundle(file="other.edge", created_with="another day")
    with edge.Runtime(path) as runtime:
        runtime.model("product").close()
        os.replace(other, path)
        with pytest.raises(BundleError, match="was replaced"):
            runtime.model("product")


def test_a_closed_runtime_refuses_and_closes_its_models(make_bundle: MakeBundle) -> None:
    runtime = edge.Runtime(make_bundle())
    model = runtime.model("product")
    runtime.close()
    runtime.close()
    assert model.state == "idle"
    assert not runtime.is_ready
    with pytest.raises(UnavailableError, match="runtime is closed"):
        runtime.infer("product", {"x": ONES})


def test_nothing_is_loaded_once_the_runtime_began_to_close(
    make_bundle: MakeBundle, opened: list[int]
) -> None:
    """A thread that passed the runtime's own check just before ``close`` did."""
    runtime = edge.Runtime(make_bundle())
    runtime.close()
    runtime._is_closed = False
    with pytest.raises(UnavailableError, match="runtime is closed"):
        runtime.model("product")
    assert opened == []


def test_options_reach_the_engine(make_bundle: MakeBundle) -> None:
    runtime = edge.Runtime(make_bundle(), options={"device": "npu"}, fallback="deny")
    with runtime, pytest.raises(UnavailableError, match="no npu here"):
        runtime.model("product")


def test_a_variant_that_answers_wrongly_gives_way_to_the_next(
    make_bundle: MakeBundle, make_variant: MakeVariant, engine: str, product: bytes
) -> None:
    path = make_bundle(
        make_variant("wrong", engine, chosen=True),
        make_variant(),
        model=product,
        expected=np.zeros((1, 4), np.float32),
    )
    with edge.Runtime(path) as runtime:
        model = runtime.model("product")
        assert (model.variant.id, model.is_fallback) == ("null-fp32", True)
        assert "wrong does not answer as the source model did" in model.choice
    with edge.Runtime(path, fallback="deny") as runtime:
        runtime.load_all()
        assert runtime.status()[0].state == "failed"


@pytest.mark.parametrize("needs_instances", [True, False])
def test_an_engine_is_told_of_instances_where_it_has_to_know(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, needs_instances: bool
) -> None:
    backend = plugins.backend("null")
    here = msgspec.structs.replace(backend.availability(), needs_instances=needs_instances)
    real_open, told = backend.open, []

    def watched_open(variant: Variant, folder: Path, profile: Any, options: Any) -> Any:
        told.append(options.get("instances"))
        return real_open(variant, folder, profile, {"device": options["device"]})

    monkeypatch.setattr(backend, "availability", lambda: here)
    monkeypatch.setattr(backend, "open", watched_open)
    with edge.Runtime(make_bundle(), models={"product": ModelSettings(instances=3)}) as runtime:
        runtime.load_all()
    assert told == [3 if needs_instances else None]
