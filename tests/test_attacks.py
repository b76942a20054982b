"""Membership attacks: scores against plain loops, intervals against worked numbers, models and mechanisms caught."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from small_nets import FUSABLE, NORMS, cases, make
from torch import nn

from fedmerge import fisher, likelihood, training
from fedmerge.errors import DataError
from fedmerge.privacy import attacks, separation

NAMES = (*FUSABLE, *NORMS)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    """A plain loop over all pairs, ties half; scores are rounded so that there are many."""
    draw = np.random.default_rng(0)
    members, others = draw.normal(0.4, 1, 23).round(1), draw.normal(0, 1, 31).round(1)
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in members for b in others]
    found = separation.roc(members, others)
    assert found.auc == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert (found.members, found.others) == (23, 31)


def test_the_rate_of_true_positives_is_that_at_the_threshold_which_lets_one_in_a_hundred_through():
    """Of 200 others two are let through, and no third."""
    others = np.arange(200.0)
    found = separation.roc([197.0, 197.5, 198.5, 500.0], others)
    assert found.fpr == 0.01
    assert found.tpr == 0.75
    assert found.least_fpr == 0.005
    assert found.tpr_interval == separation.clopper_pearson(3, 4)


def test_few_patients_say_which_rate_they_can_show():
    """With eight others the threshold is the highest of them: no false positive, and the next rate is one in eight."""
    found = separation.roc([9.0, 6.5, 0.0], np.arange(8.0))
    assert (found.fpr, found.least_fpr, found.tpr) == (0.0, 0.125, pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        (0, 10, 0.0, 1 - 0.025**0.1),  # closed forms at the ends
        (10, 10, 0.025**0.1, 1.0),
        (5, 10, 0.1871, 0.8129),  # printed tables
        (1, 20, 0.0013, 0.2487),
    ],
)
def test_the_exact_interval_of_a_share_is_that_of_the_tables(hits, trials, low, high):
    """Clopper and Pearson at 95 %."""
    assert separation.clopper_pearson(hits, trials) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@pytest.mark.parametrize("auc", [0.0, 0.5, 0.73, 1.0])
def test_the_ends_of_the_area_s_interval_solve_its_equation(auc):
    """|theta - auc| = z sqrt(V(theta)); also a perfect attack on few patients is not certain."""
    m, n = 8, 12
    k = (m + n) / 2 - 1
    for theta in separation.auc_interval(auc, m, n):
        shape = 1 + k * (1 - theta) / (2 - theta) + k * theta / (1 + theta)
        variance = theta * (1 - theta) * shape / (m * n)
        assert abs(theta - auc) == pytest.approx(norm.ppf(0.975) * math.sqrt(variance), abs=1e-6)
    assert separation.auc_interval(1.0, m, n)[0] < 0.85


def test_the_area_s_interval_holds_the_truth_as_often_as_it_says():
    """Normal scores with an area of 0.7, 15 against 15 patients, 400 times."""
    draw, shift = np.random.default_rng(1), math.sqrt(2) * norm.ppf(0.7)
    held = 0
    for _ in range(400):
        low, high = separation.roc(draw.normal(shift, 1, 15), draw.normal(0, 1, 15)).auc_interval
        held += low <= 0.7 <= high
    assert held / 400 > 0.93


def test_a_confidence_becomes_its_logit():
    """log(p / (1 - p)) where that can be computed, and a finite number where p is 1."""
    p = np.array([0.01, 0.5, 0.999])
    np.testing.assert_allclose(attacks.logit(-np.log(p)), np.log(p / (1 - p)), rtol=1e-10)
    assert np.isfinite(attacks.logit([0.0, 800.0])).all()


@pytest.mark.parametrize("variance", ["patient", "global"])
def test_the_likelihood_ratio_is_a_plain_loop_over_patients(variance):
    """Mean and deviation of the references that did not see the patient, one patient after the other."""
    draw = np.random.default_rng(2)
    references, observed = draw.normal(0, 1, (6, 5)), draw.normal(0, 1, 5)
    saw = np.array([[(r + p) % 2 == 0 for p in range(5)] for r in range(6)])
    out = [[references[r, p] for r in range(6) if not saw[r, p]] for p in range(5)]
    own = [np.var(values, ddof=1) for values in out]
    spread = own if variance == "patient" else [np.mean(own)] * 5  # as many references for each
    expected = [(observed[p] - np.mean(out[p])) / math.sqrt(spread[p]) for p in range(5)]
    np.testing.assert_allclose(attacks.lira(observed, references, saw, variance=variance), expected)


def test_the_likelihood_ratio_sees_what_the_loss_does_not():
    """Patients differ in how hard they are; four references that did not see them take that away, as computed."""
    draw, n = np.random.default_rng(3), 1000
    hard = draw.normal(0, 5, n)
    saw = np.arange(8)[:, None] % 2 == np.arange(n) % 2
    references = hard + draw.normal(0, 1, (8, n)) + 2.0 * saw
    observed = hard + draw.normal(0, 1, n) + 2.0 * (np.arange(n) < n // 2)
    plain = separation.roc(observed[: n // 2], observed[n // 2 :]).auc
    score = attacks.lira(observed, references, saw)
    found = separation.roc(score[: n // 2], score[n // 2 :]).auc
    assert plain == pytest.approx(norm.cdf(2 / math.sqrt(2 * (25 + 1))), abs=0.04)
    assert found == pytest.approx(norm.cdf(2 / math.sqrt(2 * (1 + 1 / 4))), abs=0.03)  # .61 against .90


def test_a_patient_whom_every_reference_saw_cannot_be_scored():
    """Two references without the patient are the least that have a spread."""
    with pytest.raises(DataError, match="two references"):
        attacks.lira([0.0, 0.0], np.zeros((3, 2)), [[True, False], [True, True], [False, False]])


class Memory(nn.Module):
    """A net with room for every one of a few patients."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(36, 64), nn.ReLU(), nn.Linear(64, 3 * 36))

    def forward(self, x):
        """(B, 1, 6, 6) to (B, 3, 6, 6)."""
        return self.body(x.flatten(1)).reshape(-1, 3, 6, 6)


