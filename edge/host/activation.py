"""Brings versions into service once they are proven, and takes them out where they fail."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from edge.core.cache import default_state
from edge.core.durable import replacing
from edge.core.errors import EdgeError, UnavailableError
from edge.host.catalog import version_key
from edge.host.residency import NoRoomError

if TYPE_CHECKING:
    from pathlib import Path

    from edge.host.catalog import Catalog
    from edge.host.slot import Slot

log = logging.getLogger(__name__)

_LOOK_S = 0.5


class Probation(msgspec.Struct, frozen=True):
    """For ``seconds`` after it took over, a version is taken back if more than ``max_faults`` of
    its requests, and at least ``min_faults``, fail in the engine. Clients' mistakes do not count.
    """

    seconds: float = 300.0
    max_faults: float = 0.05
    min_faults: int = 5


class Rejection(msgspec.Struct, frozen=True):
    """A version that is not to serve by itself; ``digest`` is its bundle's.

    One that is no ``is_fault`` is held back, but nothing is known to be wrong with it.
    """

    digest: str
    name: str
    version: str
    reason: str
    is_fault: bool = True


# Made at import, by one thread: msgspec crashes where two learn a type at once.
_decode = msgspec.json.Decoder(list[Rejection]).decode


MOST_REJECTIONS = 500


class Rejections:
    """Remembered on this machine's disk, so that a restart does not try them again; of very many,
    the newest.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or default_state() / "rejections.json"
        self._lock = threading.Lock()

    def reason(self, digest: str, *, faults_only: bool = False) -> str:
        """Why a bundle was rejected; empty if it was not."""
        known = (one for one in self._read() if one.digest == digest)
        return next((one.reason for one in known if one.is_fault or not faults_only), "")

    def add(self, rejection: Rejection) -> None:
        self._write(rejection.digest, [rejection])

    def forgive(self, digest: str) -> None:
        if self.reason(digest):
            self._write(digest, [])

    def _read(self) -> list[Rejection]:
        try:
            return _decode(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            log.warning("which versions were rejected can not be read: %s: %s", self._path, error)
            return []

    def _write(self, digest: str, more: list[Rejection]) -> None:
        with self._lock:
            kept = [known for known in self._read() if known.digest != digest]
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with replacing(self._path) as stream:
                    stream.write(msgspec.json.encode([*kept, *more][-MOST_REJECTIONS:]))
            except OSError as error:
                log.warning("a restart will not know of rejections: %s: %s", self._path, error)


class _Watched:
    """A version on probation, and the one that comes back if it fails."""

    def __init__(self, slot: Slot, former: Slot, seconds: float) -> None:
        self.slot = slot
        self.former = former
        self.until_s = time.monotonic() + seconds
        self.before = _faults_and_successes(slot)


def _faults_and_successes(slot: Slot) -> tuple[int, int]:
    """Requests since it was loaded first, which may be long before it took over."""
    statistics = slot.status().statistics
    return (statistics.fault_count, statistics.success_count) if statistics else (0, 0)


class Activation:
    """Switches between versions of the models in a catalog, between two requests."""

    def __init__(
        self, catalog: Catalog, probation: Probation, rejections: Rejections | None = None
    ) -> None:
        self.rejections = rejections or Rejections()
        self._catalog = catalog
        self._probation = probation
        self._on_probation: dict[str, _Watched] = {}
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def is_wanted(self, slot: Slot) -> bool:
        """Whether a version may serve without being asked to."""
        return slot.state != "failed" and not self.rejections.reason(slot.digest)

    def start(self, slot: Slot) -> None:
        """Load an active version if there is room, or the next below it that loads."""
        try:
            slot.start(may_evict=False)
        except NoRoomError as error:
            log.info("%s %s is loaded when it is used: %s", *slot.key, error)
        except EdgeError as error:
            log.error("%s %s: %s", *slot.key, error)
            below = self.next_below(slot)
            with self._lock:
                if below is None or not slot.is_active:  # another was activated meanwhile
                    return
                self._catalog.activate(below)
            self.start(below)

    def activate(self, slot: Slot, instead_of: Slot | None = None) -> None:
        """Load a version beside the one that serves, prove it, then let it serve.

        The former one is kept, in memory while it is on probation.

        Args:
            instead_of: One of the same name and version, whose place it takes in the catalog.
        Raises:
            EdgeError: It does not load or does not answer as it should: nothing has changed.
        """
        with self._turns[slot.name]:
            slot.load()
            self.rejections.forgive(slot.digest)  # now: one that ends the process stays held back
            self._switch(slot, instead_of)

    def hold_newer(self, slot: Slot) -> None:
        """A version was chosen: those that are newer do not take its place at the next start."""
        for other in self._catalog.of(slot.name):
            is_newer = version_key(other.version) > version_key(slot.version)
            if is_newer and self.is_wanted(other):
                why = f"{slot.version} was asked for instead"
                held = Rejection(other.digest, other.name, other.version, why, is_fault=False)
                self.rejections.add(held)

    def _switch(self, slot: Slot, instead_of: Slot | None) -> None:
        with self._lock:
            if self._closing.is_set():
                raise UnavailableError("the runtime is closed")
            former = self._catalog.activate(slot, instead_of)
            earlier = self._on_probation.pop(slot.name, None)
            is_proven = former is not None and former is not slot and former.state == "ready"
            if former is not None and is_proven and self._probation.seconds:
                watched = _Watched(slot, former, self._probation.seconds)
                self._on_probation[slot.name] = watched
                self._watch()
        log.info("%s %s serves", *slot.key)
        for other in {former, instead_of, earlier.former if earlier else None}:
            if other is not None and other is not slot:
                self.retire(other)

    def roll_back(self, name: str, reason: str, slot: Slot | None = None) -> Slot:
        """Let the version serve again that did so before, or the one next below.

        Args:
            slot: The one to take back; None for whichever is active.
        Raises:
            UnavailableError: There is none that could, or ``slot`` is not active any more.
            EdgeError: It does not load: nothing has changed.
        """
        with self._turns[name]:
            failed = self._catalog.find(name, None)
            if slot not in (failed, None):
                raise UnavailableError(f"{name} {failed.version} took over meanwhile")
            return self._take_back(name, failed, reason)

    def _take_back(self, name: str, failed: Slot, reason: str) -> Slot:
        watched = self._on_probation.get(name)
        kept = watched.former if watched is not None and watched.slot is failed else None
        former = kept or self.next_below(failed)
        if former is None:
            raise UnavailableError(
                f"{name} {failed.version} has no version to go back to",
                hint="put the bundle of an earlier version into the served folder",
            )
        former.load()
        self.rejections.forgive(former.digest)
        with self._lock:
            twin = self._catalog.twin(former) if kept is not None else None
            self._catalog.activate(former, twin)
            self._on_probation.pop(name, None)
        self.rejections.add(Rejection(failed.digest, name, failed.version, reason))
        log.warning("%s %s: back to %s: %s", name, failed.version, former.version, reason)
        failed.reject(reason)
        for slot in {failed, twin or failed} - {former}:
            self.retire(slot)
        return former

    def forget(self, slot: Slot) -> None:
        """Watch a version no more, and let go of the one that would have come back for it."""
        with self._lock:
            watched = self._on_probation.get(slot.name)
            if watched is None or slot not in (watched.slot, watched.former):
                return
            del self._on_probation[slot.name]
        self.retire(watched.former)

    def look(self) -> None:
        """Judge those that are on probation, once."""
        for name, watched in list(self._on_probation.items()):
            reason = self._fault(watched)
            if reason:
                try:
                    self.roll_back(name, reason, watched.slot)
                except EdgeError as error:
                    log.error("%s stays at %s: %s", name, watched.slot.version, error)
                    self.forget(watched.slot)
            elif time.monotonic() > watched.until_s:
                self.forget(watched.slot)

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        for watched in list(self._on_probation.values()):
            self.forget(watched.slot)

    def retire(self, slot: Slot) -> None:
        """Let go of a version that does not serve, unless it may have to come back soon."""
        if self.is_kept(slot):
            return
        if slot in self._catalog.slots:
            slot.rest()
        else:
            slot.close()

    def is_kept(self, slot: Slot) -> bool:
        """Whether it would come back for one that is on probation."""
        return any(slot is watched.former for watched in list(self._on_probation.values()))

    def next_below(self, slot: Slot) -> Slot | None:
        """The newest version that is older, and may serve."""
        versions = self._catalog.of(slot.name)
        key = version_key(slot.version)
        below = [one for one in versions if version_key(one.version) < key and self.is_wanted(one)]
        return below[-1] if below else None

    def _fault(self, watched: _Watched) -> str:
        """What is wrong with a version in service; empty while it does well."""
        slot = watched.slot
        if slot.state == "failed":
            return str(slot.error)
        pairs = zip(_faults_and_successes(slot), watched.before, strict=True)
        faults, successes = (now - before for now, before in pairs)
        total = faults + successes
        rule = self._probation
        if faults < rule.min_faults or faults <= rule.max_faults * total:
            return ""
        return f"{faults} of {total} requests failed after it took over"

    def _watch(self) -> None:
        """Called with the lock held."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="edge-probation", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closing.wait(_LOOK_S):
            self.look()
            with self._lock:
                if not self._on_probation:
                    self._thread = None
                    return
