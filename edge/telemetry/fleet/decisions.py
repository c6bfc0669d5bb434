"""What a roll-out does next, by how far it has come and what is seen of the devices.

Pure: no clock, no connection, no file. The same state and sights give the same next state and
actions, so whoever reads the state from the disk goes on where it was left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from edge.telemetry.fleet.rollout import (
    BEGUN,
    IN_HAND,
    SERVING,
    Counts,
    Progress,
    Rollout,
    Rules,
    Step,
    Target,
)

_FEWEST_ERRORS = 5
_CAN_NOT = ("unsupported", "not-allowed", "downgrade")
"""Kinds of refusal that say nothing of the bundle: the device can't take it, may not, or has had a
newer one."""

replace = msgspec.structs.replace

Verb = Literal["update", "roll-back"]


class Sight(msgspec.Struct, frozen=True):
    """What is known of a device now.

    Attributes:
        answers: By id of the command: what stands in its topic.
        version, digest, why: Of the model as it serves; empty if it has none.
        counts: Of the version that is rolled out.
        ailments: What is wrong with the model, in a few words each.
    """

    is_online: bool = False
    answers: Mapping[str, Mapping[str, Any]] = {}
    version: str = ""
    digest: str = ""
    why: str = ""
    is_building: bool = False
    is_failed: bool = False
    counts: Counts = Counts()
    ailments: tuple[str, ...] = ()

    def serves(self, target: Target) -> bool:
        return self.digest == target.digest and not self.is_failed


UNSEEN = Sight()


class Action(msgspec.Struct, frozen=True):
    """Give a command to a device, or take its topic back."""

    kind: Literal["give", "clear"]
    device: str
    verb: Verb
    id: str


def advance(
    rollout: Rollout, sights: Mapping[str, Sight], rules: Rules, elapsed_s: float
) -> tuple[Rollout, list[Action]]:
    """One look.

    Args:
        elapsed_s: Since the last one; 0 while we can not see what devices say.
    Returns:
        The next state, to be kept on the disk before the actions are carried out.
    """
    steps = {
        device: _look(rollout, device, sights.get(device, UNSEEN), rules, elapsed_s)
        for device in rollout.steps
    }
    rollout = replace(rollout, steps=steps)
    if rollout.phase == "rolling":
        rollout = _roll(rollout, sights, rules)
    if rollout.phase == "stopped":
        rollout = _withdraw(rollout)
    if rollout.phase == "returning":
        rollout = _return(_withdraw(rollout), sights, rules)
    return rollout, list(_actions(rollout, sights))


def is_over(rollout: Rollout, sights: Mapping[str, Sight]) -> bool:
    """Whether nothing more happens unless a device comes back or a person decides."""
    if rollout.devices_in("returning"):
        return False
    if rollout.phase == "rolling":
        return current_wave(rollout, sights) is None
    return rollout.phase == "stopped" or not _could_return(rollout, sights)


def current_wave(rollout: Rollout, sights: Mapping[str, Sight]) -> int | None:
    """The first wave in which something is to do; who is offline does not hold it up."""
    for index, wave in enumerate(rollout.waves):
        if any(_is_open(rollout.steps[device], sights.get(device, UNSEEN)) for device in wave):
            return index
    return None


def _is_open(step: Step, sight: Sight) -> bool:
    return step.progress in IN_HAND or (step.progress == "waiting" and sight.is_online)


def _look(rollout: Rollout, device: str, sight: Sight, rules: Rules, elapsed_s: float) -> Step:
    step = rollout.steps[device]
    if step.progress == "waiting" and sight.serves(rollout.target):
        if step.attempt > 1:  # it took it, and failed then
            return replace(step, progress="watched", before=sight.ailments, base=sight.counts)
        return replace(step, progress="present", reason="had it already")
    if step.progress == "updating":
        answer = sight.answers.get(rollout.update_id(device), {})
        step = replace(step, spent_s=step.spent_s + elapsed_s)
        return _judge_update(step, answer, rules, is_online=sight.is_online)
    if step.progress == "watched" and rollout.phase == "rolling":
        return _judge_watched(step, sight, rollout.target, rules, elapsed_s)
    if step.progress == "returning":
        answer = sight.answers.get(rollout.back_id(device), {})
        return _judge_return(replace(step, spent_s=step.spent_s + elapsed_s), answer, rules)
    return step


def _judge_update(step: Step, answer: Mapping[str, Any], rules: Rules, *, is_online: bool) -> Step:
    status = answer.get("status")
    if status == "successful":
        return replace(step, progress="watched", spent_s=0.0)
    if status == "failed":
        can_not = answer.get("kind") in _CAN_NOT
        return _ended(step, "skipped" if can_not else "failed", _reason(answer))
    is_deaf = status in (None, "init") and is_online
    if is_deaf and step.spent_s > rules.answer_s:
        return _ended(step, "skipped", f"no answer in {rules.answer_s:g} s: may it be commanded?")
    if step.spent_s > rules.timeout_s:
        return _ended(step, "failed", f"no end in {rules.timeout_s:g} s: {status or 'no answer'}")
    return step


def _judge_watched(
    step: Step, sight: Sight, target: Target, rules: Rules, elapsed_s: float
) -> Step:
    if sight.is_online and sight.serves(target) and not sight.is_building:
        fault = _fault(step, sight, rules)
        if fault:
            return _ended(step, "failed", fault)
        step = replace(step, has_served=True, idle_s=0.0, spent_s=step.spent_s + elapsed_s)
        return replace(step, progress="done") if step.spent_s >= rules.soak_s else step
    if sight.is_online and step.has_served and not sight.serves(target):
        return _ended(step, "failed", _gone_back(sight))
    step = replace(step, idle_s=step.idle_s + elapsed_s)
    patience_s = rules.timeout_s if sight.is_building else rules.silence_s
    if step.idle_s <= patience_s:
        return step
    if sight.is_building:
        return _ended(step, "failed", f"its engine was not built in {patience_s:g} s")
    where = _gone_back(sight) if sight.is_online else "offline or silent after the update"
    return _ended(step, "failed", f"{where} ({patience_s:g} s)")


def _gone_back(sight: Sight) -> str:
    serving = f"serves {sight.version} instead" if sight.version else "serves no version of it"
    return f"{serving}: {sight.why}" if sight.why else serving


def _fault(step: Step, sight: Sight, rules: Rules) -> str:
    """What became worse with the bundle."""
    new = [ailment for ailment in sight.ailments if ailment not in step.before]
    if new:
        return ", ".join(new)
    now, base = sight.counts, step.base
    if now.success + now.failure < base.success + base.failure:
        base = Counts()  # it was loaded anew
    failures, total = now.failure - base.failure, now.success - base.success
    total += failures
    if failures >= _FEWEST_ERRORS and failures > rules.max_errors * total:
        return f"{failures:,} of {total:,} inferences failed"
    return ""


def _judge_return(step: Step, answer: Mapping[str, Any], rules: Rules) -> Step:
    status = answer.get("status")
    if status == "successful":
        return _ended(step, "returned", step.reason)
    if status == "failed":
        return _ended(step, "stuck", _reason(answer))
    if step.spent_s > rules.timeout_s:
        return _ended(step, "stuck", f"no end in {rules.timeout_s:g} s: {status or 'no answer'}")
    return step


def _reason(answer: Mapping[str, Any]) -> str:
    return str(answer.get("reason") or "no reason given")


def _ended(step: Step, progress: Progress, reason: str) -> Step:
    return replace(step, progress=progress, reason=reason, spent_s=0.0)


def _roll(rollout: Rollout, sights: Mapping[str, Sight], rules: Rules) -> Rollout:
    """Stop, or begin with as many more devices as may be updated at once."""
    index = current_wave(rollout, sights)
    reason = _why_stop(rollout, index, rules)
    if reason:
        return replace(rollout, phase="stopped", reason=reason)
    if index is None:
        return rollout
    free = rules.at_once - len(rollout.devices_in("updating"))
    steps = dict(rollout.steps)
    for device in rollout.waves[index]:
        sight = sights.get(device, UNSEEN)
        if free > 0 and steps[device].progress == "waiting" and sight.is_online:
            steps[device] = _begun(steps[device], sight)
            free -= 1
    return replace(rollout, steps=steps)


def _begun(step: Step, sight: Sight) -> Step:
    return replace(
        step, progress="updating", reason="", before=sight.ailments, base=sight.counts, spent_s=0.0
    )


def _why_stop(rollout: Rollout, index: int | None, rules: Rules) -> str:
    for number, wave in enumerate(rollout.waves):
        failed = [device for device in wave if rollout.steps[device].progress == "failed"]
        if len(failed) > rules.max_failed * len(wave):
            return f"{len(failed)} of {len(wave)} failed in wave {number + 1}: {failed[0]}"
    if index and not rollout.devices_in(*SERVING):
        skipped = rollout.devices_in("skipped")
        first = f": {skipped[0]}: {rollout.steps[skipped[0]].reason}" if skipped else ""
        return f"no device has taken it so far{first}"
    return ""


def _withdraw(rollout: Rollout) -> Rollout:
    steps = {
        device: _ended(step, "withdrawn", "the roll-out stopped")
        if step.progress == "updating"
        else step
        for device, step in rollout.steps.items()
    }
    return replace(rollout, steps=steps)


def _could_return(rollout: Rollout, sights: Mapping[str, Sight]) -> list[str]:
    """Those that were given the bundle and serve it."""
    return [
        device
        for device in rollout.devices_in(*BEGUN)
        if (sight := sights.get(device, UNSEEN)).is_online and sight.digest == rollout.target.digest
    ]


def _return(rollout: Rollout, sights: Mapping[str, Sight], rules: Rules) -> Rollout:
    free = rules.at_once - len(rollout.devices_in("returning"))
    steps = dict(rollout.steps)
    for device in _could_return(rollout, sights)[: max(0, free)]:
        steps[device] = replace(steps[device], progress="returning", spent_s=0.0)
    return replace(rollout, steps=steps)


def _actions(rollout: Rollout, sights: Mapping[str, Sight]) -> Iterator[Action]:
    for device, step in rollout.steps.items():
        answers = sights.get(device, UNSEEN).answers
        commands: tuple[tuple[Verb, str, bool], ...] = (
            ("update", rollout.update_id(device), step.progress == "updating"),
            ("roll-back", rollout.back_id(device), step.progress == "returning"),
        )
        for verb, command_id, is_wanted in commands:
            if is_wanted and command_id not in answers:
                yield Action("give", device, verb, command_id)
            elif not is_wanted and command_id in answers:
                yield Action("clear", device, verb, command_id)
