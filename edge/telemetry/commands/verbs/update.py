"""``update``: another version of a model, from a URL or in chunks over MQTT."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge.bundle import open_bundle
from edge.bundle.signing import Keyring, keyring_of
from edge.core.durable import sha256_of
from edge.core.errors import (
    BundleError,
    EngineError,
    InputError,
    UnavailableError,
    UnsupportedError,
)
from edge.core.manifest import Digest, Name
from edge.host.catalog import version_key
from edge.host.suitability import check_device
from edge.telemetry.commands.order import RefusedError
from edge.telemetry.commands.verb import Context, Progress, Result, Verb
from edge.telemetry.updates import chunks, download
from edge.telemetry.updates.newest import Newest
from edge.telemetry.updates.partial import FOLDER, Partial, Room

if TYPE_CHECKING:
    from edge.host import ModelStatus
    from edge.settings import Settings

_MOST_TRIES = 2
_WAIT_S = 0.2


class Update(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Either ``url`` or ``transfer`` says how the bundle comes; ``sha256`` is that of its file.

    It must hold ``version`` of ``model``. ``activate`` false leaves it to the verb of that name.
    """

    model: Name
    version: Name
    sha256: Digest
    url: str = ""
    transfer: chunks.Geometry | None = None
    activate: bool = True

    def __post_init__(self) -> None:
        if bool(self.url) == (self.transfer is not None):
            raise ValueError("either url or transfer has to say where the bundle comes from")
        if self.url:
            download.check_url(self.url)

    @property
    def key(self) -> tuple[str, str]:
        return self.model, self.version


class UpdateVerb(Verb[Update]):
    """Whatever ends this process amid it, the next one goes on: what has come is kept, and a
    bundle lies in the served folder whole or not at all.
    """

    arguments = Update
    is_resumed = True

    def __init__(self) -> None:
        self._inboxes: dict[str, chunks.Inbox] = {}

    def lane(self, arguments: Update) -> str:
        """One at a time, and while it comes, its model can be steered."""
        return "update"

    def run(self, context: Context, arguments: Update, progress: Progress) -> Result:
        folder, keyring = means(context.settings, context.runtime.folders)  # before much is fetched
        _check_age(context, arguments)
        if _is_there(context, arguments):
            return self._activate(context, arguments, progress)
        with Partial(folder / FOLDER, arguments.sha256) as file:
            try:
                if not file.size_bytes or file.digest() != arguments.sha256:
                    self._fetch(context, arguments, progress, file)
                progress(1.0, step="verifying")
                signed_by = _check(file.path, arguments, keyring, context.settings.serve.engine)
            except (BundleError, UnsupportedError):
                file.drop()  # no other try would end in another way
                raise
            file.sync()
            file.notes_path.unlink(missing_ok=True)
            _count_tries(context, progress)
            progress(1.0, step="activating" if arguments.activate else "installing")
            try:
                status = context.runtime.install(
                    file.path,
                    folder,
                    activate=arguments.activate,
                    keep=context.settings.update.keep_versions,
                )
            except InputError:  # its name and version are taken
                file.drop()
                raise
        Newest().raise_to(*arguments.key)
        return {**_result(status), "signed_by": signed_by}

    def receive(self, id_: str, path: tuple[str, ...], payload: bytes) -> None:
        inbox = self._inboxes.get(id_)
        if inbox is not None:
            inbox.put(path, payload)

    def _fetch(
        self, context: Context, arguments: Update, progress: Progress, file: Partial
    ) -> None:
        settings = context.settings.update
        room = Room(file.path.parent, settings.max_bytes, settings.keep_free_bytes)
        if arguments.transfer is None:
            terms = download.Terms(
                room,
                settings.patience_s,
                settings.timeout_s,
                settings.ca,
                told=partial(_tell_download, progress),
                check=context.check,
                wait=partial(_wait, context),
            )
            download.Download(arguments.url, file, terms).run()
            return
        inbox = self._inboxes[context.id] = chunks.Inbox(arguments.transfer)
        try:

            def tell(share: float, fields: dict[str, Any]) -> None:
                progress(share, step="receiving", **fields)

            of_chunks = chunks.Terms(room, settings.patience_s, tell, context.check)
            chunks.Assembly(file, arguments.transfer, inbox, of_chunks).run()
        finally:
            del self._inboxes[context.id]

    def _activate(self, context: Context, arguments: Update, progress: Progress) -> Result:
        """What an earlier run or command has brought; that it was signed was seen then."""
        runtime = context.runtime
        if arguments.activate:
            _count_tries(context, progress)
            progress(1.0, step="activating")
            runtime.activate(*arguments.key)
        Newest().raise_to(*arguments.key)
        return _result(runtime.status_of(*arguments.key))


