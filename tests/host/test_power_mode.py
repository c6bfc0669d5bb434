"""The device's power mode, with an nvpmodel that remembers what it was told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edge.core.errors import EngineError, NotFoundError, UnsupportedError
from edge.host.power_mode import PowerMode, PowerModes

CONFIGURATION = """
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID=0 NAME=MAXN >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=MODE_15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=2 NAME=MODE_7W >
CPU_ONLINE CORE_0 1
< PM_CONFIG DEFAULT=0 >
"""

NVPMODEL = """#!{python}
import sys
from pathlib import Path

here = Path(__file__).parent
names = {{"0": "MAXN", "1": "MODE_15W", "2": "MODE_7W"}}
with open(here / "calls", "a") as calls:
    print(*sys.argv[1:], file=calls)
mode = here / "mode"
if sys.argv[1] == "-q":
    number = mode.read_text()
    print("NV Power Mode: " + names[number])
    print(number)
elif sys.argv[2] == "2":
    print("NVPM WARN: Reboot required for changing to this power mode: 2")
    print("DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:")
    if sys.stdin.readline().strip().lower() == "yes":
        mode.write_text("rebooted")
    sys.exit(255)
elif (here / "broken").exists():
    print("NVPM ERROR: Error opening /sys/devices: Permission denied")
    sys.exit(1)
else:
    mode.write_text(sys.argv[2])
"""


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a fake nvpmodel, its mode and its ``calls``; and its board's configuration."""
    tool = tmp_path / "nvpmodel"
    tool.write_text(NVPMODEL.format(python=sys.executable))
    tool.chmod(0o755)
    (tmp_path / "mode").write_text("0")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nvpmodel.conf").write_text(CONFIGURATION)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def _calls(device: Path) -> list[str]:
    return (device / "calls").read_text().splitlines()


def test_modes_are_those_of_the_board(device: Path) -> None:
    modes = PowerModes(device)
    assert [mode.name for mode in modes.all()] == ["MAXN", "MODE_15W", "MODE_7W"]
    assert modes.active() == PowerMode(0, "MAXN")


@pytest.mark.parametrize("wanted", ["MODE_15W", "1"])
def test_mode_is_set_by_name_or_number(device: Path, wanted: str) -> None:
    assert PowerModes(device).set(wanted) == PowerMode(1, "MODE_15W")
    assert _calls(device) == ["-q", "-m 1", "-q"]


def test_mode_that_is_set_is_not_set_again(device: Path) -> None:
    assert PowerModes(device).set("MAXN") == PowerMode(0, "MAXN")
    assert _calls(device) == ["-q"]


def test_mode_that_the_board_lacks_is_not_tried(device: Path) -> None:
    with pytest.raises(NotFoundError, match="'MODE_99W'") as caught:
        PowerModes(device).set("MODE_99W")
    assert "MODE_15W (1)" in caught.value.hint
    assert not (device / "calls").exists()


def test_device_is_never_restarted_for_a_mode(device: Path) -> None:
    with pytest.raises(UnsupportedError, match="needs a restart"):
        PowerModes(device).set("MODE_7W")
    assert (device / "mode").read_text() == "0"


def test_nvpmodel_that_fails_is_quoted(device: Path) -> None:
    (device / "broken").touch()
    with pytest.raises(EngineError, match="Permission denied"):
        PowerModes(device).set("MODE_15W")


def test_device_without_nvpmodel_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    modes = PowerModes(tmp_path)
    if modes.is_there:
        pytest.skip("this machine has one in /usr/sbin")
    with pytest.raises(UnsupportedError, match="no nvpmodel"):
        modes.set("MAXN")
