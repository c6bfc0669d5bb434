"""From one release to another and back; what a power cut leaves at any moment is able to serve."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from . import durable, service, store
from .layout import HEAL, SERVICE, Layout
from .refusal import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    Say = Callable[[str], None]

_BACK_TIMEOUT_S = 120.0
_LIVE_TIMEOUT_S = 30.0


def switch(
    layout: Layout, digest: str, *, is_live: bool, timeout_s: float, say: Say
) -> dict[str, Any]:
    """Let a release serve; if it is not healthy in time, the one before comes back.

    The marker comes first: whoever finds it without a deployment that is running takes the switch
    back. It goes once the release has proven healthy.

    Args:
        is_live: The running service finds the new models by itself, so that it is not restarted.
    Returns:
        ``state`` (``confirmed`` or ``rolled-back``), ``reason``, and how long it took.
    Raises:
        RefusedError: The release is not whole.
    """
    if not store.is_whole(layout, digest):
        raise RefusedError(f"release {digest[:12]} is not whole here", "deploy it again")
    take_back(layout)
    former = current(layout)
    if former == digest:
        return _confirm_same(layout, digest, timeout_s)
    health = _health(layout, digest, former)
    start_s = time.monotonic()
    durable.write(layout.pending, durable.encode({"release": digest, "previous": former}))
    _point(layout, digest)
    say("taking over" if is_live else "restarting")
    reason = health.wait(min(timeout_s, _LIVE_TIMEOUT_S)) if is_live else ""
    if is_live and reason and not health.is_final:  # it does not look, or is busy otherwise
        is_live = False
        say("restarting")
    if not is_live:
        reason = _start() or health.wait(timeout_s)
    took_s = round(time.monotonic() - start_s, 2)
    if not reason:
        _confirm(layout, digest, former)
        return {"state": "confirmed", "release": digest, "notes": health.notes, "seconds": took_s}
    say(f"going back: {reason}")
    back = _go_back(layout, former, is_live=is_live)
    return {
        "state": "rolled-back",
        "release": digest,
        "reason": reason,
        "back": back,
        "seconds": took_s,
    }


def take_back(layout: Layout) -> str:
    """Undo a switch that nobody confirmed, without starting anything; says what was done.

    A first release has none before it: it stays, as nothing would serve without it.
    """
    marker = durable.read_json(layout.pending)
    if marker is None:
        durable.remove(layout.pending)  # half a marker was written before anything changed
        return ""
    digest, former = marker["release"], marker["previous"]
    text = f"release {digest[:12]} was not confirmed"
    if current(layout) == digest and former and store.is_whole(layout, former):
        _point(layout, former)
        text += f": back to {former[:12]}"
    durable.remove(layout.pending)
    return text


def current(layout: Layout) -> str:
    """The digest of the release that serves; empty if there is none."""
    try:
        return os.path.basename(os.readlink(layout.current))
    except OSError:
        return ""


def previous(layout: Layout) -> str:
    try:
        return os.path.basename(os.readlink(layout.previous))
    except OSError:
        return ""


def enable() -> None:
    """The service starts at boot, and what heals it."""
    service.systemctl("daemon-reload")
    service.systemctl("enable", "--quiet", HEAL, SERVICE)


def _health(layout: Layout, digest: str, former: str) -> service.Health:
    release = durable.read_json(os.path.join(layout.release(digest), "release.json"))
    asks_broker = True
    if former:
        before = durable.read_json(os.path.join(layout.current, "release.json"))
        state = service.broker_state(service.readiness(service.address(layout, before)))
        # A broker that is away also for the release before is no reason to go back to it.
        asks_broker = state in ("", "connected")
    return service.Health(layout, release, asks_broker=asks_broker)


def _confirm_same(layout: Layout, digest: str, timeout_s: float) -> dict[str, Any]:
    health = _health(layout, digest, digest)
    reason = ""
    if not service.is_active():
        reason = _start()
    reason = reason or health.wait(timeout_s)
    state = "failed" if reason else "unchanged"
    return {"state": state, "release": digest, "reason": reason, "notes": health.notes}


def _confirm(layout: Layout, digest: str, former: str) -> None:
    if former:
        durable.link(layout.previous, os.path.join("releases", former))
    durable.remove(layout.pending)
    store.collect_garbage(layout)


def _go_back(layout: Layout, former: str, *, is_live: bool) -> str:
    """Empty once what served before serves again."""
    if not former:
        with contextlib.suppress(RefusedError):
            service.systemctl("stop", SERVICE)
        durable.remove(layout.current)
        durable.remove(layout.pending)
        return "nothing was installed before, so nothing serves"
    _point(layout, former)
    release = durable.read_json(os.path.join(layout.current, "release.json"))
    reason = "" if is_live else _start()
    durable.remove(layout.pending)
    health = service.Health(layout, release, asks_broker=False)
    return reason or health.wait(_BACK_TIMEOUT_S)


def _start() -> str:
    """Empty once the service runs, else why it does not."""
    try:
        service.systemctl("reset-failed", SERVICE)
        service.systemctl("restart", SERVICE)
    except RefusedError as refusal:
        return f"{refusal}: {service.last_words()}"
    return ""


def _point(layout: Layout, digest: str) -> None:
    durable.link(layout.current, os.path.join("releases", digest))
