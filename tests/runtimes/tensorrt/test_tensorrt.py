"""The runtime on machines with TensorRT 8.5 to 11.4, all of them recorded fakes."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper
from tiny_product import WEIGHTS, product

from edge.core.build import EngineBuilder, ShapeRange
from edge.core.errors import EngineError, InputError, UnavailableError, UnsupportedError
from runtimes._tensorrt.progress import Phases

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def _engines(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "edge" / "engines").glob("*.engine"))


def test_a_backend_builds_engines(backend):
    assert isinstance(backend, EngineBuilder)


def test_availability_tells_version_device_and_facts(enter, backend, version):
    world = enter(version)
    found = backend.availability()
    assert (found.ready, found.devices) == (True, ("gpu",))
    assert found.version == world.surface["__version__"]
    assert found.facts == {"sm": "87", "cuda": "12.6"}
    assert world.retained == 0


def test_a_machine_without_a_gpu_says_so(enter, backend):
    world = enter()
    world.memory_bytes = 0
    found = backend.availability()
    assert not found.ready
    assert "invalid device ordinal" in found.reason


def test_without_the_packages_it_says_what_to_install(backend):
    found = backend.availability()
    if found.ready or found.version:
        pytest.skip("TensorRT is here")
    assert "tensorrt" in found.hint


@pytest.mark.parametrize("is_integrated", [True, False])
def test_answers_are_those_of_the_graph(enter, backend, make, orin, version, is_integrated):
    world = enter(version, is_integrated=is_integrated)
    with backend.open(*make(), orin) as session:
        for _ in range(3):
            np.testing.assert_array_equal(session.run({"x": X})["y"], X @ WEIGHTS)
        placement = session.placement
    assert (placement.actual, placement.precision, placement.shares) == ("gpu", "fp16", {"gpu": 1})
    assert (world.retained, world.memory) == (0, {})
    assert ("memcpy_htod_async" in world.calls) != is_integrated


def test_outputs_belong_to_the_caller(enter, backend, make, orin, version):
    enter(version)
    with backend.open(*make(), orin) as session:
        first = session.run({"x": X})["y"]
        session.run({"x": -X})
        np.testing.assert_array_equal(first, X @ WEIGHTS)


def test_nothing_is_allocated_after_the_first_run_of_a_shape(enter, backend, make, orin, version):
    world = enter(version, is_integrated=False)
    with backend.open(*make(), orin) as session:
        allocations = [world.count(name) for name in ("mem_alloc", "pagelocked_empty")]
        for batch in (1, 8, 2, 8):
            session.run({"x": np.ones((batch, 3), np.float32)})
        assert [world.count(name) for name in ("mem_alloc", "pagelocked_empty")] == allocations


def test_the_second_run_of_a_shape_launches_a_graph(enter, backend, make, orin, version):
    world = enter(version)
    with backend.open(*make(), orin) as session:
        session.run({"x": X})
        runs = world.count("execute_async_v3")
        for factor in (1, 2, 3):
            x = X * np.float32(factor)
            np.testing.assert_array_equal(session.run({"x": x})["y"], x @ WEIGHTS)
        assert world.count("cuGraphLaunch") == 3
        assert world.count("execute_async_v3") == runs
    assert world.library.alive == 0


def test_each_shape_has_a_graph_of_its_own_and_they_are_bounded(enter, backend, make, orin):
    world = enter()
    shapes = {"x": ShapeRange((1, 3), (1, 3), (20, 3))}
    with backend.open(*make(shapes=shapes), orin) as session:
        for batch in [*range(1, 12), 11, 5]:
            x = np.full((batch, 3), batch, np.float32)
            np.testing.assert_array_equal(session.run({"x": x})["y"], x @ WEIGHTS)
        assert world.library.alive == 8
        assert world.count("cuGraphLaunch") == 2


def test_where_capture_fails_it_runs_without_graphs_and_says_so(enter, backend, make, orin):
    world = enter()
    world.can_capture = False
    with backend.open(*make(), orin) as session:
        for _ in range(3):
            np.testing.assert_array_equal(session.run({"x": X})["y"], X @ WEIGHTS)
        assert "without CUDA graphs: cuStreamEndCapture failed" in session.placement.reason
    assert world.count("cuStreamBeginCapture") == 1


def test_a_shape_outside_of_the_plan_is_refused_and_the_next_one_runs(
    enter, backend, make, orin, version
):
    enter(version)
    with backend.open(*make(), orin) as session:
        with pytest.raises(InputError, match=r"\(9, 3\)") as caught:
            session.run({"x": np.ones((9, 3), np.float32)})
        assert "max_batch" in caught.value.hint
        np.testing.assert_array_equal(session.run({"x": X})["y"], X @ WEIGHTS)


def test_an_output_that_the_data_sizes_comes_whole(enter, backend, make, orin, version):
    world = enter(version)
    world.sized_by_data = {"y": 1}
    with backend.open(*make(), orin) as session:
        np.testing.assert_array_equal(session.run({"x": X})["y"], (X @ WEIGHTS)[:1])
        world.sized_by_data = {"y": 2}
        np.testing.assert_array_equal(session.run({"x": X})["y"], X @ WEIGHTS)
        assert "depends on the data" in session.placement.reason
    assert world.memory == {}


def test_tensors_that_the_engine_has_in_int32_are_given_as_declared(enter, backend, make, orin):
    """As TensorRT 8 has it for int64."""
    enter()
    values = [helper.make_tensor_value_info(n, TensorProto.INT32, [2]) for n in ("x", "y")]
    node = helper.make_node("Identity", ["x"], ["y"], "same")
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    variant, folder = make(model, shapes={})
    as_int64 = [
        tuple(msgspec.structs.replace(spec, dtype="int64") for spec in specs)
        for specs in (variant.inputs, variant.outputs)
    ]
    variant = msgspec.structs.replace(variant, inputs=as_int64[0], outputs=as_int64[1])
    with backend.open(variant, folder, orin) as session:
        answer = session.run({"x": np.array([1, -2], np.int64)})["y"]
    assert answer.dtype == np.int64
    assert answer.tolist() == [1, -2]


def test_threads_share_the_instances(enter, backend, make, orin):
    enter()
    with backend.open(*make(), orin, {"instances": 2}) as session:

        def run(number: int) -> bool:
            x = np.full((1 + number % 4, 3), number, np.float32)
            return bool(np.array_equal(session.run({"x": x})["y"], x @ WEIGHTS))

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(run, range(60)))


def test_instances_have_contexts_of_their_own(enter, backend, make, orin):
    world = enter()
    with backend.open(*make(), orin, {"instances": 3}):
        assert world.count("create_execution_context") == 3
        assert world.count("Stream") == 3


def test_a_failed_run_is_an_engine_error_and_frees_its_instance(enter, backend, make, orin):
    world = enter()
    with backend.open(*make(), orin) as session:
        world.fails_to_run = True
        for _ in range(2):
            with pytest.raises(EngineError, match="TensorRT failed"):
                session.run({"x": X})
        world.fails_to_run = False
        np.testing.assert_array_equal(session.run({"x": X})["y"], X @ WEIGHTS)


def test_a_tensor_that_is_read_on_the_cpu_is_refused(enter, backend, make, orin, version):
    """The GPU's address of it, which it would be given, means nothing there."""
    world = enter(version)
    world.on_host = {"x"}
    with pytest.raises(UnsupportedError, match="'x' holds a shape"):
        backend.open(*make(), orin)


