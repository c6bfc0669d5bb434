"""Files as they come in, and what is made of them: runtimes and releases."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from . import durable
from .facts import pythons
from .layout import USER, Layout
from .refusal import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Source(Protocol):
        def read(self, size: int, /) -> bytes: ...


CHUNK_BYTES = 1 << 20
_PARTIAL = ".partial"
_SUFFIX = ".edge"
_WHOLE = "runtime.json"
"""Written last into a runtime: without it, what is there is half of one."""


def prepare(layout: Layout) -> None:
    for folder in (layout.files, layout.runtimes, layout.releases):
        os.makedirs(folder, exist_ok=True)
    # Settings with passwords are kept here until they belong to a release.
    os.chmod(layout.files, 0o700)


def held(layout: Layout, files: list[str]) -> dict[str, int]:
    """How many bytes there are of those files of which there are any."""
    found = {}
    for sha256 in files:
        path = layout.file(sha256)
        if digest_of(path + _PARTIAL) == sha256:  # all of it came, then the power went
            _finish(layout, sha256)
        for name in (path + _PARTIAL, path):
            with contextlib.suppress(OSError):
                found[sha256] = os.stat(name).st_size
    return found


def receive(layout: Layout, sha256: str, offset: int, size: int, stream: Source) -> None:
    """Take the rest of a file from ``stream``; what is cut off is gone on with the next time.

    Raises:
        RefusedError: It is another file than announced, or there is no room.
    """
    path = layout.file(sha256)
    partial = path + _PARTIAL
    left = size - offset
    with open(partial, "ab") as target:
        target.truncate(offset)
        try:
            while left:
                chunk = stream.read(min(CHUNK_BYTES, left))
                if not chunk:
                    raise EOFError
                left -= len(chunk)
                target.write(chunk)
        except OSError:
            target.truncate(0)  # gives the room back: what serves may need it
            while left and (chunk := stream.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
            raise
        finally:
            target.flush()
            os.fsync(target.fileno())
    if digest_of(partial) != sha256:
        durable.remove(partial)
        raise RefusedError("a file arrived damaged", "run it again: it is sent anew")
    _finish(layout, sha256)


def _finish(layout: Layout, sha256: str) -> None:
    path = layout.file(sha256)
    os.chmod(path + _PARTIAL, 0o644)
    os.replace(path + _PARTIAL, path)
    durable.sync_folder(layout.files)


def digest_of(path: str) -> str:
    """Of a file's contents; empty if there is none."""
    if not os.path.isfile(path):
        return ""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while True:
            chunk = stream.read(CHUNK_BYTES)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)


def place(layout: Layout, path: str, sha256: str, mode: int) -> None:
    """Put a file that was received where it belongs."""
    with open(layout.file(sha256), "rb") as stream:
        data = stream.read()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    durable.write(path, data, mode)


def install_runtime(layout: Layout, runtime: dict[str, Any], say: Callable[[str], None]) -> bool:
    """Make the virtual environment of a release from its wheels; False if it is there already.

    Raises:
        RefusedError: It can not be made.
    """
    folder = layout.runtime(runtime["digest"])
    if os.path.exists(os.path.join(folder, _WHOLE)):
        return False
    durable.remove_tree(folder)
    found = {python["version"]: python["path"] for python in pythons()}
    python = found.get(runtime["python"])
    if python is None:
        raise RefusedError(f"there is no Python {runtime['python']} here")
    wheels = folder + ".wheels"
    durable.remove_tree(wheels)
    os.makedirs(wheels)
    try:
        for wheel in runtime["wheels"]:
            os.link(layout.file(wheel["sha256"]), os.path.join(wheels, wheel["name"]))
        say("making the environment")
        system = ["--system-site-packages"] if runtime["has_system_packages"] else []
        _check([python, "-I", "-m", "venv", "--without-pip", *system, folder])
        _install(folder, wheels, say)
        os.sync()  # thousands of files
        document = durable.encode(runtime)
        durable.write(os.path.join(folder, _WHOLE), document)
        durable.sync_folder(layout.runtimes)
    except BaseException:
        durable.remove_tree(folder)
        raise
    finally:
        durable.remove_tree(wheels)
    return True


def _install(folder: str, wheels: str, say: Callable[[str], None]) -> None:
    names = durable.names_in(wheels)
    pip = next((name for name in names if name.startswith("pip-")), None)
    if pip is None:
        raise RefusedError("the release has no wheel of pip to install the others with")
    others = [os.path.join(wheels, name) for name in names if name != pip]
    python = os.path.join(folder, "bin", "python")
    say(f"installing {len(others)} packages")
    _check([python, "-I", os.path.join(wheels, pip, "pip"), "--isolated", "install", "--quiet",
            "--no-index", "--no-deps", "--no-cache-dir", "--disable-pip-version-check",
            "--root-user-action", "ignore", *others])  # fmt: skip
    _check([python, "-I", "-m", "edge", "--version"])