def means(settings: Settings, served: Iterable[Path]) -> tuple[Path, Keyring | None]:
    """The one of the ``served`` folders that updates go to, and who has to have signed them.

    Raises:
        UnsupportedError: There is none: what came would be gone after a restart.
        InputError: A key can't be used, or none is trusted and one has to be.
    """
    keyring = keyring_of(settings.trust, for_update=True)
    named = settings.update.folder
    for folder in served:
        if not named or folder.resolve() == Path(named).resolve():
            return folder, keyring
    what = f"{named} is not served" if named else "no folder is served, only files"
    raise UnsupportedError(
        f"there is no place for an update: {what}", hint="serve it there: edge serve FOLDER"
    )


def _check_age(context: Context, arguments: Update) -> None:
    """Whether what comes is no older than what this device had: who listened to an update once
    can send it again, with its signature.

    Raises:
        RefusedError: It is, by the version, which has to be that of the signed manifest.
    """
    if context.settings.update.downgrade:
        return
    had = [
        one.version
        for one in context.runtime.status()
        if one.name == arguments.model and one.state != "failed"
    ]
    newest = max((*had, Newest().of(arguments.model)), key=version_key)
    if version_key(arguments.version) < version_key(newest):
        raise RefusedError(
            f"{arguments.model} {arguments.version} is older than {newest}, which was there",
            kind="downgrade",
            hint="roll-back and activate go back to what is kept there; to bring an older one: "
            "[update] downgrade = true in edge.toml there, or edge deploy --force",
        )


def _is_there(context: Context, arguments: Update) -> bool:
    """Whether the runtime has just this bundle.

    Raises:
        InputError: It has another one of that name and version.
    """
    known = [one for one in context.runtime.status() if (one.name, one.version) == arguments.key]
    if not known:
        return False
    if sha256_of(Path(known[0].path)) == arguments.sha256:
        return True
    if known[0].state == "failed":
        return False
    raise InputError(
        f"{arguments.model} has a version {arguments.version} already, with other contents",
        hint="convert it again with another --version",
    )


def _check(path: Path, arguments: Update, keyring: Keyring | None, engine: str) -> str:
    """Who signed a bundle that is what the command says, and for a device like this one.

    Raises:
        SignatureError: It is not signed as it has to be.
        BundleError: It is damaged, or another model or version.
        UnsupportedError: It is for another device.
    """
    try:
        bundle = open_bundle(path, keyring)
    except BundleError as error:  # where it lies for the moment tells the operator nothing
        reason = str(error).removeprefix(f"{path}: ")
        raise type(error)(reason, hint=error.hint) from error
    with bundle:
        manifest = bundle.manifest
        if (manifest.name, manifest.version) != arguments.key:
            raise BundleError(
                f"the bundle holds {manifest.name} {manifest.version}, "
                f"not {arguments.model} {arguments.version}"
            )
        check_device(manifest, engine)
        return bundle.signed_by


def _count_tries(context: Context, progress: Progress) -> None:
    """Raises ``EngineError`` where this process ended each time that the bundle was loaded."""
    tries = int(context.notes.get("tries", 0))
    if tries >= _MOST_TRIES:
        raise EngineError(
            f"edge ended {tries} times while it loaded the bundle, which is held back now",
            hint="look into its log; the verb activate tries once more",
        )
    try:
        progress.note(tries=tries + 1)
    except OSError as error:
        raise UnavailableError(f"can not keep what was begun: {error.strerror}") from error


def _tell_download(progress: Progress, have_bytes: int, total_bytes: int | None) -> None:
    share = have_bytes / total_bytes if total_bytes else None
    progress(share, step="receiving", received_bytes=have_bytes)


def _wait(context: Context, seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0:
        context.check()
        time.sleep(min(_WAIT_S, left_s))


def _result(status: ModelStatus) -> Result:
    return {
        "version": status.version,
        "state": status.state,
        "is_active": status.is_active,
        "engine": status.engine,
        "variant": status.variant,
        "placement": status.placement.actual if status.placement else "",
        "is_fallback": status.is_fallback,
    }


VERB = UpdateVerb()
