"""Fetches a bundle over HTTP, and goes on where it was cut."""

from __future__ import annotations

import http.client
import logging
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

from edge.core.errors import BundleError, EdgeError, InputError, UnavailableError
from edge.telemetry.backoff import Backoff
from edge.telemetry.redaction import without_secrets
from edge.telemetry.updates.partial import Partial, Room

log = logging.getLogger(__name__)

_SCHEMES = ("http", "https")
_READ_BYTES = 256 * 1024
_SYNC_BYTES = 8 * 1024 * 1024
_MOST_REDIRECTS = 5
_MOST_WRONG = 2
_LONGEST_WAIT_S = 60.0
_LATER = (408, 425, 429)
"""Answers below 500 that say no more than "not now"."""

_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)", re.ASCII)
_LENGTH = re.compile(r"\d{1,15}", re.ASCII)
_DAMAGE = (OSError, http.client.HTTPException, ValueError)
"""What a connection that fails, or a server that talks nonsense, comes to in the standard library;
ssl's errors are OSErrors."""

Told = Callable[[int, int | None], None]
"""Called with the bytes that are there and how many there will be, if the server says so."""


class Terms(NamedTuple):
    """``check`` is called between steps, and raises to stop; ``wait`` sleeps, and does so too."""

    room: Room
    patience_s: float
    timeout_s: float
    ca: str
    told: Told
    check: Callable[[], None]
    wait: Callable[[float], None]


class _CutError(Exception):
    """The answer ended, or could not be used, but the next may be."""


class Download:
    """Fills a file until it holds what its digest says; one thread uses it.

    Raises:
        InputError: The URL or the file of authorities can't be used.
    """

    def __init__(self, url: str, partial: Partial, terms: Terms) -> None:
        self._url = url
        self._shown = without_secrets(url)
        self._partial = partial
        self._terms = terms
        self._opener = _opener(url, terms.ca)
        self._etag = ""  # of what is there; what an earlier process left is proven by its digest

    def run(self) -> None:
        """Fetch, and try again, until all is there.

        Raises:
            InputError: The server has no such file, or it is too large.
            BundleError: The server has it, but with other contents.
            UnavailableError: Nothing new came for the time of patience, or the disk is full.
        """
        wrong_count = 0
        while True:
            has_begun_anew = self._partial.size_bytes == 0
            self._fetch_all()
            digest = self._partial.digest()
            if digest == self._partial.sha256:
                self._partial.sync()
                return
            self._partial.truncate()
            self._etag = ""
            wrong_count += has_begun_anew
            if wrong_count >= _MOST_WRONG:
                raise BundleError(
                    f"what {self._shown} gives has the SHA-256 {digest}, "
                    f"not {self._partial.sha256}",
                    hint="name the digest of the file that is there: sha256sum FILE",
                )

    def _fetch_all(self) -> None:
        backoff = Backoff(1.0, _LONGEST_WAIT_S)
        most, since_s = self._partial.size_bytes, time.monotonic()
        while True:
            try:
                self._fetch()
                return
            except _CutError as error:
                if self._partial.size_bytes > most:
                    most, since_s = self._partial.size_bytes, time.monotonic()
                    backoff.failures = 0
                elif time.monotonic() - since_s > self._terms.patience_s:
                    raise UnavailableError(
                        f"nothing new came from {self._shown} for {self._terms.patience_s:g} s: "
                        f"{error}",
                        hint="send the command again under another id: what came is kept",
                    ) from error
                log.info("%s: %s; trying again", self._shown, error)
                self._terms.wait(backoff.next_s())

    def _fetch(self) -> None:
        """Ask once for what is missing, and take what comes.

        Raises:
            _CutError: Not all came.
        """
        self._terms.check()
        try:
            with self._opener.open(self._request(), timeout=self._terms.timeout_s) as answer:
                total = _total(answer, self._partial)
                self._etag = _strong(answer.headers.get("ETag", ""))
                _receive(answer, self._partial, self._terms, total)
        except EdgeError:  # some are ValueErrors
            raise
        except urllib.error.HTTPError as error:
            with error:
                self._take_refusal(error)
        except urllib.error.URLError as error:
            _judge_connection(self._shown, error.reason)
            raise _CutError(str(error.reason)) from error
        except _DAMAGE as error:
            raise _CutError(f"{type(error).__name__}: {error}") from error

    def _request(self) -> urllib.request.Request:
        request = urllib.request.Request(self._url, headers={"Accept-Encoding": "identity"})
        have = self._partial.size_bytes
        if have:
            request.add_header("Range", f"bytes={have}-")
            if self._etag:  # the whole file comes if it is another one by now
                request.add_header("If-Range", self._etag)
        return request

    def _take_refusal(self, error: urllib.error.HTTPError) -> None:
        """Nothing, where it means that all is here.

        Raises:
            InputError: It will not change by itself.
            _CutError: It may.
        """
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range", "") == f"bytes */{self._partial.size_bytes}":
                return
            self._partial.truncate()
            raise _CutError("what was kept does not fit what is there now") from error
        # Not the error's own reason: it names where a redirect leads, with what is secret there.
        answer = f"{error.code} {http.client.responses.get(error.code, '')}".rstrip()
        if error.code < http.client.INTERNAL_SERVER_ERROR and error.code not in _LATER:
            raise InputError(
                f"{self._shown}: the server answers {answer}",
                hint="look at the URL, and whether it needs a login",
            ) from error
        raise _CutError(f"the server answers {answer}") from error


