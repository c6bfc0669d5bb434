"""Looks after hosts that were deployed to: what they serve, back to what they served, and off."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge.deploy.connection import Connection, connect
from edge.deploy.rollout import Outcome, Report, judged, lock, on_each


class ServedModel(msgspec.Struct, frozen=True):
    """A model as the running service tells of it."""

    name: str
    version: str
    state: str
    engine: str = ""
    is_active: bool = True
    is_fallback: bool = False


class DeviceStatus(msgspec.Struct, frozen=True):
    """``service`` is systemd's word; ``error`` says why nothing is known."""

    host: str
    error: str = ""
    hint: str = ""
    service: str = ""
    release: str = ""
    previous: str = ""
    is_pending: bool = False
    models: tuple[ServedModel, ...] = ()
    broker: str = ""


def status(hosts: Sequence[str], options: tuple[str, ...], parallel: int) -> list[DeviceStatus]:
    """What each host serves, in their order."""
    found: dict[str, DeviceStatus] = {}

    def look(host: str, _: Report) -> Outcome:
        with connect(host, options) as connection:
            found[host] = _status_of(connection)
        return Outcome(host, "done")

    outcomes = on_each(hosts, parallel, lambda *_: None, look)
    return [found.get(o.host) or DeviceStatus(o.host, o.reason, o.hint) for o in outcomes]


def roll_back(
    hosts: Sequence[str],
    options: tuple[str, ...],
    parallel: int,
    report: Report,
    *,
    timeout_s: float,
) -> list[Outcome]:
    """To the release before, by the same rules as to a new one."""

    def back(host: str, told: Report) -> Outcome:
        with connect(host, options) as connection:
            lock(connection)
            told(host, "going back", 1.0)
            answer = connection.ask(
                "switch",
                lambda text: told(host, text, 1.0),
                digest="",
                is_live=False,
                timeout_s=timeout_s,
            )
            outcome = Outcome(host, "done", release=answer["release"], takeover="restart")
            return judged(outcome, answer)

    return on_each(hosts, parallel, report, back)


def remove(
    hosts: Sequence[str], options: tuple[str, ...], parallel: int, report: Report
) -> list[Outcome]:
    """Stop the service and take it off; the device's own settings and state stay."""

    def take_off(host: str, told: Report) -> Outcome:
        with connect(host, options) as connection:
            lock(connection)
            told(host, "removing", 1.0)
            was_there = connection.ask("remove")
            return Outcome(host, "removed" if was_there else "unchanged")

    return on_each(hosts, parallel, report, take_off)


def _status_of(connection: Connection) -> DeviceStatus:
    answer = connection.ask("status")
    readiness = answer["readiness"] or {}
    known = {key: (answer[key] or {}).get("digest", "") for key in ("release", "previous")}
    models = [msgspec.convert(model, ServedModel) for model in readiness.get("models", ())]
    return DeviceStatus(
        host=connection.host,
        service=answer["service"]["ActiveState"] if known["release"] else "not installed",
        release=known["release"],
        previous=known["previous"],
        is_pending=answer["pending"] is not None,
        models=tuple(model for model in models if model.is_active),
        broker=(readiness.get("mqtt") or {}).get("state", ""),
    )
