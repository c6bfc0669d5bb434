"""The steps that bring a release to a device, from what the device said: nothing is done here."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from edge.deploy.facts import Facts, Installed, InstalledRelease
from edge.deploy.overlay import Placed
from edge.deploy.release import Parcel, Release, digest_of, size_of
from edge.host.catalog import version_key
from edge.settings import Settings

Takeover = Literal["first", "live", "restart", "none"]
"""How a release takes over: nothing served before, the running service finds the new models, it is
started anew, or it serves already."""


class Step(msgspec.Struct, frozen=True):
    """A thing to ask of the device, and how it is told; ``file`` is one to be sent."""

    do: str
    text: str
    arguments: dict[str, Any] = {}
    file: str = ""


class Plan(msgspec.Struct, frozen=True):
    takeover: Takeover
    steps: tuple[Step, ...]
    missing_bytes: int

    @property
    def texts(self) -> list[str]:
        """A line for each step; what is sent is one."""
        sent = [step.text for step in self.steps if step.do == "send"]
        wheels = [text for text in sent if text.endswith(".whl")]
        names = [text for text in sent if text not in wheels]
        names += [f"{len(wheels)} wheels"] if wheels else []
        first = [f"send {self.missing_bytes:,} bytes: {', '.join(names)}"] if sent else []
        return first + [step.text for step in self.steps if step.do != "send"]


def make_plan(
    parcel: Parcel,
    placed: Sequence[Placed],
    facts: Facts,
    held: Mapping[str, int],
    *,
    timeout_s: float,
) -> Plan:
    """What to do, in order.

    Args:
        placed: Units and our program, where the device's are not these.
        held: Bytes that the device has, by the digest of the file.
        timeout_s: How long a release may take to be healthy.
    """
    release = parcel.release
    takeover = how_to_take_over(release, parcel.settings, facts)
    sizes = {digest_of(p.contents): size_of(p.contents) for p in placed} | release.parts()
    names = _names(release, placed)
    sent = [
        _send(sha256, size, held.get(sha256, 0), names[sha256])
        for sha256, size in sizes.items()
        if held.get(sha256) != size
    ]
    missing = sum(sizes[step.file] - step.arguments["offset"] for step in sent)
    steps = [*sent, _place(placed)] if placed else sent
    has_runtime = facts.release is not None and (
        facts.release.runtime.digest == release.runtime.digest
    )
    if not has_runtime:
        steps.append(_install(release))
    if takeover != "none":
        steps += _take_over(release, facts.release, takeover, timeout_s)
    else:
        steps.append(_switch(release, takeover, timeout_s))
    return Plan(takeover, tuple(steps), missing)


def how_to_take_over(release: Release, settings: Settings, facts: Facts) -> Takeover:
    """A service that watches its folder takes newer models over without a pause; all else that
    changes needs a new process.
    """
    serving = facts.release
    if serving is None:
        return "first"
    if serving.digest == release.digest:
        return "none"
    is_same_process = (
        serving.runtime.digest == release.runtime.digest
        and serving.settings.sha256 == release.settings.sha256
        and settings.serve.watch_s > 0
    )
    there = {model.name: model for model in serving.models}
    is_forward = all(
        version_key(model.version) >= version_key(there[model.name].version)
        for model in release.models
        if model.name in there
    )
    # Updates of the same models go: their files would be missed before the new ones are found.
    is_alone = not {model.name for model in release.models} & {one.name for one in facts.updates}
    return "live" if is_same_process and is_forward and is_alone else "restart"


def kept_models(release: Release, serving: InstalledRelease | None) -> list[Installed]:
    """Older versions that stay beside the new ones: what the runtime itself goes back to."""
    if serving is None:
        return []
    new = {model.name: model.version for model in release.models}
    return [
        model
        for model in serving.models
        if model.name in new and version_key(model.version) < version_key(new[model.name])
    ]


def _take_over(
    release: Release, serving: InstalledRelease | None, takeover: Takeover, timeout_s: float
) -> list[Step]:
    keep = [msgspec.to_builtins(model) for model in kept_models(release, serving)]
    document = msgspec.json.decode(release.document())
    short = release.digest[:12]
    assemble = Step("assemble", f"assemble release {short}", {"release": document, "keep": keep})
    check = Step("check", "prove the goldens there, beside what serves", {"digest": release.digest})
    checks = [] if takeover == "live" else [check]  # else the service proves them
    return [assemble, *checks, _switch(release, takeover, timeout_s)]


def _send(sha256: str, size: int, held: int, name: str) -> Step:
    offset = held if held < size else 0
    rest = f" from byte {offset:,} on" if offset else ""
    return Step("send", f"{name}{rest}", {"offset": offset}, sha256)


def _place(placed: Sequence[Placed]) -> Step:
    files = [
        {"path": one.path, "sha256": digest_of(one.contents), "mode": one.mode} for one in placed
    ]
    return Step("place", "user edge, systemd units, the program that heals", {"files": files})


def _install(release: Release) -> Step:
    runtime = release.runtime
    facts = {**msgspec.to_builtins(runtime), "digest": runtime.digest}
    text = f"environment of {len(runtime.wheels)} wheels for Python {runtime.python}"
    return Step("install", text, {"runtime": facts})


def _switch(release: Release, takeover: Takeover, timeout_s: float) -> Step:
    texts: dict[Takeover, str] = {
        "first": "start the service",
        "live": "switch; the running service takes over without a pause",
        "restart": "switch, restart the service",
        "none": "nothing to switch",
    }
    text = f"{texts[takeover]}; healthy within {timeout_s:.0f} s, or back"
    arguments = {
        "digest": release.digest,
        "is_live": takeover == "live",
        "timeout_s": timeout_s,
    }
    return Step("switch", text, arguments)


def _names(release: Release, placed: Sequence[Placed]) -> dict[str, str]:
    named = {digest_of(one.contents): posixpath.basename(one.path) for one in placed}
    named |= {part.sha256: part.name for part in (*release.runtime.wheels, release.settings)}
    return named | {model.sha256: f"{model.name} {model.version}" for model in release.models}