def test_a_failure_of_cuda_is_an_engine_error(enter, backend, make, orin):
    world = enter()
    with backend.open(*make(), orin) as session:
        world.is_broken = True
        with pytest.raises(EngineError, match="illegal memory access"):
            session.run({"x": X})


def test_a_copy_that_can_not_be_captured_leaves_the_answer(enter, backend, make, orin):
    world = enter(is_integrated=False)
    world.can_copy_in_capture = False
    with backend.open(*make(), orin) as session:
        for _ in range(2):
            np.testing.assert_array_equal(session.run({"x": X})["y"], X @ WEIGHTS)
        assert "not permitted" in session.placement.reason


def test_no_memory_for_an_instance_is_said_and_what_was_taken_is_given_back(
    enter, backend, make, orin
):
    world = enter(is_integrated=False)
    world.most_allocations = 3
    with pytest.raises(UnavailableError, match="memory ran out") as caught:
        backend.open(*make(), orin, {"instances": 2})
    assert "fewer instances" in caught.value.hint
    assert world.count("DeviceAllocation.free") == 3
    assert world.retained == 0


@pytest.mark.parametrize("instances", [0, -1, "many", None])
def test_a_wrong_number_of_instances_is_refused(enter, backend, make, orin, instances):
    enter()
    with pytest.raises(EngineError, match="instances"):
        backend.open(*make(), orin, {"instances": instances})


