from __future__ import annotations

import random
from collections import Counter
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.errors import InputError, UnavailableError
from edge.telemetry.fleet.decisions import Action, Sight, advance, current_wave, is_over
from edge.telemetry.fleet.rollout import (
    Counts,
    Rollout,
    Rules,
    Staging,
    Step,
    Target,
    begin,
    extend,
    go_back,
    retry,
)

TARGET = Target("digits", "2", digest="new", sha256="f" * 64, size_bytes=1000)
OLD = Sight(is_online=True, version="1", digest="old")
NEW = Sight(is_online=True, version="2", digest="new")
RULES = Rules(soak_s=10.0, timeout_s=100.0, silence_s=20.0)

Fate = Literal[
    "good", "refuses", "unfit", "has-newer", "errors", "reverts", "falls-silent", "hangs", "is-deaf"
]
FATES: tuple[Fate, ...] = (
    "good",
    "refuses",
    "unfit",
    "has-newer",
    "errors",
    "reverts",
    "falls-silent",
    "hangs",
    "is-deaf",
)
REFUSALS = {"refuses": "failed", "unfit": "unsupported", "has-newer": "downgrade"}
BAD = {"refuses", "errors", "reverts", "falls-silent", "hangs"}


class World:
    """Devices that keep to the protocol, and end as it is their fate."""

    def __init__(self, fates: dict[str, Fate], offline: frozenset[str] = frozenset()) -> None:
        self.fates = fates
        self.offline = offline
        self.topics: dict[tuple[str, str], dict[str, Any]] = {}
        self.remembered: dict[tuple[str, str], dict[str, Any]] = {}
        self.runs: Counter[tuple[str, str]] = Counter()
        self.sights = {d: msgspec.structs.replace(OLD, is_online=d not in offline) for d in fates}
        self.most_updating = 0

    def give(self, action: Action) -> None:
        if action.kind == "clear":
            self.topics.pop((action.device, action.id), None)
        else:
            assert (action.device, action.id) not in {**self.topics, **self.remembered}
            self.topics[action.device, action.id] = {"status": "init", "verb": action.verb}

    def live(self) -> None:
        """Each device goes one step further with what stands in its topics."""
        self.most_updating = max(self.most_updating, len(self.topics))
        for (device, command), answer in list(self.topics.items()):
            if device in self.offline or self.fates[device] == "is-deaf":
                continue
            known = self.remembered.get((device, command))
            if known:
                self.topics[device, command] = known
            elif answer["status"] == "init":
                self.topics[device, command] = {**answer, "status": "executing"}
            elif answer["status"] == "executing" and self.fates[device] != "hangs":
                self._end(device, command, answer)
        for device, fate in self.fates.items():
            sight = self.sights[device]
            if sight.digest == "new" and fate == "errors":
                counts = Counts(sight.counts.success + 50, sight.counts.failure + 50)
                self.sights[device] = msgspec.structs.replace(sight, counts=counts)
            if sight.digest == "new" and fate == "reverts" and self.runs[device, "lived"] > 3:
                self.sights[device] = msgspec.structs.replace(OLD, why="5 of 9 requests failed")
            if sight.digest == "new":
                self.runs[device, "lived"] += 1

    def _end(self, device: str, command: str, answer: dict[str, Any]) -> None:
        fate = self.fates[device]
        self.runs[device, command] += 1
        if answer["verb"] == "roll-back":
            self.sights[device] = OLD
            ended = {**answer, "status": "successful"}
        elif fate in REFUSALS:
            ended = {**answer, "status": "failed", "kind": REFUSALS[fate], "reason": fate}
        else:
            ended = {**answer, "status": "successful"}
            self.sights[device] = msgspec.structs.replace(NEW, is_online=fate != "falls-silent")
        self.topics[device, command] = self.remembered[device, command] = ended

    def seen(self) -> dict[str, Sight]:
        answers: dict[str, dict[str, Any]] = {device: {} for device in self.fates}
        for (device, command), answer in self.topics.items():
            answers[device][command] = answer
        return {
            device: msgspec.structs.replace(sight, answers=answers[device])
            for device, sight in self.sights.items()
        }


