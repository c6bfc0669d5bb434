"""A runtime that trusts only what is signed: at its start, and what comes into its folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from patience import wait_until

import edge
from edge.bundle import sign
from edge.bundle.signing import Keyring, Signer, TrustedKey
from edge.core.errors import BundleError

MakeBundle = Callable[..., Path]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNER = Signer(KEY)
KEYRING = Keyring([TrustedKey("release", SIGNER.fingerprint, KEY.public_key())])


def test_a_bundle_that_is_named_has_to_be_signed(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    with pytest.raises(BundleError, match="is not signed"):
        edge.Runtime(path, trust=KEYRING)
    with edge.Runtime(sign(path, SIGNER), trust=KEYRING) as runtime:
        assert runtime.infer("product", {"x": np.ones((1, 3), np.float32)})["y"].shape == (1, 4)


def test_what_is_not_signed_fails_in_a_folder_and_leaves_the_others_alone(
    make_bundle: MakeBundle,
) -> None:
    unsigned, signed = make_bundle(name="a"), sign(make_bundle(name="b"), SIGNER)
    with edge.Runtime(signed.parent, trust=KEYRING) as runtime:
        states = {Path(status.path): status for status in runtime.status()}
        assert states[unsigned].state == "failed"
        assert "is not signed" in states[unsigned].reason
        runtime.load("b")


def test_what_comes_into_a_folder_has_to_be_signed(make_bundle: MakeBundle) -> None:
    first = sign(make_bundle(version="1"), SIGNER)
    with edge.Runtime(first.parent, trust=KEYRING, watch_s=0.02) as runtime:
        runtime.load_all()
        make_bundle(version="3")
        sign(make_bundle(version="2", file="other.edge"), SIGNER)
        wait_until(lambda: runtime.status_of("product").version == "2", "version 2 to take over")
        assert runtime.versions("product") == ["1", "2"]
