"""A host to which anything happens in any order: it answers rightly, leaks nothing, hangs never."""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from patience import LONG_S

import edge
from edge.bundle import Bundle, open_bundle
from edge.core import plugins
from edge.core.contracts import Availability, Placement, Session
from edge.core.errors import (
    EdgeError,
    EngineError,
    InputError,
    NotFoundError,
    UnavailableError,
)
from edge.core.manifest import Variant
from edge.host import Probation, activation, costs, residency
from edge.host.costs import Cost
from edge.host.residency import NoRoomError
from edge.settings import ModelSettings

MakeBundle = Callable[..., Path]
MakeVariant = Callable[..., Variant]
Outcome = float | str
"""What a request came to: the number that tells which bundle answered, or the kind of error."""

FEEDS = {"x": np.ones((2, 3), np.float32)}
LIMIT_S = LONG_S
MIB = 1024 * 1024
SIZES = {"flat": 1.0, "m0": 0.05, "m1": 1.0, "m2": 2.0}
"""In MiB. ``flat`` lies in a file of its own, of the others each version does."""
BUDGET_MIB = 3.2
NAMES = sorted(SIZES)
VERSIONS = ("1", "2", "3")
KINDS = ("sound", "other", "wrong", "huge")
"""``other`` is sound as well, with other contents; ``wrong`` fails its goldens."""

some_name = st.sampled_from(NAMES)
some_version = st.sampled_from(VERSIONS)
some_deed = st.sampled_from(
    (
        *("infer", "infer a version", "load", "unload", "load all", "judge"),
        *("activate", "activate", "roll back", "roll back"),
    )
)
some_kind = st.sampled_from(("sound", "sound", "other", "wrong", "huge", "damaged"))


class Packed(NamedTuple):
    """A bundle that may come into the folder."""

    path: Path
    name: str
    version: str
    kind: str
    digest: str
    answer: float

    @property
    def is_bad(self) -> bool:
        return self.kind in ("wrong", "huge")


class FickleSession(Session):
    """Answers the number of its bundle everywhere."""

    def __init__(self, variant: Variant, engine: Fickle) -> None:
        self.inputs, self.outputs = variant.inputs, variant.outputs
        self.placement = Placement("cpu", "cpu", {"cpu": 1.0}, variant.precision)
        self.answer = variant.options["answer"]
        self.closed = 0
        self._users = 0
        self._engine = engine

    def _run(self, feeds: Any) -> dict[str, np.ndarray]:
        self._users += 1
        try:
            time.sleep(0.0002)
            if self.answer in self._engine.broken:
                raise EngineError("the device is lost")
            if self.closed:
                self._engine.sins.append(f"{self.answer} ran after it was closed")
            return {"y": np.full((len(feeds["x"]), 4), self.answer, np.float32)}
        finally:
            self._users -= 1

    def close(self) -> None:
        if self._users > 0:
            self._engine.sins.append(f"{self.answer} was closed while it ran")
        self.closed += 1
        if self.closed == 1 and self.answer in self._engine.broken:
            raise EngineError("the device is lost for good")


class Fickle:
    """An engine that fails whatever it does for the bundles that are ``broken``."""

    name = "fickle"

    def __init__(self) -> None:
        self.broken: set[float] = set()
        self.sins: list[str] = []
        self.sessions: list[FickleSession] = []

    def availability(self) -> Availability:
        return Availability(ready=True, version="1", devices=("cpu",))

    def open(self, variant: Variant, *_: object) -> FickleSession:
        time.sleep(0.0005)
        if variant.options["answer"] in self.broken:
            raise EngineError("the device is lost")
        session = FickleSession(variant, self)
        self.sessions.append(session)
        return session