def planned(world: World, staging: Staging | None = None) -> Rollout:
    online = [device for device in world.fates if device not in world.offline]
    return begin("plant", TARGET, online, world.offline, staging or Staging())


def play(
    world: World, rollout: Rollout, rules: Rules = RULES, crash: random.Random | None = None
) -> Rollout:
    """Until nothing more happens; an operator who crashes now and then reads his state again."""
    disk = msgspec.json.encode(rollout)
    for _ in range(5000):
        before = rollout
        rollout, actions = advance(rollout, world.seen(), rules, 1.0)
        check(before, rollout, rules)
        if crash is None or crash.random() > 0.1:
            disk = msgspec.json.encode(rollout)  # kept before the actions
            for action in actions:
                if crash is not None and crash.random() < 0.1:
                    break
                world.give(action)
        if crash is not None and crash.random() < 0.3:
            rollout = msgspec.json.decode(disk, type=Rollout)
        world.live()
        if (
            is_over(rollout, world.seen())
            and not world.topics
            and disk == msgspec.json.encode(rollout)
        ):
            return rollout
    raise AssertionError("the roll-out does not end")


def check(before: Rollout, after: Rollout, rules: Rules) -> None:
    assert len(after.devices_in("updating")) <= rules.at_once
    begun = set(after.devices_in("updating")) - set(before.devices_in("updating"))
    if begun:
        assert after.phase == "rolling"
        first = min(i for i, wave in enumerate(after.waves) if begun & set(wave))
        for wave in after.waves[:first]:  # nobody in an earlier wave is still being tried
            assert not {after.steps[device].progress for device in wave} & {"updating", "watched"}
            failed = [d for d in wave if after.steps[d].progress == "failed"]
            assert len(failed) <= rules.max_failed * len(wave)


def names(count: int) -> list[str]:
    return [f"d{n:03}" for n in range(count)]


def test_canary_comes_first_then_the_waves() -> None:
    rollout = begin("plant", TARGET, names(100), [], Staging(canary=1, waves=(0.1, 0.5, 1.0)))
    assert [len(wave) for wave in rollout.waves] == [1, 9, 40, 50]


def test_canaries_may_be_named_and_must_be_online() -> None:
    rollout = begin("plant", TARGET, names(4), [], Staging(canary=("d002",), waves=(1.0,)))
    assert rollout.waves == (("d002",), ("d000", "d001", "d003"))
    with pytest.raises(InputError, match="d009 is not online"):
        begin("plant", TARGET, names(4), ["d009"], Staging(canary=("d009",)))


def test_fleet_without_devices_takes_nothing() -> None:
    with pytest.raises(UnavailableError, match="no device of fleet 'plant'"):
        begin("plant", TARGET, [], [], Staging())


def test_those_that_are_offline_come_last_and_hold_up_no_wave() -> None:
    world = World(dict.fromkeys(names(10), "good"), frozenset({"d000", "d001"}))
    rollout = planned(world)
    assert rollout.waves[0] == ("d002",)
    rollout = play(world, rollout)
    assert rollout.devices_in("waiting") == ["d000", "d001"]
    assert len(rollout.devices_in("done")) == 8
    world.sights = {d: s if d not in world.offline else OLD for d, s in world.sights.items()}
    world.offline = frozenset()
    assert current_wave(rollout, world.seen()) is not None
    assert len(play(world, rollout).devices_in("done")) == 10


def test_whoever_has_the_bundle_already_is_sent_nothing() -> None:
    world = World({"a": "good", "b": "good"})
    world.sights["a"] = NEW
    rollout = play(world, planned(world))
    assert rollout.devices_in("present") == ["a"]
    assert [device for device, _ in world.remembered] == ["b"]