def test_a_closed_session_says_so_and_closes_twice(enter, backend, make, orin):
    world = enter()
    session = backend.open(*make(), orin)
    session.close()
    session.close()
    assert world.retained == 0
    with pytest.raises(UnavailableError, match="closed"):
        session.run({"x": X})


def test_another_thread_can_close(enter, backend, make, orin):
    world = enter()
    session = backend.open(*make(), orin)
    thread = threading.Thread(target=session.close)
    thread.start()
    thread.join()
    assert world.memory == {}


def test_it_runs_on_the_gpu_alone(enter, backend, make, orin):
    enter()
    with pytest.raises(UnavailableError, match="no cpu here"):
        backend.open(*make(), orin, {"device": "cpu"})


def test_other_tensors_than_the_manifest_declares_are_refused(enter, backend, make, orin):
    world = enter()
    variant, folder = make()
    spec = msgspec.structs.replace(variant.inputs[0], name="z")
    with pytest.raises(EngineError, match="declares the tensors"):
        backend.open(msgspec.structs.replace(variant, inputs=(spec,)), folder, orin)
    assert world.retained == 0


# Building


def test_an_engine_is_built_once_and_kept(enter, backend, make, orin, tmp_path, version):
    world = enter(version)
    variant, folder = make()
    assert not backend.is_built(variant, folder, orin)
    built = backend.build(variant, folder, orin)
    assert backend.is_built(variant, folder, orin)
    assert (built.was_there, built.path) == (False, _engines(tmp_path)[0])
    assert built.path.stat().st_mode & 0o777 == 0o600
    assert backend.build(variant, folder, orin).was_there
    backend.open(variant, folder, orin).close()
    assert world.count("build") == 1


def test_a_strongly_typed_plan_sets_no_precision_flags(enter, backend, make, orin, version):
    world = enter(version)
    backend.build(*make(), orin)
    typed = version != "8.5"
    assert ("FP16" in world.configs[0].set_flags) != typed


def test_strong_typing_is_refused_where_there_is_none(enter, backend, make, orin):
    enter("8.5")
    with pytest.raises(UnsupportedError, match="no strong typing"):
        backend.build(*make(is_strongly_typed=True), orin)


def test_a_flag_that_is_gone_is_refused_by_name(enter, backend, make, orin):
    """TensorRT 11 has no FP16 flag: an engine in FP32 must not come out without a word."""
    enter("11.4")
    with pytest.raises(UnsupportedError, match="no FP16"):
        backend.build(*make(is_strongly_typed=False), orin)


@pytest.mark.parametrize("machine", ["version", "sm", "driver"])
def test_an_engine_of_another_machine_is_built_again(enter, backend, make, orin, tmp_path, machine):
    enter("10.3")
    variant, folder = make(is_strongly_typed=True)
    backend.build(variant, folder, orin)
    world = enter("10.13" if machine == "version" else "10.3")
    if machine == "sm":
        world.capability = (11, 0)
    if machine == "driver":
        world.driver = 13000
    assert not backend.is_built(variant, folder, orin)
    backend.build(variant, folder, orin)
    assert len(_engines(tmp_path)) == 1, "the one of the other machine is of no use here"


def test_another_graph_or_plan_is_another_engine(enter, backend, make, orin, tmp_path):
    enter()
    others = make(), make(product(-WEIGHTS), "b"), make(name="c", is_sparse=True)
    for number, given in enumerate(others):
        assert not backend.is_built(*given, orin)
        backend.build(*given, orin)
        assert len(_engines(tmp_path)) == number + 1


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _foreign(path: Path) -> None:
    path.write_bytes(b"ftrt" + bytes(100))


def _other_facts(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"sm":"87"', b'"sm":"86"'))


def _broken_header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'{"facts"', b'{"facts'))


def _writable_by_others(path: Path) -> None:
    path.chmod(0o666)


def _folder_writable_by_others(path: Path) -> None:
    path.parent.chmod(0o777)


