"""The table that tells many boards of one image apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.cli import _main
from edge.core.errors import InputError
from edge.deploy.flash.boards import Board, Wired, read_boards, require_reachable


def test_table_is_read_with_comments_and_capitals() -> None:
    text = "# of hall 3\n1421322000042  Cam-1  10.0.0.7/24  # door\n\n48:B0:2D:00:00:01 cam-2\n"
    assert read_boards(text) == (
        Board("1421322000042", "cam-1", "10.0.0.7/24"),
        Board("48:b0:2d:00:00:01", "cam-2"),
    )
    assert [str(one) for one in read_boards(text)] == [
        "1421322000042 cam-1 10.0.0.7/24",
        "48:b0:2d:00:00:01 cam-2",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no board in the table"),
        ("1421322000042", "line 1 of the boards"),
        ("1 cam-1\n2 cam_2", "line 2 of the boards"),
        ("1 cam-1 10.0.0.7/24 x", "line 1 of the boards"),
        ("* cam-1", "line 1 of the boards"),
        ("cam-1 1421322000042", "line 1 of the boards"),
        ("48-b0-2d-00-00-01 cam-1", "line 1 of the boards"),
        ("1 cam-1 10.0.0.7", "no IPv4 address"),
        ("1 cam-1 10.0.0.0/24", "no IPv4 address"),
        ("1 cam-1 10.0.0.255/24", "no IPv4 address"),
        ("1 cam-1 10.0.0.700/24", "no IPv4 address"),
        ("1 cam-1 fd00::7/64", "no IPv4 address"),
        ("1 cam-1\n1 cam-2", "two boards have the number 1"),
        ("1 cam-1\n2 cam-1", "two boards have the name cam-1"),
        ("1 a 10.0.0.7/24\n2 b 10.0.0.7/16", r"two boards have the address 10\.0\.0\.7"),
    ],
)
def test_table_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_boards(text)


@pytest.mark.parametrize(
    ("wired", "message"),
    [
        (Wired("10.0.0.x"), "no IPv4 address"),
        (Wired(dns=("dns.lan",)), "no IPv4 address"),
        (Wired("10.0.1.1"), r"gateway 10\.0\.1\.1 is not in the network of 10\.0\.0\.7/24"),
    ],
)
def test_gateway_that_no_board_reaches_is_refused(wired: Wired, message: str) -> None:
    with pytest.raises(InputError, match=message):
        require_reachable(wired, [Board("1", "a", "10.0.0.7/24")])


def test_gateway_without_an_address_is_refused() -> None:
    with pytest.raises(InputError, match="no board has one"):
        require_reachable(Wired("10.0.0.1"), [Board("1", "a")])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--massflash", "5", "--hostname", "cam"], "all boards would be called cam"),
        (["--massflash", "5", "--address", "10.0.0.7/24"], "all boards would have one address"),
        (["--address", "10.0.0.7"], "no IPv4 address"),
        (["--gateway", "10.0.0.1"], "no board has one"),
    ],
)
def test_command_refuses_what_would_make_twins(
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = ["-o", str(tmp_path / "x.img"), "--dry-run"]
    assert _main.main(["flash", "x.edge", "--profile", "virtual-arm64", *image, *words]) == 2
    assert said in capsys.readouterr().err
