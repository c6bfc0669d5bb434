"""A release goes into NVIDIA's root folder, from there onto a board, and out again."""

from __future__ import annotations

import fcntl
import os
import pwd
from pathlib import Path

import pytest

from edge.cli import _main
from edge.core.errors import InputError, UnavailableError
from edge.core.profile import load_profile
from edge.deploy.flash import jetson
from edge.deploy.flash.bsp import Bsp
from edge.deploy.flash.following import TROUBLES, explain
from edge.deploy.flash.ledger import Ledger
from edge.deploy.flash.personal import Personal, personal_files
from edge.deploy.flash.vendor import Call, flash_board, run_massflash
from edge.deploy.overlay import Placed

from .conftest import WIZARD, MakeBsp

PROFILE = load_profile("jetson-orin-nano-8gb")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6 someone@somewhere"
PERSONAL = Personal(user="admin", ssh_keys=(KEY,))
LAID = Placed("/opt/edge/x", b"1")


def _tree(folder: Path) -> dict[str, tuple[int, str]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        text = os.readlink(path) if path.is_symlink() else ""
        text = path.read_text() if path.is_file() and not path.is_symlink() else text
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, text)
    return found


def _flash(bsp: Bsp, placed: list[Placed], told: list[str] | None = None) -> None:
    call = flash_board(bsp, PROFILE.flash, "nvme")
    plan = jetson.plan(bsp, placed, PERSONAL, [call])
    tell = (lambda stage, done, total: told.append(stage)) if told is not None else _silent
    jetson.carry_out(bsp, plan, tell)


def _silent(stage: str, done: int, total: int) -> None:
    pass


def test_flash_lays_files_makes_the_user_and_calls_the_tool(make_bsp: MakeBsp) -> None:
    bsp = Bsp(make_bsp())
    _flash(bsp, personal_files(PERSONAL))
    assert (bsp.rootfs / "etc/edge/first-boot.d/30-user").stat().st_mode & 0o777 == 0o755
    user, flash = (bsp.path / "calls").read_text().splitlines()
    assert user == "./tools/l4t_create_default_user.sh -u admin -n edge-jetson --accept-license"
    assert flash.endswith("jetson-orin-nano-devkit internal")


