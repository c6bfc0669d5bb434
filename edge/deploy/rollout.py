"""Brings a release to many hosts at once; one that fails stops no other."""

from __future__ import annotations

import getpass
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge.deploy.connection import Connection, RemoteError, connect
from edge.deploy.contract import (
    Difference,
    device_differences,
    lost_settings,
    release_differences,
)
from edge.deploy.facts import Facts, decode_facts
from edge.deploy.hosts import Failure
from edge.deploy.hosts import on_each as _on_each
from edge.deploy.ondevice.layout import Layout
from edge.deploy.overlay import system_files
from edge.deploy.plan import Plan, make_plan
from edge.deploy.release import (
    SETTINGS_FILE,
    Contents,
    LocalBundle,
    Parcel,
    Part,
    ServiceSettings,
    digest_of,
    make_parcel,
    read_settings,
)
from edge.deploy.wheels import Target, Wheelhouse, collect, extras_for
from edge.settings import Settings

log = logging.getLogger(__name__)

State = Literal[
    "done",
    "unchanged",
    "removed",
    "planned",
    "rejected",
    "rolled-back",
    "failed",
    "differs",
    "unavailable",
    "defect",
]
"""``rejected`` did not answer right before the switch, ``rolled-back`` was not healthy after it,
``failed`` serves already but is not healthy; ``differs`` is not for this device."""

Report = Callable[[str, str, float], None]
"""Called with a host, what it is at, and which share of all that is to be sent is there (0..1)."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of one host. ``seconds`` is from the connection to the end.

    ``takeover`` and ``switch_seconds`` tell how the release took over, and how long that took.
    """

    host: str
    state: State
    reason: str = ""
    hint: str = ""
    release: str = ""
    takeover: str = ""
    sent_bytes: int = 0
    switch_seconds: float = 0.0
    seconds: float = 0.0
    differences: tuple[Difference, ...] = ()
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Order(msgspec.Struct, frozen=True):
    """What to bring, and how.

    Args:
        settings: None leaves those that the device has.
        more_wheels: A folder of wheels besides those of the index.
        ssh_options: More arguments for ``ssh``.
    """

    bundles: tuple[LocalBundle, ...]
    settings: ServiceSettings | None = None
    more_wheels: Path | None = None
    has_fresh_wheels: bool = False
    ssh_options: tuple[str, ...] = ()
    is_forced: bool = False
    is_dry: bool = False
    timeout_s: float = 120.0
    parallel: int = 20


class Depot:
    """Collects for each kind of device once what goes there, whichever host asks first."""

    def __init__(
        self,
        order: Order,
        wheelhouse: Callable[[Sequence[str], Target], Wheelhouse] | None = None,
    ) -> None:
        self._order = order
        self._collect = wheelhouse or self._from_index
        self._parcels: dict[tuple[Target, str], Parcel] = {}
        self._lock = threading.Lock()

    def parcel(self, facts: Facts, settings: ServiceSettings) -> Parcel:
        """Raises ``EdgeError`` where there are no wheels for this kind of device."""
        target = Target(facts.python, facts.arch, facts.glibc)
        key = target, settings.part.sha256
        with self._lock:
            if key not in self._parcels:
                manifests = [bundle.manifest for bundle in self._order.bundles]
                extras = extras_for(manifests, settings.settings)
                wheels = self._collect(extras, target)
                self._parcels[key] = make_parcel(self._order.bundles, settings, wheels)
            return self._parcels[key]

    def _from_index(self, extras: Sequence[str], target: Target) -> Wheelhouse:
        order = self._order
        return collect(extras, target, more=order.more_wheels, is_fresh=order.has_fresh_wheels)


def deploy(
    order: Order, hosts: Sequence[str], report: Report, depot: Depot | None = None
) -> list[Outcome]:
    """Deploy to all hosts, ``parallel`` at a time; an outcome for each, in their order.

    Whenever it is interrupted, each host goes on serving what it served, or what it switched to.
    """
    store = depot or Depot(order)
    return on_each(
        hosts, order.parallel, report, lambda host, told: _deploy_to(host, order, store, told)
    )


def on_each(
    hosts: Sequence[str], parallel: int, report: Report, act: Callable[[str, Report], Outcome]
) -> list[Outcome]:
    """``act`` for each host; what it raises becomes that host's outcome."""
    return _on_each(hosts, parallel, report, act, _failed)


