"""``edge flash``: boards and images that serve bundles from their first boot on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.cli import _output
from edge.cli._arguments import positive
from edge.cli._progress import bars
from edge.core.errors import InputError, SettingsError
from edge.core.profile import load_profile, profile_names
from edge.core.sizes import parse_bytes

if TYPE_CHECKING:
    from edge.core.profile import DeviceProfile
    from edge.deploy.flash.bsp import Bsp
    from edge.deploy.flash.jetson import Plan
    from edge.deploy.flash.personal import Personal
    from edge.deploy.flash.vendor import Call
    from edge.deploy.overlay import Placed

HELP = "make boards and images that serve bundles from their first boot on"


class Flashed(msgspec.Struct, frozen=True):
    """What ``--json`` prints; ``calls`` are of the vendor's tools, in ``bsp``."""

    profile: str
    files: int
    image: str = ""
    bsp: str = ""
    calls: tuple[str, ...] = ()
    is_done: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", nargs="*", type=Path, metavar="BUNDLE")
    parser.add_argument("--profile", required=True, help="the device")
    parser.add_argument("--config", type=Path, metavar="edge.toml", help="what to serve by")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels to choose from as well")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_personal(parser.add_argument_group("whose it is"))
    image = parser.add_argument_group("an image")
    image.add_argument("-o", "--image", type=Path, metavar="FILE", help="make an image")
    image.add_argument("--size", default="4GiB", help="of a virtual device's (default: 4GiB)")
    _add_jetson(parser.add_argument_group("a Jetson"))