DAMAGE = {
    _flip: "damaged",
    _cut: "cut short",
    _foreign: "no engine of ours",
    _other_facts: "another machine",
    _broken_header: "damaged",
    _writable_by_others: "written by others",
    _folder_writable_by_others: "written by others",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda each: each.__name__)
def test_what_can_not_be_trusted_is_never_loaded(
    enter, backend, make, orin, tmp_path, caplog, damage
):
    world = enter()
    variant, folder = make()
    backend.build(variant, folder, orin)
    damage(_engines(tmp_path)[0])
    with backend.open(variant, folder, orin) as session:
        np.testing.assert_array_equal(session.run({"x": X})["y"], X @ WEIGHTS)
    assert world.count("build") == 2
    assert world.count("deserialize") == 1
    assert DAMAGE[damage] in caplog.text


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_loaded(enter, backend, make, orin, tmp_path):
    enter()
    variant, folder = make()
    backend.build(variant, folder, orin)
    os.chown(_engines(tmp_path)[0], 12345, -1)
    assert not backend.is_built(variant, folder, orin)


def test_a_write_that_breaks_off_leaves_nothing(enter, backend, make, orin, tmp_path, monkeypatch):
    enter()
    variant, folder = make()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnavailableError, match="No space left") as caught:
        backend.build(variant, folder, orin)
    assert "XDG_CACHE_HOME" in caught.value.hint
    left = [p.name for p in (tmp_path / "cache" / "edge" / "engines").iterdir()]
    assert [name for name in left if not name.endswith(".lock")] == []
    monkeypatch.undo()


def test_two_who_build_at_once_build_one(enter, backend, make, orin):
    world = enter()
    variant, folder = make()
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(lambda _: backend.build(variant, folder, orin), range(4)))
    assert world.count("build") == 1
    assert sum(each.was_there for each in built) == 3


@pytest.mark.parametrize("raises", [False, True])
def test_out_of_memory_is_tried_once_more_with_half_the_workspace(
    enter, backend, make, orin, raises
):
    world = enter()
    world.failing_builds = 1
    world.raises_memory_error = raises
    built = backend.build(*make(workspace_bytes=2**30), orin)
    assert [config.limits["WORKSPACE"] for config in world.configs] == [2**30, 2**29]
    assert built.notes == ("memory ran out with a workspace of 1024 MiB",)


def test_the_second_workspace_is_never_larger(enter, backend, make, orin):
    world = enter()
    world.failing_builds = 1
    backend.build(*make(workspace_bytes=2**24), orin)
    assert [config.limits["WORKSPACE"] for config in world.configs] == [2**24, 2**23]


def test_out_of_memory_twice_is_an_error_with_what_to_do(enter, backend, make, orin, tmp_path):
    world = enter()
    world.failing_builds = 2
    with pytest.raises(UnavailableError, match=r"memory runs out.*512 MiB") as caught:
        backend.build(*make(), orin)
    assert "workspace_mb" in caught.value.hint
    assert [config.limits["WORKSPACE"] for config in world.configs] == [2**30, 2**29]
    assert _engines(tmp_path) == []


def test_another_failure_is_not_tried_again(enter, backend, make, orin):
    world = enter()
    with pytest.raises(EngineError, match="dynamic inputs, but no profile"):
        backend.build(*make(shapes={}), orin)
    assert world.count("build") == 1


def test_timings_are_kept_and_used_by_the_next_build(enter, backend, make, orin, tmp_path):
    world = enter()
    backend.build(*make(), orin)
    backend.build(*make(product(-WEIGHTS), "other"), orin)
    assert [config.cache.data for config in world.configs] == [b"", b"timings"]


