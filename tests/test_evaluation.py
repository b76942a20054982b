"""Evaluation: worked numbers, and scipy as the oracle of the paired test."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from fedmerge.evaluation import case_mean, dice, forgetting, mean_dice, paired, spread

LABELS = {"a": 1, "b": 2, "c": 3}
PREDICTION = [[1, 1, 0], [2, 0, 0]]
TRUTH = [[1, 0, 0], [3, 3, 0]]


@pytest.mark.parametrize("of", [np.array, torch.tensor, lambda v: np.array(v, np.uint8), lambda v: np.array(v, float)])
def test_dice_of_six_voxels(of):
    """a: 2 * 1 / (2 + 1); b is found where there is none, c is missed."""
    assert dice(of(PREDICTION), of(TRUTH), LABELS) == {"a": 2 / 3, "b": 0.0, "c": 0.0}


def test_a_label_absent_in_both_has_no_dice_and_one_absent_in_the_truth_only_has_zero():
    """None is left out of means, 0 is not."""
    scores = dice(np.array([1, 2]), np.array([1, 0]), LABELS)
    assert scores == {"a": 1.0, "b": 0.0, "c": None}
    assert case_mean(scores) == 0.5


def test_a_region_is_the_union_of_its_values():
    """Whole = {1, 3}: two voxels predicted, three true, one in common."""
    assert dice(np.array(PREDICTION), np.array(TRUTH), {"whole": (1, 3)}) == {"whole": 2 / 5}


def test_dice_equals_the_definition_on_random_maps():
    """Counting all labels at once gives what sets of voxels give."""
    rng = np.random.default_rng(0)
    p, t = rng.integers(0, 5, (2, 6, 7, 8))
    for name, got in dice(p, t, {str(k): k for k in range(1, 5)}).items():
        one, two = {*np.flatnonzero(p == int(name))}, {*np.flatnonzero(t == int(name))}
        assert got == 2 * len(one & two) / (len(one) + len(two))


def test_maps_of_different_shape_are_not_compared():
    """Both shapes are in the sentence."""
    with pytest.raises(ValueError, match=r"shape \(2,\) against truth of shape \(3,\)"):
        dice(np.zeros(2, int), np.zeros(3, int), LABELS)


def test_the_mean_is_over_cases_of_means_over_labels():
    """(1/2 (0.2 + 0.4) + 0.9) / 2: a case with one label counts as much as one with two."""
    cases = [{"a": 0.2, "b": 0.4}, {"a": 0.9, "b": None}, {"a": None, "b": None}]
    assert mean_dice(cases) == pytest.approx(0.6)
    assert mean_dice([{"a": None}]) is None
    assert mean_dice([]) is None


def test_spread_is_the_standard_deviation_of_a_sample():
    """1, 2, 3, 4: mean 2.5, squared deviations 5, over n - 1 = 3; one value has no spread, none has nothing."""
    assert spread([1, 2, 3, 4]) == pytest.approx((2.5, math.sqrt(5 / 3)))
    mean, sd = spread([0.7])
    assert mean == 0.7
    assert math.isnan(sd)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_forgetting_is_what_was_lost():
    """0.85 before and 0.60 after is 0.25 forgotten; a task that only one side knows has no row."""
    drops = forgetting({"north": 0.85, "south": 0.8, "east": 0.5}, {"south": None, "north": 0.6, "west": 1.0})
    assert drops == {"north": pytest.approx(0.25), "south": None}


def test_paired_differences_agree_with_scipy():
    """Mean, wins and p of twelve cases, matched by name whatever their order."""
    rng = np.random.default_rng(0)
    x, y = rng.random(12), rng.random(12)
    a = {f"case{i}": float(x[i]) for i in range(12)}
    b = {f"case{i}": float(y[i]) for i in reversed(range(12))}
    got = paired(a, b)
    assert got.n == 12
    assert got.mean_difference == pytest.approx((x - y).mean())
    assert got.wins == (x > y).sum()
    assert got.p == pytest.approx(scipy.stats.wilcoxon(x, y).pvalue)


def test_cases_without_a_partner_are_left_out():
    """Three cases each, one in common with two values."""
    got = paired({"1": 0.5, "2": 0.7, "3": None}, {"1": 0.25, "3": 0.1, "4": 0.2})
    assert (got.n, got.mean_difference, got.wins, got.p) == (1, 0.25, 1, None)


@pytest.mark.parametrize(("n", "step"), [(5, 0.1), (9, 0.0)])
def test_no_p_value_from_five_cases_or_from_equal_methods(n, step):
    """The smallest p of five pairs is 0.0625, and the test of all-zero differences is undefined."""
    a = {str(i): i / 10 for i in range(n)}
    assert paired({k: v + step * (1 + i) for i, (k, v) in enumerate(a.items())}, a).p is None


def test_nothing_in_common_is_no_difference():
    """nan, not zero."""
    got = paired({"1": 0.5}, {"2": 0.5})
    assert (got.n, got.wins, got.p) == (0, 0, None)
    assert math.isnan(got.mean_difference)
