"""A bundle goes from an operator to ``edge serve``, and comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import LONG_S
from simulated_fleet import progress, result, roll_out

from edge.bundle import pack
from edge.cli._main import EXIT_DONE, EXIT_GATE, main
from edge.core.manifest import Manifest, Variant
from edge.core.tensor import TensorSpec

pytest.importorskip("cryptography", reason="signatures need the extra: sign")

SETTINGS = """
[serve]
models = ["served"]
http = "127.0.0.1:0"
[mqtt]
url = "{url}"
fleet = "plant"
device = "press-7"
interval_s = 0.3
[trust]
keys = ["trusted.pub"]
[commands]
update = true
roll_back = true
"""
PackZeros = Callable[..., Path]


def make_key(path: Path) -> Path:
    """A private key of OpenSSH, with its public one beside it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    path.touch(mode=0o600)
    path.write_bytes(private)
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    path.with_suffix(".pub").write_bytes(public)
    return path


@pytest.fixture
def pack_zeros(tmp_path: Path) -> PackZeros:
    """A model that answers zeros, in a bundle that is signed."""

    def make(version: str, key: Path) -> Path:
        (tmp_path / "parts").mkdir(exist_ok=True)
        x, y = TensorSpec("x", "float32", (1, 2)), TensorSpec("y", "float32", (1, 1))
        variant = Variant("null-fp32", "null", "fp32", (), (x,), (y,), chosen=True)
        manifest = Manifest(1, "zeros", version, "tensors", "host", "0" * 64, (variant,))
        bundle = pack(manifest, tmp_path / "parts", tmp_path / f"zeros-{version}.edge")
        assert main(["sign", str(bundle), "--key", str(key)]) == EXIT_DONE
        return bundle

    return make


@pytest.fixture
def device(tmp_path: Path, url: str, pack_zeros: PackZeros) -> Iterator[Path]:
    """``edge serve`` with version 1; its folder, in which ``trusted`` is the key that it knows."""
    folder = tmp_path / "device"
    (folder / "served").mkdir(parents=True)
    key = make_key(folder / "trusted")
    pack_zeros("1", key).rename(folder / "served" / "zeros-1.edge")
    (folder / "edge.toml").write_text(SETTINGS.format(url=url))
    command = [sys.executable, "-m", "edge", "serve", "--config", "edge.toml", "--json"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "serving"
        yield folder
    finally:
        process.terminate()
        process.communicate(timeout=LONG_S)


def served(url: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["fleet", "--mqtt", url, "--json", "--seconds", "1"]) == EXIT_DONE
    (device,) = result(capsys)["devices"]
    return {model["name"]: model["version"] for model in device["models"]}


def test_bundle_reaches_a_real_device_in_chunks_and_is_rolled_back(
    device: Path, url: str, pack_zeros: PackZeros, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = pack_zeros("2", device / "trusted")
    capsys.readouterr()
    assert main(roll_out(url, bundle, "--json")) == EXIT_DONE
    assert progress(result(capsys)) == {"press-7": "done"}
    assert served(url, capsys) == {"zeros": "2"}
    back = ["fleet", "send", "roll-back", "model=zeros", "--device", "press-7"]
    assert main([*back, "--fleet", "plant", "--mqtt", url, "--seconds", "1"]) == EXIT_DONE
    assert served(url, capsys) == {"zeros": "1"}


def test_real_device_refuses_what_a_stranger_signed(
    device: Path, url: str, pack_zeros: PackZeros, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = pack_zeros("2", make_key(device / "stranger"))
    capsys.readouterr()
    assert main(roll_out(url, bundle, "--json")) == EXIT_GATE
    told = result(capsys)
    assert (told["phase"], progress(told)) == ("stopped", {"press-7": "failed"})
    assert "not trusted" in told["steps"]["press-7"]["reason"]
    assert served(url, capsys) == {"zeros": "1"}


@pytest.mark.usefixtures("device")
def test_real_device_says_which_right_is_off(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fleet", "send", "goldens", "model=zeros", "--device", "press-7"]
    more = ["--fleet", "plant", "--mqtt", url, "--seconds", "1"]
    assert main([*command, *more]) == EXIT_GATE
    told = capsys.readouterr()
    assert told.out.startswith("✗ press-7  not allowed")
    assert "[commands] goldens = true" in told.err
