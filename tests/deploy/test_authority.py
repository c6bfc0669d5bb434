"""An operator's own authority: whom it signs for, and what it is not taken in by."""

from __future__ import annotations

import datetime
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge.core.errors import InputError
from edge.deploy.authority import Authority, make_authority, read_authority
from edge.deploy.certificates import Request, fingerprint, read_request
from edge.deploy.register import Entry, Register
from edge.deploy.revocation import revoke, revoked_serials

PEM = serialization.Encoding.PEM
PLAIN = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
TODAY = datetime.datetime.now(datetime.timezone.utc)


def name_of(*values: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value) for value in values])


def request_of(key: Any, *names: str, **extensions: x509.ExtensionType) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(name_of(*names))
    for extension in extensions.values():
        builder = builder.add_extension(extension, critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(PEM).decode()


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return read_authority(*make_authority(tmp_path / "ca", 30))


@pytest.fixture
def files(tmp_path: Path, key: Any) -> Callable[..., tuple[Path, Path]]:
    """An authority's files with something wrong about them."""

    def make(
        ends_in_days: float = 1, begins_in_days: float = -2, **extensions: x509.ExtensionType
    ) -> tuple[Path, Path]:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name_of("ca"))
            .issuer_name(name_of("ca"))
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(TODAY + datetime.timedelta(days=begins_in_days))
            .not_valid_after(TODAY + datetime.timedelta(days=ends_in_days))
        )
        for extension in extensions.values():
            builder = builder.add_extension(extension, critical=True)
        paths = tmp_path / "own.pem", tmp_path / "own.key"
        paths[0].write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(PEM))
        paths[1].touch(0o600)
        paths[1].write_bytes(key.private_bytes(PEM, *PLAIN))
        return paths

    return make