def losses(net, patients):
    """The mean negative log-likelihood of each patient's labels."""
    with torch.no_grad():
        return [-likelihood.log_likelihood(net(x[None]), y[None]).item() / y.numel() for x, y in patients]


def test_a_model_that_memorises_is_caught_and_one_that_never_saw_them_is_not():
    """Random labels can only be learnt by heart; patients 8 to 15 are a second group that nobody trained on."""
    patients = cases(count=24)
    members, others, strangers = patients[:8], patients[8:16], patients[16:]
    torch.manual_seed(0)
    net = Memory()
    x, y = (torch.stack(part) for part in zip(*members))
    loss = lambda logits, labels: -likelihood.log_likelihood(logits, labels).mean() / 36  # noqa: E731
    training.train(net, lambda step: (x, y), training.Settings(steps=150, lr=1e-2), seed=0, device="cpu",
                   precision="float32", loss=loss)  # fmt: skip
    caught = separation.roc(attacks.loss_threshold(losses(net, members)), attacks.loss_threshold(losses(net, others)))
    assert caught.auc > 0.99
    assert caught.auc_interval[0] > 0.6
    unseen = separation.roc(attacks.loss_threshold(losses(net, strangers)), attacks.loss_threshold(losses(net, others)))
    assert unseen.auc_interval[0] < 0.5 < unseen.auc_interval[1]


def test_the_plain_fisher_of_a_cohort_dominates_each_member_in_every_coordinate():
    """Exactly, with observed labels; for any other patient some coordinate gives it away."""
    net, patients = make(2), cases(count=14)
    members, others = patients[:6], patients[6:]
    whole = fisher.diagonal(net, members, NAMES, labels="observed")
    held = {}
    for name, group in (("members", members), ("others", others)):
        squares = [fisher.diagonal(net, [case], NAMES, labels="observed") for case in group]
        held[name] = [attacks.domination(whole, 6, one) for one in squares]
        ratios = [attacks.least_ratio(whole, 6, one) for one in squares]
        assert all((ratio > -1e-3) == (name == "members") for ratio in ratios)
    assert held["members"] == [1.0] * 6
    assert max(held["others"]) < 1.0
    assert separation.roc(held["members"], held["others"]).auc == 1.0


def test_domination_counts_coordinates():
    """Of n F = (2, 4) and g^2 = (3, 4), one of two holds; log(2 / 3) is the least ratio."""
    mean, squares = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 4.0])}
    assert attacks.domination(mean, 2, squares) == 0.5
    assert attacks.least_ratio(mean, 2, squares) == pytest.approx(math.log(2 / 3))
    assert attacks.least_ratio({"w": torch.zeros(2)}, 2, squares) == -math.inf


def test_scores_that_are_no_numbers_are_refused():
    """An attack on nobody, or with a loss that is NaN, has no area."""
    with pytest.raises(DataError, match="others"):
        separation.roc([1.0], [])
    with pytest.raises(DataError, match="members"):
        separation.roc([math.nan], [1.0])
