from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from edge.core.profile import load_profile, profile_names
from edge.core.versions import meets

RANGE = ">=10.3,<11"


@pytest.mark.parametrize(
    "version", ["10.3", "10.3.0", "10.3.0.post1", "10.3.0.30-1+cuda12.5", "10.13.3.9", "10.16.2"]
)
def test_a_version_within_the_range_meets_it(version: str) -> None:
    assert meets(version, RANGE)


@pytest.mark.parametrize(
    "version", ["", "8.6.2", "10.2.9", "10.3rc1", "11.0", "11.0.0rc1", "11.4.1", "unknown"]
)
def test_a_version_outside_of_the_range_does_not(version: str) -> None:
    assert not meets(version, RANGE)


def test_numbers_compare_as_numbers() -> None:
    assert meets("10.13", ">10.3")
    assert not meets("10.13", "<10.3")


def test_a_version_alone_has_to_be_equal() -> None:
    assert meets("12.6.0", "12.6")
    assert meets("12.6+arm", "12.6")
    assert not meets("12.6.11", "12.6")


def test_what_is_no_version_has_to_be_the_same_text() -> None:
    assert meets("static", "static")
    assert not meets("dynamic", "static")
    assert not meets("10.3", ">=ten")


def test_every_range_in_a_profile_is_one() -> None:
    """The lowest version that a profile names meets it."""
    for name in profile_names():
        software = load_profile(name).software
        for wanted in (software.tensorrt, software.jetpack, software.cuda):
            if wanted:
                lowest = wanted.split(",")[0].lstrip(">=")
                assert meets(lowest, wanted), (name, wanted)


def numbered(*names: str) -> st.SearchStrategy[str]:
    parts = st.tuples(st.sampled_from(names), st.integers(0, 3))
    return st.one_of(st.just(""), parts.map(lambda part: f"{part[0]}{part[1]}"))


releases = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(lambda n: ".".join(map(str, n)))
versions = st.tuples(
    releases,
    numbered("a", "b", "rc"),
    numbered(".post"),
    numbered(".dev"),
).map("".join)
ranges = st.lists(
    st.tuples(st.sampled_from([">=", "<=", "==", "!=", ">", "<"]), versions).map("".join),
    min_size=1,
    max_size=3,
).map(",".join)


@given(versions, ranges)
def test_ranges_mean_what_they_mean_to_pip(version: str, wanted: str) -> None:
    expected = SpecifierSet(wanted).contains(Version(version), prereleases=True)
    assert meets(version, wanted) is expected
