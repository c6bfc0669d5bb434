"""What is kept, in which order it comes, what is given up, and what it costs."""

from __future__ import annotations

import errno
import logging

import msgspec
import pytest
from faulty_disk import FaultyFiles
from hypothesis import given
from hypothesis import strategies as st
from outboxes import EVENT, KINDS, SMALL, TELEMETRY, Box, gaps, messages

from edge.core.errors import InputError
from edge.telemetry.outbox import Bounds, Kind
from edge.telemetry.outbox.record import MAX_PAYLOAD_BYTES


def _text(number: int) -> bytes:
    return b"%08d" % number + b"." * 30


def _fill(box: Box, count: int, kind: Kind = TELEMETRY, start: int = 0) -> list[bytes]:
    payloads = [_text(number) for number in range(start, start + count)]
    for payload in payloads:
        box.put(kind, payload)
    return payloads


def _reopened(files: FaultyFiles, bounds: Bounds = SMALL, kinds: tuple[Kind, ...] = KINDS) -> Box:
    return Box(FaultyFiles({name: files.read(name) for name in files.sizes()}), bounds, kinds)


def test_kinds_come_in_the_order_they_were_put_also_after_a_restart() -> None:
    files = FaultyFiles()
    box = Box(files)
    payloads = []
    for number in range(40):
        box.put(EVENT if number % 7 == 3 else TELEMETRY, _text(number))
        payloads.append(_text(number))
        box.pass_time(1.0)  # events are written soon, telemetry by and by
    assert box.drain(acknowledged=False) == payloads
    assert box.commit()
    assert _reopened(files).drain() == payloads


def test_event_is_written_within_a_second_and_telemetry_within_its_minute() -> None:
    files = FaultyFiles()
    box = Box(files)
    _fill(box, 1)
    _fill(box, 1, EVENT)
    box.pass_time(1.0)
    assert [name[:5] for name in files.sizes()] == ["event"]
    box.pass_time(57.0)
    assert len(files.sizes()) == 1
    box.pass_time(2.0)
    assert len(files.sizes()) == 2


def test_telemetry_is_written_at_once_when_much_of_it_waits() -> None:
    files = FaultyFiles()
    box = Box(files, msgspec.structs.replace(SMALL, commit_bytes=1000))
    _fill(box, 10)
    box.work()
    assert not files.sizes()
    _fill(box, 10)
    box.work()
    assert files.sizes()


def test_message_that_is_acknowledged_soon_is_never_written() -> None:
    files = FaultyFiles()
    box = Box(files)
    for number in range(500):
        _fill(box, 1, start=number)
        box.drain()
        box.pass_time(1.0)
    assert (files.step, box.status().wear.bytes, box.status().waiting_bytes) == (0, 0, 0)


def test_what_is_done_leaves_no_file() -> None:
    files = FaultyFiles()
    box = Box(files)
    _fill(box, 50)
    box.commit()
    _fill(box, 50, EVENT)
    box.commit()
    assert len(box.drain()) == 100
    box.pass_time(60.0)
    assert files.sizes() == {}


def test_number_that_was_done_unwritten_is_not_given_to_another_after_a_restart() -> None:
    files = FaultyFiles()
    box = Box(files)
    _fill(box, 3, EVENT)
    box.commit()
    _fill(box, 1, start=3)
    box.begin()
    taken = [box.take() for _ in range(4)]
    for place in (0, 1, 3):
        box.acknowledge(taken[place][0].seq)  # type: ignore[index]
    box.commit()
    again = FaultyFiles({name: files.read(name) for name in files.sizes()})
    box = Box(again)
    _fill(box, 1, start=4)
    box.commit()
    assert _reopened(again).drain() == [_text(2), _text(4)]


def test_unacknowledged_messages_come_again_on_the_next_connection() -> None:
    box = Box(FaultyFiles())
    payloads = _fill(box, 9)
    assert box.drain(acknowledged=False) == payloads
    assert box.drain(acknowledged=False) == payloads
    assert box.take() is None
    assert box.drain() == payloads
    assert box.drain() == []


def test_live_messages_go_before_long_history_and_each_is_in_order() -> None:
    bounds = msgspec.structs.replace(SMALL, history_burst=5, history_per_s=10.0)
    box = Box(FaultyFiles(), bounds)
    history = _fill(box, 40)
    box.commit()
    box.clock.now_s += 5.0
    box.begin()
    came: list[tuple[bytes, bool]] = []

    def take_all() -> int:
        before = len(came)
        while taken := box.take():
            came.append((taken[0].payload, taken[1]))
            box.acknowledge(taken[0].seq)
        return len(came) - before

    assert take_all() == 5  # the burst; then no more than the rate allows
    live = []
    for second in range(3):
        live += _fill(box, 2, start=100 + 2 * second)
        box.clock.now_s += 1.0
        assert take_all() == 12
        assert [is_history for _, is_history in came[-12:]] == [False] * 2 + [True] * 10
    box.clock.now_s += 1.0
    take_all()
    assert [payload for payload, is_history in came if is_history] == history
    assert [payload for payload, is_history in came if not is_history] == live
    assert not box.has_history


