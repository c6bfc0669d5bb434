"""Vouches for devices: each makes its own key, and gets a certificate that its broker believes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from edge.core.errors import InputError
from edge.deploy.authority import DEVICE_DAYS, Authority
from edge.deploy.certificates import (
    Request,
    certificate_pem,
    end_of,
    read_certificates,
    read_request,
)
from edge.deploy.connection import Connection, connect
from edge.deploy.hosts import on_each
from edge.deploy.register import Entry, Register
from edge.deploy.rollout import lock
from edge.telemetry.address import addresses

State = Literal["enrolled", "planned", "pending", "put-back", "refused", "unavailable", "defect"]
"""``pending``: nobody has approved its name yet; ``put-back``: the broker did not take it, so that
all is as before."""

_URL = re.compile(r"[A-Za-z0-9:/.,_\[\]-]+")  # nothing that the file of variables would read anew
# A connection that goes through another one that is open would not tell the key of the host.
_SSH_OPTIONS = ("-v", "-o", "ControlPath=none")


_Said = TypeVar("_Said", bound=msgspec.Struct)


class Order(msgspec.Struct, frozen=True):
    """What to vouch for, and by whom.

    ``broker_ca`` (PEM) and ``url`` are empty where the device's own stay.
    """

    authority: Authority
    register: Register
    days: int = DEVICE_DAYS
    broker_ca: str = ""
    url: str = ""
    ssh_options: tuple[str, ...] = ()
    is_dry: bool = False
    timeout_s: float = 60.0
    parallel: int = 20


class Enrolment(msgspec.Struct, frozen=True):
    """What became of one host; no key is in it but fingerprints.

    ``serial`` and ``ends`` are of the certificate, ``ended`` is when the one before would end.
    """

    host: str
    state: State
    reason: str = ""
    hint: str = ""
    name: str = ""
    key: str = ""
    host_key: str = ""
    serial: str = ""
    ends: str = ""
    ended: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


class _Identity(msgspec.Struct, frozen=True):
    """What a device says of itself; ``device`` is its name in topics, where that is set."""

    hostname: str
    request: str
    certificate: str
    has_broker: bool
    has_broker_ca: bool
    device: str


class _Answer(msgspec.Struct, frozen=True):
    state: Literal["confirmed", "unchecked", "put-back"]
    reason: str
    back: str = ""


def broker_authority(path: Path) -> str:
    """The certificates of a file as PEM, and nothing else that it holds."""
    return "".join(map(certificate_pem, read_certificates(path)))


def check_broker(url: str) -> str:
    """``url``, where it names brokers that are shown a certificate.

    Raises:
        InputError: One is without TLS, or it holds what no list of processes should show.
    """
    found = addresses(url)
    if any(address.tls is None for address in found):
        raise InputError(
            "a broker is shown a certificate over TLS alone",
            hint="write it like mqtts://broker.lan",
        )
    if not _URL.fullmatch(url):
        raise InputError(
            "the broker's URL holds more than hosts and ports",
            hint="the certificate stands for user and password: mqtts://broker.lan",
        )
    return url


def enroll(
    order: Order, hosts: Sequence[str], report: Callable[[str, str], None]
) -> list[Enrolment]:
    """Enrol all hosts, or renew what they have; an outcome for each, in their order.

    Args:
        report: Called with a host, and what it is at.
    """
    return on_each(
        hosts,
        order.parallel,
        report,
        lambda host, told: _enroll(host, order, lambda text: told(host, text)),
        Enrolment,
    )


def _enroll(host: str, order: Order, say: Callable[[str], None]) -> Enrolment:
    say("connecting")
    with connect(host, (*order.ssh_options, *_SSH_OPTIONS)) as connection:
        if not order.is_dry:
            lock(connection)
        there = _convert(connection.ask("identity", may_make=not order.is_dry), _Identity)
        _check_broker_is_named(there, order)
        request = read_request(there.request, there.hostname) if there.request else None
        is_approved = request is None or order.register.claim(request, host)
        if request is not None and not is_approved:
            outcome = _pending(host, request)
        elif order.is_dry or request is None:
            outcome = _planned(host, there, request)
        else:
            outcome = _vouch(connection, order, there, request, say)
    # Known for certain once ssh has ended.
    return msgspec.structs.replace(outcome, host_key=connection.host_key)


def _vouch(
    connection: Connection,
    order: Order,
    there: _Identity,
    request: Request,
    say: Callable[[str], None],
) -> Enrolment:
    host = connection.host
    issued = order.authority.sign(request, order.days)
    order.register.add(Entry(request.name, request.key, issued.serial, issued.ends, host))
    # Who names no authority of the broker's most often has but one.
    broker_ca = order.broker_ca or ("" if there.has_broker_ca else order.authority.pem)
    answer = _convert(
        connection.ask(
            "enroll",
            say,
            certificate=issued.pem,
            broker_ca=broker_ca,
            url=order.url,
            timeout_s=order.timeout_s,
        ),
        _Answer,
    )
    notes = _notes(there, request.name)
    if issued.ends == order.authority.ends:
        notes += ("the authority itself ends then: make another one in time",)
    if answer.state == "unchecked":
        notes += ("no release serves there yet, so that no broker was asked",)
    outcome = Enrolment(
        host,
        "enrolled",
        name=request.name,
        key=request.key,
        serial=issued.serial,
        ends=issued.ends,
        ended=end_of(there.certificate),
        notes=notes,
    )
    if answer.state != "put-back":
        return outcome
    return msgspec.structs.replace(
        outcome,
        state="put-back",
        reason=answer.reason,
        hint=f"what was before: {answer.back}" if answer.back else "all is as before there",
        serial="",
        ends=outcome.ended,
    )


def _pending(host: str, request: Request) -> Enrolment:
    return Enrolment(
        host,
        "pending",
        f"nobody has approved that it is {request.name}",
        f"if that is its name, and its key: --approve {request.name}={request.key}",
        name=request.name,
        key=request.key,
    )


def _planned(host: str, there: _Identity, request: Request | None) -> Enrolment:
    notes = _notes(there, there.hostname)
    if request is None:
        notes += ("it has no key yet, and would make one for you to approve",)
    return Enrolment(
        host,
        "planned",
        name=there.hostname,
        key=request.key if request else "",
        ended=end_of(there.certificate),
        notes=notes,
    )


def _notes(there: _Identity, name: str) -> tuple[str, ...]:
    if there.device in ("", name):
        return ()
    return (
        f"its name in topics is {there.device!r} (EDGE_MQTT_DEVICE), and the broker knows {name}",
    )


def _check_broker_is_named(there: _Identity, order: Order) -> None:
    if not order.url and not there.has_broker:
        raise InputError(
            "no broker with TLS is set there, which the certificate is for",
            hint="name it: --mqtt mqtts://broker.lan",
        )


def _convert(answer: object, kind: type[_Said]) -> _Said:
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"what answers there is no edge of this version: {error}") from error
