from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.cli._main import EXIT_DONE, EXIT_USAGE, main

PackDigits = Callable[..., Path]


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key's file, and its public one's."""
    key = Ed25519PrivateKey.generate()
    forms = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    private, public = tmp_path / "release", tmp_path / "release.pub"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, *forms))
    private.chmod(0o600)
    form = serialization.PublicFormat.OpenSSH
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.OpenSSH, form))
    return private, public


def test_a_signed_bundle_is_verified_by_its_key(
    pack_digits: PackDigits, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = pack_digits("null")
    private, public = map(str, keys)
    assert main(["verify", str(path), "--key", public]) == EXIT_USAGE
    assert "is not signed" in capsys.readouterr().err
    assert main(["sign", str(path), "--key", private, "--json"]) == EXIT_DONE
    signed = json.loads(capsys.readouterr().out)
    main(["verify", str(path), "--key", public, "--json"])
    verified = json.loads(capsys.readouterr().out)
    assert verified["signature"] == f"by release ({signed['key']})"
    assert verified["digest"] == signed["digest"]


def test_verify_takes_the_keys_that_the_settings_trust(
    pack_digits: PackDigits,
    keys: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EDGE_TRUST_KEYS", str(keys[1]))
    monkeypatch.setenv("EDGE_TRUST_REQUIRE", "always")
    assert main(["verify", str(pack_digits("null"))]) == EXIT_USAGE
    assert "is not signed" in capsys.readouterr().err


def test_convert_signs_what_it_made(
    digits: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = map(str, keys)
    output = str(tmp_path / "signed.edge")
    model = ["convert", str(digits / "digits.onnx"), "--precision", "fp32", "-o", output]
    assert main([*model, "--engine", "onnxruntime", "--sign", private, "--json"]) == EXIT_DONE
    capsys.readouterr()
    assert main(["verify", output, "--key", public, "--json"]) == EXIT_DONE
    assert json.loads(capsys.readouterr().out)["signature"].startswith("by release (SHA256:")


def test_convert_refuses_a_key_before_it_begins(
    digits: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "signed.edge"
    model = ["convert", str(digits / "digits.onnx"), "-o", str(output)]
    assert main([*model, "--sign", str(keys[1])]) == EXIT_USAGE
    assert "is a public key" in capsys.readouterr().err
    assert not output.exists()
