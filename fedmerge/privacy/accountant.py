"""What noisy trainings tell of a patient, in epsilon and delta, by dp-accounting (Google's library).

A training is an event: T sums over Poisson samples of the patients, each with Gaussian noise. Trainings on the same
patients are composed as events, which is less than the sum of their epsilons. Neighbouring data sets differ by one
patient, added or removed, with all of that patient's cases.

    method   how                                       paper
    pld      privacy loss distributions, numerically   Koskela et al. 2020; Doroshenko et al. 2022
    rdp      Renyi divergences, in closed form         Mironov 2017; Mironov, Talwar & Zhang 2019

Both are upper bounds; `pld` is the tighter one, and takes a second where `rdp` takes a tenth of one.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fedmerge.errors import ConfigError

METHODS = ("pld", "rdp")
RELATION = "one patient added or removed"
ORDERS = (*range(2, 65), 72, 80, 96, 128, 192, 256, 512, 1024)  # of Renyi; fractions take long and gain a few per cent
FINEST = 1e-4  # of privacy losses that are told apart; they are rounded up


@dataclass(frozen=True)
class Training:
    """A training as the accountant sees it.

    Attributes:
        rate: q, the probability with which a step draws a patient.
        noise_multiplier: sigma, the noise's standard deviation in units of the largest norm of a patient's gradient.
        steps: T.
    """

    rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ConfigError(f"the sampling rate expected a number above 0 and at most 1, got {self.rate}")
        if not self.noise_multiplier >= 0 or self.steps < 0:
            raise ConfigError(f"expected no negative noise and steps, got {self.noise_multiplier} and {self.steps}")


def epsilon(trainings: Sequence[Training], delta: float, method: str = "pld") -> float:
    """The epsilon of all these trainings together; inf where one has no noise.

    Args:
        trainings: on the same patients, each free to depend on what those before it gave.
        delta: above 0 and below 1.
        method: one of `METHODS`.

    Raises:
        ConfigError: delta or the method is impossible, or dp-accounting is not installed.
    """
    if not 0 < delta < 1:
        raise ConfigError(f"delta expected a number between 0 and 1, got {delta}")
    steps: Counter[tuple[float, float]] = Counter()
    for training in trainings:
        if training.steps:
            steps[training.rate, training.noise_multiplier] += training.steps
    if not steps:
        return 0.0
    if any(sigma == 0 for _, sigma in steps):
        return math.inf
    return _epsilon(tuple(Training(*mechanism, count) for mechanism, count in sorted(steps.items())), delta, method)


@lru_cache(maxsize=128)
def _epsilon(trainings: tuple[Training, ...], delta: float, method: str) -> float:
    accountant = _accountant(method)
    for training in trainings:
        accountant.compose(_event(training))
    return float(accountant.get_epsilon(delta))


def calibrate(wanted: float, delta: float, rate: float, steps: int, method: str = "pld") -> float:
    """The smallest noise multiplier, to one part in a thousand, whose epsilon is at most this.

    Args:
        wanted: the epsilon, above 0.
        delta: above 0 and below 1.
        rate: q.
        steps: T, at least 1.
        method: one of `METHODS`.

    Raises:
        ConfigError: a number is impossible, or dp-accounting is not installed.
    """
    if not 0 < wanted < math.inf:
        raise ConfigError(f"epsilon expected a positive number, got {wanted}")
    if not 0 < delta < 1 or steps < 1:
        raise ConfigError(f"expected a delta between 0 and 1 and at least one step, got {delta} and {steps}")
    Training(rate, 1.0, steps)
    accounting = _library()
    _accountant(method)  # an unknown one is told at once

    def found(fresh: Callable[[], Any], bracket: Any) -> float:  # noqa: ANN401 - dp-accounting has no types
        sigma: float = accounting.calibrate_dp_mechanism(
            fresh, lambda sigma: _event(Training(rate, sigma, steps)), wanted, delta, bracket, tol=1e-4
        )
        return sigma

    sigma = found(lambda: _accountant("rdp"), accounting.LowerEndpointAndGuess(0.05, 1.0))
    if method == "pld":
        coarse = FINEST * (10 if wanted >= 1 else 1)  # a tenth of the time
        near = accounting.ExplicitBracketInterval(0.7 * sigma, 1.01 * sigma)
        sigma = found(lambda: _accountant(method, coarse), near)
    while epsilon([Training(rate, sigma, steps)], delta, method) > wanted:
        sigma *= 1.0005
    return sigma


def sentence(epsilon: float, delta: float) -> str:
    """What (epsilon, delta) promises, in one line for a reader without mathematics.

    Of all ways to tell from the model whether a patient took part, with either answer as likely beforehand, the best
    is right with probability at most (e^epsilon + delta) / (1 + e^epsilon) (Kairouz, Oh & Viswanath 2015, theorem 2.1).
    """
    if not math.isfinite(epsilon):
        return "No bound is promised on what whoever sees this model learns about a single patient."
    right = min(1.0, (1 + delta * math.exp(-epsilon)) / (1 + math.exp(-epsilon)))
    return (
        "Whoever sees this model learns about any single patient's presence at most this much: a guess whether the "
        f"patient was among its cases is right with a probability of at most {math.ceil(right * 1000) / 10:.1f} %, "
        f"where the toss of a coin gives 50 % (epsilon {round_up(epsilon):g}, delta {delta:g}, {RELATION})."
    )


def round_up(epsilon: float) -> float:
    """An epsilon to two places, never less than it is."""
    return math.ceil(epsilon * 100 - 1e-9) / 100


def _library() -> Any:  # noqa: ANN401 - dp-accounting has no types
    try:
        import dp_accounting
        from dp_accounting import pld, rdp  # noqa: F401 - attributes of the package from here on
    except ImportError:
        raise ConfigError(
            "differential privacy needs the package dp-accounting, which is not installed: "
            "pip install 'fedmerge[privacy]'"
        ) from None
    return dp_accounting


def _event(training: Training) -> Any:  # noqa: ANN401 - as above
    accounting = _library()
    step = accounting.PoissonSampledDpEvent(training.rate, accounting.GaussianDpEvent(training.noise_multiplier))
    return accounting.SelfComposedDpEvent(step, training.steps)


def _accountant(method: str, interval: float = FINEST) -> Any:  # noqa: ANN401 - as above
    accounting = _library()
    if method not in METHODS:
        raise ConfigError(f"the accountant expected one of {', '.join(METHODS)}, got {method!r}")
    relation = accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    if method == "rdp":
        return accounting.rdp.RdpAccountant(ORDERS, neighboring_relation=relation)
    return accounting.pld.PLDAccountant(neighboring_relation=relation, value_discretization_interval=interval)
