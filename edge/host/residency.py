"""Keeps the loaded models within a budget of memory: who was not used for longest goes first."""

from __future__ import annotations

import logging
import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from edge.core.errors import UnavailableError
from edge.core.profile import load_profile
from edge.core.sizes import parse_bytes
from edge.host import costs
from edge.host.costs import Cost, Gauge

if TYPE_CHECKING:
    from edge.core.contracts import Session
    from edge.host.seat import Seat

log = logging.getLogger(__name__)

WAIT_S = 60.0
"""How long a load waits for models that are in use to end what they run."""

OS_SHARE = 0.2
"""What the system and other programs keep, where no profile says; a rule of thumb."""

_MIB = 1024 * 1024


def budget_bytes(memory: int | str | None) -> int:
    """What models may hold by what the user said; None is this machine's less the system's share.

    Raises:
        InputError: It is no number of bytes.
    """
    if memory is not None:
        return parse_bytes(memory)
    known = load_profile("host").memory
    return max(0, known.bytes - (known.os_bytes or int(OS_SHARE * known.bytes)))


class NoRoomError(UnavailableError):
    """There is no room for a model now; later there may be."""


class MemoryUse(msgspec.Struct, frozen=True):
    """Bytes that models may hold (0: any number), and that they hold or are about to."""

    budget_bytes: int
    used_bytes: int


class Room:
    """Bytes that are set aside for one session, from before it is loaded until it is closed."""

    def __init__(self, residency: Residency, name: str, key: str, cost: Cost) -> None:
        self.name = name
        self.cost = cost
        self.size_bytes = cost.peak_bytes
        self.is_pinned = False
        self.is_going = False
        self.occupant: Seat | None = None
        self._key = key
        self._residency = residency
        self._gauge = None if cost.is_measured else Gauge()

    def settle(self, session: Session) -> None:
        """Hold what ``session`` takes, now that it is loaded.

        Raises:
            UnavailableError: That is more than there is room for.
        """
        if self._gauge is not None:
            measured, self._gauge = self._gauge.read(session), None
            if measured is not None:
                self.cost = measured
                costs.remember(self._key, measured)
        self._residency.settle(self)

    def occupy(self, seat: Seat) -> None:
        """From now on ``seat`` can be told to give the room back, at any moment."""
        self._residency.occupy(self, seat)

    def leave(self) -> None:
        """Free the bytes; the session, if there was one, is closed."""
        Gauge.disturb()
        if self._gauge is not None:
            self._gauge.stop()
        costs.give_back()
        self._residency.free(self)


