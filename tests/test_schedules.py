"""Schedules: worked numbers, and where snapshots are taken."""

import math

import pytest

from fedmerge.errors import ConfigError
from fedmerge.schedules import FGG, SCHEDULES, factor, fgg_snapshots, fgg_steps, snapshot_steps


@pytest.mark.parametrize(
    ("name", "cycles", "wanted"),
    [
        ("constant", 1, [1, 1, 1, 1]),
        ("linear", 1, [1, 0.8, 0.6, 0.4]),
        ("polynomial", 1, [1, 0.2 + 0.8 * 0.75**0.9, 0.2 + 0.8 * 0.5**0.9, 0.2 + 0.8 * 0.25**0.9]),
        ("cosine", 1, [1, 0.6 + 0.4 * math.sqrt(0.5), 0.6, 0.6 - 0.4 * math.sqrt(0.5)]),
        ("cyclical", 1, [1, 0.6, 0.2, 0.6]),
        ("cyclical", 2, [1, 0.2, 1, 0.2]),
        ("fgg", 1, [0.6, 0.5, 0.4, 0.3]),  # half a unit down to 0.2 in all four
    ],
)
def test_four_steps_down_to_a_fifth(name, cycles, wanted):
    """The formulas of the module's table, by hand, for four steps and final = 0.2."""
    got = [factor(name, step, 4, final=0.2, cycles=cycles) for step in range(4)]
    assert got == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_starts_at_one_and_stays_between_one_and_final(name):
    """The rate in the settings is the highest one; `fgg` starts halfway down and comes to it later."""
    factors = [factor(name, step, 90, final=0.1, cycles=3) for step in range(90)]
    assert factors[0] == (pytest.approx(0.55) if name == "fgg" else 1)
    assert max(factors) == pytest.approx(1, abs=1e-12)
    assert all(0.1 - 1e-12 <= f <= 1 for f in factors)


def test_snapshots_follow_the_step_with_the_lowest_rate():
    """Two cycles of ten steps: steps 5 and 15 have the lowest factor, so a copy is taken after 6 and 16 steps."""
    factors = [factor("cyclical", step, 20, cycles=2) for step in range(20)]
    lowest = [step for step in range(20) if factors[step] == min(factors)]
    assert lowest == [5, 15]
    assert snapshot_steps(20, 2) == (6, 16)


@pytest.mark.parametrize(("steps", "cycles"), [(20, 2), (22, 3), (80, 5), (17, 4), (12, 6)])
def test_the_last_step_before_a_snapshot_is_that_of_the_cycles_lowest_rate(steps, cycles):
    """Also where the cycles are no whole number of steps."""
    factors = [factor("cyclical", step, steps, cycles=cycles) for step in range(steps)]
    for cycle, snapshot in enumerate(snapshot_steps(steps, cycles)):
        own = [f for step, f in enumerate(factors) if step * cycles // steps == cycle]
        assert factors[snapshot - 1] == pytest.approx(min(own), abs=1e-12)


@pytest.mark.parametrize("steps_per_epoch", [1, 3, 10, 37])
def test_fast_geometric_generation_copies_after_epochs_1_5_9_13_and_17(steps_per_epoch):
    """As FissionFusion's program does; there the rate is the lowest one, 1e-8, and it has been 1e-5 in between."""
    snapshots = fgg_snapshots(FGG.epochs, FGG.period, steps_per_epoch)
    assert snapshots == tuple(epoch * steps_per_epoch for epoch in (1, 5, 9, 13, 17))
    steps = FGG.epochs * steps_per_epoch
    rates = [FGG.high * factor("fgg", step, steps, final=FGG.low / FGG.high, cycles=5) for step in range(steps + 1)]
    assert [step for step, rate in enumerate(rates) if rate == pytest.approx(FGG.low)] == list(snapshots)
    assert [step for step, rate in enumerate(rates) if rate == pytest.approx(FGG.high)] == [
        epoch * steps_per_epoch for epoch in (3, 7, 11, 15)
    ]
    assert min(rates) == pytest.approx(FGG.low, rel=1e-9)


@pytest.mark.parametrize("steps_per_epoch", [1, 10])
def test_the_rate_within_an_epoch_is_that_of_the_published_program(steps_per_epoch):
    """T = (epoch mod period + share of the epoch) / period with epochs from 1; down before t = 1/2, then up."""
    steps = FGG.epochs * steps_per_epoch
    for step in range(steps):
        epoch, share = 1 + step // steps_per_epoch, step % steps_per_epoch / steps_per_epoch
        t = (epoch % FGG.period + share) / FGG.period
        if t < 0.5:
            rate = FGG.high * (1 - 2 * t) + FGG.low * 2 * t
        else:
            rate = FGG.high * (2 * t - 1) + FGG.low * (2 - 2 * t)
        got = FGG.high * factor("fgg", step, steps, final=FGG.low / FGG.high, cycles=5)
        assert got == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize(("steps", "cycles"), [(80, 5), (20, 3), (9, 4)])
def test_copies_of_fgg_are_at_the_steps_nearest_to_the_minima(steps, cycles):
    """And the last one is the end of the run, where the rate is the final one exactly."""
    snapshots = fgg_steps(steps, cycles)
    assert (len(snapshots), snapshots[-1]) == (cycles, steps)
    assert factor("fgg", steps, steps, final=0.1, cycles=cycles) == pytest.approx(0.1)
    for at in snapshots[:-1]:
        around = [factor("fgg", step, steps, cycles=cycles) for step in (at - 1, at, at + 1)]
        assert around[1] == min(around)


@pytest.mark.parametrize(("epochs", "period"), [(16, 4), (18, 4), (0, 4), (17, 0)])
def test_epochs_that_do_not_end_at_a_minimum_are_refused(epochs, period):
    """Whole periods and a quarter, or the last copy would be of a high rate."""
    with pytest.raises(ConfigError, match=f"epochs expected whole periods of {period} and a quarter"):
        fgg_snapshots(epochs, period, 10)


@pytest.mark.parametrize(("steps", "cycles"), [(4, 3), (4, 0)])
def test_cycles_that_do_not_fit_are_refused(steps, cycles):
    """A cycle goes down and up: two steps at least."""
    with pytest.raises(ConfigError, match=f"half of the 4 steps, got {cycles}"):
        snapshot_steps(steps, cycles)
    with pytest.raises(ConfigError, match=f"half of the 4 steps, got {cycles}"):
        fgg_steps(steps, cycles)


def test_an_unknown_schedule_is_named():
    """The sentence lists the known ones."""
    with pytest.raises(ConfigError, match=r"expected one of constant, linear, .* got 'step'"):
        factor("step", 0, 1)