def _failed(host: str, failure: Failure, reason: str, hint: str) -> Outcome:
    return Outcome(host, "differs" if failure == "refused" else failure, reason, hint)


def _deploy_to(host: str, order: Order, depot: Depot, report: Report) -> Outcome:
    report(host, "connecting", 0.0)
    with connect(host, order.ssh_options) as connection:
        report(host, "comparing", 0.0)
        if not order.is_dry:
            lock(connection)
        facts = decode_facts(connection.ask("facts"))
        differences = device_differences(facts)
        if _stops(differences):
            return _differs(host, differences)
        settings = order.settings or _settings_there(facts)
        report(host, "collecting wheels", 0.0)
        with connection.kept():
            parcel = depot.parcel(facts, settings)
        placed = system_files(Layout())
        of_system = {one.path: digest_of(one.contents) for one in placed}
        stale = connection.ask("stale", files=of_system)
        placed = [one for one in placed if one.path in stale]
        contents = {**parcel.contents, **{of_system[one.path]: one.contents for one in placed}}
        held = connection.ask("held", files=[*contents, *parcel.release.parts()])
        differences += lost_settings(parcel, held)
        if _stops(differences):
            return _differs(host, differences)
        plan = make_plan(parcel, placed, facts, held, timeout_s=order.timeout_s)
        differences += release_differences(
            parcel, facts, missing_bytes=plan.missing_bytes, is_forced=order.is_forced
        )
        if _stops(differences):
            return _differs(host, differences)
        outcome = Outcome(
            host,
            "planned",
            release=parcel.release.digest,
            takeover=plan.takeover,
            differences=tuple(differences),
            steps=tuple(plan.texts),
        )
        if order.is_dry:
            return outcome
        return _execute(connection, plan, contents, outcome, report)


def _execute(
    connection: Connection,
    plan: Plan,
    contents: dict[str, Contents],
    outcome: Outcome,
    report: Report,
) -> Outcome:
    host = connection.host
    sent = 0
    answer: Any = None

    def progress(done_bytes: int) -> None:
        report(host, "sending", (sent + done_bytes) / max(1, plan.missing_bytes))

    for step in plan.steps:
        if step.do == "send":
            offset = step.arguments["offset"]
            sent += connection.send(step.file, contents[step.file], offset, progress)
            continue
        report(host, step.text, 1.0)
        try:
            answer = connection.ask(step.do, lambda text: report(host, text, 1.0), **step.arguments)
        except RemoteError as error:
            if step.do != "check":
                raise
            return msgspec.structs.replace(
                outcome, state="rejected", reason=str(error), hint=error.hint, sent_bytes=sent
            )
    return judged(msgspec.structs.replace(outcome, sent_bytes=sent), answer)


def lock(connection: Connection) -> None:
    """Keep others from deploying for as long as we are connected.

    Raises:
        RemoteError: Somebody does already; it says who.
    """
    connection.ask("lock", who=f"{getpass.getuser()}@{socket.gethostname()}")


def judged(outcome: Outcome, answer: dict[str, Any]) -> Outcome:
    """``outcome`` with what a device answered to a switch."""
    replace = msgspec.structs.replace
    outcome = replace(
        outcome, switch_seconds=answer.get("seconds", 0.0), notes=tuple(answer.get("notes", ()))
    )
    state = answer["state"]
    if state in ("confirmed", "unchanged"):
        return replace(outcome, state="done" if state == "confirmed" else "unchanged")
    if state == "failed":
        return replace(outcome, state="failed", reason=answer["reason"])
    back = answer.get("back", "")
    hint = f"what served before: {back}" if back else "what served before serves again"
    return replace(outcome, state="rolled-back", reason=answer["reason"], hint=hint)


def _settings_there(facts: Facts) -> ServiceSettings:
    """Those that the device serves by; the defaults where it serves nothing yet."""
    there = facts.release
    if there is None:
        return read_settings(None)
    part = Part(SETTINGS_FILE, there.settings.sha256, there.settings.size_bytes)
    return ServiceSettings(part, there.http, None, Settings())


def _stops(differences: Sequence[Difference]) -> bool:
    return any(difference.kind == "stops" for difference in differences)


def _differs(host: str, differences: Sequence[Difference]) -> Outcome:
    stopping = [one for one in differences if one.kind == "stops"]
    return Outcome(
        host,
        "differs",
        reason="; ".join(str(one) for one in stopping),
        hint=stopping[0].do,
        differences=tuple(differences),
    )