@pytest.mark.parametrize("fate", sorted(BAD))
def test_canary_that_does_badly_stops_all(fate: Fate) -> None:
    world = World({"a": fate, "b": "good", "c": "good"})
    rollout = play(world, planned(world))
    assert rollout.phase == "stopped"
    assert rollout.devices_in("failed") == ["a"]
    assert rollout.devices_in("waiting") == ["b", "c"]
    assert rollout.reason == "1 of 1 failed in wave 1: a"
    assert rollout.steps["a"].reason


def test_canary_that_can_not_take_it_proves_nothing() -> None:
    rollout = play(world := World({"a": "unfit", "b": "good"}), planned(world))
    assert (rollout.phase, rollout.devices_in("skipped")) == ("stopped", ["a"])
    assert rollout.reason == "no device has taken it so far: a: unfit"


def test_device_that_never_answers_may_not_be_commanded() -> None:
    rollout = play(world := World({"a": "good", "b": "is-deaf"}), planned(world))
    assert rollout.devices_in("skipped") == ["b"]
    assert rollout.steps["b"].reason == "no answer in 60 s: may it be commanded?"
    assert not world.topics


def test_later_device_that_can_not_take_it_is_skipped() -> None:
    fates: dict[str, Fate] = {"a": "good", "b": "unfit", "c": "has-newer", "d": "good"}
    rollout = play(world := World(fates), planned(world))
    assert (rollout.phase, rollout.devices_in("done")) == ("rolling", ["a", "d"])


def test_share_of_a_wave_may_fail() -> None:
    fates = dict.fromkeys(names(11), "good") | {"d005": "refuses"}
    rules = msgspec.structs.replace(RULES, max_failed=0.1)
    world = World(fates)
    rollout = play(world, planned(world, Staging(1, (1.0,))), rules)
    assert (rollout.phase, rollout.devices_in("failed")) == ("rolling", ["d005"])
    assert len(rollout.devices_in("done")) == 10


def test_stop_takes_back_what_is_under_way_and_going_back_restores_the_rest() -> None:
    fates: dict[str, Fate] = dict.fromkeys(names(8), "good") | {"d004": "errors", "d007": "hangs"}
    world = World(fates)
    rollout = play(world, planned(world, Staging(2, (1.0,))))
    assert rollout.phase == "stopped"
    assert rollout.devices_in("withdrawn") == ["d007"]
    assert not world.topics
    rollout = play(world, go_back(rollout))
    assert not rollout.devices_in("done", "watched", "returning", "stuck")
    assert all(sight.digest == "old" for sight in world.sights.values())
    assert "d007" not in rollout.devices_in("returned")


def test_retry_gives_commands_of_a_new_id() -> None:
    world = World({"a": "refuses", "b": "good"})
    rollout = play(world, planned(world))
    first = rollout.update_id("a")
    world.fates["a"] = "good"
    rollout = retry(rollout)
    assert rollout.update_id("a") != first
    assert play(world, rollout).devices_in("done") == ["a", "b"]


def test_new_device_is_a_wave_of_its_own() -> None:
    rollout = begin("plant", TARGET, ["a"], [], Staging())
    assert extend(rollout, ["a"]) is rollout
    assert extend(rollout, ["a", "b"]).waves == (("a",), ("b",))


def watched(**more: Any) -> Rollout:
    rollout = begin("plant", TARGET, ["a"], [], Staging())
    return msgspec.structs.replace(rollout, steps={"a": Step(progress="watched", **more)})


@pytest.mark.parametrize(
    ("counts", "base", "progress"),
    [
        (Counts(96, 4), Counts(), "watched"),  # too few to mean anything
        (Counts(900, 18), Counts(), "watched"),
        (Counts(90, 10), Counts(), "failed"),
        (Counts(190, 10), Counts(100, 10), "watched"),  # they were there before
        (Counts(90, 10), Counts(5000, 0), "failed"),  # counted from 0 as it was loaded anew
    ],
)
def test_share_of_errors_is_judged_since_the_update(
    counts: Counts, base: Counts, progress: str
) -> None:
    sight = msgspec.structs.replace(NEW, counts=counts)
    rollout, _ = advance(watched(base=base), {"a": sight}, RULES, 1.0)
    assert rollout.steps["a"].progress == progress