def test_tools_are_told_who_runs_them(make_bsp: MakeBsp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USER", raising=False)
    bsp = Bsp(make_bsp())
    _flash(bsp, [LAID])
    assert f"USER={pwd.getpwuid(os.geteuid()).pw_name} " in (bsp.path / "calls").read_text()


def test_folders_are_open_to_the_service_whoever_flashes(make_bsp: MakeBsp) -> None:
    bsp = Bsp(make_bsp())
    before = os.umask(0o077)
    try:
        _flash(bsp, [LAID])
    finally:
        os.umask(before)
    assert (bsp.rootfs / "opt/edge").stat().st_mode & 0o777 == 0o755
    assert (bsp.rootfs / "opt/edge/x").stat().st_mode & 0o777 == 0o644


def test_password_that_nobody_needs_is_nowhere(make_bsp: MakeBsp) -> None:
    bsp = Bsp(make_bsp())
    plan = jetson.plan(bsp, [LAID], PERSONAL, [])
    (call,) = plan.calls
    password = call.arguments[call.arguments.index("-p") + 1]
    assert len(password) > 20
    assert password not in str(call)
    jetson.carry_out(bsp, plan, _silent)
    log = (bsp.path / "edge-flash.log").read_text()
    assert "-p HIDDEN " in log
    assert "Password - HIDDEN," in log, "NVIDIA's script prints it"
    assert (bsp.rootfs / "etc/shadow").read_text().splitlines()[1].startswith("admin:*:")
    told = {path: path.read_bytes() for path in bsp.path.rglob("*") if path.is_file()}
    assert not [path for path, text in told.items() if password.encode() in text]


def test_second_flash_makes_no_second_user_and_drops_what_is_no_longer_laid(
    make_bsp: MakeBsp,
) -> None:
    bsp = Bsp(make_bsp())
    _flash(bsp, [Placed("/opt/edge/old", b"1"), Placed("/opt/edge/both", b"1")])
    _flash(bsp, [Placed("/opt/edge/both", b"2"), Placed("/opt/edge/new", b"2")])
    found = {path.name: path.read_text() for path in (bsp.rootfs / "opt/edge").iterdir()}
    assert found == {"both": "2", "new": "2"}
    calls = (bsp.path / "calls").read_text()
    assert calls.count("create_default_user") == 1
    assert (bsp.rootfs / "etc/passwd").read_text().count("admin:x:") == 1


def test_wizard_that_is_back_is_taken_away_again(make_bsp: MakeBsp) -> None:
    bsp = Bsp(make_bsp())
    start = bsp.rootfs / "etc/systemd/system/default.target"
    _flash(bsp, [LAID])
    assert not start.is_symlink()
    start.symlink_to(WIZARD)  # as apply_binaries.sh does
    _flash(bsp, [LAID])
    assert not start.is_symlink()


def test_board_that_would_ask_on_a_screen_is_refused(make_bsp: MakeBsp) -> None:
    bsp = Bsp(make_bsp())
    with pytest.raises(InputError, match="would ask for a user") as caught:
        jetson.plan(bsp, [LAID], Personal(), [])
    assert "--user" in caught.value.hint
    (bsp.rootfs / "etc/systemd/system/default.target").unlink()
    assert jetson.plan(bsp, [LAID], Personal(), []).calls == ()


def test_user_that_was_half_made_is_made_whole(make_bsp: MakeBsp) -> None:
    bsp = Bsp(make_bsp())
    before = _tree(bsp.rootfs)
    (bsp.path / "fail-user").touch()
    with pytest.raises(UnavailableError, match=r"l4t_create_default_user\.sh ended with 1"):
        _flash(bsp, [LAID])
    assert "admin:*:" in (bsp.rootfs / "etc/shadow").read_text(), "no password is left either"
    (bsp.path / "fail-user").unlink()
    _flash(bsp, [LAID])
    assert (bsp.rootfs / "etc/hostname").read_text() == "edge-jetson\n"
    assert (bsp.rootfs / "etc/shadow").read_text().count("admin:*:") == 1
    jetson.take_back(bsp)
    assert _tree(bsp.rootfs) == before


def test_two_flashes_at_once_do_not_share_a_bsp(make_bsp: MakeBsp) -> None:
    bsp = Bsp(make_bsp())
    with open(bsp.path / "edge-flash.log", "ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError, match="another flash is under way"):
            _flash(bsp, [LAID])
        with pytest.raises(UnavailableError, match="another flash is under way"):
            jetson.take_back(bsp)
    assert not (bsp.rootfs / "opt/edge").exists()
    _flash(bsp, [LAID])


def test_flash_of_what_is_ready_leaves_the_root_folder_alone(make_bsp: MakeBsp) -> None:
    bsp = Bsp(make_bsp())
    _flash(bsp, [LAID])
    before = _tree(bsp.rootfs)
    jetson.carry_out(bsp, jetson.Plan((), (run_massflash(bsp, PROFILE.flash, 5),)), _silent)
    assert _tree(bsp.rootfs) == before


def test_undo_makes_the_folder_what_it_was(make_bsp: MakeBsp) -> None:
    bsp = Bsp(make_bsp())
    (bsp.rootfs / "opt").mkdir()
    (bsp.rootfs / "etc/edge").mkdir()
    (bsp.rootfs / "etc/edge/environment").write_text("EDGE_MQTT_URL=mine\n")
    (bsp.rootfs / "etc/fonts").symlink_to("../usr/bin")
    before = _tree(bsp.rootfs)
    for number in range(2):
        placed = [Placed("/etc/edge/environment", b"theirs"), Placed(f"/opt/edge/{number}", b"")]
        _flash(bsp, placed)
    assert (bsp.rootfs / "home/admin").is_dir()
    assert _tree(bsp.rootfs) != before
    assert jetson.take_back(bsp) == ["/etc/edge/environment", "/opt/edge/1"]
    assert _tree(bsp.rootfs) == before
    assert jetson.take_back(bsp) == []


def test_undo_works_after_a_crash_in_the_middle(
    make_bsp: MakeBsp, monkeypatch: pytest.MonkeyPatch
) -> None:
    bsp = Bsp(make_bsp())
    before = _tree(bsp.rootfs)

    def broken(placed: list[Placed], root: Path) -> None:
        (root / "opt/edge").mkdir(parents=True)
        (root / "opt/edge/first").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr("edge.deploy.flash.ledger.lay", broken)
    with pytest.raises(KeyboardInterrupt):
        _flash(bsp, [Placed("/opt/edge/first", b"1"), Placed("/opt/edge/second", b"2")])
    jetson.take_back(bsp)
    assert _tree(bsp.rootfs) == before


def test_undo_takes_what_was_half_written(
    make_bsp: MakeBsp, monkeypatch: pytest.MonkeyPatch
) -> None:
    bsp = Bsp(make_bsp())
    before, replace = _tree(bsp.rootfs), os.replace

    def broken_off(source: Path, target: Path) -> None:
        if str(target).endswith("opt/edge/x"):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", broken_off)
        with pytest.raises(KeyboardInterrupt):
            _flash(bsp, [LAID])
    assert (bsp.rootfs / "opt/edge/x.partial").exists()
    jetson.take_back(bsp)
    assert _tree(bsp.rootfs) == before


def test_rootfs_that_this_machine_is_mounted_in_is_refused(
    make_bsp: MakeBsp, monkeypatch: pytest.MonkeyPatch
) -> None:
    bsp = Bsp(make_bsp())
    monkeypatch.setattr("edge.deploy.flash.bsp.mounted_below", lambda folder: [f"{folder}/proc"])
    (problem,) = bsp.problems(PROFILE)
    assert problem.do == f"umount {bsp.rootfs}/proc"


def test_folder_that_leads_out_of_the_root_is_not_written(tmp_path: Path) -> None:
    root, outside = tmp_path / "rootfs", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "opt").symlink_to(outside)
    with pytest.raises(InputError, match="leads out of"):
        Ledger(root, tmp_path / ".edge").lay([Placed("/opt/edge", b"1")])
    assert list(outside.iterdir()) == []


def test_problems_are_told_all_at_once(make_bsp: MakeBsp) -> None:
    folder = make_bsp("35.4.1", "3.8")
    (folder / "jetson-orin-nano-devkit.conf").unlink()
    (folder / "rootfs/etc/nv_tegra_release").unlink()
    with pytest.raises(InputError) as caught:
        jetson.check(Bsp(folder), PROFILE)
    message = str(caught.value)
    for part in ("L4T 35.4.1", "does not know the board", "no NVIDIA drivers", "Python 3.8"):
        assert part in message
    assert "apply_binaries.sh" in caught.value.hint


def test_rootfs_of_another_release_is_refused(make_bsp: MakeBsp) -> None:
    folder = make_bsp()
    (folder / "rootfs/etc/nv_tegra_release").write_text("# R36 (release), REVISION: 3.0, GCID: 1")
    with pytest.raises(InputError, match=r"drivers of L4T 36\.3\.0"):
        jetson.check(Bsp(folder), PROFILE)


def test_bsp_that_fits_has_no_problems(make_bsp: MakeBsp) -> None:
    jetson.check(Bsp(make_bsp()), PROFILE)


def test_release_is_read_from_the_root_folder_where_the_bsp_does_not_say_it(
    make_bsp: MakeBsp,
) -> None:
    folder = make_bsp()
    (folder / "nv_tegra/bsp_version").unlink()
    assert Bsp(folder).version == "36.4.4"


def test_folder_without_the_tools_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no flash\.sh"):
        Bsp(tmp_path)


def test_stages_are_told_as_the_tool_reaches_them(make_bsp: MakeBsp) -> None:
    bsp, told = Bsp(make_bsp()), list[str]()
    lines = [
        "Making system.img...",
        "[   1.0 ] Sending mb1",
        "Waiting for target to boot-up...",
        "Waiting for target to boot-up...",
        "Writing APP partition with system.img",
        "Flash is successful",
    ]
    (bsp.path / "say").write_text("\n".join(lines))
    _flash(bsp, [], told)
    assert told == [
        "making the system image",
        "starting the board by USB",
        "waiting for the board",
        "writing",
        "done",
    ]
    assert "Writing APP" in (bsp.path / "edge-flash.log").read_text()


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("Error: probing the target board failed.\nMake sure the target is on", "no board in"),
        ("No devices to flash", "no board in"),
        ("Waiting for target to boot-up...\nTimeout", "never came up"),
        ("mount.nfs: Connection timed out", "can not reach this machine"),
        ("sshpass: command not found", "program that the tool needs"),
        ("cp: error writing 'system.img': No space left on device", "disk is full"),
        ("chroot: failed to run command: Exec format error", "does not run arm64"),
        ("Error: Return value 8\nCommand tegrarcm_v2", "USB connection broke"),
        ("Error: board ID mismatch", "not the one that this profile names"),
        ("Error: Unrecognized module SKU 0042", "not the one that this profile names"),
        ("Error: No Board Spec. and no target connected, exit.", "no board in"),
        ("ERROR xmlstarlet not found! To install - please run: ", "program that the tool needs"),
        ("Too many devices in RCM mode", "more boards are in recovery mode"),
        ("Error: Cannot reach the external storage.", "has no such storage"),
        ("Error: Using a ... but the target board does not have SD card", "has no such storage"),
        (
            "Error: the /dev/nvme0n1 size 9 set in xml is greater than the /dev/x actual size 8",
            "drive is smaller",
        ),
        ("10:00:00.000 - Error: NFS port is blocked by UFW.", "can not reach this machine"),
        ("ERROR: might be timeout in USB write.", "USB connection broke"),
        (
            "Waiting for target to boot-up...\nWaiting for device to expose ssh ...... Timeout\n"
            "the host cannot connect to its ssh server",
            "can not reach this machine",
        ),
        (
            "Waiting for target to boot-up...\ntar: No space left on device\nCleaning up...",
            "disk is full",
        ),
        (
            "Error: Flash failure.\nEither the device cannot mount the NFS server on the host or a "
            "flash command has failed.\nmtd_debug: error!: open()",
            r"said: mtd_debug: error!: open\(\)",
        ),
    ],
)
def test_known_failures_are_explained(make_bsp: MakeBsp, said: str, meaning: str) -> None:
    bsp = Bsp(make_bsp())
    (bsp.path / "say").write_text(said)
    (bsp.path / "fail").write_text("1")
    with pytest.raises(UnavailableError, match=meaning) as caught:
        _flash(bsp, [])
    assert "edge-flash.log" in caught.value.hint