def test_timings_that_do_not_fit_are_taken_again(enter, backend, make, orin, tmp_path, caplog):
    world = enter()
    backend.build(*make(), orin)
    (timings,) = (tmp_path / "cache" / "edge" / "engines").glob("*timings.cache")
    data = b"of another time"
    timings.write_bytes(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
    backend.build(*make(product(-WEIGHTS), "other"), orin)
    assert world.configs[1].cache.data == b""
    assert "of no use" in caplog.text


def test_damaged_timings_never_reach_tensorrt(enter, backend, make, orin, tmp_path, caplog):
    world = enter()
    backend.build(*make(), orin)
    (timings,) = (tmp_path / "cache" / "edge" / "engines").glob("*timings.cache")
    _flip(timings)
    backend.build(*make(product(-WEIGHTS), "other"), orin)
    assert world.configs[1].cache.data == b""
    assert "is damaged" in caplog.text
    assert "of no use" not in caplog.text


def test_progress_is_told_and_never_falls(enter, backend, make, orin, version):
    enter(version)
    told: list[tuple[str, float]] = []
    backend.build(*make(), orin, progress=lambda phase, share: told.append((phase, share)))
    if version == "8.5":
        assert told == []
        return
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert ("Tactics", 0.25) in told
    assert shares[-1] == 1.0


def test_phases_within_phases_are_part_of_a_step():
    told: list[float] = []
    phases = Phases(lambda _, share: told.append(share))
    phases.start("a", None, 2)
    phases.step("a", 0)
    phases.start("b", "a", 2)
    phases.start("c", "b", 2)
    phases.step("c", 0)
    assert told[-1] == pytest.approx(0.5 + 0.5 * 0.25)
    phases.finish("unknown")


def test_a_node_that_the_parser_refuses_is_named(enter, backend, make, orin, version):
    world = enter(version)
    world.refused_ops = {"MatMul"}
    with pytest.raises(EngineError, match="no importer for MatMul") as caught:
        backend.build(*make(), orin)
    assert ("product" in str(caught.value)) == (version != "8.5")


def test_a_dla_is_used_where_there_is_one_and_the_placement_says_so(enter, backend, make, orin):
    world = enter()
    variant, folder = make(dla_core=1)
    with pytest.raises(UnavailableError, match="asks for DLA 1, this machine has 0"):
        backend.build(variant, folder, orin)
    world.dla_cores = 2
    with backend.open(variant, folder, orin) as session:
        assert "dla 1" in session.placement.actual
        assert "on the GPU" in session.placement.reason
    config = world.configs[-1]
    assert (config.DLA_core, config.default_device_type.name) == (1, "DLA")
    assert "GPU_FALLBACK" in config.set_flags


def test_new_weights_in_the_same_structure_need_no_new_engine(enter, backend, make, orin, version):
    world = enter(version)
    for name, weights in (("a", WEIGHTS), ("b", -2 * WEIGHTS)):
        variant, folder = make(product(weights), name, is_refittable=True, structure="s" * 64)
        with backend.open(variant, folder, orin) as session:
            np.testing.assert_array_equal(session.run({"x": X})["y"], X @ weights)
    can_refit = version != "8.5"
    assert world.count("build") == (1 if can_refit else 2)
    assert world.count("refit") == (2 if can_refit else 0)
    if can_refit:
        assert {"STRIP_PLAN", "REFIT"} <= set(world.configs[0].set_flags)


def test_where_there_is_no_refit_the_build_says_so(enter, backend, make, orin, version):
    enter(version)
    built = backend.build(*make(is_refittable=True, structure="s" * 64), orin)
    assert any("can not refit" in note for note in built.notes) == (version == "8.5")


def test_an_engine_that_takes_no_weights_of_the_graph_is_built_again(enter, backend, make, orin):
    world = enter()
    backend.build(*make(is_refittable=True, structure="s" * 64), orin)
    other = product(WEIGHTS)
    other.graph.initializer[0].name = other.graph.node[0].input[1] = "renamed"
    variant, folder = make(other, "other", is_refittable=True, structure="s" * 64)
    with backend.open(variant, folder, orin) as session:
        np.testing.assert_array_equal(session.run({"x": X})["y"], X @ WEIGHTS)
    assert world.count("build") == 2


def test_what_a_session_takes_of_a_card_is_told(enter, backend, make, orin, version):
    world = enter(version, is_integrated=False)
    with backend.open(*make(), orin) as session:
        session.run({"x": X})
        held = sum(array.nbytes for array in world.memory.values())
        assert session.outside_bytes() == held > 0


def test_what_is_resident_here_is_not_told_as_the_gpus_once_more(
    enter, backend, make, orin, version, monkeypatch
):
    enter(version)
    with backend.open(*make(), orin) as session:
        gpu = session._gpu
        resident = [10_000]
        monkeypatch.setattr("runtimes._tensorrt.gpu.resident_bytes", lambda: resident[0])
        monkeypatch.setattr(gpu.cuda, "mem_get_info", lambda: (50_000, 100_000))
        assert gpu.taken_bytes() == 40_000
        resident[0] = 15_000
        assert gpu.taken_bytes() == 35_000
