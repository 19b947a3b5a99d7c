"""Ranges against a set of ints."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import support.values  # noqa: F401 # hypothesis's profile
from klime_mp._ranges import Ranges

STEPS = st.lists(st.tuples(st.sampled_from(["add", "remove"]), st.integers(0, 40), st.integers(0, 12)), max_size=40)


def numbers_in(ranges):
    return [number for first, last in ranges for number in range(first, last + 1)]


def assert_is(ranges, expected):
    assert numbers_in(ranges) == sorted(expected)
    assert len(ranges) == len(expected)
    assert bool(ranges) == bool(expected)
    assert [number in ranges for number in range(-2, 60)] == [number in expected for number in range(-2, 60)]
    pairs = list(ranges)
    assert all(first <= last for first, last in pairs)
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(pairs)), "not as few as can be"


@given(STEPS)
def test_any_sequence_of_steps(steps):
    ranges, expected = Ranges(), set()
    for what, first, more in steps:
        numbers = range(first, first + more + 1)
        if what == "add":
            ranges.add(first, numbers[-1])
            expected.update(numbers)
        else:
            ranges.remove(first, numbers[-1])
            expected.difference_update(numbers)
        assert_is(ranges, expected)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15)), max_size=60))
def test_one_at_a_time(steps):
    ranges, expected = Ranges(), set()
    for add, number in steps:
        (ranges.add if add else ranges.remove)(number)
        (expected.add if add else expected.discard)(number)
        assert_is(ranges, expected)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=20))
def test_built_of_ranges_in_any_order(pairs):
    pairs = [(first, first + more) for first, more in pairs]
    assert_is(Ranges(pairs), set(numbers_in(pairs)))


def test_iterating_is_over_a_copy():
    ranges = Ranges([(1, 3), (7, 9)])
    for first, last in ranges:
        ranges.remove(first, last)
    assert not ranges


@pytest.mark.parametrize("length", [1, 100_000])
def test_a_long_backlog_is_one_range(length):
    ranges = Ranges()
    for number in range(1, length + 1):
        ranges.add(number)
    assert list(ranges) == [(1, length)]