def test_every_trouble_can_be_reached() -> None:
    for trouble in TROUBLES:
        assert trouble.meaning
        assert trouble.do
    assert explain(["all went well"]) is None


def test_each_board_of_many_is_told_of_by_its_port(make_bsp: MakeBsp) -> None:
    bsp = Bsp(make_bsp())
    said, logs = "", bsp.path / "initrdlog"
    logs.mkdir()
    for number, (port, last) in enumerate(
        {
            "1-2": "Flash is successful\nReboot device",
            "1-3": "Error: Return value 8\nCommand tegrarcm_v2",
            "1-4.2": "something new",
        }.items()
    ):
        name = f"flash_{port}_{number}_20261121-1712{number}.log"
        said += f"Start flashing device: {port}, rcm instance: {number}, PID: 1\n"
        said += f"Log will be saved to Linux_for_Tegra/initrdlog/{name} \nOngoing processes: 1\n\n"
        (logs / name).write_text(f"{last}\nCleaning up...\n")
    (bsp.path / "say").write_text(said + "Flash complete (WITH FAILURES)\n")
    (bsp.path / "fail").write_text("1")
    plan = jetson.Plan((), (run_massflash(bsp, PROFILE.flash, 5),))
    with pytest.raises(UnavailableError, match=r"2 of 3 boards failed") as caught:
        jetson.carry_out(bsp, plan, _silent)
    lines = str(caught.value).splitlines()
    assert lines[1] == "  USB 1-3: the USB connection broke"
    assert lines[2].startswith("  USB 1-4.2, and said: ")
    assert "flash_1-3_1_20261121-17121.log" in caught.value.hint


