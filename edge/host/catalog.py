"""All versions of all models by name; of each, one is active and answers who names no version."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from edge.core.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge.host.slot import Slot


class Catalog:
    """Any thread may read it; changes are made one at a time, and seen whole.

    ``generation`` counts them: what was found in one may be stale in the next.
    """

    def __init__(self) -> None:
        self.slots: tuple[Slot, ...] = ()
        self.generation = 0
        self._active: dict[str, Slot] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Names of all models, sorted; one with several versions stands once."""
        return sorted({slot.name for slot in self.slots})

    def of(self, name: str) -> list[Slot]:
        """The versions of a model, oldest first.

        Raises:
            NotFoundError: There is no model of that name.
        """
        slots = [slot for slot in self.slots if slot.name == name]
        if not slots:
            has = ", ".join(self.names()) or "none"
            raise NotFoundError(f"there is no model named {name!r}", hint=f"there are: {has}")
        return slots

    def find(self, name: str, version: str | None) -> Slot:
        """A version, or the active one if none is named.

        Raises:
            NotFoundError: There is no model of that name and version.
        """
        if not version:
            active = self._active.get(name)
            return self.of(name)[-1] if active is None else active
        slots = self.of(name)
        for slot in slots:
            if slot.version == version:
                return slot
        has = ", ".join(slot.version for slot in slots)
        raise NotFoundError(f"{name} has no version {version!r}", hint=f"it has: {has}")

    def twin(self, slot: Slot) -> Slot | None:
        """One of the same name and version that is there already."""
        same = (other for other in self.slots if other.key == slot.key)
        return next(same, None)

    def at(self, path: Path) -> Slot | None:
        """The one that a file was found to hold."""
        return next((slot for slot in self.slots if slot.path == path), None)

    def active(self, name: str) -> Slot | None:
        return self._active.get(name)

    def add(self, slot: Slot) -> None:
        """Raises ``InputError`` where there is one of the same name and version."""
        with self._lock:
            twin = self.twin(slot)
            if twin is not None:
                raise InputError(
                    f"{twin.path} and {slot.path} are both {slot.name} version {slot.version}",
                    hint="remove one, or convert it again with another --version",
                )
            self._change((*self.slots, slot))

    def remove(self, slot: Slot) -> None:
        with self._lock:
            if self._active.get(slot.name) is slot:
                del self._active[slot.name]
            self._change([other for other in self.slots if other is not slot])

    def activate(self, slot: Slot, instead_of: Slot | None = None) -> Slot | None:
        """Let ``slot`` answer who names no version; gives the one that did so far.

        Args:
            instead_of: One of the same name and version, whose place it takes.
        """
        with self._lock:
            others = [
                other for other in self.slots if other is not slot and other is not instead_of
            ]
            former = self._active.get(slot.name)
            self._active[slot.name] = slot
            self._change([*others, slot])
            return former

    def activate_newest(self, is_wanted: Callable[[Slot], bool]) -> None:
        """Of each model without an active version, the newest one that is wanted, if any is."""
        for name in self.names():
            wanted = [slot for slot in self.of(name) if is_wanted(slot)]
            if wanted and name not in self._active:
                self.activate(wanted[-1])

    def _change(self, slots: list[Slot] | tuple[Slot, ...]) -> None:
        """Called with the lock held."""
        self.slots = tuple(sorted(slots, key=lambda slot: (slot.name, version_key(slot.version))))
        for slot in self.slots:
            slot.is_active = self._active.get(slot.name) is slot
        self.generation += 1


def version_key(version: str) -> list[tuple[bool, int, str]]:
    """Numbers within versions compare as numbers: 1.9 comes before 1.10."""
    return [
        (part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in re.findall(r"\d+|\D+", version)
    ]
