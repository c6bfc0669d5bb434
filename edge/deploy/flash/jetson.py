"""Brings a release onto Jetsons: into the BSP's root folder, and from there with NVIDIA's tools."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from edge.core.errors import InputError, UnavailableError
from edge.core.profile import DeviceProfile
from edge.deploy.flash.bsp import Bsp
from edge.deploy.flash.following import Tell, follow
from edge.deploy.flash.ledger import Ledger
from edge.deploy.flash.personal import Personal
from edge.deploy.flash.vendor import Call
from edge.deploy.overlay import Placed

NVIDIA = "0955"

_KEPT = ".edge"
_LOG = "edge-flash.log"
_CREATE_USER = "tools/l4t_create_default_user.sh"
_ACCOUNTS = (
    *("passwd", "passwd-", "group", "group-", "shadow", "shadow-", "gshadow", "gshadow-"),
    *("subuid", "subuid-", "subgid", "subgid-", "hostname", "hosts", "gdm3/custom.conf"),
    *("systemd/system/default.target", "nv-oem-config.conf", "nv/.accepted"),
)
"""In etc/: what NVIDIA's script changes as it makes a user."""


class Plan(msgspec.Struct, frozen=True):
    """Files for the root folder, and programs of the BSP, in this order."""

    files: tuple[Placed, ...]
    calls: tuple[Call, ...]


def check(bsp: Bsp, profile: DeviceProfile) -> None:
    """
    Raises:
        InputError: The BSP is not one for this device, with all that is wrong.
    """
    problems = bsp.problems(profile)
    if problems:
        raise InputError(
            "\n  ".join([f"{bsp.path} can not be flashed:", *(one.what for one in problems)]),
            hint="; ".join(one.do for one in problems),
        )


def plan(bsp: Bsp, placed: Sequence[Placed], personal: Personal, calls: Iterable[Call]) -> Plan:
    """What is to be done.

    NVIDIA's first boot asks for a user and a licence unless there is a user. Its password is
    random and known to nobody; at the first boot it is taken away.
    """
    user: tuple[Call, ...] = ()
    if personal.user and not _has_user(bsp, personal.user):
        if not bsp.has(_CREATE_USER):
            raise InputError(f"{bsp.path} has no {_CREATE_USER}", hint="unpack the BSP again")
        name = personal.hostname.replace("{serial}", "jetson")
        password = secrets.token_urlsafe(24)
        options = ("-u", personal.user, "-p", password, "-n", name, "--accept-license")
        user = (Call((f"./{_CREATE_USER}", *options), secret=password),)
    return Plan(tuple(placed), (*user, *calls))


def carry_out(bsp: Bsp, plan: Plan, tell: Tell) -> None:
    """Lay the files and run the programs; what was there before is kept, for ``take_back``.

    Raises:
        InputError: The root folder can not take the files.
        UnavailableError: A program failed, with what is known of that failure.
    """
    ledger = _ledger(bsp)
    try:
        ledger.lay(plan.files)
        ledger.keep(f"/etc/{name}" for name in _ACCOUNTS)
    except OSError as error:
        raise UnavailableError(
            f"can not write below {bsp.rootfs}: {error.strerror}",
            hint="files there belong to root: the same command with sudo",
        ) from error
    for call in plan.calls:
        follow(call, bsp.path, bsp.path / _LOG, tell)


def take_back(bsp: Bsp) -> list[str]:
    """Make the root folder what it was before the first flash, and tell what changed.

    A home folder that NVIDIA's script made stays.
    """
    return _ledger(bsp).take_back()


def boards_in_recovery(root: Path = Path("/")) -> list[str]:
    """Products of NVIDIA on USB, as ``7523``: a board that is up shows as another one."""
    found = []
    for vendor in sorted((root / "sys/bus/usb/devices").glob("*/idVendor")):
        if vendor.read_text().strip() == NVIDIA:
            found.append((vendor.parent / "idProduct").read_text().strip())
    return found


def _ledger(bsp: Bsp) -> Ledger:
    return Ledger(bsp.rootfs, bsp.path / _KEPT)


def _has_user(bsp: Bsp, user: str) -> bool:
    accounts = bsp.rootfs / "etc/passwd"
    return accounts.is_file() and f"\n{user}:" in f"\n{accounts.read_text()}"
