"""Whether a device fits a release, and what is said where it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.deploy.contract import Difference, device_differences, release_differences
from edge.deploy.facts import Facts, Python
from edge.deploy.release import Parcel, make_parcel, read_bundles, read_settings
from edge.deploy.rollout import Outcome
from edge.deploy.wheels import Target, Wheelhouse

Bring = Callable[..., Outcome]
MakeBundle = Callable[..., Path]
Settings = Callable[..., Path]
NANO = {
    "hostname": "nano",
    "arch": "aarch64",
    "system": "Ubuntu 22.04.5 LTS",
    "board": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    "glibc": "2.35",
    "pythons": (Python("3.10", "/usr/bin/python3"),),
    "l4t": "36.4.3",
    "cuda": "12.6",
    "tensorrt": "10.3.0.30",
    "sm": "87",
    "npu_driver": "",
    "has_pycuda": True,
    "memory_bytes": 8 << 30,
    "free_memory_bytes": 6 << 30,
    "free_disk_bytes": 50 << 30,
    "can_write": True,
    "has_systemd": True,
    "init": "systemd",
}


def facts(**changes: Any) -> Facts:
    return Facts(**{**NANO, **changes})


def parcel_of(wheelhouse: Callable[..., Wheelhouse], *bundles: Path) -> Parcel:
    house = wheelhouse((), Target("3.10", "aarch64", "2.35"))
    return make_parcel(read_bundles(bundles), read_settings(None), house)


@pytest.fixture
def for_nano(make_bundle: MakeBundle) -> Path:
    """As edge convert makes them for a Jetson: TensorRT, in a range of versions."""
    variant = {
        "id": "tensorrt-fp16",
        "engine": "tensorrt",
        "requires": {"tensorrt": ">=10.3,<10.4"},
    }
    return make_bundle("1", profile="jetson-orin-nano-8gb", variant=variant)


def found(parcel: Parcel, device: Facts, **how: Any) -> list[Difference]:
    return release_differences(
        parcel, device, **{"missing_bytes": 1_000_000, "is_forced": False, **how}
    )


def test_a_device_as_the_profile_says_has_no_differences(
    for_nano: Path, wheelhouse: Callable[..., Wheelhouse]
) -> None:
    assert device_differences(facts()) == []
    assert found(parcel_of(wheelhouse, for_nano), facts()) == []


@pytest.mark.parametrize(
    ("changes", "what", "do"),
    [
        ({"has_systemd": False, "init": "busybox"}, "init", "container"),
        ({"pythons": (Python("3.8", "/usr/bin/python3"),)}, "python", "apt-get install"),
        ({"glibc": ""}, "libc", "container"),
        ({"can_write": False}, "/opt/edge", "writable"),
    ],
)
def test_what_no_release_can_do_without_is_said_first(
    changes: dict[str, Any], what: str, do: str
) -> None:
    (difference,) = device_differences(facts(**changes))
    assert (difference.what, difference.kind) == (what, "stops")
    assert do in difference.do


@pytest.mark.parametrize(
    ("changes", "what", "kind"),
    [
        ({"arch": "x86_64"}, "arch", "stops"),
        ({"free_disk_bytes": 100_000_000}, "disk", "stops"),
        ({"tensorrt": "8.5.2"}, "m tensorrt-fp16", "warns"),
        ({"tensorrt": ""}, "m tensorrt-fp16", "warns"),
        ({"has_pycuda": False}, "m tensorrt-fp16", "warns"),
        ({"sm": "72"}, "sm", "warns"),
        ({"l4t": "35.6.1"}, "l4t", "warns"),
        ({"cuda": "11.4"}, "cuda", "warns"),
    ],
)
def test_each_difference_is_named_with_what_to_do(
    for_nano: Path,
    wheelhouse: Callable[..., Wheelhouse],
    changes: dict[str, Any],
    what: str,
    kind: str,
) -> None:
    differences = found(parcel_of(wheelhouse, for_nano), facts(**changes))
    assert [(one.what, one.kind) for one in differences] == [(what, kind)]
    assert differences[0].do


def test_where_no_other_variant_may_serve_it_stops(
    for_nano: Path, wheelhouse: Callable[..., Wheelhouse]
) -> None:
    parcel = parcel_of(wheelhouse, for_nano)
    serve = msgspec.structs.replace(parcel.settings.serve, fallback="deny")
    settings = msgspec.structs.replace(parcel.settings, serve=serve)
    strict = msgspec.structs.replace(parcel, settings=settings)
    (difference,) = found(strict, facts(tensorrt="8.5.2"))
    assert difference.kind == "stops"
    assert "tensorrt >=10.3,<10.4" in str(difference)


def test_force_lets_another_architecture_pass_but_not_a_full_disk(
    for_nano: Path, wheelhouse: Callable[..., Wheelhouse]
) -> None:
    parcel = parcel_of(wheelhouse, for_nano)
    (difference,) = found(parcel, facts(arch="x86_64"), is_forced=True)
    assert difference.kind == "warns"
    (difference,) = found(parcel, facts(free_disk_bytes=1), is_forced=True)
    assert (difference.what, difference.kind) == ("disk", "stops")