@pytest.mark.parametrize("kind", ["P-256", "Ed25519"])
def test_certificate_is_for_a_client_of_that_name_and_that_key(
    authority: Authority, tmp_path: Path, kind: str
) -> None:
    made: Any = ec.generate_private_key(ec.SECP256R1())
    made = made if kind == "P-256" else ed25519.Ed25519PrivateKey.generate()
    request = read_request(request_of(made, "cam-7"), "cam-7")
    issued, other = authority.sign(request, 10), authority.sign(request, 10)
    certificate = x509.load_pem_x509_certificate(issued.pem.encode())
    assert certificate.public_key() == made.public_key()
    assert certificate.subject == name_of("cam-7")
    assert int(issued.serial, 16) == certificate.serial_number != int(other.serial, 16)
    extensions = certificate.extensions
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    alternative = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternative.get_values_for_type(x509.DNSName) == ["cam-7"]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    left = certificate.not_valid_after_utc - TODAY
    assert datetime.timedelta(days=9.9) < left < datetime.timedelta(days=10.1)
    path = tmp_path / "device.crt"
    path.write_text(issued.pem)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient"]
    command += ["-CAfile", str(tmp_path / "ca.pem"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_certificate_ends_no_later_than_its_authority(
    authority: Authority, key: Any, tmp_path: Path
) -> None:
    issued = authority.sign(read_request(request_of(key, "cam-7"), "cam-7"), 4000)
    own = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    assert issued.ends == f"{own.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"


def test_whatever_else_a_request_asks_for_is_not_granted(authority: Authority, key: Any) -> None:
    text = request_of(
        key,
        "cam-7",
        basic=x509.BasicConstraints(ca=True, path_length=None),
        names=x509.SubjectAlternativeName([x509.DNSName("broker.lan")]),
        usage=x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    )
    issued = authority.sign(read_request(text, "cam-7"), 1)
    extensions = x509.load_pem_x509_certificate(issued.pem.encode()).extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["cam-7"]
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def forged(key: Any) -> str:
    """A request whose key was exchanged after it was signed."""
    der = x509.load_pem_x509_csr(request_of(key, "cam-7").encode()).public_bytes(
        serialization.Encoding.DER
    )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    mine, other = (
        one.public_key().public_bytes(serialization.Encoding.DER, form)
        for one in (key, ec.generate_private_key(ec.SECP256R1()))
    )
    changed = x509.load_der_x509_csr(der.replace(mine, other))
    return changed.public_bytes(PEM).decode()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (forged, "not signed by its own key"),
        (lambda key: request_of(key, "cam-8"), "for 'cam-8', and its host name is 'cam-7'"),
        (request_of, "for '', and"),
        (lambda key: request_of(key, "cam-7", "root"), "for '', and"),
        (lambda _: request_of(ec.generate_private_key(ec.SECP192R1()), "cam-7"), "neither P-256"),
        (lambda _: request_of(rsa.generate_private_key(65537, 1024), "cam-7"), "neither P-256"),
        (lambda key: request_of(key, "cam-7").replace("M", "N", 3), "no request"),
        (lambda _: "nonsense", "no request"),
    ],
    ids=["forged", "other name", "no name", "names", "P-192", "RSA", "damaged", "nonsense"],
)
def test_request_that_is_not_right_is_refused(
    key: Any, make: Callable[[Any], str], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        read_request(make(key), "cam-7")


@pytest.mark.parametrize("name", ["cam/7", "#", "+", "operator@lan", "käm", "-v", " "])
def test_name_that_fits_no_topic_is_refused(key: Any, name: str) -> None:
    with pytest.raises(InputError, match="can not be the name of a device"):
        read_request(request_of(key, name), name)


CA = x509.BasicConstraints(ca=True, path_length=None)
SIGNS_NO_CERTIFICATES = x509.KeyUsage(*([True] + [False] * 8))


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, "no certificate of an authority"),
        ({"basic": x509.BasicConstraints(ca=False, path_length=None)}, "no certificate of an"),
        ({"basic": CA, "usage": SIGNS_NO_CERTIFICATES}, "no certificate of an authority"),
        ({"basic": CA, "ends_in_days": -1}, "ended at 20"),
        ({"basic": CA, "begins_in_days": 0.5}, "begins at 20"),
    ],
    ids=["nothing said", "no authority", "signs no certificates", "expired", "not begun"],
)
def test_what_is_no_authority_now_is_refused(
    files: Callable[..., Any], facts: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        read_authority(*files(**facts))


def test_authority_of_another_tool_without_the_newer_extensions_signs(
    files: Callable[..., Any], key: Any
) -> None:
    authority = read_authority(*files(basic=CA))
    assert authority.sign(read_request(request_of(key, "cam-7"), "cam-7"), 1).pem


def test_key_of_another_authority_is_refused(tmp_path: Path, authority: Authority) -> None:
    _, other = make_authority(tmp_path / "other", 1)
    with pytest.raises(InputError, match=r"other\.key does not belong to .*ca\.pem"):
        read_authority(tmp_path / "ca.pem", other)


def test_files_that_hold_something_else_are_named(tmp_path: Path, authority: Authority) -> None:
    certificate, key, nonsense = (tmp_path / name for name in ("ca.pem", "ca.key", "nonsense"))
    nonsense.touch(0o600)
    for paths, reason in (
        ((nonsense, key), "nonsense holds no certificate"),
        ((key, key), r"ca\.key holds no certificate"),
        ((certificate, nonsense), "nonsense is no private key"),
        ((tmp_path / "absent", key), "can not read .*absent"),
        ((certificate, tmp_path / "absent"), "can not read .*absent"),
    ):
        with pytest.raises(InputError, match=reason):
            read_authority(*paths)


def test_key_that_others_may_read_is_refused(tmp_path: Path, authority: Authority) -> None:
    os.chmod(tmp_path / "ca.key", 0o640)
    with pytest.raises(InputError, match="others than its owner"):
        read_authority(tmp_path / "ca.pem", tmp_path / "ca.key")


def test_key_with_a_passphrase_asks_for_it(tmp_path: Path) -> None:
    paths = make_authority(tmp_path / "ca", 1, b"word")
    assert b"ENCRYPTED" in paths[1].read_bytes()
    assert read_authority(*paths, lambda: b"word").pem
    with pytest.raises(InputError, match="is another one"):
        read_authority(*paths, lambda: b"other")
    with pytest.raises(InputError, match="nobody is there to ask"):
        read_authority(*paths)


def test_new_authority_takes_the_place_of_none(tmp_path: Path) -> None:
    certificate, key = make_authority(tmp_path / "ca", 1)
    before = certificate.read_bytes(), key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="is there already"):
        make_authority(tmp_path / "ca", 1)
    assert (certificate.read_bytes(), key.read_bytes()) == before
    with pytest.raises(InputError, match="can not write"):
        make_authority(tmp_path / "absent" / "ca", 1)


def asked(name: str, key: Any) -> Request:
    return Request(name, fingerprint(key.public_key()), key.public_key())


def entry(request: Request, serial: str = "1") -> Entry:
    return Entry(request.name, request.key, serial, "2030-01-01T00:00:00Z", "host")


def test_new_name_waits_until_it_is_approved_and_stays_with_its_key(
    tmp_path: Path, key: Any
) -> None:
    path = tmp_path / "ca.issued"
    ours, others = asked("cam-7", key), asked("cam-7", ec.generate_private_key(ec.SECP256R1()))
    assert not Register(path).claim(ours, "a")
    assert not Register(path, approved={"cam-8": ""}).claim(ours, "a")
    for approved in ("", ours.key):
        assert Register(path, approved={"cam-7": approved}).claim(ours, "a")
    with pytest.raises(InputError, match="was approved for cam-7, and its key is"):
        Register(path, approved={"cam-7": others.key}).claim(ours, "a")
    Register(path).add(entry(ours))
    assert Register(path).claim(ours, "a")
    for approved in ({}, {"cam-7": others.key}):
        with pytest.raises(InputError, match="cam-7 was enrolled with another key") as caught:
            Register(path, approved=approved).claim(others, "a")
        assert "--revoke cam-7" in caught.value.hint
    with pytest.raises(InputError, match="was enrolled as cam-7"):
        Register(path, approved={"cam-8": ""}).claim(asked("cam-8", key), "a")


