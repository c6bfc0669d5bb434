"""Memory that two processes see, and tensors in it."""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from edge.core.errors import InputError, UnavailableError
from edge.core.lazy import require
from edge.core.tensor import alike, kind_of
from edge.host.isolation import wire
from edge.host.isolation.wire import Layout, Place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.core.tensor import Array, Kind

_ALIGNMENT = 64
"""Of each tensor, in bytes: a line of the cache, and what vector instructions like."""

_STEP_BYTES = 64 * 1024


class Arena:
    """Anonymous memory behind a file descriptor, which it owns; grows and never shrinks.

    No name of it is anywhere: when both processes are gone, however they went, so is the memory.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory: mmap.mmap | None = None

    @classmethod
    def create(cls) -> Arena:
        """Raises ``UnavailableError`` if the system gives no more descriptors."""
        try:
            fd = os.memfd_create("edge-tensors", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            raise UnavailableError(f"no shared memory: {error.strerror}") from error
        # Else a worker gone mad could cut it, and who reads behind the end is killed.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return cls(fd)

    def grown(self, size_bytes: int) -> mmap.mmap:
        """The memory, of at least ``size_bytes``.

        Raises:
            UnavailableError: There is not so much.
        """
        if self._memory is None or len(self._memory) < size_bytes:
            wanted = -(-max(size_bytes, 1) // _STEP_BYTES) * _STEP_BYTES
            try:
                # Pages now and not with the first write: where a limit forbids them, this is an
                # error, and a write would be a signal.
                os.posix_fallocate(self.fd, 0, wanted)
            except OSError as error:
                raise UnavailableError(
                    f"there are no {wanted:,} bytes of shared memory: {error.strerror}"
                ) from error
        return self.mapped(size_bytes)

    def mapped(self, size_bytes: int) -> mmap.mmap:
        """The memory, as far as the other side has grown it.

        Raises:
            ValueError: That is less than ``size_bytes``.
        """
        memory = self._memory
        if memory is None or len(memory) < size_bytes:
            # Arrays may still lie in the former mapping, which goes with the last of them.
            memory = self._memory = mmap.mmap(self.fd, os.fstat(self.fd).st_size)
            if len(memory) < size_bytes:
                raise ValueError(f"{size_bytes} bytes in an arena of {len(memory)}")
        return memory

    def close(self) -> None:
        """Give back what is here; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd, self._memory = -1, None


class Writer:
    """Puts tensors into an arena; those that are like the last ones at the same places."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._kind: Kind | None = None
        self._views: dict[str, Array] = {}

    def write(self, tensors: Mapping[str, Array]) -> bytes:
        """What to tell the one who reads.

        Raises:
            InputError: A tensor of objects holds something else than text.
            UnavailableError: There is not so much memory.
        """
        if alike(tensors, self._kind):
            for name, view in self._views.items():
                view[...] = tensors[name]
            return wire.SAME
        self._kind, self._views = None, {}
        texts = {name: _encoded(name, a) for name, a in tensors.items() if a.dtype.hasobject}
        layout = _lay_out(tensors, texts)
        memory = self._arena.grown(layout.size_bytes)
        for place in layout.places:
            if place.name in texts:
                memory[place.offset : place.offset + place.text_bytes] = texts[place.name]
            else:
                array = tensors[place.name]
                view = np.ndarray(array.shape, array.dtype, memory, place.offset)
                view[...] = array
                self._views[place.name] = view
        if not texts:
            self._kind = kind_of(tensors)
        return wire.encode(layout)


class Reader:
    """Finds the tensors that a ``Writer`` on the other side has put into an arena."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._views: dict[str, Array] = {}

    def read(self, layout: Layout | None) -> dict[str, Array]:
        """Arrays in the arena itself, but for text; None for a layout as the time before.

        Raises:
            ValueError: The layout is none of this arena's, or
            TypeError: of no tensors at all.
        """
        if layout is not None:
            memory = self._arena.mapped(layout.size_bytes)
            self._views = {place.name: _array(place, memory) for place in layout.places}
        return dict(self._views)


def _lay_out(tensors: Mapping[str, Array], texts: Mapping[str, bytes]) -> Layout:
    places = []
    offset = 0
    for name, array in tensors.items():
        text_bytes = len(texts[name]) if name in texts else -1
        places.append(Place(name, _dtype_name(array.dtype), array.shape, offset, text_bytes))
        size_bytes = array.nbytes if text_bytes < 0 else text_bytes
        offset += -(-size_bytes // _ALIGNMENT) * _ALIGNMENT
    return Layout(tuple(places), offset)


def _array(place: Place, memory: mmap.mmap) -> Array:
    if place.text_bytes < 0:
        dtype = _dtype(place.dtype)
        if dtype.hasobject or min(place.shape, default=0) < 0 or place.offset < 0:
            raise ValueError(f"no tensor is like {place}")  # and numpy would believe it
        array: Array = np.ndarray(place.shape, dtype, memory, place.offset)
        return array
    items = wire.decode_text(memory[place.offset : place.offset + place.text_bytes])
    text = np.empty(len(items), object)
    text[:] = items
    shaped: Array = text.reshape(place.shape)
    return shaped


def _encoded(name: str, array: Array) -> bytes:
    try:
        return wire.encode(array.ravel().tolist())
    except (NotImplementedError, TypeError, UnicodeError, OverflowError) as error:
        raise InputError(f"tensor {name!r} must hold text only") from error


def _dtype_name(dtype: np.dtype[Any]) -> str:
    name: str = dtype.name if dtype.isbuiltin == 2 else dtype.str
    return name


def _dtype(name: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(name)
    except TypeError:  # bfloat16 and its like
        dtype = np.dtype(getattr(require("ml_dtypes", extra="convert"), name))
    return dtype