def test_what_leaves_memory_while_connected_still_comes() -> None:
    bounds = msgspec.structs.replace(SMALL, memory_bytes=5_000)
    box = Box(FaultyFiles(), bounds)
    box.begin()
    assert box.take() is None
    payloads = []
    for number in range(50):  # nobody takes them meanwhile
        payloads += _fill(box, 1, start=number)
        box.commit()
    came = []
    while taken := box.take():
        came.append(taken[0].payload)
        box.acknowledge(taken[0].seq)
    assert sorted(came) == payloads


def test_oldest_telemetry_gives_way_and_the_gap_is_told() -> None:
    telemetry = Kind("telemetry", 1, 60.0, max_bytes=2_000, max_age_s=1 << 20)
    files = FaultyFiles()
    box = Box(files, kinds=(telemetry, EVENT))
    events = []
    for number in range(200):
        if number % 50 == 0:
            events += _fill(box, 1, EVENT, start=number)
        else:
            _fill(box, 1, telemetry, start=number)
        box.commit()
        of_telemetry = [size for name, size in files.sizes().items() if name[0] == "t"]
        assert sum(of_telemetry) <= 2_000
    payloads = _reopened(files, kinds=(telemetry, EVENT)).drain()
    came = messages(payloads)
    assert came == sorted(came)
    assert set(events) <= set(came)
    told = gaps(payloads)
    assert {gap["reason"] for gap in told} == {"bytes"}
    assert sum(gap["count"] for gap in told) == 200 - len(came) == box.status().dropped_count
    assert told[-1]["last"] < came[-1].decode()[:8]


@pytest.mark.parametrize("is_durable", [True, False])
def test_age_is_the_time_that_the_outbox_ran(is_durable: bool) -> None:
    telemetry = Kind("telemetry", 1, 60.0, max_bytes=1 << 20, max_age_s=100)
    box = Box(FaultyFiles() if is_durable else None, kinds=(telemetry, EVENT))
    _fill(box, 3, telemetry)
    box.pass_time(90.0)
    kept = _fill(box, 3, telemetry, start=3)
    box.pass_time(61.0)
    payloads = box.drain()
    assert messages(payloads) == kept
    box.work()
    told = gaps(payloads + box.drain())
    assert [(gap["reason"], gap["count"]) for gap in told] == [("age", 3)]


def test_clock_goes_on_over_restarts_and_not_while_power_is_off() -> None:
    telemetry = Kind("telemetry", 1, 60.0, max_bytes=1 << 20, max_age_s=100)
    kinds = (telemetry, EVENT)
    files = FaultyFiles()
    payloads: list[bytes] = []
    for run in range(6):  # each sets the test's clock to where it began
        box = Box(FaultyFiles({name: files.read(name) for name in files.sizes()}), kinds=kinds)
        files = box._files  # type: ignore[assignment]
        box.pass_time(30.0)
        payloads += _fill(box, 1, telemetry, start=run)
        box.commit()
    assert messages(_reopened(files, kinds=kinds).drain()) == payloads[2:]


def test_full_disk_costs_the_oldest_telemetry_and_no_event() -> None:
    files = FaultyFiles()
    box = Box(files)
    _fill(box, 30)
    box.commit()

    def full(call: str, name: str) -> int:
        """As long as there is telemetry."""
        has_telemetry = any(held.startswith("telemetry") for held in files.sizes())
        return errno.ENOSPC if call == "append" and has_telemetry else 0

    files.fails = full
    events = _fill(box, 3, EVENT, start=30)
    assert box.commit()
    payloads = _reopened(files).drain()
    assert messages(payloads) == events
    assert [(gap["reason"], gap["count"]) for gap in gaps(payloads)] == [("disk", 30)]


def test_disk_below_the_floor_takes_events_and_no_telemetry() -> None:
    files = FaultyFiles()
    box = Box(files, msgspec.structs.replace(SMALL, min_free_bytes=1000, memory_bytes=30_000))
    files.free = 999
    _fill(box, 10)
    events = _fill(box, 3, EVENT, start=10)
    assert not box.commit()
    box.work(is_forced=True)
    assert "left to others" in box.status().failure
    assert messages(_reopened(files).drain()) == events
    files.free = 1 << 20
    box.pass_time(61.0)
    assert box.status().failure == ""
    assert len(messages(_reopened(files).drain())) == 13