def _add_personal(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--hostname", help="{serial} in it is each board's own number")
    group.add_argument("--user", default="", help="who may log in, with a key, and become root")
    group.add_argument(
        "--ssh-key", type=Path, action="append", default=[], metavar="FILE.pub", help="repeatable"
    )
    group.add_argument(
        "--trust",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.pub",
        help="a key that signs bundles which may come as updates (repeatable)",
    )
    group.add_argument("--mqtt", metavar="URL", help="the broker to report to")
    group.add_argument("--fleet", help="the fleet it belongs to")
    group.add_argument(
        "--network",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a .nmconnection (NetworkManager) or .network (systemd); default: DHCP",
    )


def _add_jetson(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--bsp", type=Path, metavar="DIR", help="NVIDIA's Linux_for_Tegra")
    group.add_argument("--storage", help="internal, nvme, sd or usb (default: the profile's first)")
    group.add_argument(
        "--massflash", type=positive, metavar="N", help="make ready to flash N boards at once"
    )
    group.add_argument(
        "--flash-only", action="store_true", help="with --massflash: flash what is ready"
    )
    group.add_argument("--direct", metavar="sdX", help="write a drive that is attached here")
    group.add_argument("--module", metavar="BOARD-SKU", help="as 3767-0005 (default: profile's)")
    group.add_argument(
        "--accept-license", action="store_true", help="you accept NVIDIA's licence for its software"
    )
    group.add_argument(
        "--undo", action="store_true", help="make the BSP what it was before the first flash"
    )


def run(args: argparse.Namespace) -> int:
    from edge.cli import _main

    profile = load_profile(args.profile)
    makers = {"virtual": _virtual, "l4t": _jetson}
    maker = makers.get(profile.flash.tool)
    if maker is None:
        able = [name for name in profile_names() if load_profile(name).flash.tool]
        raise InputError(
            f"nothing flashes {profile.name} (edge deploy reaches it over SSH)",
            hint=f"there are: {', '.join(able)}",
        )
    flashed = maker(args, profile)
    if args.json:
        _output.print_json(flashed)
    elif flashed.is_done and flashed.image:
        boot = f"  boot it with: edge virtual {flashed.image}" if not flashed.bsp else ""
        _output.say(f"[green]✓[/] {flashed.image}{boot}")
    elif flashed.is_done and flashed.calls:
        _output.say(f"[green]✓[/] {flashed.files} files laid, and NVIDIA's tool ended well")
    return _main.EXIT_DONE


def _virtual(args: argparse.Namespace, profile: DeviceProfile) -> Flashed:
    from edge.deploy.virtual.image import make_image
    from edge.deploy.virtual.rootfs import base_root, require_tools

    if args.image is None:
        raise InputError("where should the image go?", hint="-o device.img")
    if not args.dry_run:
        require_tools()
    placed = _files(args, profile, _personal(args))
    flashed = Flashed(profile.name, len(placed), image=str(args.image), is_done=not args.dry_run)
    if args.dry_run:
        _tell_files(args, placed)
        return flashed
    tell = _output.err().print
    base = base_root(lambda text: tell(text, style="dim"))
    tell("making the image", style="dim")
    make_image(base, placed, args.image, parse_bytes(args.size))
    return flashed


def _jetson(args: argparse.Namespace, profile: DeviceProfile) -> Flashed:
    from edge.deploy.flash import jetson
    from edge.deploy.flash.bsp import Bsp

    if args.bsp is None:
        raise InputError(
            "a Jetson is flashed by NVIDIA's tools: where are they?", hint="--bsp Linux_for_Tegra"
        )
    bsp = Bsp(args.bsp)
    if args.undo:
        for path in jetson.take_back(bsp):
            _output.say(f"  as it was: {path}")
        return Flashed(profile.name, 0, bsp=str(bsp.path))
    jetson.check(bsp, profile)
    personal = _personal(args)
    call = _call(args, bsp, profile)
    placed = [] if args.flash_only else _files(args, profile, personal)
    plan = jetson.plan(bsp, placed, personal, [call])
    image = str(args.image) if args.image else ""
    flashed = Flashed(profile.name, len(placed), image, str(bsp.path), tuple(map(str, plan.calls)))
    if args.dry_run:
        _tell_files(args, placed)
        _tell_calls(args, flashed)
        return msgspec.structs.replace(flashed, is_done=False)
    if not args.accept_license:
        raise InputError(
            "what is flashed is NVIDIA's software, under NVIDIA's licence",
            hint="read it in the BSP (nv_tegra/LICENSE) and add --accept-license",
        )
    _carry_out(args, bsp, plan)
    return flashed


def _call(args: argparse.Namespace, bsp: Bsp, profile: DeviceProfile) -> Call:
    from edge.deploy.flash import vendor

    flash = profile.flash
    storage = args.storage or flash.storage[0]
    module = args.module or flash.module
    if args.flash_only:
        if not args.massflash:
            raise InputError("--flash-only goes with --massflash N")
        return vendor.run_massflash(bsp, flash, args.massflash)
    if args.massflash:
        return vendor.make_massflash(bsp, flash, storage, args.massflash, module)
    if args.direct:
        return vendor.write_disk(bsp, flash, storage, args.direct.removeprefix("/dev/"), module)
    if args.image:
        return vendor.make_image(bsp, flash, storage, str(args.image.resolve()))
    return vendor.flash_board(bsp, flash, storage)


def _carry_out(args: argparse.Namespace, bsp: Bsp, plan: Plan) -> None:
    from edge.deploy.flash import jetson

    needs_board = not (args.image or args.direct or (args.massflash and not args.flash_only))
    if needs_board and not jetson.boards_in_recovery():
        _output.err().print(
            "no board of NVIDIA's is on USB: the tool may wait for one", style="yellow"
        )
    with bars() as progress:
        jetson.carry_out(bsp, plan, progress or _tell_stage)
    if args.massflash and not args.flash_only:
        _output.say(
            f"ready: put up to {args.massflash} boards into recovery mode, then the same command "
            "with --flash-only"
        )


def _tell_stage(stage: str, done: int, total: int) -> None:
    _output.err().print(f"{done}/{total} {stage}")


def _tell_files(args: argparse.Namespace, placed: list[Placed]) -> None:
    if args.json:
        return
    for one in placed:
        _output.out().print(f"  {one.path}", style="dim", soft_wrap=True)
    _output.say(f"{len(placed)} files would go onto the device")


def _tell_calls(args: argparse.Namespace, flashed: Flashed) -> None:
    if args.json:
        return
    _output.say(f"then, in {flashed.bsp}:")
    for call in flashed.calls:
        _output.out().print(f"  {call}", markup=False, soft_wrap=True)


def _personal(args: argparse.Namespace) -> Personal:
    from edge.deploy.flash.personal import DEFAULT_HOSTNAME, Personal

    if args.mqtt and "@" in args.mqtt:
        raise SettingsError(
            "an image holds no password, and this URL has one",
            hint="put it into /etc/edge/environment on the device",
        )
    environment = {"EDGE_MQTT_URL": args.mqtt, "EDGE_MQTT_FLEET": args.fleet}
    return Personal(
        hostname=args.hostname or DEFAULT_HOSTNAME,
        user=args.user,
        ssh_keys=tuple(_text(path) for path in args.ssh_key),
        environment={name: value for name, value in environment.items() if value},
        network={path.name: _text(path) for path in args.network},
        trusted={path.name: _text(path) for path in args.trust},
    )


def _files(args: argparse.Namespace, profile: DeviceProfile, personal: Personal) -> list[Placed]:
    """All files that go onto the device."""
    from edge.deploy.flash.personal import personal_files
    from edge.deploy.overlay import overlay
    from edge.deploy.release import make_parcel, read_bundles, read_settings
    from edge.deploy.wheels import Target, collect, extras_for

    if not args.bundles:
        raise InputError("what should it serve?", hint="name a bundle: edge flash model.edge …")
    bundles = read_bundles(args.bundles)
    manifests = [bundle.manifest for bundle in bundles]
    for manifest in manifests:
        engines = {variant.engine for variant in manifest.variants}
        if not engines & set(profile.runtimes.order):
            raise InputError(
                f"{manifest.name} has variants for {', '.join(sorted(engines))} only, and "
                f"{profile.name} runs {', '.join(profile.runtimes.order)}",
                hint=f"edge convert … --profile {profile.name}",
            )
    software = profile.software
    target = Target(software.python, profile.device.arch, software.glibc)
    _output.err().print("collecting wheels", style="dim")
    settings = read_settings(args.config)
    extras = extras_for(manifests, settings.settings)
    wheelhouse = collect(extras, target, more=args.wheels)
    parcel = make_parcel(bundles, settings, wheelhouse)
    return [*overlay(parcel), *personal_files(personal)]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"can not read {path}: {error}") from error