def test_name_and_key_are_free_once_they_are_revoked(tmp_path: Path, key: Any) -> None:
    path = tmp_path / "ca.issued"
    ours, others = asked("cam-7", key), asked("cam-7", ec.generate_private_key(ec.SECP256R1()))
    Register(path).add(entry(ours, "a1"))
    Register(path).add(entry(ours, "a2"))
    assert Register(path, revoked={"a1"}).claim(ours, "a")  # one of them holds
    revoked = {"a1", "a2"}
    assert not Register(path, revoked=revoked).claim(ours, "a")
    assert not Register(path, revoked=revoked).claim(asked("cam-8", key), "a")
    assert Register(path, revoked=revoked, approved={"cam-7": others.key}).claim(others, "a")


def test_list_of_revoked_certificates_grows_and_others_can_check_it(
    tmp_path: Path, authority: Authority
) -> None:
    register, path = Register(tmp_path / "ca.issued"), tmp_path / "ca.crl"
    serials = {}
    for name in ("cam-7", "cam-7", "cam-8", "cam-9"):
        request = asked(name, ec.generate_private_key(ec.SECP256R1()))
        issued = authority.sign(request, 9)
        register.add(Entry(name, request.key, issued.serial, issued.ends, "host"))
        serials[issued.serial] = name
        (tmp_path / f"{name}.crt").write_text(issued.pem)
    assert is_good(tmp_path, "cam-7")  # the list of a new authority lets all in
    revoked = revoke(authority, register, ["cam-7"], path)
    assert [serials[one.serial] for one in revoked] == ["cam-7", "cam-7"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert revoke(authority, register, ["cam-7"], path) == []
    assert [one.name for one in revoke(authority, register, ["cam-7", "cam-8"], path)] == ["cam-8"]
    assert {serials[serial] for serial in revoked_serials(path)} == {"cam-7", "cam-8"}
    good = [name for name in ("cam-7", "cam-8", "cam-9") if is_good(tmp_path, name)]
    assert good == ["cam-9"]
    found = x509.load_pem_x509_crl(path.read_bytes())
    assert found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3
    own = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    assert found.next_update_utc == own.not_valid_after_utc  # a list that ended shuts all out


def is_good(folder: Path, name: str) -> bool:
    """To openssl, as to a broker that looks at the list."""
    command = ["openssl", "verify", "-x509_strict", "-crl_check", "-CRLfile", folder / "ca.crl"]
    command += ["-CAfile", folder / "ca.pem", folder / f"{name}.crt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert ("certificate revoked" in done.stderr) == (done.returncode != 0), done.stderr
    return done.returncode == 0


def test_list_that_is_not_ours_or_damaged_is_left_as_it_is(
    tmp_path: Path, authority: Authority, files: Callable[..., Any], key: Any
) -> None:
    register, path = Register(tmp_path / "ca.issued"), tmp_path / "ca.crl"
    with pytest.raises(InputError, match="nothing was issued to 'cam-7'"):
        revoke(authority, register, ["cam-7"], path)
    register.add(entry(asked("cam-7", key)))
    make_authority(tmp_path / "other", 1)
    strangers = (tmp_path / "other.crl").read_bytes()
    for data, reason in ((strangers, "not signed by this authority"), (b"nonsense", "is no list")):
        path.write_bytes(data)
        with pytest.raises(InputError, match=reason):
            revoke(authority, register, ["cam-7"], path)
        assert path.read_bytes() == data
    path.unlink()
    signs_no_lists = x509.KeyUsage(*([False] * 5), True, *([False] * 3))
    other = read_authority(*files(basic=CA, usage=signs_no_lists))
    with pytest.raises(InputError, match="may sign no lists"):
        revoke(other, register, ["cam-7"], path)
    with pytest.raises(InputError, match="can not write"):
        revoke(authority, register, ["cam-7"], tmp_path / "absent" / "ca.crl")
    revoke(read_authority(*files(basic=CA)), register, ["cam-7"], path)  # of another tool
    assert revoked_serials(path) == {"1"}


def test_copied_disks_are_told_apart_from_one_device(tmp_path: Path, key: Any) -> None:
    register = Register(tmp_path / "ca.issued")
    register.claim(asked("cam-7", key), "a")
    with pytest.raises(InputError, match="cam-7, as a does"):
        register.claim(asked("cam-7", key), "b")
    with pytest.raises(InputError, match="cam-8, as a does"):
        register.claim(asked("cam-8", key), "c")


def test_line_that_was_cut_off_costs_no_other(tmp_path: Path, key: Any) -> None:
    path = tmp_path / "ca.issued"
    Register(path).add(entry(asked("cam-6", ec.generate_private_key(ec.SECP256R1()))))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:30])
    Register(path).add(entry(asked("cam-7", key)))
    other = ec.generate_private_key(ec.SECP256R1())
    for name in ("cam-6", "cam-7"):
        with pytest.raises(InputError, match="another key"):
            Register(path).claim(asked(name, other), "a")
