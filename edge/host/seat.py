"""Where a model's session sits: it comes when it is needed, and goes when its room is."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic
from typing import TYPE_CHECKING

from edge.core.errors import UnavailableError
from edge.host.capture import Capture

if TYPE_CHECKING:
    from edge.core.tensor import Array, Feeds
    from edge.host.batching import BatchPlan
    from edge.host.health.watch import ModelWatch
    from edge.host.opening import Opened
    from edge.host.residency import Room


Run = Callable[["Feeds"], "dict[str, Array]"]


class Sitting:
    """One session, and how many use it."""

    __slots__ = ("is_leaving", "opened", "plan", "run", "users")

    def __init__(
        self,
        opened: Opened,
        plan: BatchPlan,
        watch: ModelWatch | None = None,
        users: int = 0,
    ) -> None:
        run: Run = opened.session.run
        self.opened = opened
        self.plan = plan
        self.run = run if watch is None else watch.around(run, opened.variant)
        self.users = users
        self.is_leaving = False


class Seat:
    """Holds a model's session for whoever runs it; none is closed before its last user left.

    Args:
        reopen: Opens again what was evicted, which may wait for room; None if nothing ever is.
        watch: Sees what is run, if somebody looks after the model's health.
    """

    def __init__(
        self,
        name: str,
        opened: Opened,
        plan: BatchPlan,
        reopen: Callable[[Opened], Opened] | None = None,
        watch: ModelWatch | None = None,
    ) -> None:
        self.opened = opened
        self.plan = plan
        self.used_s = monotonic()
        self.loads = 0
        self.evictions: Counter[str] = Counter()
        self._name = name
        self._bar = ""
        self._reopen = reopen
        self._watch = watch
        self._sitting: Sitting | None = None
        self._is_closed = False
        self._lock = threading.Lock()
        self._loading = threading.RLock()
        self._planner: Callable[[Opened], BatchPlan] | None = None
        self._capture: Capture | None = None
        self._is_loading = False
        self._let_in(Sitting(opened, plan, watch))

    @property
    def is_taken(self) -> bool:
        """Whether a session is here."""
        return self._sitting is not None

    @property
    def is_loading(self) -> bool:
        return self._is_loading

    @property
    def is_busy(self) -> bool:
        sitting = self._sitting
        return sitting is not None and sitting.users > 0

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """``Session.run``, with a session that is loaded first if none is here."""
        sitting = self.take()
        try:
            return sitting.run(feeds)
        finally:
            self.give(sitting)

    def take(self) -> Sitting:
        """Use the session until ``give``; loads it first if none is here.

        Raises:
            UnavailableError: The seat is closed, or there is no room for the session.
            EdgeError: It can't be opened any more.
        """
        return self.take_now() or self._take_again()

    def take_ready(self) -> Sitting:
        """``take``, once a run need wait for nothing."""
        sitting = self.take()
        try:
            sitting.opened.session.await_ready()
        except BaseException:
            self.give(sitting)
            raise
        return sitting

    def take_now(self) -> Sitting | None:
        """``take``, but None if no session is here."""
        with self._lock:
            sitting = self._sitting
            if sitting is not None:
                sitting.users += 1
            return sitting

    def give(self, sitting: Sitting) -> None:
        with self._lock:
            sitting.users -= 1
            is_last = sitting.is_leaving and not sitting.users
        self.used_s = monotonic()
        if is_last:
            sitting.opened.close()

    def exchange(self) -> AbstractContextManager[object]:
        """Within it the caller opens another session, to ``replace`` the one that is here.

        If that has to go, as both do not fit, requests wait for the new one, and do not ask for
        room to open the former one again.
        """
        return self._loading

    def replace(self, opened: Opened, plan: BatchPlan) -> bool:
        """Run what begins from now on with another session; False if the seat is closed."""
        with self._loading, self._lock:
            if self._is_closed:
                return False
            former = self._sitting
            self.opened, self.plan = opened, plan
            self._let_in(Sitting(opened, plan, self._watch))
            is_barred = bool(self._bar)
        self._dismiss(former)
        if is_barred:
            self.evict("request")
        return True

    def replan(self, plan: Callable[[Opened], BatchPlan]) -> None:
        """Put requests together as ``plan`` says of the session that is here, or comes next."""
        with self._loading:
            self._planner = plan
            sitting = self.take_now()
            if sitting is None:
                return
            try:
                self._replan(sitting.opened)
                sitting.plan = self.plan
            finally:
                self.give(sitting)

    def capture(self, most_bytes: int) -> Capture:
        """The next run; another that waits for one is not shown any."""
        capture = Capture(most_bytes, self._forget)
        with self._lock:
            if self._capture is not None:
                self._capture.detach()
            self._capture = capture
            if self._sitting is not None:
                capture.attach(self._sitting)
        return capture

    def describe(self, opened: Opened) -> None:
        """Know more of the session that is here, which stays the same."""
        with self._lock:
            self.opened = opened

    def evict(self, reason: str, room: Room | None = None) -> None:
        """Close the session as soon as nobody uses it; the next ``take`` opens it again.

        Args:
            room: Only the session that has this room, which another may have replaced.
        """
        with self._lock:
            former = self._sitting
            if former is None or (room is not None and former.opened.room is not room):
                return
            self._sitting = None
            self.evictions[reason] += 1
        self._dismiss(former)

    def bar(self, reason: str) -> None:
        """Let no session in again, for a reason; an empty one lets them in."""
        self._bar = reason

    def close(self) -> None:
        """Evict for good."""
        with self._lock:
            self._is_closed = True
            former, self._sitting = self._sitting, None
        self._dismiss(former)

    def _take_again(self) -> Sitting:
        with self._loading:  # the first loads for all who come meanwhile
            sitting = self.take_now()
            if sitting is not None:
                return sitting
            if self._is_closed or self._reopen is None:
                raise UnavailableError(f"model {self._name} is closed", hint="load it again")
            if self._bar:
                raise UnavailableError(self._bar, hint="load it again")
            self._is_loading = True
            try:
                opened = self._reopen(self.opened)
            finally:
                self._is_loading = False
            try:
                self._replan(opened)
            except BaseException:
                opened.close()
                raise
            with self._lock:
                if not self._is_closed and not self._bar:
                    self.opened = opened
                    sitting = Sitting(opened, self.plan, self._watch, users=1)
                    self._let_in(sitting)
                    return sitting
        opened.close()
        why = self._bar or f"model {self._name} was closed while it was loaded"
        raise UnavailableError(why, hint="load it again")

    def _replan(self, opened: Opened) -> None:
        """Called while it loads: nobody else seats a session meanwhile."""
        planner, self._planner = self._planner, None
        if planner is not None:
            self.plan = planner(opened)

    def _let_in(self, sitting: Sitting) -> None:
        """Called with the lock held: once the room is occupied, somebody may evict us at once."""
        self._sitting = sitting
        if self._capture is not None:
            self._capture.attach(sitting)
        self.loads += 1
        if sitting.opened.room is not None:
            sitting.opened.room.occupy(self)

    def _forget(self, capture: Capture) -> None:
        with self._lock:
            if self._capture is capture:
                self._capture = None

    def _dismiss(self, sitting: Sitting | None) -> None:
        if sitting is None:
            return
        if sitting.opened.room is not None:
            sitting.opened.room.is_going = True
        with self._lock:
            sitting.is_leaving = True
            is_idle = not sitting.users
        if is_idle:
            sitting.opened.close()
