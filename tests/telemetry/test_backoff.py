"""Waiting longer and longer, and not all at once."""

from __future__ import annotations

import random

import pytest

from edge.telemetry.backoff import Backoff


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(7)


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(first_s=1.0, longest_s=30.0)
    for ceiling in (1, 2, 4, 8, 16, 30, 30, 30):
        assert ceiling / 2 <= backoff.next_s() <= ceiling


def test_wait_stays_bounded_after_years() -> None:
    backoff = Backoff(first_s=1.0, longest_s=60.0, failures=10_000)
    assert 30 <= backoff.next_s() <= 60


def test_devices_do_not_come_back_together() -> None:
    waits = {round(Backoff(10.0, 10.0).next_s(), 2) for _ in range(100)}
    assert len(waits) > 50


def test_only_a_connection_that_held_starts_over() -> None:
    backoff = Backoff(first_s=1.0, longest_s=30.0, failures=4)
    backoff.lasted(0.5)
    assert backoff.next_s() >= 8
    backoff.lasted(31.0)
    assert backoff.next_s() <= 1