class Residency:
    """Admits sessions while there is room, in the order in which they asked.

    Args:
        budget_bytes: What all may hold; 0 for any number.
        idle_s: Evict what was not used for so long; 0 for never.
    """

    def __init__(self, budget_bytes: int = 0, idle_s: float = 0.0) -> None:
        self._budget_bytes = budget_bytes
        self._idle_s = idle_s
        self._rooms: list[Room] = []
        self._line: deque[object] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="edge-idle", daemon=True)
        if idle_s:
            self._thread.start()

    @property
    def use(self) -> MemoryUse:
        with self._changed:
            return MemoryUse(self._budget_bytes, self._used_bytes())

    def admit(
        self, name: str, key: str, files_bytes: int, *, is_pinned: bool, may_evict: bool = True
    ) -> Room:
        """Set room aside for a session, after others went if need be.

        Args:
            key: What its cost is known by, see ``costs.key_of``.
            files_bytes: Size of its files, if its cost is not known yet.
            may_evict: Whether others may have to go for it.
        Raises:
            UnavailableError: It can not fit.
            NoRoomError: Others may not go, or those that are in use do not come to an end.
        """
        cost = costs.recall(key)
        if cost is None:
            cost = costs.estimate(files_bytes)
            least_bytes = files_bytes
        else:
            least_bytes = cost.peak_bytes
        me = object()
        with self._changed:
            self._line.append(me)
            try:
                size_bytes = self._await_room(me, name, cost, least_bytes, may_evict)
                room = Room(self, name, key, cost)
                room.size_bytes, room.is_pinned = size_bytes, is_pinned
                self._rooms.append(room)
                return room
            finally:
                self._line.remove(me)
                self._changed.notify_all()

    def occupy(self, room: Room, seat: Seat) -> None:
        """See ``Room.occupy``; who waits may have waited for somebody to evict."""
        with self._changed:
            room.occupant = seat
            self._changed.notify_all()

    def settle(self, room: Room) -> None:
        """Account for what a session takes that is loaded now; see ``Room.settle``."""
        with self._changed:
            room.size_bytes = room.cost.resident_bytes
            self._refuse_what_can_not_fit(room.name, room.size_bytes, room.cost, itself=room)
            self._make_room(0, may_evict=True)  # an estimate may have been too low
            self._changed.notify_all()

    def free(self, room: Room) -> None:
        with self._changed:
            if room in self._rooms:
                self._rooms.remove(room)
            self._changed.notify_all()

    def close(self) -> None:
        """Admit nothing more, and let nobody wait; nothing is evicted behind our back after it."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _await_room(
        self, me: object, name: str, cost: Cost, least_bytes: int, may_evict: bool
    ) -> int:
        """The bytes that it can have, now that it is its turn; called with the lock held."""
        deadline_s = monotonic() + WAIT_S
        while True:
            self._refuse_what_can_not_fit(name, least_bytes, cost)
            need_bytes = min(cost.peak_bytes, self._available_bytes())
            if self._line[0] is not me:
                # Those before it give up earlier, unless an engine keeps them from it.
                self._wait(name, "others have waited for it longer", deadline_s + WAIT_S)
            elif self._make_room(need_bytes, may_evict):
                return need_bytes
            else:
                self._wait(name, self._arithmetic(need_bytes), deadline_s if may_evict else 0.0)

    def _make_room(self, need_bytes: int, may_evict: bool) -> bool:
        """Whether there is room; called with the lock held, which it lets go to evict others."""
        if not self._budget_bytes:
            return True
        while True:
            missing = self._used_bytes() + need_bytes - self._budget_bytes
            if missing <= 0:
                return True
            if not may_evict:
                return False
            going = sum(room.size_bytes for room in self._rooms if room.is_going)
            victim = self._victim() if missing > going else None
            if victim is None:
                return False
            self._evict(victim, "room")

    def _victim(self) -> Room | None:
        """Who goes next: of those that nobody uses, else of all, the one used longest ago."""
        known = [
            (room.occupant.is_busy, room.occupant.used_s, number)
            for number, room in enumerate(self._rooms)
            if room.occupant is not None and not room.is_pinned and not room.is_going
        ]
        return self._rooms[min(known)[2]] if known else None

    def _evict(self, room: Room, reason: str) -> None:
        """Called with the lock held; without it, the session is closed."""
        room.is_going = True
        occupant = room.occupant
        assert occupant is not None
        self._changed.release()
        try:
            # No INFO: where models take turns, it comes with each request.
            log.debug("%s is unloaded (%s): %s", room.name, reason, _mib(room.size_bytes))
            occupant.evict(reason, room)
        finally:
            self._changed.acquire()

    def _wait(self, name: str, why: str, deadline_s: float) -> None:
        if self._closing.is_set():
            raise UnavailableError("the runtime is closed")
        left_s = deadline_s - monotonic()
        if left_s <= 0:
            raise NoRoomError(
                f"there is no room for {name} now: {why}",
                hint="give the models more memory, or send less at once",
            )
        self._changed.wait(left_s)

    def _arithmetic(self, need_bytes: int) -> str:
        held = ", ".join(f"{room.name} {_mib(room.size_bytes)}" for room in self._rooms)
        budget = _mib(self._budget_bytes)
        return f"it takes {_mib(need_bytes)} of {budget}, of which others hold {held}"

    def _refuse_what_can_not_fit(
        self, name: str, need_bytes: int, cost: Cost, itself: Room | None = None
    ) -> None:
        pinned = self._pinned_bytes(but=itself)
        if not self._budget_bytes or need_bytes <= self._budget_bytes - pinned:
            return
        how = "measured here" if cost.is_measured else "the size of its files"
        less = f" less {_mib(pinned)} of pinned models" if pinned else ""
        raise UnavailableError(
            f"{name} does not fit: it takes {_mib(need_bytes)} ({how}), and there are "
            f"{_mib(self._budget_bytes)} for models{less}",
            hint="raise the budget (--memory), unpin a model, or convert this one to fewer bits",
        )

    def _available_bytes(self) -> int:
        """What one model can have at most; called with the lock held."""
        if not self._budget_bytes:
            return 1 << 62
        return self._budget_bytes - self._pinned_bytes()

    def _pinned_bytes(self, but: Room | None = None) -> int:
        return sum(r.size_bytes for r in self._rooms if r.is_pinned and r is not but)

    def _used_bytes(self) -> int:
        return sum(room.size_bytes for room in self._rooms)

    def _watch(self) -> None:
        """Evict what nobody used for a while."""
        while not self._closing.wait(min(1.0, self._idle_s / 4)):
            before_s = monotonic() - self._idle_s
            with self._changed:
                for room in list(self._rooms):
                    seat = room.occupant
                    is_free = not (room.is_pinned or room.is_going or seat is None or seat.is_busy)
                    if is_free and seat is not None and seat.used_s < before_s:
                        self._evict(room, "idle")


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:,.1f} MiB"
