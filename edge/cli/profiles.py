"""``edge profiles``: which devices are known, and what is known of one."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from edge.cli import _output
from edge.core.profile import DeviceProfile, load_profile, profile_names, profile_releases

if TYPE_CHECKING:
    from rich.text import Text

HELP = "list the devices that are known, or show one with its sources"
UNKNOWN = "–"
LINE_WIDTH = 80
SECTIONS = tuple(
    name for name in DeviceProfile.__struct_fields__ if name not in ("name", "device", "sources")
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this device alone")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if args.name:
        profile = load_profile(args.name)
        _output.print_json(profile) if args.json else _show(profile)
        return 0
    profiles = [load_profile(name) for name in profile_names()]
    _output.print_json(profiles) if args.json else _list(profiles)
    return 0


def _list(everything: list[DeviceProfile]) -> None:
    from rich.text import Text

    names = [profile.name for profile in everything]
    later = [f"{name}-{release}" for name in names for release in profile_releases(name)]
    profiles = [profile for profile in everything if profile.name not in later]
    rows: list[tuple[str | Text, ...]] = []
    for family in dict.fromkeys(profile.device.family for profile in profiles):
        rows.append((Text(family, style="bold"), "", "", "", ""))
        rows += [_row(profile) for profile in profiles if profile.device.family == family]
    columns = ("device", "memory", "TOPS", "chip", "precisions")
    _output.table("", columns, rows, right=("memory", "TOPS"))
    _output.say()
    _output.say(
        "[dim]TOPS: dense INT8 peak by the vendor, unless marked. More: edge profiles NAME[/]"
    )
    _output.say(f"[dim]With later software: {', '.join(later)}[/]")


def _row(profile: DeviceProfile) -> tuple[str, ...]:
    accelerators = [engine for engine in profile.compute.engines if engine != "cpu"]
    return (
        f" {profile.name}",
        _memory_text(profile.memory.bytes),
        _peak_text(profile),
        " ".join(accelerators or ["cpu"]),
        " ".join(profile.precision.legal),
    )


def _memory_text(size_bytes: int) -> str:
    """Memory is sold in powers of two: ``8 GiB``."""
    return f"{size_bytes / 2**30:.0f} GiB" if size_bytes else UNKNOWN


def _peak_text(profile: DeviceProfile) -> str:
    if peak := profile.compute.peak("int8"):
        return f"{peak:.3g}"
    peak = profile.compute.peak("fp8")
    return f"{peak:.3g} fp8" if peak else UNKNOWN


def _show(profile: DeviceProfile) -> None:
    _output.say(f"[bold]{profile.device.title}[/]  [dim]{profile.name}[/]")
    for note in profile.device.notes:
        _output.say(note)
    _output.say()
    _output.facts([("arch", profile.device.arch), *_facts(profile)])
    if profile.sources:
        _output.say()
        _output.say("[bold]Sources[/]")
        _show_sources(profile.sources)


def _show_sources(sources: dict[str, str]) -> None:
    """Wrapped by hand, so that no address is broken."""
    indent = max(map(len, SECTIONS)) + 2
    for section in SECTIONS:
        text = textwrap.fill(
            sources.get(section, ""),
            LINE_WIDTH,
            initial_indent=f"{section:{indent}}",
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        if text:
            _output.out().print(text, markup=False, soft_wrap=True)


def _facts(profile: DeviceProfile) -> Iterator[tuple[str, str]]:
    """Each section and key that says something, in the order of the profile's own fields."""
    for section in SECTIONS:
        for key, value in msgspec.structs.asdict(getattr(profile, section)).items():
            yield f"{section}.{key}", _value_text(key, value)


def _value_text(key: str, value: Any) -> str:
    if key == "bytes" or key.endswith("_bytes"):
        return _memory_text(value) if value else ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, dict):
        pairs = ((name, _value_text("", inner)) for name, inner in value.items())
        return ", ".join(f"{name} {text}" for name, text in pairs)
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, float):
        return f"{value:g}" if value else ""
    return str(value or "")