def _check(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "rror" in line]
        reason = (errors or lines or ["no reason given"])[-1]
        raise RefusedError(f"the environment can not be made: {reason.strip()}")


def assemble(layout: Layout, release: dict[str, Any], keep: list[dict[str, Any]]) -> str:
    """Make the folder of a release from files that are here; gives its path.

    Args:
        keep: Models of the release in use that stay beside newer versions, to go back to.
    """
    folder = layout.release(release["digest"])
    current = os.path.realpath(layout.current)
    if current == os.path.realpath(folder) and os.path.exists(folder):
        return folder
    partial = folder + _PARTIAL
    durable.remove_tree(partial)
    os.makedirs(os.path.join(partial, "models"))
    durable.write(os.path.join(partial, "release.json"), durable.encode(release))
    with open(layout.file(release["settings"]["sha256"]), "rb") as stream:
        durable.write(os.path.join(partial, "edge.toml"), stream.read(), 0o640)
    shutil.chown(os.path.join(partial, "edge.toml"), "root", USER)
    for model in release["models"]:
        _link_model(layout.file(model["sha256"]), partial, model)
    for model in keep:
        _link_model(_model_path(current, model), partial, model)
    runtime = os.path.join("..", "..", "runtimes", release["runtime"]["digest"])
    durable.link(os.path.join(partial, "runtime"), runtime)
    durable.link(os.path.join(partial, "updates"), _make_updates(layout, release))
    durable.sync_folder(os.path.join(partial, "models"))
    durable.remove_tree(folder)
    os.rename(partial, folder)
    durable.sync_folder(layout.releases)
    return folder


def _make_updates(layout: Layout, release: dict[str, Any]) -> str:
    """The folder for what updates by command bring beside this release; the service may write it.

    Each release has its own: what it brings is not overtaken by an earlier update of the same
    model, and who goes back finds all as it was. Models that no release brings come along.
    """
    folder = os.path.join(layout.updates, release["digest"])
    brought = {model["name"] for model in release["models"]}
    before = os.path.join(layout.current, "updates")
    durable.remove_tree(folder)
    os.makedirs(folder)
    for update in updates(layout):
        if update["name"] not in brought:
            place = os.path.join(folder, update["name"])
            os.makedirs(place, exist_ok=True)
            file = os.path.join(update["name"], update["version"] + _SUFFIX)
            os.link(os.path.join(before, file), os.path.join(folder, file))
    for path in (layout.updates, folder, *(os.path.join(folder, n) for n in os.listdir(folder))):
        shutil.chown(path, USER, USER)
        durable.sync_folder(path)
    return folder


def updates(layout: Layout) -> list[dict[str, str]]:
    """What updates by command brought beside the release in use."""
    folder = os.path.join(layout.current, "updates")
    return [
        {"name": name, "version": file[: -len(_SUFFIX)]}
        for name in durable.names_in(folder)
        for file in durable.names_in(os.path.join(folder, name))
        if file.endswith(_SUFFIX)
    ]


def _model_path(release: str, model: dict[str, Any]) -> str:
    return os.path.join(release, "models", model["name"], model["version"] + _SUFFIX)


def _link_model(source: str, release: str, model: dict[str, Any]) -> None:
    """A hard link: it takes no room, and a service that watches sees that it is the same file."""
    path = _model_path(release, model)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.link(source, path)
    durable.sync_folder(os.path.dirname(path))


def is_whole(layout: Layout, digest: str) -> bool:
    """Whether a release could serve."""
    folder = layout.release(digest)
    release = durable.read_json(os.path.join(folder, "release.json"))
    return release is not None and os.path.exists(os.path.join(folder, "runtime", _WHOLE))


def collect_garbage(layout: Layout) -> None:
    """Delete all that no release needs which serves, or which there is to go back to."""
    releases: dict[str, dict[str, Any]] = {}
    for link in (layout.current, layout.previous):
        release = durable.read_json(os.path.join(link, "release.json"))
        if release is not None:
            releases[release["digest"]] = release
    runtimes = {release["runtime"]["digest"] for release in releases.values()}
    files = {release["settings"]["sha256"] for release in releases.values()}
    for release in releases.values():
        files |= {part["sha256"] for part in release["runtime"]["wheels"] + release["models"]}
    kept = ((layout.releases, set(releases)), (layout.runtimes, runtimes), (layout.files, files),
            (layout.updates, set(releases)))  # fmt: skip
    for folder, wanted in kept:
        for name in durable.names_in(folder):
            path = os.path.join(folder, name)
            if name in wanted:
                continue
            if os.path.isdir(path):
                durable.remove_tree(path)
            else:
                os.unlink(path)
