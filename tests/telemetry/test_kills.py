"""A device and a mosquitto that are killed at random: all that was accepted arrives, in order."""

from __future__ import annotations

from pathlib import Path

import kill_run
import pytest


@pytest.mark.parametrize(
    ("count", "kills"), [(3_000, 2), pytest.param(100_000, 50, marks=pytest.mark.slow)]
)
@pytest.mark.skipif(kill_run.MOSQUITTO is None, reason="mosquitto is not installed")
def test_all_that_was_accepted_arrives_in_order(tmp_path: Path, count: int, kills: int) -> None:
    outcome = kill_run.run(tmp_path, count, kills)
    assert outcome.accepted_count >= count
    assert min(outcome.device_kills, outcome.broker_kills) >= kills
    assert (outcome.lost_count, outcome.reordered_count) == (0, 0), outcome
