"""Bundles in folders, as NAME.edge or NAME/VERSION.edge: found, and followed as they change."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from edge.core.errors import BundleError
from edge.core.manifest import Manifest

log = logging.getLogger(__name__)

SUFFIX = ".edge"


class Stamp(NamedTuple):
    """What of a file changes with its contents."""

    inode: int
    size_bytes: int
    modified_ns: int


def bundles_in(folder: Path) -> dict[Path, Stamp]:
    """The bundles of a folder and of the folders in it, sorted by path.

    Raises:
        OSError: The folder can't be read.
    """
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for inner in [path for path in paths if path.is_dir()]:
        paths += [path for path in inner.iterdir() if not path.name.startswith(".")]
    found: dict[Path, Stamp] = {}
    for path in sorted(path for path in paths if path.suffix == SUFFIX):
        try:
            known = path.stat()
        except FileNotFoundError:  # it went in between
            continue
        found[path] = Stamp(known.st_ino, known.st_size, known.st_mtime_ns)
    return found


def check_place(path: Path, folder: Path, manifest: Manifest) -> None:
    """Whether a bundle in ``NAME/VERSION.edge`` holds what its place says.

    Raises:
        BundleError: It holds another model or version.
    """
    if path.parent == folder:
        return
    if (path.parent.name, path.stem) != (manifest.name, manifest.version):
        raise BundleError(
            f"{path} holds {manifest.name} version {manifest.version}",
            hint=f"it belongs into {folder / manifest.name / manifest.version}{SUFFIX}",
        )


class FolderWatch:
    """Tells of bundles that come, change or go; looks every ``interval_s`` on a thread of its own.

    A file counts once it stayed the same from one look to the next: copies take their time.

    Args:
        found: Called with a bundle that is new or has changed, and its folder.
        gone: Called with one that was deleted; not when the folder itself is away.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        interval_s: float,
        found: Callable[[Path, Path], None],
        gone: Callable[[Path], None],
    ) -> None:
        self._interval_s = interval_s
        self._found = found
        self._gone = gone
        self._known: dict[Path, dict[Path, Stamp]] = {}
        self._settling: dict[Path, Stamp] = {}
        self._away: set[Path] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edge-folders", daemon=True)
        for folder in folders:
            self._known[folder] = self._read(folder) or {}

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Compare what is there with what was, once."""
        for folder, known in self._known.items():
            now = self._read(folder)
            if now is None:
                continue
            for path in known.keys() - now.keys():
                del known[path]
                self._gone(path)
            for path, stamp in now.items():
                if known.get(path) == stamp:
                    continue
                if self._settling.get(path) != stamp:
                    self._settling[path] = stamp
                    continue
                del self._settling[path]
                known[path] = stamp
                self._found(path, folder)

    def _read(self, folder: Path) -> dict[Path, Stamp] | None:
        """None while the folder is away; what was found in it stays."""
        try:
            now = bundles_in(folder)
        except OSError as error:
            if folder not in self._away:
                self._away.add(folder)
                log.error("%s can not be read, its models stay as they are: %s", folder, error)
            return None
        if folder in self._away:
            self._away.remove(folder)
            log.info("%s can be read again", folder)
        return now

    def _run(self) -> None:
        while not self._closing.wait(self._interval_s):
            try:
                self.look()
            except Exception:  # one bad look must not end all that come after it
                log.exception("the served folders could not be looked at")
