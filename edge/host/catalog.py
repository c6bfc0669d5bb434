"""All versions of all models by name; of each, one is active and answers who names no version."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

from edge.core.errors import InputError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
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
        return self.named(*slot.key)

    def named(self, name: str, version: str) -> Slot | None:
        same = (slot for slot in self.slots if slot.key == (name, version))
        return next(same, None)

    def at(self, path: Path) -> list[Slot]:
        """What a file was found to hold: several versions, if it was replaced."""
        return [slot for slot in self.slots if slot.path == path]

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

    def remove(self, slots: list[Slot], is_wanted: Callable[[Slot], bool]) -> None:
        """Of each model that loses its active version, the newest one that is wanted takes over."""
        with self._lock:
            left = [slot for slot in self.slots if slot not in slots]
            for slot in slots:
                if self._active.get(slot.name) is slot:
                    del self._active[slot.name]
            self._activate_newest(left, is_wanted)
            self._change(left)

    def replace(self, slot: Slot, other: Slot) -> bool:
        """Put one in the place of another of its name and version; False if that one is active."""
        with self._lock:
            if self._active.get(slot.name) is other:
                return False
            self._change([*(one for one in self.slots if one is not other), slot])
            return True

    def activate(self, slot: Slot, instead_of: Slot | None = None) -> Slot | None:
        """Let ``slot`` answer who names no version; gives the one that did so far.

        Args:
            instead_of: One of the same name and version, whose place it takes.
        Raises:
            UnavailableError: It was removed.
        """
        with self._lock:
            if slot not in self.slots and instead_of not in self.slots:
                raise UnavailableError(f"{slot.name} {slot.version} was removed meanwhile")
            others = [
                other for other in self.slots if other is not slot and other is not instead_of
            ]
            former = self._active.get(slot.name)
            self._active[slot.name] = slot
            self._change([*others, slot])
            return former

    def activate_newest(self, is_wanted: Callable[[Slot], bool]) -> None:
        """Of each model without an active version, the newest one that is wanted, if any is."""
        with self._lock:
            self._activate_newest(self.slots, is_wanted)
            self._change(self.slots)

    def _activate_newest(self, slots: Iterable[Slot], is_wanted: Callable[[Slot], bool]) -> None:
        newest = {slot.name: slot for slot in slots if is_wanted(slot)}  # the last one stays
        self._active = newest | self._active

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
