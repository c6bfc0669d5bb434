"""Random lives of an outbox: messages, connections, failing disks, power cuts and restarts."""

from __future__ import annotations

import errno

from faulty_disk import FaultyFiles, PowerCut
from hypothesis import given, settings
from hypothesis import strategies as st
from outboxes import EVENT, TELEMETRY, Box, gaps, messages

from edge.telemetry.outbox import Bounds

BOUNDS = Bounds(
    memory_bytes=12_000,
    segment_bytes=500,
    min_free_bytes=0,
    checkpoint_count=7,
    history_burst=3,
    history_per_s=1e9,
    fresh_s=0.5,
)
CALLS = ("create", "append", "sync", "truncate", "rename", "unlink", "sync_folder")
DEEDS = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 12)),
    st.tuples(st.just("event"), st.just(1)),
    st.tuples(st.just("commit"), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([1, 61])),
    st.tuples(st.just("connect"), st.just(0)),
    st.tuples(st.just("deliver"), st.integers(1, 12)),
    st.tuples(st.just("send"), st.integers(1, 5)),
    st.tuples(st.just("fail"), st.integers(0, len(CALLS))),
    st.tuples(st.just("cut"), st.integers(0, 12)),
)


class Life:
    """Runs of one outbox, one after another; ``told`` are those that a gap tells of."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.number = 0
        self.files = FaultyFiles()
        self.box = Box(self.files, BOUNDS)
        self.put: set[bytes] = set()
        self.here: set[bytes] = set()  # what was put since the start
        self.accepted: set[bytes] = set()
        self.acknowledged: set[bytes] = set()
        self.told: set[bytes] = set()
        self.newest = {True: b"", False: b""}
        self.box.begin()

    def do(self, deed: str, count: int) -> None:
        try:
            getattr(self, f"_{deed}")(count)
        except PowerCut:
            disk = self.data.draw(st.sampled_from(list(self.files.after_cut())), label="disk")
            self._start(disk)

    def finish(self) -> None:
        self.files.fails, self.files.cut_at = (lambda call, name: 0), -1
        if self.box.commit():
            self.accepted |= self.here
        self._start({name: self.files.read(name) for name in self.files.sizes()})
        self._deliver(10_000)
        self._deliver(10_000)
        assert self.accepted <= self.acknowledged | self.told
        assert self.acknowledged <= self.put
        self.box.commit()
        assert not [name for name in self.files.sizes() if name.endswith(".log")]

    def _start(self, disk: dict[str, bytes]) -> None:
        """Memory is gone, and with it what was not accepted."""
        self.here.clear()
        self.files = FaultyFiles(disk)
        self.box = Box(self.files, BOUNDS)
        self._connect(0)

    def _put(self, count: int) -> None:
        for _ in range(count):
            self._say(TELEMETRY)

    def _event(self, _: int) -> None:
        self._say(EVENT)

    def _say(self, kind: object) -> None:
        self.number += 1
        payload = b"%08d" % self.number + b"." * 30
        self.put.add(payload)
        self.here.add(payload)
        self.box.put(EVENT if kind is EVENT else TELEMETRY, payload)

    def _commit(self, _: int) -> None:
        if self.box.commit():
            self.accepted |= self.here

    def _wait(self, seconds: int) -> None:
        self.box.pass_time(float(seconds))

    def _connect(self, _: int) -> None:
        self.box.end()
        self.box.begin()
        self.newest = {True: b"", False: b""}

    def _deliver(self, count: int) -> None:
        self._take(count, is_acknowledged=True)

    def _send(self, count: int) -> None:
        self._take(count, is_acknowledged=False)

    def _take(self, count: int, *, is_acknowledged: bool) -> None:
        for _ in range(count):
            self.box.clock.now_s += 0.001
            taken = self.box.take()
            if taken is None:
                return
            record, is_history = taken
            for gap in gaps([record.payload]):
                if gap["reason"] != "damaged":
                    between = range(int(gap["first"]), int(gap["last"]) + 1)
                    self.told |= {b"%08d" % number + b"." * 30 for number in between}
            for payload in messages([record.payload]):
                assert payload > self.newest[is_history], "order"
                self.newest[is_history] = payload
                if is_acknowledged:
                    self.acknowledged.add(payload)
            if is_acknowledged:
                self.box.acknowledge(record.seq)

    def _fail(self, which: int) -> None:
        failing = CALLS[which] if which < len(CALLS) else ""
        self.files.fails = lambda call, name: errno.EIO if call == failing else 0

    def _cut(self, steps: int) -> None:
        self.files.cut_at = self.files.step + steps


@settings(max_examples=300)
@given(st.data(), st.lists(DEEDS, min_size=5, max_size=40))
def test_whatever_happens_nothing_accepted_is_lost_untold_and_order_holds(
    data: st.DataObject, deeds: list[tuple[str, int]]
) -> None:
    life = Life(data)
    for deed, count in deeds:
        life.do(deed, count)
    life.finish()