def test_unknown_failure_tells_what_was_said_last(make_bsp: MakeBsp) -> None:
    bsp = Bsp(make_bsp())
    (bsp.path / "say").write_text("something new\n\n")
    (bsp.path / "fail").write_text("7")
    with pytest.raises(UnavailableError, match="ended with 7, and said: something new"):
        _flash(bsp, [])


def test_tool_that_is_missing_is_an_error_of_the_workstation(make_bsp: MakeBsp) -> None:
    bsp = Bsp(make_bsp())
    plan = jetson.Plan((), (Call(("./none.sh",)),))
    with pytest.raises(UnavailableError, match="No such file"):
        jetson.carry_out(bsp, plan, _silent)


def test_command_refuses_a_device_that_nothing_flashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main.main(["flash", "x.edge", "--profile", "intel-n100"]) == _main.EXIT_USAGE
    assert "edge deploy" in capsys.readouterr().err


def test_command_says_why_a_xavier_is_not_flashed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["flash", "x.edge", "--profile", "jetson-agx-xavier"]
    assert _main.main(words) == _main.EXIT_USAGE
    told = capsys.readouterr().err
    assert "Python 3.8" in told
    assert "container" in told


def test_rootfs_that_was_not_unpacked_as_root_is_refused(make_bsp: MakeBsp) -> None:
    bsp = Bsp(make_bsp())
    sudo = bsp.rootfs / "usr/bin/sudo"
    sudo.write_text("")
    sudo.chmod(0o755)
    assert ["not unpacked as root" in one.what for one in bsp.problems(PROFILE)] == [True]


