from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import edge
from edge.bundle import sign
from edge.bundle.signing import Keyring, read_signer, read_trusted
from edge.cli._main import EXIT_DONE, EXIT_USAGE, main
from edge.core.errors import BundleError

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


@pytest.mark.parametrize("command", ["run", "bench"])
def test_what_runs_a_bundle_asks_who_signed_it(
    pack_digits: PackDigits,
    keys: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    digits: Path,
    command: str,
) -> None:
    path = pack_digits("null")
    picture = str(next((digits / "eval" / "3").iterdir()))
    words = [command, str(path), *([picture] if command == "run" else ["--seconds", "0.01"])]
    assert main(words) == EXIT_DONE
    assert main([*words, "--key", str(keys[1])]) == EXIT_USAGE
    monkeypatch.setenv("EDGE_TRUST_KEYS", str(keys[1]))
    monkeypatch.setenv("EDGE_TRUST_REQUIRE", "always")
    assert main(words) == EXIT_USAGE
    assert "is not signed" in capsys.readouterr().err
    main(["sign", str(path), "--key", str(keys[0])])
    assert main(words) == EXIT_DONE


def test_a_program_that_loads_a_bundle_may_ask_who_signed_it(
    pack_digits: PackDigits, keys: tuple[Path, Path]
) -> None:
    path = pack_digits("null")
    trust = Keyring(read_trusted([keys[1]]))
    with pytest.raises(BundleError, match="is not signed"):
        edge.load(path, trust=trust)
    sign(path, read_signer(keys[0]))
    with edge.load(path, trust=trust) as model:
        assert model.name == "digits"


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
