"""Lower bounds on epsilon: published and worked numbers, laws, and mechanisms whose epsilon is known."""

import math

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from fedmerge.errors import DataError
from fedmerge.privacy import lower_bound, separation
from fedmerge.privacy.lower_bound import Counts


def accounted(noise, delta=1e-5):
    """The epsilon of one Gaussian mechanism of sensitivity 1 (Balle and Wang, 2018, theorem 5), by bisection."""
    low, high = 0.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        a, b = 1 / (2 * noise), middle * noise
        low, high = (middle, high) if norm.cdf(a - b) - math.exp(middle) * norm.cdf(-a - b) > delta else (low, middle)
    return high


def audited(noise, runs=2000, delta=1e-5, seed=0):
    """The bound from runs of a sum with a canary of norm 1, and without it."""
    draw = np.random.default_rng(seed)
    return lower_bound.evidence(1.0 + noise * draw.normal(size=runs), noise * draw.normal(size=runs), delta).epsilon


@pytest.mark.parametrize("noise", [0.5, 1.0, 4.0])
def test_the_bound_is_below_the_epsilon_of_a_gaussian_mechanism(noise):
    """In twenty repetitions of twenty; and with little noise it is not empty either."""
    bounds = [audited(noise, runs=400, seed=seed) for seed in range(20)]
    assert max(bounds) <= accounted(noise)
    if noise < 1:
        assert np.median(bounds) > 1.2


def test_a_mechanism_without_noise_is_told_apart_as_far_as_the_runs_go():
    """All 1500 counted runs of each kind: the bound is the highest that so many can show."""
    most = math.log((0.025 ** (1 / 1500) - 1e-5) / (1 - 0.025 ** (1 / 1500)))
    assert audited(0.0) == pytest.approx(most)
    assert most > 5


def test_the_bound_holds_as_often_as_it_says_where_it_can_be_reached():
    """Randomised response has TPR / FPR = e^epsilon exactly: in at most one run of twenty the bound is above."""
    epsilon, runs, draw = 1.5, 300, np.random.default_rng(0)
    share = expit(epsilon)
    tp, fp = draw.binomial(runs, share, 1000), draw.binomial(runs, 1 - share, 1000)
    bounds = [lower_bound.epsilon_lower_bound(a, runs - a, b, runs - b, 0.0) for a, b in zip(tp.tolist(), fp.tolist())]
    assert np.mean(np.array(bounds) > epsilon) <= 0.05
    assert np.median(bounds) > 0.7 * epsilon


def test_scores_that_know_nothing_bound_nothing():
    """Of 200 attacks by chance hardly any has a bound above 0, though each takes the best of all thresholds."""
    draw = np.random.default_rng(1)
    bounds = [lower_bound.evidence(draw.normal(size=60), draw.normal(size=60), 0.0).epsilon for _ in range(200)]
    assert np.mean(np.array(bounds) > 0) <= 0.05


def test_the_best_threshold_is_the_best_of_all():
    """A plain loop over every number between two scores finds no higher bound."""
    draw = np.random.default_rng(3)
    members, others = draw.normal(1.5, 1, 40), draw.normal(0, 1, 40)

    def bound(threshold):
        told = lower_bound.counts(members, others, threshold)
        return lower_bound.epsilon_lower_bound(told.tp, told.fn, told.fp, told.tn, 1e-5)

    tried = [bound(threshold) for threshold in np.linspace(-4, 5, 901)]
    assert bound(lower_bound.best_threshold(members, others, 1e-5)) >= max(tried) > 0
    assert lower_bound.best_threshold([2.0, 4.0], [0.0, 1.0]) == 1.5  # nothing is bounded, and nobody is mistaken


def test_the_first_quarter_chooses_and_the_rest_is_counted():
    """Of eight runs two choose: their threshold lies in the middle, and makes one mistake of each kind later."""
    members = [3.0, 4.0, 5.0, 5.0, 5.0, 5.0, 5.0, 1.0]
    others = [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 9.0, 0.0]
    told = lower_bound.evidence(members, others, 1e-5)
    assert told.threshold == 2.5
    assert told.counts == Counts(tp=5, fn=1, fp=1, tn=5)
    assert told.epsilon == lower_bound.epsilon_lower_bound(5, 1, 1, 5, 1e-5)
    assert told.most == lower_bound.epsilon_lower_bound(6, 0, 0, 6, 1e-5)