def test_another_carrier_is_named_by_its_configuration(
    make_bsp: MakeBsp, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_bsp()
    words = ["flash", "--profile", PROFILE.name, "--bsp", str(folder), "--board", "carrier-x"]
    words += ["--massflash", "2", "--flash-only", "--dry-run"]
    assert _main.main(words) == _main.EXIT_USAGE
    assert "there is no carrier-x.conf" in capsys.readouterr().err
    (folder / "carrier-x.conf").touch()
    assert _main.main(words) == _main.EXIT_DONE
    assert "--massflash 2 --network usb0 carrier-x" in capsys.readouterr().out


def test_command_needs_the_bsp(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main.main(["flash", "x.edge", "--profile", PROFILE.name]) == _main.EXIT_USAGE
    assert "--bsp" in capsys.readouterr().err


def test_command_undoes_without_a_bundle(
    make_bsp: MakeBsp, capsys: pytest.CaptureFixture[str]
) -> None:
    bsp = Bsp(make_bsp())
    _flash(bsp, [Placed("/opt/edge/x", b"1")])
    words = ["flash", "--profile", PROFILE.name, "--bsp", str(bsp.path), "--undo"]
    assert _main.main(words) == _main.EXIT_DONE
    assert "/opt/edge/x" in capsys.readouterr().out
    assert not (bsp.rootfs / "opt").exists()
    assert _main.main(words) == _main.EXIT_DONE
    assert "nothing of edge was in" in capsys.readouterr().out
