"""Signatures, with keys that ssh-keygen and openssl make where they are installed."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edge.bundle import open_bundle, pack, sign
from edge.bundle.signing import (
    Keyring,
    Signer,
    decode_signature,
    keyring_of,
    read_signer,
    read_trusted,
)
from edge.core.errors import BundleError, InputError
from edge.core.manifest import Manifest
from edge.settings import Trust

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
NO_PASSPHRASE = serialization.NoEncryption()
PEM, OPENSSH = serialization.Encoding.PEM, serialization.Encoding.OpenSSH
PKCS8, SSH = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.OpenSSH
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
FINGERPRINT = Signer(KEY).fingerprint


@pytest.fixture
def private(tmp_path: Path) -> Path:
    return write(tmp_path / "release", KEY.private_bytes(PEM, SSH, NO_PASSPHRASE), 0o600)


@pytest.fixture
def public(tmp_path: Path) -> Path:
    data = KEY.public_key().public_bytes(PEM, SPKI)
    return write(tmp_path / "release.pem", data, 0o644)


@pytest.fixture
def keyring(public: Path) -> Keyring:
    return Keyring(read_trusted([public]))


def write(path: Path, data: bytes, mode: int) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_signed_bundle_says_whose_it_is(
    bundle_path: Path, private: Path, keyring: Keyring
) -> None:
    with open_bundle(bundle_path) as bundle:
        digest = bundle.digest
    sign(bundle_path, read_signer(private))
    with open_bundle(bundle_path, keyring) as bundle:
        assert bundle.signed_by == f"release ({FINGERPRINT})"
        assert bundle.digest == digest
    with open_bundle(bundle_path) as bundle:  # nobody asked
        assert (bundle.has_signature, bundle.signed_by) == (True, "")


def test_signing_twice_gives_the_same_bytes(
    manifest: Manifest, parts: Path, bundle_path: Path, private: Path, tmp_path: Path
) -> None:
    signer = read_signer(private)
    once = sign(bundle_path, signer, tmp_path / "once.edge").read_bytes()
    assert sign(tmp_path / "once.edge", signer).read_bytes() == once
    again = pack(manifest, parts, tmp_path / "again.edge")
    assert sign(again, Signer(OTHER)).read_bytes() != once
    assert sign(again, signer).read_bytes() == once


def test_a_bundle_that_can_not_be_signed_stays_as_it_was(bundle_path: Path) -> None:
    damaged = bytearray(bundle_path.read_bytes())
    damaged[-200] ^= 1
    bundle_path.write_bytes(damaged)
    with pytest.raises(BundleError):
        sign(bundle_path, Signer(KEY))
    assert bundle_path.read_bytes() == damaged
    assert [path.name for path in bundle_path.parent.glob(".*")] == []


def test_what_is_not_signed_is_refused_where_it_has_to_be(
    bundle_path: Path, public: Path, keyring: Keyring
) -> None:
    with pytest.raises(BundleError, match="is not signed") as caught:
        open_bundle(bundle_path, keyring)
    assert "edge sign" in caught.value.hint
    sign(bundle_path, Signer(OTHER))
    with pytest.raises(BundleError, match=f"{Signer(OTHER).fingerprint}.*not trusted") as caught:
        open_bundle(bundle_path, keyring)
    assert FINGERPRINT in caught.value.hint
    with open_bundle(bundle_path, Keyring(read_trusted([public]), is_required=False)) as bundle:
        assert bundle.signed_by == ""


@pytest.mark.parametrize("is_required", [True, False])
def test_a_signature_over_another_manifest_is_refused_in_any_case(
    bundle_path: Path, rewrite: Callable[..., Path], public: Path, is_required: bool
) -> None:
    sign(bundle_path, Signer(KEY))
    with open_bundle(bundle_path) as bundle:
        altered = bundle.read("manifest.json").replace(b'"digits"', b'"diggts"')
    path = rewrite({"manifest.json": altered})
    open_bundle(path).close()  # all that it lacks is the right to be used
    with pytest.raises(BundleError, match="does not fit the manifest"):
        open_bundle(path, Keyring(read_trusted([public]), is_required=is_required))


def test_a_manifest_is_not_read_before_its_signature_was(
    bundle_path: Path, rewrite: Callable[..., Path], keyring: Keyring
) -> None:
    sign(bundle_path, Signer(KEY))
    with pytest.raises(BundleError, match="does not fit the manifest"):
        open_bundle(rewrite({"manifest.json": b"{"}), keyring)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"\xff", b'{"schema": 2}', b"[" * 5_000, b'{"schema":1,"schema":1}'],
)
def test_a_signature_that_is_none_is_an_error_of_the_bundle(
    rewrite: Callable[..., Path], keyring: Keyring, data: bytes
) -> None:
    with pytest.raises(BundleError, match=r"signature\.json is not valid"):
        open_bundle(rewrite({"signature.json": data}), keyring)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.fixed_dictionaries(
            {
                "schema": st.integers() | st.just(1),
                "algorithm": st.sampled_from(["ed25519", "none", ""]) | st.text(max_size=9),
                "key": st.just(FINGERPRINT) | st.text(max_size=60),
                "signature": st.binary(max_size=70).map(lambda raw: base64.b64encode(raw).decode())
                | st.text(max_size=90),
            }
        ).map(msgspec.json.encode),
    )
)
def test_no_bytes_but_the_signature_are_taken_for_it(data: bytes) -> None:
    public = read_trusted_bytes()
    with pytest.raises(BundleError):
        Keyring(public).check(b"the manifest", data)


def read_trusted_bytes() -> list[object]:
    from edge.bundle.signing import TrustedKey

    return [TrustedKey("release", FINGERPRINT, KEY.public_key())]


@given(st.integers(0, 63), st.integers(0, 7))
def test_each_bit_of_a_signature_counts(byte: int, bit: int) -> None:
    signed = decode_signature(Signer(KEY).sign(b"the manifest"))
    raw = bytearray(base64.b64decode(signed.signature))
    raw[byte] ^= 1 << bit
    forged = msgspec.structs.replace(signed, signature=base64.b64encode(raw).decode())
    with pytest.raises(BundleError, match="does not fit"):
        Keyring(read_trusted_bytes()).check(b"the manifest", msgspec.json.encode(forged))


def test_private_keys_of_either_form_are_read(tmp_path: Path) -> None:
    for form in (SSH, PKCS8):
        path = write(tmp_path / "key", KEY.private_bytes(PEM, form, NO_PASSPHRASE), 0o600)
        assert read_signer(path).fingerprint == FINGERPRINT


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_private_key_that_others_may_read_is_refused(private: Path, mode: int) -> None:
    private.chmod(mode)
    with pytest.raises(InputError, match="others than its owner") as caught:
        read_signer(private)
    assert caught.value.hint == f"chmod 600 {private}"


def test_a_key_with_a_passphrase_is_refused_with_a_way_out(tmp_path: Path) -> None:
    data = KEY.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"secret"))
    with pytest.raises(InputError, match="has a passphrase") as caught:
        read_signer(write(tmp_path / "key", data, 0o600))
    assert "ssh-keygen -p" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is no private key"),
        (b"\x00" * 100_000, "is no private key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "is no private key"),
        (KEY.public_key().public_bytes(PEM, SPKI), "is a public key"),
        (
            ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, NO_PASSPHRASE),
            "not for Ed25519",
        ),
    ],
)
def test_what_is_no_private_key_is_refused(tmp_path: Path, data: bytes, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_signer(write(tmp_path / "key", data, 0o600))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is no public key"),
        (b"ssh-ed25519 AAAA", "is no public key"),
        (KEY.private_bytes(PEM, SSH, NO_PASSPHRASE), "is a private key"),
        (ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(PEM, SPKI), "Ed25519"),
    ],
)
def test_what_is_no_public_key_is_refused(tmp_path: Path, data: bytes, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_trusted([write(tmp_path / "key.pub", data, 0o644)])


def test_a_public_key_that_anyone_may_change_is_refused(public: Path) -> None:
    public.chmod(0o666)
    with pytest.raises(InputError, match="anyone may change"):
        read_trusted([public])


def test_a_key_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    for read in (read_signer, lambda path: read_trusted([path])):
        with pytest.raises(InputError, match="No such file"):
            read(tmp_path / "none")
    with pytest.raises(InputError, match="holds no public key"):
        read_trusted([tmp_path])


def test_a_folder_holds_the_keys_of_several(tmp_path: Path, public: Path, private: Path) -> None:
    data = OTHER.public_key().public_bytes(OPENSSH, serialization.PublicFormat.OpenSSH)
    write(tmp_path / "deputy.pub", data + b" who@where\n", 0o644)
    assert [key.name for key in read_trusted([tmp_path])] == ["deputy", "release"]


@pytest.mark.parametrize(
    ("require", "keys", "served", "brought"),
    [
        ("update", True, False, True),
        ("always", True, True, True),
        ("never", False, None, None),
        ("never", True, False, False),
    ],
)
def test_settings_say_what_has_to_be_signed(
    public: Path, bundle_path: Path, require: str, keys: bool, served: object, brought: object
) -> None:
    trust = Trust((str(public),) if keys else (), require)  # type: ignore[arg-type]
    for wanted, for_update in ((served, False), (brought, True)):
        keyring = keyring_of(trust, for_update=for_update)
        if wanted:
            with pytest.raises(BundleError, match="is not signed"):
                open_bundle(bundle_path, keyring)
        else:
            assert (keyring is None) == (wanted is None)
            open_bundle(bundle_path, keyring).close()


def test_an_update_can_not_be_proven_without_keys() -> None:
    assert keyring_of(Trust()) is None
    with pytest.raises(InputError, match="no key is trusted"):
        keyring_of(Trust(), for_update=True)


def test_to_require_signatures_always_takes_keys() -> None:
    with pytest.raises(ValueError, match="needs keys"):
        Trust(require="always")


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed")
def test_keys_and_fingerprints_are_those_of_ssh_keygen(tmp_path: Path, bundle_path: Path) -> None:
    key = tmp_path / "fleet"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    told = subprocess.run(["ssh-keygen", "-l", "-f", key], check=True, capture_output=True)
    signer = read_signer(key)
    assert told.stdout.decode().split()[1] == signer.fingerprint
    sign(bundle_path, signer)
    with open_bundle(bundle_path, Keyring(read_trusted([f"{key}.pub"]))) as bundle:
        assert bundle.signed_by == f"fleet ({signer.fingerprint})"


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_openssl_makes_the_same_signature(tmp_path: Path, bundle_path: Path, public: Path) -> None:
    key = write(tmp_path / "key.pem", KEY.private_bytes(PEM, PKCS8, NO_PASSPHRASE), 0o600)
    sign(bundle_path, read_signer(key))
    with open_bundle(bundle_path) as bundle:
        (tmp_path / "manifest.json").write_bytes(bundle.read("manifest.json"))
        signed = decode_signature(bundle.read("signature.json"))
    command = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", key]
    made = subprocess.run(
        [*command, "-in", tmp_path / "manifest.json"], check=True, capture_output=True
    )
    assert made.stdout == base64.b64decode(signed.signature)
