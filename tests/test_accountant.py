"""The accountant agrees with published settings and with formulas written out, and calibrates to what was asked."""

import builtins
import math

import pytest

from fedmerge.errors import ConfigError
from fedmerge.privacy import accountant
from fedmerge.privacy.accountant import Training

MNIST = 60_000
PUBLISHED = {  # (training, epsilon as published, at delta 1e-5)
    "Abadi et al. 2016, section 3.2: sigma 4, q 0.01, 100 epochs": (Training(0.01, 4.0, 10_000), 1.26),
    "Bu et al. 2020, figure 4: sigma 1.3, 20 epochs": (Training(256 / MNIST, 1.3, 20 * MNIST // 256), 1.34),
    "TensorFlow Privacy, tutorials: sigma 1.12, 60 epochs": (Training(256 / MNIST, 1.12, 60 * MNIST // 256), 2.92),
    "TensorFlow Privacy, tutorials: sigma 0.6, 30 epochs": (Training(256 / MNIST, 0.6, 30 * MNIST // 256), 9.74),
    "TensorFlow Privacy, tutorials: sigma 1.2, 10 epochs": (Training(256 / MNIST, 1.2, 10 * MNIST // 256), 1.20),
}


def log_moment(training, order):
    """Log E[(p/q)^order] of one step, for whole orders: Mironov, Talwar & Zhang 2019, section 3.3."""
    q, sigma = training.rate, training.noise_multiplier
    terms = [
        math.log(math.comb(order, k)) + k * math.log(q) + (order - k) * math.log1p(-q) + (k * k - k) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    most = max(terms)
    return most + math.log(sum(math.exp(term - most) for term in terms))


def by_hand(training, delta, conversion):
    """Epsilon by Renyi divergences of whole orders: `moments` as in 2016, `tight` as in Canonne et al. 2020."""
    found = []
    for a in accountant.ORDERS:
        renyi = training.steps * log_moment(training, a) / (a - 1)
        more = math.log((a - 1) / a) - math.log(a) / (a - 1) if conversion == "tight" else 0.0
        found.append(renyi + math.log(1 / delta) / (a - 1) + more)
    return min(found)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_epsilons_are_found(name):
    """By the conversion of their time within 2 %; by that of today it is less, and equal to the formula by hand."""
    training, published = PUBLISHED[name]
    assert by_hand(training, 1e-5, "moments") == pytest.approx(published, rel=0.02)
    renyi = accountant.epsilon([training], 1e-5, "rdp")
    assert renyi == pytest.approx(by_hand(training, 1e-5, "tight"), rel=1e-6)
    assert renyi < published


@pytest.mark.parametrize("training", [Training(0.01, 4.0, 10_000), Training(0.25, 6.0, 300), Training(1.0, 10.0, 20)])
def test_privacy_loss_distributions_are_never_looser(training):
    """And not by much: both bound the same thing."""
    tight, renyi = (accountant.epsilon([training], 1e-4, method) for method in ("pld", "rdp"))
    assert 0.5 * renyi < tight <= renyi


def test_without_sampling_it_is_the_gaussian_mechanism():
    """T releases with noise sigma are one with sigma / sqrt(T), whose delta is known: Balle & Wang 2018, theorem 8."""
    sigma, steps, delta = 10.0, 25, 1e-5
    found = accountant.epsilon([Training(1.0, sigma, steps)], delta)
    one = sigma / math.sqrt(steps)

    def below(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    expected = below(1 / (2 * one) - found * one) - math.exp(found) * below(-1 / (2 * one) - found * one)
    assert expected == pytest.approx(delta, rel=0.02)


@pytest.mark.parametrize("method", accountant.METHODS)
def test_calibrating_finds_the_noise_that_just_keeps_to_epsilon(method):
    """Epsilon 3 is at most 3 and more than 2.99."""
    sigma = accountant.calibrate(3.0, 1e-3, 0.2, 200, method)
    assert 2.99 < accountant.epsilon([Training(0.2, sigma, 200)], 1e-3, method) <= 3.0


def test_trainings_compose_to_less_than_the_sum_of_their_epsilons():
    """And to more than the largest; two halves are the whole."""
    first, second = Training(0.1, 2.0, 100), Training(0.2, 4.0, 50)
    both = accountant.epsilon([first, second], 1e-4)
    alone = [accountant.epsilon([training], 1e-4) for training in (first, second)]
    assert max(alone) < both < sum(alone)
    halves = accountant.epsilon([Training(0.1, 2.0, 50)] * 2, 1e-4)
    assert halves == pytest.approx(alone[0], rel=1e-3)


def test_no_noise_is_no_privacy_and_no_step_tells_nothing():
    """The two ends."""
    assert accountant.epsilon([Training(0.1, 0.0, 1)], 1e-5) == math.inf
    assert accountant.epsilon([], 1e-5) == 0.0
    assert accountant.epsilon([Training(0.1, 1.0, 0)], 1e-5) == 0.0


def test_the_sentence_bounds_how_often_a_guess_is_right():
    """Epsilon 0 is a coin, ln 3 is three in four; rounded up, and never beyond certainty."""
    told = {epsilon: accountant.sentence(epsilon, 1e-9) for epsilon in (0.0, math.log(3), 3.0, 1000.0)}
    assert "at most 50.1 %" in told[0.0]  # 50.00000005 %, rounded up
    assert "at most 75.1 %" in told[math.log(3)]
    assert "at most 95.3 %" in told[3.0]
    assert "at most 100.0 %" in told[1000.0]
    assert "one patient added or removed" in told[3.0]
    assert "epsilon 1.1," in told[math.log(3)]
    assert "No bound" in accountant.sentence(math.inf, 1e-9)
    assert all("\n" not in one for one in told.values())


@pytest.mark.parametrize(
    "ask",
    [
        lambda: accountant.epsilon([Training(0.1, 1.0, 1)], 0.0),
        lambda: accountant.epsilon([Training(0.1, 1.0, 1)], 1e-5, "guess"),
        lambda: accountant.calibrate(0.0, 1e-5, 0.1, 10),
        lambda: accountant.calibrate(1.0, 1.0, 0.1, 10),
        lambda: accountant.calibrate(1.0, 1e-5, 0.1, 0),
        lambda: accountant.calibrate(1.0, 1e-5, 1.5, 10),
        lambda: Training(0.0, 1.0, 1),
        lambda: Training(0.1, -1.0, 1),
    ],
)
def test_impossible_numbers_are_refused(ask):
    """With a sentence, not with an answer."""
    with pytest.raises(ConfigError, match="expected"):
        ask()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    """Nothing else of fedmerge needs it."""
    known = builtins.__import__

    def without(name, *args, **options):
        if name.startswith("dp_accounting"):
            raise ImportError(name)
        return known(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'fedmerge\[privacy\]'"):
        accountant.epsilon([Training(0.1, 1.0, 1)], 1e-5)