def test_ailment_counts_unless_it_was_there_before() -> None:
    sight = msgspec.structs.replace(NEW, ailments=("slow",))
    rollout, _ = advance(watched(before=("slow",)), {"a": sight}, RULES, 1.0)
    assert rollout.steps["a"].progress == "watched"
    rollout, _ = advance(watched(), {"a": sight}, RULES, 1.0)
    assert (rollout.steps["a"].progress, rollout.steps["a"].reason) == ("failed", "slow")


def test_time_in_which_an_engine_is_built_is_not_time_that_it_served() -> None:
    sight = msgspec.structs.replace(NEW, is_building=True)
    rollout, _ = advance(watched(), {"a": sight}, RULES, 50.0)
    assert (rollout.steps["a"].progress, rollout.steps["a"].spent_s) == ("watched", 0.0)
    rollout, _ = advance(rollout, {"a": sight}, RULES, 51.0)
    assert rollout.steps["a"].reason == "its engine was not built in 100 s"


def test_time_without_a_connection_does_not_count() -> None:
    rollout, _ = advance(watched(), {"a": NEW}, RULES, 0.0)
    assert rollout.steps["a"].spent_s == 0.0


@settings(max_examples=150)
@given(
    fates=st.lists(st.sampled_from((*FATES, "good", "good", "good")), min_size=1, max_size=12),
    at_once=st.integers(1, 5),
    max_failed=st.sampled_from([0.0, 0.3, 1.0]),
    canary=st.integers(0, 3),
    seed=st.integers(0, 2**32),
    goes_back=st.booleans(),
)
def test_operator_who_crashes_anywhere_sends_no_command_twice(
    fates: list[Fate], at_once: int, max_failed: float, canary: int, seed: int, goes_back: bool
) -> None:
    rules = msgspec.structs.replace(RULES, at_once=at_once, max_failed=max_failed)
    world = World(dict(zip(names(len(fates)), fates, strict=True)))
    rollout = play(world, planned(world, Staging(canary)), rules, random.Random(seed))
    if goes_back:
        rollout = play(world, go_back(rollout), rules, random.Random(seed))
    commands = {key: count for key, count in world.runs.items() if key[1] != "lived"}
    assert set(commands.values()) <= {1}
    for device in rollout.devices_in("done"):
        assert world.fates[device] == "good"
    for device, fate in world.fates.items():
        if rollout.phase == "rolling":
            expected = "done" if fate == "good" else "failed" if fate in BAD else "skipped"
            assert rollout.steps[device].progress == expected
        if rollout.phase == "returning" and world.sights[device].is_online:
            assert world.sights[device].digest == "old"


@settings(max_examples=60)
@given(
    answer=st.dictionaries(
        st.sampled_from(["status", "kind", "reason", "progress"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers()),
    ),
    seconds=st.floats(0, 1e6),
)
def test_device_that_answers_nonsense_ends_as_failed_at_the_latest_when_time_is_up(
    answer: dict[str, Any], seconds: float
) -> None:
    rollout = begin("plant", TARGET, ["a"], [], Staging())
    rollout, _ = advance(rollout, {"a": OLD}, RULES, 1.0)
    sight = msgspec.structs.replace(OLD, answers={rollout.update_id("a"): answer})
    rollout, _ = advance(rollout, {"a": sight}, RULES, seconds)
    if seconds > RULES.timeout_s:
        assert rollout.steps["a"].progress in ("failed", "watched", "skipped")
    msgspec.json.decode(msgspec.json.encode(rollout), type=Rollout)
