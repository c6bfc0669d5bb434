from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edge.telemetry.board import Board
from edge.telemetry.envelope import Sealer
from edge.telemetry.fleet.picture import DeviceSummary, count_versions, summarize
from edge.telemetry.fleet.table import heading, render
from edge.telemetry.watcher import Arrival

NOW_S = 1000.0
SEALER = Sealer()
DIGESTS = ("3f9a1c7" + "0" * 57, "77ab01d" + "0" * 57)


def arrival(device: str, path: str, is_retained: bool = True, **metrics: Any) -> Arrival:
    return Arrival(
        topic=f"edge/v1/plant/{device}/{path}",
        fleet="plant",
        device=device,
        path=path,
        envelope=SEALER.seal(metrics),
        metrics=metrics,
        is_retained=is_retained,
        at_s=NOW_S,
    )


def serving(version: str = "2", digest: str = DIGESTS[0], **more: Any) -> dict[str, Any]:
    return {"name": "digits", "version": version, "digest": digest, "state": "ready", **more}


def fleet_of(*arrivals: Arrival, now_s: float = NOW_S) -> list[DeviceSummary]:
    board = Board()
    for one in arrivals:
        board.add(one)
    return summarize(board, now_s)


def one_of(*arrivals: Arrival, now_s: float = NOW_S) -> DeviceSummary:
    (device,) = fleet_of(*arrivals, now_s=now_s)
    return device


def text_of(devices: list[DeviceSummary], most: int = 0) -> str:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(render(devices, most=most))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_devices_are_sorted_by_name_whatever_came_first() -> None:
    devices = fleet_of(*(arrival(name, "status", state="online") for name in ("b", "c", "a")))
    assert [device.device for device in devices] == ["a", "b", "c"]


def test_device_whose_will_was_published_is_offline_and_says_why() -> None:
    device = one_of(arrival("d", "status", state="offline", reason="connection lost"))
    assert (device.state, device.reason) == ("offline", "connection lost")
    assert "offline: connection lost" in text_of([device])


def test_device_that_was_heard_and_is_no_more_is_silent() -> None:
    heard = arrival("d", "tele/device", is_retained=False, cpu_percent=1.0)
    assert one_of(heard).state == "online"
    device = one_of(heard, now_s=NOW_S + 60)
    assert (device.state, device.silent_s) == ("silent", 60.0)


def test_device_that_is_seldom_heard_is_not_silent_between() -> None:
    heard = arrival("d", "tele/model", is_retained=False, window_s=60.0, models=[])
    assert one_of(heard, now_s=NOW_S + 200).state == "online"
    assert one_of(heard, now_s=NOW_S + 300).state == "silent"


def test_model_is_the_version_that_serves_with_its_own_figures() -> None:
    rows = [
        {"name": "digits", "version": version, "success_per_s": rate, "failure_count": 3}
        for version, rate in (("1", 5.0), ("2", 7.0))
    ]
    (model,) = one_of(
        arrival("d", "model/digits", **serving("1")),
        arrival("d", "tele/model", models=rows),
        arrival("d", "model/digits", **serving("2", other_versions={"1": "idle"})),
    ).models
    assert (model.version, model.success_per_s, model.failure_count) == ("2", 7.0, 3)


def test_model_that_is_gone_is_not_shown() -> None:
    device = one_of(arrival("d", "model/digits", **serving()), arrival("d", "model/digits"))
    assert device.models == []


@pytest.mark.parametrize(
    ("path", "metrics", "text"),
    [
        ("model/digits", serving(state="failed"), "failed"),
        ("model/digits", serving(is_fallback=True, placement="CPU"), "falls back to CPU"),
        ("model/digits", serving(building={"percent": 3}), "builds its engine"),
        ("model/digits", serving(other_versions={"3": "failed"}), "version 3 failed"),
        ("tele/device", {"power_level": "rate", "power_cause": "thermal"}, "held back: thermal"),
        ("tele/device", {"outbox_dropped_count": 1200}, "outbox lost 1,200"),
        ("tele/model", {"models": [{"name": "m", "failure_per_s": 0.5}]}, "0.5 errors/s"),
        ("tele/health", {"models": [{"name": "m", "drift": "drifted"}]}, "drift"),
        ("tele/health", {"models": [{"name": "m", "latency": "slow"}]}, "slow"),
    ],
)
def test_what_is_wrong_is_told_in_short(path: str, metrics: dict[str, Any], text: str) -> None:
    device = one_of(
        arrival("d", "status", state="online"),
        arrival("d", path, is_retained=False, **metrics),
    )
    assert [finding.text for finding in device.findings] == [text]
    assert text in text_of([device])


