"""Brings a release onto Jetsons: into the BSP's root folder, and from there with NVIDIA's tools."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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

_KEPT = ".edge"
_LOG = "edge-flash.log"
_CREATE_USER = "tools/l4t_create_default_user.sh"
_ACCOUNTS = (
    *("passwd", "passwd-", "group", "group-", "shadow", "shadow-", "gshadow", "gshadow-"),
    *("subuid", "subuid-", "subgid", "subgid-", "hostname", "hosts", "gdm3/custom.conf"),
    *("systemd/system/default.target", "nv/nvautoconfig"),
)
"""In etc/: what NVIDIA's script changes as it makes a user (BSPs r35.6 to r38.4)."""
_WIZARD = re.compile(r"nv-(oem-config|oobe)\.target")


class Plan(msgspec.Struct, frozen=True):
    """Files for the root folder, and programs of the BSP, in this order.

    Without files, those that an earlier flash laid stay.
    """

    files: tuple[Placed, ...]
    calls: tuple[Call, ...]
    user: str = ""


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

    NVIDIA's first boot waits for somebody to answer its questions, unless its script has made a
    user. Its password is random, shown to nobody, and gone from the root folder right after.

    Raises:
        InputError: Nobody would answer, or the BSP lacks the script.
    """
    user: tuple[Call, ...] = ()
    if not personal.user and _asks(bsp):
        raise InputError(
            "at its first boot a board would ask for a user, on a screen, before anything serves",
            hint="name one who may log in by key: --user admin --ssh-key ~/.ssh/id_ed25519.pub",
        )
    if personal.user and not _is_made(bsp, personal.user):
        if not bsp.has(_CREATE_USER):
            raise InputError(f"{bsp.path} has no {_CREATE_USER}", hint="unpack the BSP again")
        name = personal.hostname.replace("{serial}", "jetson")
        password = secrets.token_urlsafe(24)
        options = ("-u", personal.user, "-p", password, "-n", name, "--accept-license")
        user = (Call((f"./{_CREATE_USER}", *options), secret=password),)
    return Plan(tuple(placed), (*user, *calls), personal.user)


def carry_out(bsp: Bsp, plan: Plan, tell: Tell) -> None:
    """Lay the files and run the programs; what was there before is kept, for ``take_back``.

    Raises:
        InputError: The root folder can not take the files.
        UnavailableError: A program failed, with what is known of that failure.
    """
    with _alone(bsp):
        if plan.files:
            _lay(bsp, plan)
        for call in plan.calls:
            try:
                follow(call, bsp.path, bsp.path / _LOG, tell)
            finally:
                if call.secret:
                    _take_password(bsp, plan.user)


def take_back(bsp: Bsp) -> list[str]:
    """Make the root folder what it was before the first flash, and tell what changed.

    Raises:
        UnavailableError: Another flash is under way there.
    """
    with _alone(bsp):
        return _ledger(bsp).take_back()


def _ledger(bsp: Bsp) -> Ledger:
    return Ledger(bsp.rootfs, bsp.path / _KEPT)


@contextmanager
def _alone(bsp: Bsp) -> Iterator[None]:
    """NVIDIA's tools work in the BSP itself: two at once would spoil each other's images."""
    try:
        lock = os.open(bsp.path / _LOG, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _not_root(bsp.path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UnavailableError(
            f"another flash is under way with {bsp.path}",
            hint="wait for it, or unpack the BSP once more beside it",
        ) from error
    finally:
        os.close(lock)


def _lay(bsp: Bsp, plan: Plan) -> None:
    ledger = _ledger(bsp)
    home = f"/home/{plan.user}"
    try:
        ledger.lay(plan.files)
        ledger.keep(f"/etc/{name}" for name in _ACCOUNTS)
        if plan.user and not (bsp.rootfs / home.lstrip("/")).exists():
            ledger.keep([home])
    except OSError as error:
        raise _not_root(bsp.rootfs, error) from error


def _not_root(folder: Path, error: OSError) -> UnavailableError:
    return UnavailableError(
        f"can not write below {folder}: {error.strerror}",
        hint="files there belong to root: the same command with sudo",
    )


def _take_password(bsp: Bsp, user: str) -> None:
    accounts = bsp.rootfs / "etc/shadow"
    if accounts.is_file():
        text = re.sub(rf"^{user}:[^:]*:", f"{user}:*:", accounts.read_text(), flags=re.MULTILINE)
        accounts.write_text(text)


def _asks(bsp: Bsp) -> bool:
    start = bsp.rootfs / "etc/systemd/system/default.target"
    return start.is_symlink() and _WIZARD.search(str(start.readlink())) is not None


def _is_made(bsp: Bsp, user: str) -> bool:
    """Whether NVIDIA's script came to its end: apply_binaries.sh asks for the wizard once more."""
    accounts = bsp.rootfs / "etc/passwd"
    return not _asks(bsp) and accounts.is_file() and f"\n{user}:" in f"\n{accounts.read_text()}"
