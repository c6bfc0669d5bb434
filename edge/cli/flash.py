"""``edge flash``: a system that serves bundles from its first boot on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.cli import _output
from edge.core.errors import InputError, SettingsError
from edge.core.profile import load_profile, profile_names
from edge.core.sizes import parse_bytes

if TYPE_CHECKING:
    from edge.core.profile import DeviceProfile
    from edge.deploy.overlay import Placed

HELP = "make a system that serves bundles from its first boot on"


class Flashed(msgspec.Struct, frozen=True):
    """What ``--json`` prints."""

    profile: str
    release: str
    image: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--profile", required=True, help="the device")
    parser.add_argument("-o", "--image", type=Path, metavar="FILE", help="the image to make")
    parser.add_argument("--size", default="4GiB", help="of the image (default: 4GiB)")
    parser.add_argument("--settings", type=Path, metavar="edge.toml", help="what to serve by")
    parser.add_argument("--mqtt", metavar="URL", help="the broker to report to")
    parser.add_argument("--fleet", help="the fleet it belongs to")
    parser.add_argument("--hostname", help="{serial} in it is each board's own number")
    parser.add_argument("--user", default="", help="who may log in, with a key, and become root")
    parser.add_argument(
        "--ssh-key", type=Path, action="append", default=[], metavar="FILE.pub", help="repeatable"
    )
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels to choose from as well")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from edge.cli import _main

    profile = load_profile(args.profile)
    if profile.flash.tool != "virtual":
        able = [name for name in profile_names() if load_profile(name).flash.tool]
        raise InputError(
            f"{profile.name} has no tool that flashes it", hint=f"there are: {', '.join(able)}"
        )
    release, placed = _overlay(args, profile)
    image = _virtual(args, placed)
    if args.json:
        _output.print_json(Flashed(profile.name, release, str(image)))
    else:
        _output.say(f"[green]✓[/] {image}  boot it with: edge virtual {image}")
    return _main.EXIT_DONE


def _virtual(args: argparse.Namespace, placed: list[Placed]) -> Path:
    from edge.deploy.virtual.image import make_image
    from edge.deploy.virtual.rootfs import base_root

    if args.image is None:
        raise InputError("where should the image go?", hint="-o device.img")
    tell = _output.err().print
    base = base_root(lambda text: tell(text, style="dim"))
    tell("making the image", style="dim")
    make_image(base, placed, args.image, parse_bytes(args.size))
    return Path(args.image)


def _overlay(args: argparse.Namespace, profile: DeviceProfile) -> tuple[str, list[Placed]]:
    """The release's digest, and all files that go onto the device."""
    from edge.deploy.flash.personal import DEFAULT_HOSTNAME, Personal, personal_files
    from edge.deploy.overlay import overlay
    from edge.deploy.release import make_parcel
    from edge.deploy.wheels import Target, collect, extras_for

    environment = {"EDGE_MQTT_URL": args.mqtt, "EDGE_MQTT_FLEET": args.fleet}
    personal = Personal(
        hostname=args.hostname or DEFAULT_HOSTNAME,
        user=args.user,
        ssh_keys=tuple(_key(path) for path in args.ssh_key),
        environment={name: value for name, value in environment.items() if value},
    )
    if args.mqtt and "@" in args.mqtt:
        raise SettingsError(
            "an image holds no password, and this URL has one",
            hint="put it into /etc/edge/environment on the device",
        )
    from edge.bundle import open_bundle

    manifests = []
    for path in args.bundles:
        with open_bundle(path) as bundle:
            manifests.append(bundle.manifest)
    software = profile.software
    target = Target(software.python, profile.device.arch, software.glibc)
    _output.err().print("collecting wheels", style="dim")
    wheelhouse = collect(extras_for(manifests), target, more=args.wheels)
    parcel = make_parcel(args.bundles, args.settings, wheelhouse)
    return parcel.release.digest, [*overlay(parcel), *personal_files(personal)]


def _key(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"can not read the key {path}: {error}") from error
