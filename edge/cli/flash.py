"""``edge flash``: boards and images that serve bundles from their first boot on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge.cli import _output
from edge.cli._flash_arguments import add_arguments, personal, require_no_password
from edge.cli._progress import bars
from edge.core.errors import InputError
from edge.core.profile import load_profile, profile_names
from edge.core.sizes import parse_bytes

if TYPE_CHECKING:
    from edge.core.profile import DeviceProfile
    from edge.deploy.flash.bsp import Bsp
    from edge.deploy.flash.jetson import Plan
    from edge.deploy.flash.personal import Personal
    from edge.deploy.flash.vendor import Call
    from edge.deploy.overlay import Placed

__all__ = ["HELP", "add_arguments", "run"]

HELP = "make boards and images that serve bundles from their first boot on"


class Flashed(msgspec.Struct, frozen=True):
    """What ``--json`` prints; ``calls`` are of the vendor's tools, in ``bsp``."""

    profile: str
    files: int
    image: str = ""
    bsp: str = ""
    calls: tuple[str, ...] = ()
    is_done: bool = True


def run(args: argparse.Namespace) -> int:
    from edge.cli import _main

    profile = load_profile(args.profile)
    if args.board:
        profile = msgspec.structs.replace(
            profile, flash=msgspec.structs.replace(profile.flash, board=args.board)
        )
    makers = {"virtual": _virtual, "l4t": _jetson}
    maker = makers.get(profile.flash.tool)
    if maker is None:
        raise _not_flashed(profile)
    flashed = maker(args, profile)
    if args.json:
        _output.print_json(flashed)
    elif flashed.is_done and flashed.image:
        boot = f"  boot it with: edge virtual {flashed.image}" if not flashed.bsp else ""
        _output.say(f"[green]✓[/] {flashed.image}{boot}")
    elif flashed.is_done and flashed.calls:
        laid = f"{flashed.files} files laid, and " if flashed.files else ""
        _output.say(f"[green]✓[/] {laid}NVIDIA's tool ended well")
    return _main.EXIT_DONE


def _not_flashed(profile: DeviceProfile) -> InputError:
    from edge.core.versions import meets
    from edge.deploy.flash.bsp import OLDEST_PYTHON

    python = profile.software.python
    if python and not meets(python, f">={OLDEST_PYTHON}"):
        return InputError(
            f"{profile.name} has Python {python}, and edge needs {OLDEST_PYTHON}: an image for it "
            "would not come up",
            hint="flash it with NVIDIA's own tools, and run edge there in a container "
            "(packaging/Containerfile)",
        )
    able = [name for name in profile_names() if load_profile(name).flash.tool]
    return InputError(
        f"nothing flashes {profile.name} (edge deploy reaches it over SSH)",
        hint=f"there are: {', '.join(able)}",
    )


def _virtual(args: argparse.Namespace, profile: DeviceProfile) -> Flashed:
    from edge.deploy.virtual.image import make_image
    from edge.deploy.virtual.rootfs import base_root, require_tools

    if args.image is None:
        raise InputError("where should the image go?", hint="-o device.img")
    size_bytes = parse_bytes(args.size)
    if not args.dry_run:
        require_tools()
    placed = _files(args, profile, personal(args))
    flashed = Flashed(profile.name, len(placed), image=str(args.image), is_done=not args.dry_run)
    if args.dry_run:
        _tell_files(args, placed)
        return flashed
    tell = _output.err().print
    base = base_root(lambda text: tell(text, style="dim"))
    tell("making the image", style="dim")
    make_image(base, placed, args.image, size_bytes)
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
        changed = jetson.take_back(bsp)
        for path in changed:
            _output.say(f"  as it was: {path}")
        if not changed:
            _output.say(f"nothing of edge was in {args.bsp}")
        return Flashed(profile.name, 0, bsp=str(bsp.path))
    jetson.check(bsp, profile)
    call = _call(args, bsp, profile)
    plan = jetson.Plan((), (call,))
    if not args.flash_only:
        owner = personal(args)
        plan = jetson.plan(bsp, _files(args, profile, owner), owner, [call])
    placed = plan.files
    image = str(args.image) if args.image else ""
    flashed = Flashed(profile.name, len(placed), image, str(bsp.path), tuple(map(str, plan.calls)))
    if args.dry_run:
        _tell_files(args, placed)
        _tell_calls(args, flashed)
        return msgspec.structs.replace(flashed, is_done=False)
    if not args.accept_license:
        raise InputError(
            "what is flashed is NVIDIA's software, under NVIDIA's licence",
            hint="read it in the BSP (nv_tegra/LICENSE, or Tegra_Software_License_Agreement-*.txt) "
            "and add --accept-license",
        )
    _carry_out(args, profile, bsp, plan)
    return flashed


def _call(args: argparse.Namespace, bsp: Bsp, profile: DeviceProfile) -> Call:
    from edge.deploy.flash import attached, vendor

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
        disk = Path("/dev", args.direct).resolve().name
        attached.require_unused(disk)
        return vendor.write_disk(bsp, flash, storage, disk, module)
    if args.image:
        return vendor.make_image(bsp, flash, storage, str(args.image.resolve()), module)
    return vendor.flash_board(bsp, flash, storage)


def _carry_out(args: argparse.Namespace, profile: DeviceProfile, bsp: Bsp, plan: Plan) -> None:
    from edge.deploy.flash import attached, jetson, vendor

    if not (args.image or args.direct or (args.massflash and not args.flash_only)):
        doubts = attached.doubts(profile.flash, attached.boards_on_usb())
        if doubts:
            _output.err().print(doubts, style="yellow")
    with ExitStack() as stack:
        if vendor.LOOP in plan.calls[-1].arguments:
            disk = stack.enter_context(attached.as_drive(args.image, vendor.IMAGE_BYTES))
            plan = msgspec.structs.replace(plan, calls=tuple(one.on(disk) for one in plan.calls))
        jetson.carry_out(bsp, plan, stack.enter_context(bars()) or _tell_stage)
    if args.massflash and not args.flash_only:
        _output.say(
            f"ready: put up to {args.massflash} boards into recovery mode, then the same command "
            "with --flash-only"
        )


def _tell_stage(stage: str, done: int, total: int) -> None:
    _output.err().print(f"{done}/{total} {stage}")


def _tell_files(args: argparse.Namespace, placed: Sequence[Placed]) -> None:
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


def _files(args: argparse.Namespace, profile: DeviceProfile, owner: Personal) -> list[Placed]:
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
    require_no_password(settings.settings.mqtt.url, str(args.config))
    extras = extras_for(manifests, settings.settings)
    wheelhouse = collect(extras, target, more=args.wheels)
    parcel = make_parcel(bundles, settings, wheelhouse)
    return [*overlay(parcel), *personal_files(owner)]
