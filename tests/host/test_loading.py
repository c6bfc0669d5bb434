from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edge
from edge.core import plugins
from edge.core.contracts import Availability, Placement
from edge.core.errors import (
    BundleError,
    EdgeError,
    EngineError,
    InputError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from edge.core.manifest import Variant

MakeVariant = Callable[..., Variant]
MakeBundle = Callable[..., Path]
ONES = np.ones((2, 3), np.float32)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> str:
    """An engine that this edge knows and this machine lacks."""
    missing = Availability(ready=False, reason="it is not installed", hint="pip install it")
    monkeypatch.setattr(plugins.backend("openvino"), "availability", lambda: missing)
    return "openvino"


def test_load_runs_the_chosen_variant_and_says_why(
    engine: str, product: bytes, make_bundle: MakeBundle, make_variant: MakeVariant
) -> None:
    path = make_bundle(
        make_variant("null-fp32"), make_variant("real", engine, chosen=True), model=product
    )
    with edge.load(path) as model:
        assert (model.name, model.version, model.state) == ("product", "1", "ready")
        assert (model.variant.id, model.choice) == ("real", "chosen at conversion")
        assert not model.is_fallback
        assert model.placement.actual == "cpu"
        answer = model.infer({"x": ONES})["y"]
    np.testing.assert_array_equal(answer, [[12, 15, 18, 21]] * 2)


@pytest.mark.parametrize(("wanted", "given"), [("engine", "null"), ("variant", "null-fp32")])
def test_load_takes_what_was_asked_for(
    wanted: str, given: str, make_bundle: MakeBundle, make_variant: MakeVariant, absent: str
) -> None:
    path = make_bundle(make_variant("real", absent, chosen=True), make_variant("null-fp32"))
    with edge.load(path, **{wanted: given}) as model:  # type: ignore[arg-type]
        assert model.variant.id == "null-fp32"
        assert not model.is_fallback


def test_a_fallback_warns_and_is_recorded(
    make_bundle: MakeBundle,
    make_variant: MakeVariant,
    absent: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = make_bundle(make_variant("real", absent, chosen=True), make_variant())
    with edge.load(path) as model:
        assert model.is_fallback
        assert "real was chosen at conversion but can not run here" in model.choice
    (record,) = [each for each in caplog.records if each.name.startswith("edge.")]
    assert record.levelno == logging.WARNING
    assert "openvino is not available: it is not installed" in record.getMessage()


def test_an_allowed_fallback_is_recorded_without_a_warning(
    make_bundle: MakeBundle,
    make_variant: MakeVariant,
    absent: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = make_bundle(make_variant("real", absent, chosen=True), make_variant())
    with edge.load(path, fallback="allow") as model:
        assert model.is_fallback
    assert not [each for each in caplog.records if each.name.startswith("edge.")]


def test_a_denied_fallback_is_an_error(
    make_bundle: MakeBundle, make_variant: MakeVariant, absent: str
) -> None:
    path = make_bundle(make_variant("real", absent, chosen=True), make_variant())
    with pytest.raises(UnavailableError, match="fallback is denied") as caught:
        edge.load(path, fallback="deny")
    assert "fallback='warn'" in caught.value.hint


def test_a_missing_device_falls_back_to_the_cpu(
    make_bundle: MakeBundle, make_variant: MakeVariant
) -> None:
    path = make_bundle(make_variant(chosen=True))
    with edge.load(path, options={"device": "npu"}) as model:
        assert model.placement == Placement(
            requested="npu",
            actual="cpu",
            shares={"cpu": 1.0},
            precision="fp32",
            is_fallback=True,
            reason="there is no npu here",
        )
        assert model.is_fallback
    with pytest.raises(UnavailableError, match="no npu here"):
        edge.load(path, options={"device": "npu"}, fallback="deny")


def test_the_device_of_the_bundles_profile_is_wanted(
    product: bytes, make_bundle: MakeBundle, make_variant: MakeVariant
) -> None:
    availability = plugins.backend("openvino").availability()
    if not availability.ready or "npu" in availability.devices:
        pytest.skip("needs OpenVINO on a machine without an NPU")
    path = make_bundle(
        make_variant("real", "openvino"), model=product, profile="intel-core-ultra-2"
    )
    with edge.load(path) as model:
        assert (model.placement.requested, model.placement.actual) == ("npu", "cpu")


def test_a_bundle_for_an_unknown_device_loads(make_bundle: MakeBundle) -> None:
    with edge.load(make_bundle(profile="from-the-future")) as model:
        assert model.infer({"x": ONES})["y"].shape == (2, 4)


def test_what_the_engine_says_of_its_placement_counts_as_fallback(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = plugins.backend("null")
    real_open = backend.open

    def open_elsewhere(*args: object) -> object:
        session = real_open(*args)  # type: ignore[arg-type]
        session.placement = Placement("cpu", "abacus", {}, "fp32", True, "the engine moved it")
        return session

    monkeypatch.setattr(backend, "open", open_elsewhere)
    path = make_bundle()
    with edge.load(path, fallback="allow") as model:
        assert model.is_fallback
    with pytest.raises(UnavailableError, match="the engine moved it"):
        edge.load(path, fallback="deny")


def test_a_variant_that_the_engine_refuses_gives_way_to_the_next(
    make_bundle: MakeBundle, make_variant: MakeVariant, engine: str
) -> None:
    path = make_bundle(
        make_variant("broken", engine, chosen=True), make_variant(), model=b"garbage" * 9
    )
    with edge.load(path) as model:
        assert model.variant.id == "null-fp32"
        assert "broken was chosen at conversion but can not run here" in model.choice
    with pytest.raises(EngineError, match=r"can not load model\.onnx"):
        edge.load(path, variant="broken")


@pytest.mark.parametrize("error", [EngineError, UnavailableError, UnsupportedError])
def test_whatever_the_engine_can_not_do_gives_way_to_the_next(
    error: type[EdgeError],
    make_bundle: MakeBundle,
    make_variant: MakeVariant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = plugins.backend("null")
    real_open = backend.open

    def refuse_the_first(variant: Variant, *args: object) -> object:
        if variant.id == "first":
            raise error("not this one")
        return real_open(variant, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "open", refuse_the_first)
    path = make_bundle(make_variant("first", chosen=True), make_variant("second"))
    with edge.load(path) as model:
        assert (model.variant.id, model.is_fallback) == ("second", True)
        assert "not this one" in model.choice
    with pytest.raises(error, match="not this one"):
        edge.load(path, fallback="deny")


def test_nothing_that_runs_here_says_why_for_each_variant(
    make_bundle: MakeBundle, make_variant: MakeVariant, absent: str
) -> None:
    path = make_bundle(make_variant("a", absent), make_variant("b", "warpdrive"))
    with pytest.raises(UnavailableError) as caught:
        edge.load(path)
    assert "a: openvino is not available: it is not installed" in str(caught.value)
    assert "b: there is no engine named warpdrive" in str(caught.value)
    assert caught.value.hint == "pip install it"


def test_an_unknown_engine_is_an_error_of_its_own(make_bundle: MakeBundle) -> None:
    with pytest.raises(NotFoundError, match="no engine named 'warpdrive'"):
        edge.load(make_bundle(), engine="warpdrive")


def test_an_unknown_variant_is_not_found(make_bundle: MakeBundle) -> None:
    with pytest.raises(NotFoundError, match="no variant with id 'x'"):
        edge.load(make_bundle(), variant="x")


def test_an_unknown_fallback_is_refused(make_bundle: MakeBundle) -> None:
    with pytest.raises(InputError, match="fallback is 'no'"):
        edge.load(make_bundle(), fallback="no")  # type: ignore[arg-type]


def test_a_damaged_bundle_is_refused(make_bundle: MakeBundle, product: bytes) -> None:
    path = make_bundle()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError):
        edge.load(path)


def test_a_failed_load_leaves_no_file_open(
    make_bundle: MakeBundle, make_variant: MakeVariant, absent: str
) -> None:
    """An unclosed file would warn, and warnings are errors here."""
    path = make_bundle(make_variant("a", absent))
    with pytest.raises(UnavailableError):
        edge.load(path)
    path.unlink()


def test_load_takes_what_has_a_path_such_as_a_conversion(make_bundle: MakeBundle) -> None:
    class Conversion:
        def __fspath__(self) -> str:
            return str(path)

    path = make_bundle()
    with edge.load(Conversion()) as model:
        assert model.path == path
    with edge.Runtime(Conversion()) as runtime:
        assert runtime.names() == ["product"]