def test_the_bound_on_epsilon_by_hand():
    """90 of 100 found at 10 of 100 false: log(lower end / upper end); a coin gives nothing, turned or not."""
    low, high = separation.clopper_pearson(90, 100)[0], separation.clopper_pearson(10, 100)[1]
    assert (low, high) == (pytest.approx(0.8238, abs=6e-5), pytest.approx(0.1762, abs=6e-5))  # printed tables
    assert lower_bound.epsilon_lower_bound(90, 10, 10, 90, 0.0) == pytest.approx(math.log(low / high))
    assert lower_bound.epsilon_lower_bound(50, 50, 50, 50, 0.0) == 0.0
    assert lower_bound.epsilon_lower_bound(50, 950, 1, 999, 0.0) == pytest.approx(
        math.log(separation.clopper_pearson(50, 1000)[0] / separation.clopper_pearson(1, 1000)[1])
    )


def test_negatives_count_as_positives_do():
    """An attack that is sure who was not a member says as much: (tp, fn, fp, tn) and (tn, fp, fn, tp) are one bound."""
    for told in [(999, 1, 950, 50), (90, 10, 30, 70)]:
        assert lower_bound.epsilon_lower_bound(*told, 1e-5) == pytest.approx(
            lower_bound.epsilon_lower_bound(*told[::-1], 1e-5), abs=1e-12
        )


def test_the_bound_rises_with_what_the_attack_gets_right_and_with_the_runs():
    """More found, fewer false, a smaller delta, less confidence, more runs of the same rates."""
    bound = lower_bound.epsilon_lower_bound
    rising = [bound(tp, 100 - tp, 10, 90, 1e-3) for tp in range(10, 101, 10)]
    assert rising == sorted(rising)
    falling = [bound(90, 10, fp, 100 - fp, 1e-3) for fp in range(0, 100, 10)]
    assert falling == sorted(falling, reverse=True)
    assert bound(90, 10, 10, 90, 0.1) < bound(90, 10, 10, 90, 0.01) < bound(90, 10, 10, 90, 0.0)
    assert bound(90, 10, 10, 90, 0.0, 0.99) < bound(90, 10, 10, 90, 0.0, 0.95)
    assert bound(90, 10, 10, 90, 0.0) < bound(900, 100, 100, 900, 0.0) < math.log(9)


@pytest.mark.parametrize(
    ("coins", "guesses", "right", "delta", "epsilon"),
    [(1000, 100, 75, 1e-4, 0.673), (100_000, 1510, 1439, 1e-5, 2.675)],
)
def test_the_bound_of_one_run_is_that_of_its_paper(coins, guesses, right, delta, epsilon):
    """Steinke, Nasr and Jagielski 2023: the example of appendix D, and figure 11."""
    assert lower_bound.one_run_lower_bound(right, guesses, coins, delta) == pytest.approx(epsilon, abs=1e-3)


def test_pairs_without_a_mistake_by_hand():
    """All n right has probability (e^2 epsilon / (1 + e^2 epsilon))^n, so epsilon = logit(0.05^(1 / n)) / 2."""
    for pairs in (8, 32, 56):
        share = 0.05 ** (1 / pairs)
        expected = math.log(share / (1 - share)) / 2
        assert lower_bound.paired_lower_bound(pairs, pairs, 0.0) == pytest.approx(expected)
        assert 0 < expected - lower_bound.paired_lower_bound(pairs, pairs, 1e-5) < 0.01
    assert lower_bound.paired_lower_bound(16, 32, 0.0) == lower_bound.paired_lower_bound(0, 32, 1e-5) == 0.0


def test_guesses_of_a_private_mechanism_bound_its_epsilon_as_often_as_it_says():
    """Coins answered at random: right with e^epsilon / (1 + e^epsilon), which is the most that privacy allows."""
    draw, epsilon = np.random.default_rng(2), 1.0
    right, which = np.unique(draw.binomial(60, expit(epsilon), 300), return_inverse=True)
    bounds = np.array([lower_bound.one_run_lower_bound(count, 60, 60, 1e-5) for count in right.tolist()])[which]
    assert np.mean(bounds > epsilon) <= 0.05
    assert np.median(bounds) > 0.3 * epsilon


def test_counts_that_cannot_be_are_refused():
    """Nobody of one kind, more right guesses than guesses, a run too few to choose a threshold."""
    with pytest.raises(DataError, match="none of one kind"):
        lower_bound.epsilon_lower_bound(0, 0, 1, 1, 0.0)
    with pytest.raises(DataError, match="right <= guesses"):
        lower_bound.one_run_lower_bound(3, 2, 4, 0.0)
    with pytest.raises(DataError, match="3 of 2"):
        lower_bound.paired_lower_bound(3, 2, 0.0)
    with pytest.raises(DataError, match="two runs"):
        lower_bound.evidence([1.0], [0.0, 0.0], 0.0)
