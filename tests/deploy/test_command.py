"""``edge deploy`` as it is typed, to a real device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ssh_device import Device

from edge.cli._main import main
from edge.deploy import rollout
from edge.deploy.wheels import Wheelhouse

MakeBundle = Callable[..., Path]


@pytest.fixture(autouse=True)
def _wheels(monkeypatch: pytest.MonkeyPatch, wheelhouse: Callable[..., Wheelhouse]) -> None:
    def collect(extras: object, target: object, **_: object) -> Wheelhouse:
        return wheelhouse(extras, target)

    monkeypatch.setattr(rollout, "collect", collect)


def test_one_good_host_and_a_bad_one(
    served: Device, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    ssh = f"--ssh-config={served.config}"
    bad = "nobody.invalid"
    assert main(["deploy", str(make_bundle("3")), served.name, bad, ssh]) == 3
    output, progress = capsys.readouterr()
    assert f"{served.name}: comparing\n{served.name}: collecting wheels\n" in progress
    assert f"✓ {served.name}: serves " in output
    assert f"✗ {bad}: no host is named {bad}" in output
    assert "1 of 2 hosts" in output
    assert max(map(len, output.splitlines())) <= 80
    assert main(["deploy", "--status", served.name, bad, ssh, "--json"]) == 3
    good, absent = json.loads(capsys.readouterr().out)
    assert (good["service"], good["models"][0]["version"]) == ("active", "3")
    assert absent["error"]
    assert main(["deploy", "--status", served.name, ssh]) == 0
    output = capsys.readouterr().out
    assert "m 3 ready" in " ".join(output.split())
    assert max(map(len, output.splitlines())) <= 80
    assert main(["deploy", "--rollback", served.name, ssh]) == 0
    assert served.versions() == {"m": "1"}


def test_a_bad_update_is_exit_code_1_and_says_what_serves(
    served: Device, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = str(make_bundle("2", answer=1.0))
    assert main(["deploy", bad, served.name, f"--ssh-config={served.config}"]) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert f"{served.name}: went back: m 2 failed" in output
    assert "what served before serves again" in output


def test_a_dry_run_lists_the_steps(
    served: Device, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = str(make_bundle("2"))
    arguments = ["deploy", newer, served.name, f"--ssh-config={served.config}", "--dry-run"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "1. send " in output
    assert "bytes: m 2" in " ".join(output.split())
    assert "the running service takes over" in output
    assert max(map(len, output.splitlines())) <= 80


@pytest.mark.parametrize(
    "words",
    [
        "m.edge --config edge.toml user@host",
        "--config edge.toml m.edge user@host",
        "m.edge user@host --config edge.toml",
        "--config edge.toml -- m.edge user@host",
    ],
)
def test_flags_stand_anywhere(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", *words.split()]) == 2
    assert "can not open bundle m.edge" in capsys.readouterr().err


def test_a_flag_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "m.edge", "--bogus", "user@host"]) == 2
    assert "unrecognized arguments: --bogus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.edge"], "no host is named"),
        (["host"], "no bundle is named"),
        (["missing.edge", "host"], "there is no such file"),
        (["--status", "model.edge", "host"], "is a bundle"),
        (["model.edge", "host", "host"], "host is named twice"),
        (["model.edge", "--hosts", "nowhere"], "can not read nowhere"),
    ],
)
def test_what_is_typed_wrong_is_said(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_bundle_that_nobody_trusted_signed_goes_nowhere(
    make_bundle: MakeBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    key = tmp_path / "ours.pub"
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    form = serialization.PublicFormat.OpenSSH
    key.write_bytes(public.public_bytes(serialization.Encoding.OpenSSH, form))
    assert main(["deploy", str(make_bundle("1")), "host", "--key", str(key)]) == 2
    assert "not signed" in capsys.readouterr().err
