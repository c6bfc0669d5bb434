"""What ``edge flash`` takes: what is asked of all makers, of a Jetson, and whose device it is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli._arguments import positive
from edge.core.errors import InputError, SettingsError

if TYPE_CHECKING:
    from edge.deploy.flash.boards import Board
    from edge.deploy.flash.personal import Personal


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
    group.add_argument(
        "--boards", type=Path, metavar="FILE", help="a line for each: SERIAL-OR-MAC NAME [ADDRESS]"
    )
    group.add_argument("--address", metavar="IP/PREFIX", help="of a single device; default: DHCP")
    group.add_argument("--gateway", default="", metavar="IP", help="of fixed addresses")
    group.add_argument("--dns", action="append", default=[], metavar="IP", help="(repeatable)")
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
        help="a .nmconnection (NetworkManager) or .network (systemd), as it stands",
    )


def _add_jetson(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--bsp", type=Path, metavar="DIR", help="NVIDIA's Linux_for_Tegra")
    group.add_argument("--board", metavar="NAME", help="another carrier's .conf in the BSP")
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


def personal(args: argparse.Namespace) -> Personal:
    """
    Raises:
        InputError: What is said of the device does not go together.
    """
    from edge.deploy.flash.boards import Wired
    from edge.deploy.flash.personal import DEFAULT_HOSTNAME, SERIAL, Personal

    hostname = args.hostname or DEFAULT_HOSTNAME
    if args.massflash and not args.boards and SERIAL not in hostname:
        raise InputError(
            f"all boards would be called {hostname}",
            hint=f"--hostname '{hostname}-{SERIAL}', or a table of them: --boards FILE",
        )
    require_no_password(args.mqtt or "", "--mqtt")
    environment = {"EDGE_MQTT_URL": args.mqtt, "EDGE_MQTT_FLEET": args.fleet}
    return Personal(
        hostname=hostname,
        boards=_boards(args),
        wired=Wired(args.gateway, tuple(args.dns)),
        user=args.user,
        ssh_keys=tuple(_text(path) for path in args.ssh_key),
        environment={name: value for name, value in environment.items() if value},
        network={path.name: _text(path) for path in args.network},
        trusted={path.name: _text(path) for path in args.trust},
    )


def require_no_password(urls: str | tuple[str, ...], where: str) -> None:
    """
    Raises:
        SettingsError: The broker's URL has one, and whoever has the image would have it.
    """
    if "@" in " ".join([urls] if isinstance(urls, str) else urls):
        raise SettingsError(
            f"an image holds no password, and the broker's URL has one ({where})",
            hint="put EDGE_MQTT_URL into /etc/edge/environment on the device, or use certificates "
            "(edge enroll)",
        )


def _boards(args: argparse.Namespace) -> tuple[Board, ...]:
    from edge.deploy.flash.boards import ANY, Board, read_boards, require_address

    if not args.address:
        return read_boards(_text(args.boards)) if args.boards else ()
    if args.boards or args.massflash:
        raise InputError(
            "all boards would have one address", hint="a table with addresses: --boards FILE"
        )
    return (Board(ANY, address=require_address(args.address)),)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise InputError(f"can not read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text: {error}") from error