class Yard:
    """What all examples share: the engine, the bundles, and what was opened of them."""

    def __init__(self, folder: Path) -> None:
        self.engine = Fickle()
        self.folder = folder
        self.packed: dict[tuple[str, str, str], Packed] = {}
        self.by_digest: dict[str, Packed] = {}
        self.opened: list[Bundle] = []

    def pack(self, make_bundle: MakeBundle, make_variant: MakeVariant) -> None:
        for number, key in enumerate((n, v, k) for n in NAMES for v in VERSIONS for k in KINDS):
            name, version, kind = key
            answer = float(number + 1)
            expected = np.full((1, 4), answer + (kind == "wrong"), np.float32)
            variant = make_variant("v", "fickle", options={"answer": answer})
            file = f"{name}-{version}-{kind}"
            path = make_bundle(variant, name=name, version=version, file=file, expected=expected)
            with open_bundle(path) as bundle:
                self.packed[key] = Packed(path, name, version, kind, bundle.digest, answer)
            self.by_digest[bundle.digest] = self.packed[key]

    def cost(self, digest: str) -> Cost:
        packed = self.by_digest[digest]
        size = int((SIZES[packed.name] if packed.kind != "huge" else 10.0) * MIB)
        return Cost(size, size, is_measured=True)


@pytest.fixture
def yard(
    make_bundle: MakeBundle,
    make_variant: MakeVariant,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Yard]:
    yard = Yard(tmp_path)
    yard.pack(make_bundle, make_variant)
    stems, backend = plugins.stems, plugins.backend
    monkeypatch.setattr(
        plugins, "stems", lambda *args: [*stems(*args), *["fickle"] * (args[0] == "runtimes")]
    )
    monkeypatch.setattr(
        plugins, "backend", lambda name: yard.engine if name == "fickle" else backend(name)
    )
    monkeypatch.setattr(costs, "key_of", lambda digest, *_: digest)
    monkeypatch.setattr(costs, "recall", yard.cost)
    monkeypatch.setattr(residency, "WAIT_S", LIMIT_S / 2)
    monkeypatch.setattr(activation, "_LOOK_S", 3600.0)  # the machine looks by itself
    real_init = Bundle.__init__

    def counted_init(self: Bundle, *args: Any) -> None:
        real_init(self, *args)
        yard.opened.append(self)

    monkeypatch.setattr(Bundle, "__init__", counted_init)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads take turns where they usually do not
    yield yard
    sys.setswitchinterval(interval_s)


