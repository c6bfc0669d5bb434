"""Opens variants of one bundle as the caller wished, and remembers what stood against some."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edge.core import plugins
from edge.core.contracts import Placement, Session
from edge.core.errors import EdgeError, EngineError, UnavailableError, UnsupportedError
from edge.host.choice import Candidate, Wish, choose, explain
from edge.host.machine import machine_for
from edge.host.residency import NoRoomError
from edge.host.starting import Starter
from edge.settings import ModelSettings

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.core.manifest import Manifest, Variant
    from edge.host.residency import Residency, Room

log = logging.getLogger(__name__)

REFUSALS = (EngineError, UnavailableError, UnsupportedError)
"""What an engine raises that can not open or build a variant; the next candidate may do."""


class Opened(NamedTuple):
    """A candidate that runs: ``choice`` says why this one."""

    candidate: Candidate
    session: Session
    choice: str
    is_fallback: bool
    room: Room | None = None

    @property
    def variant(self) -> Variant:
        return self.candidate.variant

    def settle(self) -> None:
        """Account for the memory that it takes, now that it has run.

        Raises:
            UnavailableError: There is not so much.
        """
        if self.room is not None:
            self.room.settle(self.session)

    def close(self) -> None:
        """Close the session, and free its room.

        Where the engine fails to, that is logged: who used it last can't help it.
        """
        try:
            self.session.close()
        except Exception:
            log.exception("%s could not be closed", self.candidate.label)
        finally:
            if self.room is not None:
                self.room.leave()


Prove = Callable[["Bundle", Opened], None]


class Opener:
    """Opens what ``candidates`` holds, best first; one thread uses it at a time.

    ``to_build`` are those that ``open_now`` passed over, as their engines have to be built first.

    Args:
        residency: Where sessions get their room from; None if memory is the caller's concern.
    Raises:
        NotFoundError: The bundle has no variant of that id, or there is no such engine.
        UnavailableError: Nothing in it can run here.
    """

    def __init__(
        self,
        manifest: Manifest,
        wish: Wish,
        settings: ModelSettings | None = None,
        residency: Residency | None = None,
    ) -> None:
        if wish.engine:
            plugins.backend(wish.engine)  # an engine that does not exist has an error of its own
        self.to_build: list[Candidate] = []
        self.starter = Starter(manifest, wish, settings or ModelSettings(), residency)
        self._name = manifest.name
        self._wish = wish
        machine = machine_for(manifest, self.starter.profile)
        self.choice = choose(manifest, machine, wish)
        self._obstacles = dict(self.choice.obstacles)
        self._errors: dict[str, EdgeError] = {}

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Raises ``UnavailableError`` where there is none."""
        if not self.choice.candidates:
            why = "; ".join(f"{name}: {reason}" for name, reason in self._obstacles.items())
            raise UnavailableError(
                f"no variant of {self._name} can run here: {why}", hint=self.choice.hint
            )
        return self.choice.candidates

    def open_best(self, bundle: Bundle) -> Opened:
        """The first candidate that opens, built before if need be.

        Raises:
            EdgeError: None does; this is what stood against the first one.
        """
        for candidate in self.candidates:
            opened = self._try(bundle, candidate)
            if opened is not None:
                return opened
        raise self.error_of(self.candidates[0])

    def open_now(self, bundle: Bundle, prove: Prove) -> Opened | None:
        """The first candidate that opens and proves right, or None if one is still to be built.

        Raises:
            NoRoomError: There is no room for it now.
            EdgeError: No candidate does, and none is to be built.
        """
        for candidate in self.candidates:
            if self._has_to_wait(bundle, candidate):
                self.to_build.append(candidate)
                continue
            opened = self.open_proven(bundle, candidate, prove)
            if opened is not None:
                return opened
        if not self.to_build:
            raise self.error_of(self.candidates[0])
        return None

    def open_proven(self, bundle: Bundle, candidate: Candidate, prove: Prove) -> Opened | None:
        """Open one, if it does and ``prove``, which raises ``EngineError``, finds it right."""
        opened = self._try(bundle, candidate)
        if opened is None:
            return None
        try:
            prove(bundle, opened)
            opened.settle()
        except BaseException as error:
            opened.close()
            if not isinstance(error, REFUSALS):
                raise
            self.note(candidate, error)
            return None
        return opened

    def open_again(self, bundle: Bundle, opened: Opened) -> Opened:
        """The same once more, after it was closed.

        Raises:
            EdgeError: It does not open any more, or there is no room.
        """
        session, room = self._session(bundle, opened.candidate)
        again = opened._replace(session=session, room=room)
        try:
            again.settle()
        except BaseException:
            again.close()
            raise
        return again

    def note(self, candidate: Candidate, error: EdgeError) -> None:
        """Remember why a candidate does not run."""
        self._errors[candidate.label] = error
        self._obstacles[candidate.label] = str(error)

    def error_of(self, candidate: Candidate) -> EdgeError:
        return self._errors[candidate.label]

    def revised(self, opened: Opened) -> Opened:
        """The same session, explained by what has become known since it was opened."""
        session, candidate = opened.session, opened.candidate
        session.placement = self._seen_from_outside(session.placement, candidate)
        return opened._replace(choice=self._explain(candidate))

    def _has_to_wait(self, bundle: Bundle, candidate: Candidate) -> bool:
        if self._wish.fallback == "deny" and self._is_fallback(candidate):
            return False  # it is refused anyway
        if candidate.device == candidate.variant.engine:
            return True  # another way to the same engine: opening it builds, and tells of nothing
        try:
            return not self.starter.is_built(bundle, candidate)
        except REFUSALS:  # what is wrong is said when it is opened
            return False

    def _try(self, bundle: Bundle, candidate: Candidate) -> Opened | None:
        try:
            return self._open(bundle, candidate)
        except NoRoomError:
            raise  # nothing is wrong with it
        except REFUSALS as error:
            self.note(candidate, error)
            return None

    def _is_fallback(self, candidate: Candidate) -> bool:
        is_other = candidate.variant is not self.choice.preferred or candidate.is_stand_in
        return is_other or candidate.device != candidate.wanted

    def _explain(self, candidate: Candidate) -> str:
        waiting = [one.variant.id for one in self.to_build if one.label not in self._obstacles]
        building = "" if candidate in self.to_build or not waiting else waiting[0]
        return explain(candidate, self.choice, self._obstacles, self._wish, building)

    def _open(self, bundle: Bundle, candidate: Candidate) -> Opened:
        reason = self._explain(candidate)
        is_fallback = self._is_fallback(candidate)
        if is_fallback:
            self._permit(reason)
        session, room = self._session(bundle, candidate)
        if is_fallback:
            self._warn(reason)
        is_fallback |= session.placement.is_fallback
        return Opened(candidate, session, reason, is_fallback, room)

    def _session(self, bundle: Bundle, candidate: Candidate) -> tuple[Session, Room | None]:
        session, room = self.starter.start(bundle, candidate)
        try:
            self._judge(candidate, session.placement)
        except UnavailableError:
            Opened(candidate, session, "", is_fallback=True, room=room).close()
            raise
        session.placement = self._seen_from_outside(session.placement, candidate)
        return session, room

    def _judge(self, candidate: Candidate, placement: Placement) -> None:
        """Whether a session may stay where the engine put it.

        Raises:
            UnavailableError: It may not.
        """
        if placement.is_fallback and candidate.is_stand_in:
            raise UnavailableError(placement.reason)  # the next candidate is better than this
        if placement.is_fallback:
            self._permit(placement.reason)
            self._warn(placement.reason)

    def _seen_from_outside(self, placement: Placement, candidate: Candidate) -> Placement:
        """The engine was asked for the device that is here; the variant wanted another one."""
        if candidate.is_stand_in:
            own = candidate.variant.engine
            why = self._obstacles.get(candidate.variant.id, f"{own} is being built")
            reason = f"{candidate.engine} stands in for {own}: {why}"
        elif candidate.device != candidate.wanted:
            own, reason = candidate.wanted, f"there is no {candidate.wanted} here"
        else:
            return placement
        return msgspec.structs.replace(placement, requested=own, is_fallback=True, reason=reason)

    def _permit(self, reason: str) -> None:
        if self._wish.fallback == "deny":
            raise UnavailableError(
                f"{self._name} can not run as it is meant to, and fallback is denied: {reason}",
                hint="allow it with fallback='warn'",
            )

    def _warn(self, reason: str) -> None:
        if self._wish.fallback == "warn":
            log.warning("%s falls back: %s", self._name, reason)
