"""TLS to a broker: what it is verified by, and what went wrong in words that help."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import selectors
import ssl
import time
from functools import cache
from pathlib import Path

from edge.core.errors import UnavailableError
from edge.telemetry.address import BrokerAddress, TlsFiles

log = logging.getLogger(__name__)

_OTHERS = 0o077
_STRANGERS = 0o007
_VERDICT_S = 0.5  # a round trip, for brokers that give no ticket
_ALERT = re.compile(r"\[SSL: (\w+)\]")

# Of an end in the midst Debian's Python 3.11.2 says that the other side closed in good order.
_HUNG_UP = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError)

# By X.509 verification codes: OpenSSL, include/openssl/x509_vfy.h
_NOT_YET_VALID, _EXPIRED, _WRONG_HOST, _WRONG_IP = 9, 10, 62, 64
_UNKNOWN_CA = (18, 19, 20, 21)

_NO_TLS_THERE = "it does not talk TLS on this port; without TLS it is mqtt://"
_WANTS_CERTIFICATE = "it demands a client certificate; give one with certificate and key in [mqtt]"
_NO_COMMON_TERMS = (
    "it broke off the TLS handshake; it may demand a client certificate"
    " (certificate and key in [mqtt]) or another TLS version"
)
_ALERTS = {
    "WRONG_VERSION_NUMBER": _NO_TLS_THERE,
    "RECORD_LAYER_FAILURE": _NO_TLS_THERE,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _WANTS_CERTIFICATE,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _NO_COMMON_TERMS,
    "TLSV1_ALERT_PROTOCOL_VERSION": _NO_COMMON_TERMS,
    "TLSV1_ALERT_UNKNOWN_CA": "it refuses our client certificate: it does not know its CA",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it refuses our client certificate: it has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it refuses our client certificate: it is revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it refuses our client certificate as a bad one",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it refuses our client certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it refuses our kind of client certificate",
}


class _Socket(ssl.SSLSocket):
    """One that is closed if its handshake fails, as paho leaves it open, and hears why."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
            if self.version() == "TLSv1.3":
                self._hear_verdict()
        except BaseException:
            self.close()
            raise

    def _hear_verdict(self) -> None:
        """Since TLS 1.3 a broker looks at our certificate after we believe to be through.

        What it then says (a ticket, or why not) is lost if we have sent more to a closed socket.
        """
        timeout_s = self.gettimeout()
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.select(_VERDICT_S)
        self.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.recv(1)  # no broker says anything of MQTT before we do
        self.settimeout(timeout_s)


def context(files: TlsFiles) -> ssl.SSLContext:
    """What verifies the broker, and its name, always; read anew, as certificates are renewed.

    Raises:
        UnavailableError: A file can't be read, or holds something else.
    """
    for path in filter(None, (files.ca, files.certificate, files.key)):
        try:
            Path(path).read_bytes()  # ssl would not say which one it can't read
        except OSError as error:
            raise UnavailableError(f"can not read {path}: {error.strerror}") from error
    try:
        made = ssl.create_default_context(cafile=files.ca or None)
    except ssl.SSLError as error:
        raise UnavailableError(f"{files.ca} holds no certificate of a CA in PEM") from error
    made.sslsocket_class = _Socket
    if files.certificate:
        _present(made, files.certificate, files.key or files.certificate)
    return made


def explain(error: Exception, address: BrokerAddress) -> str:
    """Why there is no connection, and what may help; empty if TLS has no part in it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _verification(error, address)
    if isinstance(error, _HUNG_UP):
        return f"it hung up during the TLS handshake: maybe {_NO_TLS_THERE}"
    if isinstance(error, TimeoutError) and "handshake" in str(error):
        return f"no answer to the TLS handshake: maybe {_NO_TLS_THERE}"
    found = _ALERT.search(str(error))
    if found is None:
        return ""
    return _ALERTS.get(found[1], f"TLS fails: {found[1].replace('_', ' ').lower()}")


def _verification(error: ssl.SSLCertVerificationError, address: BrokerAddress) -> str:
    code = error.verify_code
    if code in _UNKNOWN_CA:
        of = address.tls.ca if address.tls and address.tls.ca else "the system"
        return (
            f"its certificate is of a CA that {of} does not know ({error.verify_message});"
            " name the file with its CA as ca in [mqtt]"
        )
    if code in (_EXPIRED, _NOT_YET_VALID):
        fault = "has expired" if code == _EXPIRED else "is not valid yet"
        now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        return f"its certificate {fault}; the clock here says {now} UTC: one of the two is wrong"
    if code in (_WRONG_HOST, _WRONG_IP):
        return (
            f"its certificate is not for {address.host!r};"
            " use a name in the URL that the certificate has"
        )
    return f"its certificate is not accepted: {error.verify_message}"


def _present(made: ssl.SSLContext, certificate: str, key: str) -> None:
    known = Path(key).stat()
    # Root gives a key to a service by the service's group.
    is_lent = known.st_uid == 0 != os.geteuid()
    _warn_of_readers(key, known.st_mode & (_STRANGERS if is_lent else _OTHERS))
    try:
        # A password keeps OpenSSL from asking for one on the terminal.
        made.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise UnavailableError(f"the key {key} does not belong to {certificate}") from error
        raise UnavailableError(
            f"{certificate} and {key} are no certificate and its unencrypted key in PEM"
        ) from error


@cache
def _warn_of_readers(key: str, readers: int) -> None:
    """Once."""
    if readers:
        log.warning("the key %s can be read by others: chmod 600 %s", key, key)