@pytest.mark.parametrize("call", ["create", "append", "sync", "sync_folder"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_disk_that_fails_costs_nothing_while_memory_lasts(
    call: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    files = FaultyFiles()
    box = Box(files)
    payloads = _fill(box, 5)
    assert box.commit()
    failing = True
    files.fails = lambda called, name: number if failing and called == call else 0
    for start in range(5, 25, 5):
        payloads += _fill(box, 5, start=start)
        box.pass_time(61.0)
    if not (call in ("create", "sync_folder") and box.status().is_durable):
        assert box.status().failure
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
    failing = False
    box.pass_time(61.0)
    assert box.status().is_durable
    came = _reopened(files).drain()
    lost = sum(gap["count"] for gap in gaps(came))
    assert lost == (5 if number == errno.ENOSPC and lost else 0)  # it makes room on a full disk
    assert messages(came) == payloads[lost:]


def test_memory_is_bounded_when_the_disk_fails_and_the_gap_says_why() -> None:
    files = FaultyFiles()
    files.fails = lambda call, name: errno.EROFS if call == "create" else 0
    box = Box(files, msgspec.structs.replace(SMALL, memory_bytes=20_000))
    _fill(box, 10)
    box.commit()
    events = _fill(box, 5, EVENT, start=10)
    telemetry = _fill(box, 500, start=15)
    assert box.status().waiting_bytes < 20_000
    payloads = box.drain()
    came = messages(payloads)
    assert came[: len(events)] == events
    assert came[len(events) :] == telemetry[-len(came) + len(events) :]
    assert sum(gap["count"] for gap in gaps(payloads)) == 515 - len(came)


def test_message_that_no_segment_takes_is_refused() -> None:
    with pytest.raises(InputError, match="16777217 bytes"):
        Box(None).put(EVENT, bytes(MAX_PAYLOAD_BYTES + 1))


@given(st.data())
def test_damage_loses_nothing_that_is_intact(data: st.DataObject) -> None:
    files = FaultyFiles()
    box = Box(files)
    payloads = []
    for number in range(20):
        payloads += _fill(box, 1, EVENT if number % 5 == 2 else TELEMETRY, start=number)
        box.commit()
    names = sorted(files.sizes())
    contents = {name: bytearray(files.read(name)) for name in names}
    touched = set()
    for _ in range(data.draw(st.integers(1, 4), label="flips")):
        name = data.draw(st.sampled_from(names), label="file")
        place = data.draw(st.integers(0, len(contents[name]) - 1), label="byte")
        contents[name][place] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        touched.add((name, place))
    box = Box(FaultyFiles({name: bytes(held) for name, held in contents.items()}))
    payloads_and_gaps = box.drain() + box.drain()  # what is told of damage comes when it is found
    came = messages(payloads_and_gaps)
    hurt = {_payload_at(files, name, place) for name, place in touched}
    assert set(payloads) - hurt <= set(came) <= set(payloads)
    assert came == sorted(set(came))
    if len(came) < len(payloads):
        assert "damaged" in {gap["reason"] for gap in gaps(payloads_and_gaps)}


def _payload_at(files: FaultyFiles, name: str, place: int) -> bytes:
    size = 23 + len(_text(0))
    return files.read(name)[place // size * size :][23:size]


@given(st.binary(max_size=200))
def test_damaged_cursor_costs_duplicates_only_and_is_told(cursor: bytes) -> None:
    files = FaultyFiles()
    box = Box(files, msgspec.structs.replace(SMALL, segment_bytes=1 << 20))
    payloads = _fill(box, 10)
    box.commit()
    box.begin()
    for _ in range(4):
        box.acknowledge(box.take()[0].seq)  # type: ignore[index]
    box.commit()
    assert _reopened(files).drain() == payloads[4:]
    contents = {name: files.read(name) for name in files.sizes()}
    if cursor == contents["cursor"]:
        return
    again = Box(FaultyFiles({**contents, "cursor": cursor}))
    came = again.drain()
    assert messages(came) == payloads
    assert [gap["reason"] for gap in gaps(came)] == ["cursor"]


def test_files_that_can_not_be_read_hide_nothing_of_the_others() -> None:
    """Neither do their numbers come twice, should they be read again."""
    files = FaultyFiles()
    box = Box(files, msgspec.structs.replace(SMALL, segment_bytes=1 << 20))
    events = _fill(box, 4, EVENT)
    telemetry = _fill(box, 4, start=4)
    box.commit()
    box.begin()
    box.acknowledge(box.take()[0].seq)  # type: ignore[index]
    box.commit()
    again = FaultyFiles({name: files.read(name) for name in files.sizes()})
    unreadable = ("cursor", next(name for name in files.sizes() if name.startswith("tele")))
    again.fails = lambda call, name: errno.EIO if call == "read" and name in unreadable else 0
    box = Box(again)
    events += _fill(box, 1, EVENT, start=8)
    box.commit()
    came = box.drain(acknowledged=False) + box.drain(acknowledged=False)
    assert set(messages(came)) == set(events)
    assert {gap["reason"] for gap in gaps(came)} == {"cursor", "damaged"}
    again.fails = lambda call, name: 0
    assert set(telemetry) | set(events[1:]) == set(messages(_reopened(again).drain()))


def test_bytes_written_are_within_twice_the_payload_at_a_commit_a_minute() -> None:
    files = FaultyFiles()
    box = Box(files, Bounds())
    payload = b"x" * 236
    for _ in range(3600):
        box.put(TELEMETRY, payload)
        box.pass_time(1.0)
    written = files.wear.bytes
    assert 3500 * 236 < written < 2 * 3540 * 236
