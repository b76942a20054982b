"""Refusals that are counted: a log that stays small however long somebody is refused, and loses no number."""

import re

import pytest

from fedmerge.trust.refusals import MOST_NAMES, OTHERS, Refusals


class Clock:
    """Seconds that the test sets."""

    now = 0.0

    def __call__(self):
        """The moment."""
        return self.now


@pytest.fixture
def clock():
    """A clock at zero."""
    return Clock()


def settled(refusals, *, end=False):
    """The sentences that are due."""
    told = []
    refusals.settle(told.append, end=end)
    return told


def test_the_first_of_a_kind_are_written_and_what_follows_is_one_line(clock):
    """Three, then a count at the end of the minute, by what was asked for."""
    refusals = Refusals(3, 5, clock)
    assert [refusals.due("bundles", "describe") for _ in range(5)] == [True] * 3 + [False] * 2
    assert not refusals.due("bundles", "train")
    assert refusals.due("users", "describe")
    assert settled(refusals) == []
    clock.now = 60.0
    assert settled(refusals) == ["bundles: and 3 more within 60 s (describe 2, train 1)"]
    assert refusals.total == 7


def test_whoever_goes_on_makes_a_line_a_minute_and_begins_anew_after_a_quiet_one(clock):
    """An hour at a thousand calls a minute: the first ones and sixty lines, and every call is in the sum."""
    refusals, alone, told = Refusals(10, 5, clock), 0, []
    for _ in range(60):
        alone += sum(refusals.due("bundles", "describe") for _ in range(1000))
        clock.now += 60.0
        told += settled(refusals)
    assert (alone, len(told)) == (10, 60)
    assert alone + sum(int(re.search(r"and (\d+) more", line)[1]) for line in told) == 60_000
    clock.now += 60.0
    assert settled(refusals) == []
    assert refusals.due("bundles", "describe")


def test_neither_kinds_nor_names_make_more_lines(clock):
    """Who knocks under a thousand names, or asks for a thousand things, has a line for each of the first, and one."""
    refusals = Refusals(1, 20, clock)
    assert sum(refusals.due(f"key {i}", "pull") for i in range(1000)) == 21
    assert not any(refusals.due("key 0", f"x{i}") for i in range(1000))
    clock.now = 60.0
    first, others = settled(refusals)
    assert first.startswith("key 0: and 1000 more")
    assert first.endswith(f"x{MOST_NAMES - 1} 1, {OTHERS} {1000 - MOST_NAMES})")
    assert others == "others: and 979 more within 60 s (pull 979)"


def test_what_could_not_be_written_stays_counted(clock):
    """The disk is full for a minute; what was refused in the meantime is added."""
    refusals = Refusals(1, 5, clock)
    for _ in range(3):
        refusals.due("bundles", "describe")

    def full(line):
        refusals.due("bundles", "describe")
        raise OSError(28, "No space left on device")

    clock.now = 60.0
    with pytest.raises(OSError, match="No space"):
        refusals.settle(full)
    assert settled(refusals) == ["bundles: and 3 more within 60 s (describe 3)"]


def test_at_the_end_nothing_is_left_uncounted(clock):
    """The minute that is not over is written too."""
    refusals = Refusals(1, 5, clock)
    refusals.due("bundles", "a")
    refusals.due("bundles", "b")
    clock.now = 7.0
    assert settled(refusals, end=True) == ["bundles: and 1 more within 7 s (b 1)"]