def within(what: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """Its result; a test that takes longer fails, and says where all threads were."""
    ended: Future[Any] = Future()

    def run() -> None:
        try:
            ended.set_result(what())
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return ended.result(limit_s)
    except TimeoutError:
        if ended.done():
            raise
    except BaseException:
        if ended.done():
            raise
    with tempfile.TemporaryFile("w+") as stream:
        faulthandler.dump_traceback(stream)
        stream.seek(0)
        pytest.fail(f"this takes more than {limit_s:g} s:\n{stream.read()}")


def in_background(what: Callable[[], Any], start: threading.Barrier) -> Future[Any]:
    ended: Future[Any] = Future()

    def run() -> None:
        start.wait(LIMIT_S)
        try:
            ended.set_result(what())
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return ended


def outcome_of(ask: Callable[[], dict[str, Any]]) -> Outcome:
    try:
        answer = ask()["y"]
    except NoRoomError as error:
        return f"no room: {error}"
    except NotFoundError:
        return "missing"
    except UnavailableError:
        return "unavailable"
    except EngineError:
        return "fault"
    assert answer.shape == (2, 4)
    assert (answer == answer[0, 0]).all()
    return float(answer[0, 0])


class Permitted:
    """What requests for one model may come to, one set after the other.

    A request may see any state of the host from when it began until it ended.
    """

    def __init__(self, outcomes: set[Outcome]) -> None:
        self._log = [outcomes]

    @property
    def mark(self) -> int:
        return len(self._log) - 1

    def also(self, outcomes: set[Outcome]) -> None:
        self._log.append(self._log[-1] | outcomes)

    def only(self, outcomes: set[Outcome]) -> None:
        self._log.append(outcomes)

    def since(self, mark: int, until: int | None = None) -> set[Outcome]:
        return set().union(*self._log[mark : None if until is None else until + 1])


class Waiting(NamedTuple):
    """A request that was submitted."""

    name: str
    mark: int
    submitted: int
    future: Future[dict[str, Any]]
    answer: float
    """What the version has to answer that it was submitted to."""


class Host(RuleBasedStateMachine):
    """The host, and what is known of it: the versions it has by name, which of them is active,
    which are withdrawn or rejected, and which may have failed as the engine did."""

    yard: Yard

    def __init__(self) -> None:
        super().__init__()
        self.yard.opened.clear()
        self.yard.engine.sessions.clear()
        self.yard.engine.sins.clear()
        self.yard.engine.broken.clear()
        self.threads = set(threading.enumerate())
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.root = Path(tempfile.mkdtemp(dir=self.yard.folder))
        self.folder = self.root / "served"
        self.folder.mkdir()
        os.environ["XDG_STATE_HOME"] = str(self.root / "state")
        self.on_disk: dict[Path, Packed | None] = {}
        self.models: dict[str, dict[str, Packed | None]] = {name: {} for name in NAMES}
        self.active: dict[str, str | None] = dict.fromkeys(NAMES)
        self.withdrawn: set[Packed | None] = set()
        self.suspect: set[Packed | None] = set()
        self.faulty: set[str] = set()
        self.permitted = {name: Permitted({"missing"}) for name in NAMES}
        self.outstanding: list[Waiting] = []
        self.bursts: list[tuple[threading.Thread, list[str]]] = []

    # ---- beginning and end

    @initialize(
        bundles=st.lists(st.tuples(some_name, some_version), min_size=4, max_size=9, unique=True),
        seed=st.integers(0, 3),
    )
    def begin(self, bundles: list[tuple[str, str]], seed: int) -> None:
        for name, version in bundles:
            self.write(name, version, "sound")
        self.open(seed)

    def open(self, seed: int) -> None:
        models = {
            "m0": ModelSettings(pinned=True, max_batch=4, instances=2),
            "m1": ModelSettings(max_batch=8, max_delay_us=200),
            "m2": ModelSettings(cache_bytes=MIB),
        }
        self.runtime = within(
            lambda: edge.Runtime(
                self.folder,
                models=models if seed % 2 else {},
                concurrency=2 if seed > 1 else 0,
                memory=int(BUDGET_MIB * MIB),
                idle_s=0.004 if seed == 3 else 0.0,
                watch_s=3600.0,
                probation=Probation(seconds=3600.0, max_faults=0.0, min_faults=2),
            )
        )
        self.withdrawn.clear()
        self.suspect = {one for one in self.suspect if self.is_broken(one)}
        for name in NAMES:
            here = {p.version: p for p in self.on_disk.values() if p and p.name == name}
            if name == "flat" and self.folder / "flat.edge" in self.on_disk and not here:
                here = {"?": None}
            self.settle(name, here, {self.newest(here)})

    @rule(seed=st.integers(0, 3))
    def close_and_open_again(self, seed: int) -> None:
        for name in NAMES:
            self.permitted[name].also({"unavailable"})
        within(self.runtime.close)
        self.stop_bursts()
        self.await_outstanding()
        self.check_nothing_is_left()
        self.open(seed)

    def teardown(self) -> None:
        if not hasattr(self, "runtime"):
            return
        self.stop_bursts()
        self.await_outstanding()
        within(self.runtime.close)
        self.check_nothing_is_left()
        shutil.rmtree(self.root)

    def check_nothing_is_left(self) -> None:
        engine = self.yard.engine
        assert not engine.sins
        assert [session.answer for session in engine.sessions if not session.closed] == []
        assert [str(one.path) for one in self.yard.opened if not one._stream.closed] == []
        assert self.runtime.memory.used_bytes == 0
        deadline = time.monotonic() + LIMIT_S
        while left := [
            thread.name
            for thread in threading.enumerate()
            if thread not in self.threads and thread.name.startswith("edge-")
        ]:
            assert time.monotonic() < deadline, left
            time.sleep(0.001)
        while len(os.listdir("/proc/self/fd")) > self.descriptors:
            assert time.monotonic() < deadline, os.listdir("/proc/self/fd")
            time.sleep(0.001)

    # ---- what is known

    def newest(self, versions: dict[str, Packed | None]) -> str | None:
        """The version that serves where none does yet."""
        wanted = [v for v, packed in versions.items() if packed and self.is_wanted(packed)]
        return max(wanted, default=None)

    def is_wanted(self, packed: Packed) -> bool:
        if self.runtime._activation.rejections.reason(packed.digest):
            return False
        slot = next((s for s in self.runtime._catalog.slots if s.digest == packed.digest), None)
        return slot is None or slot.state != "failed"

    def may_fail(self, packed: Packed | None) -> bool:
        """Whether it may be that it does not load."""
        if packed is None or packed.is_bad or packed in self.suspect:
            return True
        return self.is_broken(packed)

    def is_broken(self, packed: Packed | None) -> bool:
        return packed is not None and packed.answer in self.yard.engine.broken

    def serving(self, name: str) -> Packed | None:
        version = self.active[name]
        versions = self.models[name]
        return versions[version if version is not None else max(versions)]

    def outcomes(self, name: str) -> set[Outcome]:
        """What a request for a model may come to now."""
        if not self.models[name]:
            return {"missing"}
        packed = self.serving(name)
        if packed in self.withdrawn:
            return {"unavailable"}
        status = self.runtime.status_of(name)
        if status.state == "failed":
            is_legal = self.may_fail(packed) or self.is_rejected(packed)
            assert is_legal or "was replaced since" in status.reason, status
            return {"unavailable"}
        assert packed is not None
        if packed.is_bad:
            return {"fault", "unavailable"}
        if packed.answer in self.yard.engine.broken:
            return {packed.answer, "fault", "unavailable"}
        return {packed.answer}

    def is_rejected(self, packed: Packed | None) -> bool:
        return packed is not None and bool(
            self.runtime._activation.rejections.reason(packed.digest)
        )

    def settle(
        self, name: str, versions: dict[str, Packed | None], actives: set[str | None]
    ) -> None:
        """Take note that a model has these versions now, of which one of ``actives`` is active."""
        self.models[name] = self.seen(name)
        kinds = {v: packed and packed.kind for v, packed in self.models[name].items()}
        assert kinds == {v: packed and packed.kind for v, packed in versions.items()}
        status = {s.version: s for s in self.runtime.status() if s.name == name}
        assert [v for v, s in status.items() if s.is_active] in ([v] if v else [] for v in actives)
        assert not any(slot._is_closed for slot in self.runtime._catalog.slots)
        self.active[name] = next((v for v, s in status.items() if s.is_active), None)
        for version, packed in versions.items():
            assert status[version].is_withdrawn == (packed in self.withdrawn)
        self.permitted[name].only(self.outcomes(name))

    def seen(self, name: str) -> dict[str, Packed | None]:
        found = [(s.version, s.digest) for s in self.runtime.status() if s.name == name]
        assert len(dict(found)) == len(found)
        return {version: self.yard.by_digest.get(digest) for version, digest in found}

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "runtime"):
            assert self.runtime.memory.used_bytes <= BUDGET_MIB * MIB
            assert not self.yard.engine.sins

    # ---- requests

    @rule(name=some_name)
    def infer(self, name: str) -> None:
        outcome = within(lambda: outcome_of(lambda: self.runtime.infer(name, FEEDS)))
        assert outcome in self.permitted[name].since(self.permitted[name].mark)
        if self.models[name]:
            self.note_failure(name)

    def note_failure(self, name: str) -> None:
        """A version that was loaded for the first time may have failed."""
        self.permitted[name].only(self.outcomes(name))

    @rule(name=some_name, version=some_version)
    def infer_a_version(self, name: str, version: str) -> None:
        outcome = within(lambda: outcome_of(lambda: self.runtime.infer(name, FEEDS, version)))
        packed = self.models[name].get(version)
        if packed is None:
            assert outcome == "missing"
            return
        if packed in self.withdrawn:
            assert outcome == "unavailable"
        elif self.may_fail(packed) or self.is_rejected(packed):
            assert outcome in {packed.answer, "fault", "unavailable"}
            assert not packed.is_bad or outcome != packed.answer
        else:
            assert outcome == packed.answer
        self.note_failure(name)

    @rule(name=some_name, count=st.integers(1, 6))
    def submit(self, name: str, count: int) -> None:
        permitted = self.permitted[name]
        for _ in range(count):
            mark = permitted.mark
            try:
                model = within(lambda: self.runtime.model(name))
                answer = self.answer_of(model)
                future = model.submit(FEEDS)
            except EdgeError as error:
                outcome = outcome_of(lambda error=error: _raise(error))
                assert outcome in permitted.since(mark)
                continue
            self.outstanding.append(Waiting(name, mark, permitted.mark, future, answer))
        if self.models[name]:
            self.note_failure(name)

    def answer_of(self, model: Any) -> float:
        return self.yard.by_digest[model.digest].answer

    @rule()
    def await_outstanding(self) -> None:
        for waiting in self.outstanding:
            permitted = self.permitted[waiting.name]
            outcome = within(lambda waiting=waiting: outcome_of(waiting.future.result))
            assert outcome in permitted.since(waiting.mark)
            if isinstance(outcome, float):
                assert outcome == waiting.answer
                assert outcome in permitted.since(waiting.mark, waiting.submitted)
        self.outstanding.clear()

    @precondition(lambda self: len(self.bursts) < 3)
    @rule(names=st.lists(some_name, min_size=1, max_size=4), seed=st.integers(0, 9))
    def burst(self, names: list[str], seed: int) -> None:
        """Ask from another thread, while other rules run."""
        choose = random.Random(seed)
        wrong: list[str] = []

        def ask() -> None:
            for _ in range(30):
                name = choose.choice(names)
                permitted = self.permitted[name]
                mark = permitted.mark
                is_handled = choose.random() < 0.4
                handle: list[Any] = []

                def through_a_handle(name: str = name, handle: list[Any] = handle) -> Any:
                    handle.append(self.runtime.model(name))
                    return handle[0].submit(FEEDS).result(LIMIT_S)

                def directly(name: str = name) -> Any:
                    return self.runtime.infer(name, FEEDS)

                outcome = outcome_of(through_a_handle if is_handled else directly)
                allowed = permitted.since(mark)
                if outcome == "unavailable" and handle and len(allowed) > 1:
                    continue  # who holds on to a version that goes is told so
                if outcome not in allowed:
                    wrong.append(f"{name}: {outcome}, allowed was {allowed} ({is_handled})")

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        self.bursts.append((thread, wrong))

    @rule()
    def stop_bursts(self) -> None:
        for thread, wrong in self.bursts:
            within(thread.join)
            assert wrong == []
        self.bursts.clear()

    # ---- loading and unloading

    @rule()
    def load_all(self) -> None:
        actives = {name: self.actives_after_loading(name) for name in NAMES}
        for name in NAMES:
            self.permitted[name].also(
                {self.models[name][v].answer for v in actives[name] if v}  # type: ignore[union-attr]
                | ({"unavailable"} if self.is_doubtful(name) else set())
            )
        within(self.runtime.load_all)
        for name in NAMES:
            self.settle(name, self.models[name], actives[name])

    def is_doubtful(self, name: str) -> bool:
        return bool(self.models[name]) and self.may_fail(self.serving(name))

    def actives_after_loading(self, name: str) -> set[str | None]:
        active = self.active[name]
        if active is None or self.models[name][active] in self.withdrawn:
            return {active}
        if not self.may_fail(self.models[name][active]):
            return {active}
        return {active} | {v for v, p in self.models[name].items() if v < active and p}

    @rule(name=some_name, version=st.none() | some_version)
    def load(self, name: str, version: str | None) -> None:
        self.attempt(name, version, lambda: self.runtime.load(name, version))
        if self.models[name]:
            self.settle(name, self.models[name], {self.active[name]})

    def attempt(self, name: str, version: str | None, what: Callable[[], None]) -> bool:
        """Do what loads a version, which may fail if that may."""
        packed = self.models[name].get(version) if version else None
        if not version and self.models[name]:
            packed = self.serving(name)
            version = packed.version if packed else "?"
        self.permitted[name].also({"unavailable"} if self.may_fail(packed) else set())
        if packed is not None and packed in self.withdrawn:
            self.permitted[name].also({packed.answer})
        if version in self.models[name]:
            self.withdrawn.discard(packed)
        try:
            within(what)
        except NoRoomError:
            raise
        except EdgeError:
            if self.may_fail(packed) or version not in self.models[name]:
                return False
            raise
        assert packed is not None
        assert not packed.is_bad
        if packed.answer not in self.yard.engine.broken:
            self.suspect.discard(packed)
        return True

    @rule(name=some_name, version=st.none() | some_version)
    def unload(self, name: str, version: str | None) -> None:
        gone = {version} if version else set(self.models[name])
        packed = {self.models[name][v] for v in gone & self.models[name].keys()}
        self.permitted[name].also({"unavailable"} if packed else set())
        self.withdrawn |= packed
        try:
            within(lambda: self.runtime.unload(name, version))
        except NotFoundError:
            assert not packed
        if self.models[name]:
            self.settle(name, self.models[name], {self.active[name]})
            for one in packed:
                self.check_it_takes_nothing(one)

    def check_it_takes_nothing(self, packed: Packed | None) -> None:
        """Once its last request has ended."""
        if packed is not None and not self.bursts and not self.outstanding:
            open_ = [s for s in self.yard.engine.sessions if not s.closed]
            assert packed.answer not in {session.answer for session in open_}

    @rule(name=some_name, reason=st.sampled_from(("idle", "room")))
    def evict(self, name: str, reason: str) -> None:
        for slot in self.runtime._catalog.slots:
            if slot.name == name and slot._model is not None:
                within(lambda slot=slot: slot._model.seat.evict(reason))

    # ---- versions

    @rule(name=some_name, version=some_version)
    def activate(self, name: str, version: str) -> None:
        packed = self.models[name].get(version)
        self.permitted[name].also({packed.answer} if packed else set())
        is_done = self.attempt(name, version, lambda: self.runtime.activate(name, version))
        if is_done and packed is not None and packed.answer not in self.yard.engine.broken:
            self.faulty.discard(name)
        if self.models[name]:
            self.settle(name, self.models[name], {version if is_done else self.active[name]})

    @rule(name=some_name)
    def roll_back(self, name: str) -> None:
        self.take_back(name, lambda: self.runtime.roll_back(name), is_asked_for=True)

    @rule()
    def look_at_those_on_probation(self) -> None:
        for name in NAMES:
            if self.models[name] and name in self.faulty:
                self.permitted[name].also(self.every_answer(name) | {"unavailable", "fault"})
        before = {name: self.seen(name) for name in NAMES}
        within(self.runtime._activation.look)
        for name in NAMES:
            if name in self.faulty:
                self.resettle(name)
            else:
                self.settle(name, before[name], {self.active[name]})

    def every_answer(self, name: str) -> set[Outcome]:
        return {p.answer for p in self.yard.packed.values() if p.name == name and not p.is_bad}

    def take_back(self, name: str, what: Callable[[], str], *, is_asked_for: bool) -> None:
        if not self.models[name]:
            with pytest.raises(NotFoundError):
                within(what)
            return
        failed, before = self.serving(name), self.models[name]
        self.permitted[name].also(self.every_answer(name))
        try:
            back = within(what)
        except NoRoomError:
            raise
        except EdgeError:
            self.resettle(name)
            assert self.models[name] == before
            return
        self.resettle(name)
        assert self.active[name] == back
        assert self.serving(name) != failed
        assert failed is not None
        assert self.is_rejected(failed)

    def resettle(self, name: str) -> None:
        """Believe the host what is active and withdrawn, where more than one is right."""
        seen = self.seen(name)
        status = {s.version: s for s in self.runtime.status() if s.name == name}
        for gone in set(self.models[name].values()) - set(seen.values()):
            self.forget(gone)
        for version, packed in seen.items():
            (self.withdrawn.add if status[version].is_withdrawn else self.withdrawn.discard)(packed)
        self.settle(name, seen, {*seen, None})

    # ---- the folder

    def place_of(self, name: str, version: str) -> Path:
        return self.folder / ("flat.edge" if name == "flat" else f"{name}/{version}.edge")

    def write(self, name: str, version: str, kind: str) -> Packed | None:
        path = self.place_of(name, version)
        path.parent.mkdir(exist_ok=True)
        copy = path.with_name(f".{path.name}")
        packed = None if kind == "damaged" else self.yard.packed[name, version, kind]
        if packed is None:
            copy.write_bytes(b"PK, and no more")
        else:
            shutil.copyfile(packed.path, copy)
        os.replace(copy, path)
        self.on_disk[path] = packed
        return packed

    def look(self) -> None:
        """What changed counts once it has stayed the same."""
        for _ in range(2):
            self.runtime._watch.look()

    @rule(name=some_name, version=some_version, kind=some_kind)
    def put(self, name: str, version: str, kind: str) -> None:
        self.let_fail_what_may(name)
        versions, active = dict(self.models[name]), self.active[name]
        path = self.place_of(name, version)
        failed = {s.version for s in self.failed_at(path) if s.name == name}
        packed = self.write(name, version, kind)
        if packed is None and any(
            slot.path == path and slot.version not in failed for slot in self.runtime._catalog.slots
        ):
            within(self.look)
            self.settle(name, versions, {active})
            return
        for gone in failed:
            self.forget(versions.pop(gone))
        is_freed = active in failed
        others = self.newest(versions)
        actives: set[str | None] = {others if is_freed else active}
        if packed is None:
            if name == "flat":
                versions["?"] = None
        else:
            actives = self.expect(packed, versions, actives)
        if is_freed or not self.models[name]:
            self.permitted[name].also(self.every_answer(name) | {"unavailable", "fault"})
        within(self.look)
        self.settle(name, versions, actives)

    def expect(
        self, packed: Packed, versions: dict[str, Packed | None], actives: set[str | None]
    ) -> set[str | None]:
        """Enter what comes into ``versions``; which of them is to be active then."""
        name, version = packed.name, packed.version
        (active,) = actives
        if versions.get(version) == packed:
            return actives
        is_sound = not packed.is_bad and packed.answer not in self.yard.engine.broken
        if (active is not None and active > version) or self.is_rejected(packed):
            if version != active:
                self.forget(versions.get(version))
                versions[version] = packed
            return actives
        self.permitted[name].also({packed.answer})
        if is_sound:
            self.forget(versions.get(version))
            versions[version] = packed
            self.faulty.discard(name)
            return {version}
        if version not in versions:
            self.suspect.add(packed)
            versions[version] = packed
        return actives

    def failed_at(self, path: Path) -> list[Any]:
        return [s for s in self.runtime._catalog.slots if s.path == path and s.state == "failed"]

    def forget(self, packed: Packed | None) -> None:
        self.withdrawn.discard(packed)
        self.suspect.discard(packed)

    def let_fail_what_may(self, name: str) -> None:
        """What becomes of a file depends on whether a version failed: it must not in between."""
        if any(self.may_fail(packed) for packed in self.models[name].values()):
            self.stop_bursts()

    @rule(name=some_name, version=some_version)
    def delete(self, name: str, version: str) -> None:
        path = self.place_of(name, version)
        if path not in self.on_disk:
            return
        self.let_fail_what_may(name)
        path.unlink()
        del self.on_disk[path]
        versions = dict(self.models[name])
        for slot in self.runtime._catalog.slots:
            if slot.path == path and slot.name == name:
                self.forget(versions.pop(slot.version))
        active = self.active[name]
        if active not in versions:
            active = self.newest(versions)
            next_ = versions[max(versions)] if versions and active is None else None
            if active is not None:
                next_ = versions[active]
            if not versions:
                self.permitted[name].also({"missing", "unavailable"})
            elif active is None or next_ in self.withdrawn or self.may_fail(next_):
                self.permitted[name].also({"unavailable", "fault"})
            if next_ is not None:
                self.permitted[name].also({next_.answer})
        within(self.look)
        self.settle(name, versions, {active})

    @rule()
    def the_folder_is_away_for_a_while(self) -> None:
        away = self.folder.with_name("away")
        os.rename(self.folder, away)
        within(self.look)
        os.rename(away, self.folder)
        within(self.look)
        for name in NAMES:
            self.settle(name, self.models[name], {self.active[name]})

    # ---- all at once

    @rule(
        files=st.lists(st.tuples(some_name, some_version, some_kind | st.none()), max_size=2),
        deeds=st.lists(st.tuples(some_deed, some_name, some_version), min_size=2, max_size=4),
    )
    def several_things_at_once(
        self, files: list[tuple[str, str, str | None]], deeds: list[tuple[str, str, str]]
    ) -> None:
        """While bundles came and went, if ``files`` says so; in any order, all is well after."""
        for name in NAMES:
            errors = {"unavailable", "fault", "missing"}
            self.permitted[name].also(self.every_answer(name) | errors)
        for name, version, kind in files:
            path = self.place_of(name, version)
            if kind is not None:
                self.write(name, version, kind)
            elif path in self.on_disk:
                path.unlink()
                del self.on_disk[path]
        start = threading.Barrier(len(deeds) + 1)
        ended = [in_background(self.look, start)]
        ended += [in_background(self.deed(*deed), start) for deed in deeds]
        for end in ended:
            try:
                within(end.result)
            except NoRoomError:
                raise
            except EdgeError:
                pass
        for name in NAMES:
            self.resettle(name)
            self.infer(name)

    def deed(self, deed: str, name: str, version: str) -> Callable[[], object]:
        runtime = self.runtime
        return {
            "infer": lambda: runtime.infer(name, FEEDS),
            "infer a version": lambda: runtime.infer(name, FEEDS, version),
            "load": lambda: runtime.load(name, version),
            "unload": lambda: runtime.unload(name, version),
            "activate": lambda: runtime.activate(name, version),
            "roll back": lambda: runtime.roll_back(name),
            "load all": runtime.load_all,
            "judge": runtime._activation.look,
        }[deed]

    # ---- failures

    @rule(name=some_name)
    def the_engine_fails_for_a_model(self, name: str) -> None:
        if self.models[name] and (packed := self.serving(name)) is not None:
            self.permitted[name].also({"fault", "unavailable"})
            self.faulty.add(name)
            self.suspect.add(packed)
            self.yard.engine.broken.add(packed.answer)
            self.permitted[name].only(self.outcomes(name))

    @rule()
    def the_engine_recovers(self) -> None:
        every = {packed for versions in self.models.values() for packed in versions.values()}
        self.suspect |= {packed for packed in every if self.is_broken(packed)}
        self.yard.engine.broken.clear()
        for name in NAMES:
            if self.models[name]:
                self.permitted[name].also(self.outcomes(name))
        self.stop_bursts()
        for name in NAMES:
            if self.models[name]:
                self.permitted[name].only(self.outcomes(name))

    @rule(name=some_name)
    def a_wrong_input_is_the_clients_mistake(self, name: str) -> None:
        if not self.models[name]:
            return
        with pytest.raises((InputError, UnavailableError, EngineError)):
            within(lambda: self.runtime.infer(name, {"x": np.ones((2, 2), np.float32)}))
        self.note_failure(name)


def _raise(error: BaseException) -> Any:
    raise error


def test_whatever_happens_in_any_order_the_host_answers_rightly_and_leaks_nothing(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(yard.folder / "state"))
    machine = type("Machine", (Host,), {"yard": yard})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("EXAMPLES", "60")),
            stateful_step_count=50,
            derandomize="EXAMPLES" not in os.environ,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # threads: what fails once may not do so again
        ),
    )
