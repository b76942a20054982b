"""The canary in DP-SGD: what it moves, what the attacker sees, and that the attack can fail a mechanism."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from fedmerge.errors import ConfigError
from fedmerge.privacy import accountant, canary
from fedmerge.privacy.accountant import Training
from fedmerge.privacy.mechanism import Mechanism

DELTA = 1e-5

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def patients():
    """Three patients of one channel and two labels, cut for the bench."""
    draw = torch.Generator().manual_seed(0)
    made = [(torch.randn(1, 7, 8, 9, generator=draw), torch.randint(2, (1, 7, 8, 9), generator=draw)) for _ in range(3)]
    return canary.cohort([[case] for case in made])


def watched(patients, mechanism, steps, *, present, run=0):
    """What the attacker sees of one training."""
    odd = canary.canary(2, 2, seed=0)
    return canary.observed(patients, odd, 2, mechanism, steps, present=present, seed=0, run=run)


def test_the_canary_alone_has_the_last_channel(patients):
    """Others are zero there, and in the others' channels it is zero itself."""
    ((image, label),) = canary.canary(2, 2, seed=0)
    assert all((x[-1] == 0).all() and (x[0] != 0).any() for patient in patients for x, _ in patient)
    assert (image[0] == 0).all()
    assert image[-1].abs().mean() > 100
    assert [(x.shape, y.shape) for ((x, y),) in patients] == [(image.shape, label.shape)] * 3


def test_a_drawn_canary_shows_with_the_whole_clipping_norm_and_nobody_else_shows(patients):
    """Without noise x is 1 at every step that draws it, and else 0, whatever the norm's unit is."""
    everybody = Mechanism(1.0, 0.0, 1.0, 3)
    assert watched(patients, everybody, 5, present=True) == pytest.approx([1.0] * 5, abs=1e-5)
    assert watched(patients, everybody, 5, present=False) == [0.0] * 5
    some = watched(patients, Mechanism(0.5, 0.0, 1.0, 3), 40, present=True)
    assert all(min(abs(x), abs(x - 1)) < 1e-5 for x in some)
    assert 8 < sum(some) < 32


def test_what_is_seen_has_the_noise_that_was_accounted(patients):
    """Normal with deviation sigma around 0, and around 1 with the canary in each step; each run has other numbers."""
    mechanism = Mechanism(1.0, 2.0, 1.0, 3)
    for present in (False, True):
        seen = np.array([watched(patients, mechanism, 25, present=present, run=k) for k in range(16)])
        assert seen.mean() == pytest.approx(float(present), abs=4 * 2 / 20)
        assert seen.std() == pytest.approx(2.0, rel=0.15)
        assert len(np.unique(seen)) == 400


def test_the_score_is_the_logarithm_of_the_likelihood_ratio():
    """A mixture of two normal densities by one, step by step."""
    seen, q, sigma = [0.3, -1.0, 1.7], 0.3, 0.8
    with_canary = (1 - q) * norm.pdf(seen, 0, sigma) + q * norm.pdf(seen, 1, sigma)
    expected = np.log(with_canary / norm.pdf(seen, 0, sigma)).sum()
    assert canary.ratio(seen, q, sigma) == pytest.approx(expected)
    assert canary.ratio(seen, 1.0, sigma) == pytest.approx(sum((2 * x - 1) / (2 * sigma**2) for x in seen))
    assert math.isfinite(canary.ratio([1e6], q, 1e-3))


@pytest.mark.parametrize("how", [None, *canary.BREAKS])
def test_the_attack_fails_a_broken_mechanism_and_no_sound_one(patients, how):
    """Epsilon 1 is claimed: the sound one stays below, and without noise or clipping the bound is above it."""
    steps, rate = 4, 0.5
    sigma = accountant.calibrate(1.0, DELTA, rate, steps)
    sound = Mechanism(rate, sigma, 1.0, 3)
    told = accountant.epsilon([Training(rate, sigma, steps)], DELTA)
    found = canary.audit(patients, 2, canary.broken(sound, how) if how else sound, steps, sigma, DELTA,
                         members=60, others=60, seed=0)  # fmt: skip
    assert found.most > told  # so many runs could show it
    assert (found.epsilon > told) == (how is not None)


def test_what_is_broken_is_one_thing_only():
    """Without clipping the noise is as strong as before; without noise the norm is."""
    sound = Mechanism(0.5, 1.5, 2.0, 3)
    assert canary.broken(sound, "no noise") == Mechanism(0.5, 0.0, 2.0, 3)
    wide = canary.broken(sound, "no clipping")
    assert wide.noise_multiplier * wide.clip == pytest.approx(3.0)
    assert wide.clip > 1e5
    with pytest.raises(ConfigError, match="no noise, no clipping"):
        canary.broken(sound, "no seed")


def test_nothing_watches_when_a_training_is_over(patients):
    """The hook on all optimisers is gone, and other nets' steps are not looked at."""
    other = torch.nn.Linear(2, 2)
    other(torch.ones(1, 2)).sum().backward()
    seen = []
    with canary._before_each_step(torch.nn.Linear(2, 2), lambda: seen.append(1)):
        torch.optim.AdamW(other.parameters()).step()
    with canary._before_each_step(other, lambda: seen.append(2)):
        torch.optim.AdamW(other.parameters()).step()
    torch.optim.AdamW(other.parameters()).step()
    assert seen == [2]
