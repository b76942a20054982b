"""Schedules: worked numbers, and where snapshots are taken."""

import math

import pytest

from fedmerge.errors import ConfigError
from fedmerge.schedules import SCHEDULES, factor, snapshot_steps


@pytest.mark.parametrize(
    ("name", "cycles", "wanted"),
    [
        ("constant", 1, [1, 1, 1, 1]),
        ("linear", 1, [1, 0.8, 0.6, 0.4]),
        ("polynomial", 1, [1, 0.2 + 0.8 * 0.75**0.9, 0.2 + 0.8 * 0.5**0.9, 0.2 + 0.8 * 0.25**0.9]),
        ("cosine", 1, [1, 0.6 + 0.4 * math.sqrt(0.5), 0.6, 0.6 - 0.4 * math.sqrt(0.5)]),
        ("cyclical", 1, [1, 0.6, 0.2, 0.6]),
        ("cyclical", 2, [1, 0.2, 1, 0.2]),
    ],
)
def test_four_steps_down_to_a_fifth(name, cycles, wanted):
    """The formulas of the module's table, by hand, for four steps and final = 0.2."""
    got = [factor(name, step, 4, final=0.2, cycles=cycles) for step in range(4)]
    assert got == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_starts_at_one_and_stays_between_one_and_final(name):
    """The rate in the settings is the highest one."""
    factors = [factor(name, step, 30, final=0.1, cycles=3) for step in range(30)]
    assert factors[0] == 1
    assert all(0.1 - 1e-12 <= f <= 1 for f in factors)


def test_snapshots_follow_the_step_with_the_lowest_rate():
    """Two cycles of ten steps: steps 5 and 15 have the lowest factor, so a copy is taken after 6 and 16 steps."""
    factors = [factor("cyclical", step, 20, cycles=2) for step in range(20)]
    lowest = [step for step in range(20) if factors[step] == min(factors)]
    assert lowest == [5, 15]
    assert snapshot_steps(20, 2) == (6, 16)


@pytest.mark.parametrize(("steps", "cycles"), [(4, 3), (4, 0)])
def test_cycles_that_do_not_fit_are_refused(steps, cycles):
    """A cycle goes down and up: two steps at least."""
    with pytest.raises(ConfigError, match=f"half of the 4 steps, got {cycles}"):
        snapshot_steps(steps, cycles)


def test_an_unknown_schedule_is_named():
    """The sentence lists the known ones."""
    with pytest.raises(ConfigError, match=r"expected one of constant, linear, .* got 'step'"):
        factor("step", 0, 1)