def check_url(url: str) -> None:
    """Raises ``InputError`` where nothing can be fetched from a URL."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_usable = parts.scheme in _SCHEMES and parts.port != 0 and parts.username is None
        is_usable &= bool((parts.hostname or "").encode("idna"))
    except ValueError:
        is_usable = False
    if not is_usable or not url.isascii() or not url.isprintable() or " " in url:
        raise InputError(
            f"{without_secrets(url)!r} is no URL to fetch from",
            hint="take http:// or https://, without a login",
        )


def _total(answer: Any, partial: Partial) -> int | None:
    """How large the whole is, if the server says so; what is kept is what the answer goes on from.

    Raises:
        _CutError: The answer is none to this request.
    """
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise InputError(
            "the server gives the file compressed, though it was asked not to",
            hint="let it serve .edge files as they are",
        )
    length = answer.headers.get("Content-Length", "")
    if answer.status == http.client.PARTIAL_CONTENT:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != partial.size_bytes:
            partial.truncate()
            raise _CutError("the server answers with another part than was asked for")
        return int(match[2]) + 1 if match[3] == "*" else int(match[3])
    if answer.status != http.client.OK:
        raise _CutError(f"the server answers {answer.status}")
    partial.truncate()
    return int(length) if _LENGTH.fullmatch(length) else None


def _receive(answer: Any, partial: Partial, terms: Terms, total: int | None) -> None:
    have = partial.size_bytes
    synced = have
    terms.room.check(max(have, total or 0), max(0, (total or 0) - have))
    while data := answer.read1(_READ_BYTES):
        terms.check()
        terms.room.check(have + len(data), len(data))
        partial.write(data, have)
        have += len(data)
        if have - synced >= _SYNC_BYTES:
            partial.sync()
            synced = have
        terms.told(have, total)
    if total is not None and have < total:
        raise _CutError(f"the connection ended after {have:,} of {total:,} bytes")


def _strong(etag: str) -> str:
    """A weak ETag can't say that two files are the same byte by byte (RFC 9110, section 13.1.5)."""
    return "" if etag.startswith("W/") else etag


def _judge_connection(url: str, reason: Any) -> None:
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise InputError(
            f"{url}: the server's certificate is refused: {reason.verify_message}",
            hint="name its authority: ca in [update] of edge.toml",
        ) from reason


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Few, to HTTP only, and never from TLS to plain text."""

    max_redirections = _MOST_REDIRECTS

    def redirect_request(  # noqa: PLR0917 - as the standard library has it
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        check_url(newurl)
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            raise InputError(f"{without_secrets(req.full_url)} leads from https:// to http://")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(url: str, ca: str) -> urllib.request.OpenerDirector:
    """What speaks HTTP, by the proxies of the environment, and nothing else: no files, no FTP."""
    check_url(url)
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as error:  # ssl's errors are too
        raise InputError(
            f"the authorities in {ca} can not be read: {error}", hint="ca in [update] is a PEM file"
        ) from error
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
