"""Takes certificates back: the list (a CRL, RFC 5280) by which a broker refuses who has them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from edge.core.durable import replacing
from edge.core.errors import InputError
from edge.deploy.certificates import damage, read_file, sdk
from edge.deploy.register import Entry, Register

if TYPE_CHECKING:
    from cryptography.x509 import CertificateRevocationList

    from edge.deploy.authority import Authority


def list_path(authority_path: Path) -> Path:
    """Where an authority's list is: ``ca.crl`` beside ``ca.pem``."""
    return authority_path.with_suffix(".crl")


def revoked_serials(path: Path) -> frozenset[str]:
    """Serial numbers of all on a list, in hexadecimal; none where there is no list.

    Raises:
        InputError: It can't be read.
    """
    return frozenset(f"{one.serial_number:x}" for one in _read(path) or ())


def revoke(
    authority: Authority, register: Register, names: Iterable[str], path: Path
) -> list[Entry]:
    """Put all certificates of devices on the list, and say which were not on it before.

    Raises:
        InputError: Nothing was issued to such a device, the list is another authority's, or can't
            be written; nothing is revoked then.
    """
    with register.locked():
        known = revoked_serials(path)
        issued = [entry for name in names for entry in register.issued_to(name)]
        new = {entry.serial: entry for entry in issued if entry.serial not in known}
        if new:
            pem = authority.sign_list(_read(path), [int(serial, 16) for serial in new])
            _write(path, pem)
    return list(new.values())


def _read(path: Path) -> CertificateRevocationList | None:
    if not path.exists():
        return None
    data, _ = read_file(path)
    try:
        found: CertificateRevocationList = sdk("x509").load_pem_x509_crl(data)
    except damage() as error:
        raise InputError(f"{path} is no list of revoked certificates (a CRL as PEM)") from error
    return found


def _write(path: Path, pem: str) -> None:
    """Whole or not at all, for all to read: a broker that starts meanwhile finds one."""
    try:
        with replacing(path) as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(pem.encode())
    except OSError as error:
        raise InputError(f"can not write {path}: {error.strerror}") from error
