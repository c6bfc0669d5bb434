"""Every profile that ships is valid, sourced and says what conversion needs to know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from edge.core import plugins
from edge.core.profile import DeviceProfile, load_profile, profile_names

ASKED_FOR = {
    "host",
    "generic-x86-64",
    "generic-arm64",
    "raspberry-pi-5",
    "jetson-orin-nano-4gb",
    "jetson-orin-nano-8gb",
    "jetson-orin-nano-8gb-super",
    "jetson-orin-nx-8gb",
    "jetson-orin-nx-16gb",
    "jetson-agx-orin-32gb",
    "jetson-agx-orin-64gb",
    "jetson-agx-thor",
    "jetson-xavier-nx",
    "jetson-agx-xavier",
    "intel-core-ultra-1",
    "intel-core-ultra-2",
    "intel-core-ultra-3",
    "intel-n100",
    "nvidia-gpu",
}
# What runs first is our own choice; everything else came from somewhere.
OURS = ("name", "device", "runtimes", "sources")

PROFILES = [load_profile(name) for name in profile_names()]
each_profile = pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)


def facts(profile: DeviceProfile) -> Iterator[str]:
    """Sections of the profile that say anything."""
    blank = DeviceProfile(
        name="",
        device=profile.device,
        onnx=msgspec.structs.replace(profile.onnx, opset=0),
        precision=msgspec.structs.replace(profile.precision, legal=("fp32",), preference=()),
        runtimes=profile.runtimes,
    )
    for section in profile.__struct_fields__:
        if section not in OURS and getattr(profile, section) != getattr(blank, section):
            yield section


def test_the_devices_that_were_promised_are_there() -> None:
    assert set(profile_names()) >= ASKED_FOR


@each_profile
def test_each_section_with_facts_has_a_source(profile: DeviceProfile) -> None:
    probed = {"compute", "memory"} if profile.device.probed else set()
    missing = set(facts(profile)) - probed - set(profile.sources)
    assert not missing


@each_profile
def test_sources_are_given_for_sections_that_say_something(profile: DeviceProfile) -> None:
    assert set(profile.sources) <= set(facts(profile))
    for text in profile.sources.values():
        elsewhere = text.removeprefix("As ").split(":")[0] if text.startswith("As ") else ""
        assert "http" in profile.sources.get(elsewhere, text), text


@each_profile
def test_arch_is_one_that_wheels_exist_for(profile: DeviceProfile) -> None:
    if not profile.device.probed:
        assert profile.device.arch in ("x86_64", "aarch64")


@each_profile
def test_every_legal_precision_has_its_place_in_the_preference(profile: DeviceProfile) -> None:
    assert sorted(profile.precision.preference) == sorted(profile.precision.legal)


@each_profile
def test_opset_can_hold_the_legal_precisions(profile: DeviceProfile) -> None:
    # QuantizeLinear learns FP8 in opset 19, INT4 in 21 and FP4 in 23; BF16 is checked for
    # TensorRT alone, whose layers take it from opset 22 on.
    first = {"fp8": 19, "int4": 21, "fp4": 23}
    if "tensorrt" in profile.runtimes.order:
        first["bf16"] = 22
    for precision in profile.precision.legal:
        assert profile.onnx.opset >= first.get(precision, 0), precision


@each_profile
def test_ir_belongs_to_the_opset(profile: DeviceProfile) -> None:
    # https://github.com/onnx/onnx/blob/main/docs/Versioning.md
    first_opset_of_ir = {8: 15, 9: 19, 10: 21, 11: 23, 12: 24, 13: 25}
    assert profile.onnx.opset >= first_opset_of_ir[profile.onnx.ir]
    assert profile.onnx.opset < first_opset_of_ir[profile.onnx.ir + 1]


@each_profile
def test_options_are_for_engines_that_are_listed(profile: DeviceProfile) -> None:
    assert set(profile.runtimes.options) <= set(profile.runtimes.order)


@pytest.mark.parametrize("name", [n for n in sorted(ASKED_FOR) if n.startswith("jetson")])
def test_jetsons_have_what_flashing_and_engines_are_keyed_by(name: str) -> None:
    profile = load_profile(name)
    assert profile.compute.sm == {"x": "72", "o": "87", "t": "110"}[_generation(name)]
    assert profile.software.tensorrt
    assert profile.flash.board
    assert profile.memory.unified
    assert profile.memory.bytes % 2**30 == 0


def _generation(name: str) -> str:
    return next(word[0] for word in name.split("-") if word in ("xavier", "orin", "thor"))


def test_memory_fits_the_name() -> None:
    for profile in PROFILES:
        size = next((w for w in profile.name.split("-") if w.endswith("gb")), None)
        if size:
            assert profile.memory.bytes == int(size[:-2]) * 2**30


def test_npus_take_fixed_shapes_on_openvino() -> None:
    npus = [profile for profile in PROFILES if "npu" in profile.compute.engines]
    assert len(npus) == 3
    for profile in npus:
        assert profile.shapes.static
        assert profile.runtimes.options["openvino"] == {"device": "NPU"}
        assert profile.compute.npu


def test_bases_are_not_listed_and_each_is_used() -> None:
    used: set[str] = set()
    bases: set[str] = set()
    for folder in plugins.folders("device_profiles"):
        for path in folder.glob("*.toml"):
            tables: dict[str, Any] = msgspec.toml.decode(path.read_bytes())
            used.add(tables.get("extends", ""))
            bases |= {path.stem} if path.name.startswith("_") else set()
    assert bases
    assert bases <= used
    assert not bases & set(profile_names())
