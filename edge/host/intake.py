"""Takes bundles into a catalog: those there at the start, and those that come and go later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from msgspec.structs import replace

from edge.bundle import Bundle, open_bundle
from edge.core.durable import move
from edge.core.errors import BundleError, EdgeError, InputError
from edge.host.activation import Activation, Rejection
from edge.host.catalog import Catalog, version_key
from edge.host.folders import SUFFIX, FolderWatch, bundles_in, check_place
from edge.host.slot import Slot, Terms

log = logging.getLogger(__name__)

_HELD = "it serves once it is activated"


class Intake:
    """Finds out what a bundle that came means for what is served.

    Args:
        taken_names: Names that no model may have.
    """

    def __init__(
        self,
        catalog: Catalog,
        activation: Activation,
        terms: Terms,
        taken_names: Callable[[], Collection[str]],
    ) -> None:
        self._catalog = catalog
        self._activation = activation
        self._terms = terms
        self._taken_names = taken_names

    def scan(self, sources: Sequence[Path], watch_s: float) -> FolderWatch | None:
        """Take in what there is; gives the watch of the folders, not started, if one is wanted.

        Raises:
            BundleError: A bundle that was named is damaged or missing.
            InputError: A folder holds no bundle, or two bundles in it claim one name and version.
        """
        folders = [source for source in sources if source.is_dir()]
        # Before the first look: what comes in between is not missed.
        watch = (
            FolderWatch(folders, watch_s, self.found, self.gone) if watch_s and folders else None
        )
        for source in sources:
            if source not in folders:
                self._add(Slot(source, self._terms, self._open(source)))
                continue
            paths = bundles_in(source)
            if not paths and not watch_s:
                raise InputError(
                    f"{source} holds no {SUFFIX} file",
                    hint="make one with: edge convert MODEL.onnx",
                )
            earlier = self._catalog.slots
            for path in paths:
                self._add(self._slot_at(path, source), earlier)
        self._catalog.activate_newest(self._activation.is_wanted)
        return watch

    def found(self, path: Path, folder: Path) -> None:
        """Take in a bundle that came into a folder or was replaced there."""
        slot = self._slot_at(path, folder)
        before = self._catalog.at(path)
        failed = [one for one in before if one.state == "failed"]
        if slot.manifest is None and len(failed) < len(before):
            log.error("%s was replaced, what was in it goes on: %s", path, slot.error)
            return
        self._remove(failed)
        twin = self._catalog.twin(slot)
        obstacle = self._obstacle(slot, twin)
        if obstacle:
            log.error("%s is left out: %s", path, obstacle)
        if obstacle or (twin is not None and twin.digest == slot.digest):
            slot.close()
            return
        if twin is None:
            try:
                self._catalog.add(slot)
            except InputError:  # it was installed meanwhile
                slot.close()
                return
        self._take_over(slot, twin)

    def install(self, source: Path, folder: Path, *, activate: bool) -> Slot:
        """Move a bundle into a served folder of its file system, as NAME/VERSION.edge.

        Until it has proven right it is held back: one that takes the process down, or does not
        do, is not tried again by the next start.

        Raises:
            InputError: There is another bundle of that name and version.
            EdgeError: It does not load, or does not answer as it should: the one that served does.
        """
        with self._open(source) as bundle:
            held = Rejection(
                bundle.digest, bundle.manifest.name, bundle.manifest.version, _HELD, is_fault=False
            )
        slot = self._place(source, folder, held)
        if slot.is_active and slot.state == "ready":
            self._activation.rejections.forgive(slot.digest)
        elif not activate:
            slot.rest()
        else:
            try:
                self._activation.activate(slot)
            except EdgeError as error:
                is_fault = slot.state == "failed"
                rejection = replace(held, reason=str(error), is_fault=is_fault)
                self._activation.rejections.add(rejection)
                raise
        return slot

    def prune(self, slot: Slot, keep: int) -> list[str]:
        """Delete versions beside one that was installed until ``keep`` are left, and name them.

        Those that are not to serve go first, then the oldest. What serves stays, and so does what
        would come back for it.
        """
        beside = [
            one
            for one in self._catalog.of(slot.name)
            if one.path.parent == slot.path.parent and one is not slot
        ]
        others = [one for one in beside if not (one.is_active or self._activation.is_kept(one))]
        others.sort(key=self._activation.is_wanted)  # of equals the order stays: oldest first
        going = others[: max(0, len(beside) + 1 - keep)]
        for old in going:
            old.path.unlink(missing_ok=True)
            self.gone(old.path)
        return [old.version for old in going]

    def _place(self, source: Path, folder: Path, held: Rejection) -> Slot:
        place = folder / held.name / f"{held.version}{SUFFIX}"
        if held.name in self._taken_names():
            raise InputError(f"there is a pipeline named {held.name}")
        self._remove([slot for slot in self._catalog.at(place) if slot.state == "failed"])
        twin = self._catalog.named(held.name, held.version)
        if twin is not None and twin.digest != held.digest:
            raise InputError(
                f"{held.name} has a version {held.version} already, with other contents",
                hint="convert it again with another --version",
            )
        if twin is not None:
            source.unlink()
            return twin
        self._activation.rejections.add(held)
        move(source, place)
        slot = self._slot_at(place, folder)
        try:
            self._catalog.add(slot)
        except InputError:  # the folder was looked at meanwhile
            slot.close()
            return self._catalog.find(held.name, held.version)
        return slot

    def gone(self, path: Path) -> None:
        """Take out what was in a bundle that was deleted, after its last request."""
        slots = self._catalog.at(path)
        for slot in slots:
            log.info("%s %s is removed: its bundle was deleted", *slot.key)
        self._remove(slots)

    def _remove(self, slots: list[Slot]) -> None:
        self._catalog.remove(slots, self._activation.is_wanted)
        for slot in slots:
            self._activation.forget(slot)
            slot.close()

    def _obstacle(self, slot: Slot, twin: Slot | None) -> str:
        if slot.name in self._taken_names():
            return f"there is a pipeline named {slot.name}"
        if twin is not None and twin.digest != slot.digest and twin.path != slot.path:
            return f"{twin.path} is {slot.name} version {slot.version} already"
        return ""

    def _take_over(self, slot: Slot, twin: Slot | None) -> None:
        """Let it serve if it is newer than what does, or another ``twin`` of it."""
        active = self._catalog.active(slot.name)
        is_older = active is not None and version_key(active.version) > version_key(slot.version)
        if is_older or not self._activation.is_wanted(slot):
            slot.rest()
            if twin is not None:
                is_kept = self._catalog.replace(slot, twin)
                self._activation.retire(twin if is_kept else slot)
            return
        try:
            self._activation.activate(slot, twin)
        except EdgeError as error:
            log.error("%s %s does not take over: %s", *slot.key, error)
            if twin is not None:
                slot.close()

    def _add(self, slot: Slot, earlier: Sequence[Slot] = ()) -> None:
        """Take in what is there at the start; ``earlier`` are those of sources named before."""
        twin = self._catalog.twin(slot)
        is_same = twin is not None and twin.digest == slot.digest  # reached by two ways
        if twin is not None and not is_same and twin in earlier:
            log.warning("%s is left out: %s is %s version %s", slot.path, twin.path, *twin.key)
        if is_same or twin in earlier:
            slot.close()
            return
        try:
            self._catalog.add(slot)
        except InputError:
            slot.close()
            raise

    def _open(self, path: Path) -> Bundle:
        trust = self._terms.trust
        bundle = open_bundle(path, trust)
        if trust is not None and not bundle.signed_by:
            log.warning("%s is not signed by anyone who is trusted here", path)
        return bundle

    def _slot_at(self, path: Path, folder: Path) -> Slot:
        """What a bundle in a folder holds; one that is damaged or out of its place has failed."""
        try:
            bundle = self._open(path)
        except BundleError as error:
            log.error("%s is left out: %s", path, error)
            return Slot(path, self._terms, error=error)
        try:
            check_place(path, folder, bundle.manifest)
        except BundleError as error:
            log.error("%s is left out: %s", path, error)
            bundle.close()
            return Slot(path, self._terms, error=error)
        slot = Slot(path, self._terms, bundle)
        reason = self._activation.rejections.reason(slot.digest, faults_only=True)
        if reason:
            slot.reject(reason)
        return slot