def test_device_that_is_not_as_desired_says_why() -> None:
    board = Board()
    board.add(arrival("d", "status", state="online"))
    board.device("plant", "d").reported = {"state": "failed", "reason": "no disk"}
    (device,) = summarize(board, NOW_S)
    assert [finding.text for finding in device.findings] == ["not as desired: no disk"]


def test_cost_is_shown_once_a_device_tells_it() -> None:
    devices = fleet_of(arrival("d", "model/digits", **serving()))
    assert "/M" not in text_of(devices)
    cost = {"name": "digits", "version": "2", "cost_per_million_eur": 0.1234}
    devices = fleet_of(
        arrival("d", "model/digits", **serving()),
        arrival("d", "tele/cost", models=[{"cost_per_million_full_load_eur": 9.0, **cost}]),
    )
    assert "EUR/M" in text_of(devices)
    assert "0.12" in text_of(devices)


def test_digest_tells_two_bundles_of_one_version_apart() -> None:
    devices = fleet_of(
        *(arrival(f"d{n}", "model/digits", **serving(digest=DIGESTS[n == 1])) for n in range(3)),
    )
    assert [(one.digest, one.devices) for one in count_versions(devices)] == [
        (DIGESTS[0], 2),
        (DIGESTS[1], 1),
    ]
    text = text_of(devices)
    assert "digits  2@3f9a1c7 on 2 · 2@77ab01d on 1" in text
    assert "digits 2@77ab01d" in text


def test_long_list_shows_first_who_has_something_to_tell() -> None:
    devices = fleet_of(
        *(arrival(f"d{n:04}", "status", state="online") for n in range(1000)),
        arrival("d0999", "status", state="offline"),
    )
    lines = text_of(devices, most=5).splitlines()
    assert "d0999" in lines[1]
    assert "995 more" in lines[6]
    assert heading(devices) == "1,000 devices: 999 online, 1 offline"


def test_table_fits_80_columns_whatever_the_names() -> None:
    long = "x" * 200
    devices = fleet_of(
        arrival(long, "status", state="online"),
        arrival(long, "info", edge_version=long),
        arrival(long, f"model/{long}", name=long, version=long, state="failed", digest=long),
    )
    assert max(map(len, text_of(devices).splitlines())) <= 80


def test_long_reason_gives_way_to_the_names_of_device_and_model() -> None:
    devices = fleet_of(
        arrival("press-7", "status", state="online"),
        arrival(
            "press-7",
            "model/digits",
            **serving(other_versions={str(n): "failed" for n in range(20, 40)}),
        ),
    )
    line = text_of(devices).splitlines()[1]
    assert "press-7" in line
    assert "digits 2" in line
    assert "version 20 failed; version" in line


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
KNOWN = st.sampled_from(
    [
        "name",
        "version",
        "state",
        "models",
        "other_versions",
        "building",
        "digest",
        "power_level",
        "failure_per_s",
        "success_count",
        "outbox_dropped_count",
        "latency_ms",
        "drift",
        "reason",
    ]
)
PATHS = ["status", "info", "model/m", "tele/model", "tele/device", "tele/health", "tele/cost"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*PATHS, "event/drift", "event/x"]),
            st.dictionaries(KNOWN, JUNK)
            | st.builds(lambda row: {"models": [row]}, st.dictionaries(KNOWN, JUNK)),
        ),
        max_size=6,
    )
)
def test_no_message_breaks_the_table(messages: list[tuple[str, dict[str, Any]]]) -> None:
    board = Board()
    for path, metrics in messages:
        one = arrival("d", path, is_retained=False)
        board.add(msgspec.structs.replace(one, metrics=metrics))
    devices = summarize(board, NOW_S)
    json.loads(msgspec.json.encode(devices))
    assert max(map(len, text_of(devices).splitlines()), default=0) <= 80
