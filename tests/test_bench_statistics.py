"""The statistics of a suite against worked examples and against scipy, numpy and brute force."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from fedmerge.bench import gather, statistics, summary, verdicts
from fedmerge.bench.suite import Hypothesis

CASES = 9


def test_holm_by_hand():
    """Four p-values: 0.005 * 4, 0.01 * 3, then 0.03 * 2 and, not below that, 0.04; none is above 1."""
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.7]) == [1.0, 1.0]
    assert statistics.holm([None, 0.02, None]) == [None, 0.02, None]
    assert statistics.holm([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_closed_testing_with_bonferroni(seed):
    """A claim holds where every set of claims with it is rejected; its p is the largest over those sets."""
    p = np.random.default_rng(seed).uniform(0, 0.2, 6)
    want = [
        max(
            min(1.0, size * min(p[list(chosen)]))
            for size in range(1, 7)
            for chosen in combinations(range(6), size)
            if i in chosen
        )
        for i in range(6)
    ]
    np.testing.assert_allclose(statistics.holm(list(p)), want)


def test_area_is_the_mean_height():
    """By hand, and against the mean of a finely drawn line; unknown points are left out."""
    assert statistics.area([[0, 0.0], [10, 0.4], [30, 0.4]]) == pytest.approx(1 / 3)
    steps, dice = np.array([0, 7, 20, 100]), np.array([0.1, 0.5, 0.4, 0.9])
    fine = np.interp(np.linspace(0, 100, 100_001), steps, dice)
    assert statistics.area([*zip(steps, dice), (3, None)]) == pytest.approx(fine.mean(), abs=1e-5)
    assert statistics.area([[5, 0.3]]) is None


def test_the_first_step_that_reaches_a_dice():
    """The first one in the order of steps, not of the list; None where there is none."""
    curve = [[20, 0.8], [0, 0.1], [10, 0.7]]
    assert statistics.reached(curve, 0.65) == 10
    assert statistics.reached(curve, 0.1) == 0
    assert statistics.reached(curve, 0.9) is None


def test_a_chain_counts_once_however_many_seeds_it_has():
    """Three seeds of one chain and one of another: the mean of two chains, not of four runs."""
    values = {(0, 0): 0.1, (1, 0): 0.2, (2, 0): 0.3, (0, 1): 0.8}
    assert statistics.by_chain(values) == pytest.approx({0: 0.2, 1: 0.8})
    got = summary.measure(values)
    assert (got.mean, got.sd) == pytest.approx((0.5, np.std([0.2, 0.8], ddof=1)))
    assert summary.measure({(0, 0): None}) == summary.Measure(None, None, {})
    assert summary.measure({(0, 0): 0.5}).sd is None


def row(method, seed, chain, scores, n=4, stage="fine-tuned", **how):
    """A row of results.json with one label."""
    dice = float(np.mean(scores)) if len(scores) else None
    cases = [{"case": f"c{i}", "dice": {"x": float(score)}} for i, score in enumerate(scores)]
    return {
        "method": method, "seed": seed, "chain": chain, "target": "harbour", "target_cases": n, "target_steps": 9,
        "stage": stage, "status": "ok", "error": None, "dice": dice, "cases": cases, "curve": [[0, 0.0], [10, 1.0]],
        "seconds": 2.0, **how,
    }  # fmt: skip


def made(shifts, *, seeds=2, chains=3, noise=0.02):
    """Results of methods whose Dice lies that far from a common level, case by case."""
    draw = np.random.default_rng(1)
    level = draw.uniform(0.4, 0.8, CASES)
    rows = [
        row(method, seed, chain, np.clip(level + shift + draw.normal(0, noise, CASES), 0, 1))
        for method, shift in shifts.items()
        for seed in range(seeds)
        for chain in range(chains)
    ]
    return {"rows": rows, "forgetting": [], "traffic": [], "ratios": [], "environment": {}}


def test_comparisons_are_scipys_over_cases_and_holms_over_all():
    """Each case is averaged over the runs first; the correction is over all comparisons of the table."""
    results = made({"a": 0.05, "b": 0.0, "c": 0.01})
    got = summary.compare(results, [("a", "b"), ("c", "b"), ("b", "a")])
    assert [(one.first, one.second) for one in got] == [("a", "b"), ("c", "b")]
    mean = {
        m: np.mean([[c["dice"]["x"] for c in r["cases"]] for r in results["rows"] if r["method"] == m], 0)
        for m in "abc"
    }
    want = [stats.wilcoxon(mean[m] - mean["b"]).pvalue for m in "ac"]
    assert [one.p for one in got] == pytest.approx(want)
    assert [one.p_holm for one in got] == pytest.approx(statistics.holm(want))
    assert got[0].wins == np.sum(mean["a"] > mean["b"])
    assert got[0].difference.mean == pytest.approx(np.mean(mean["a"] - mean["b"]))
    assert set(got[0].difference.chains) == {0, 1, 2}


def test_a_comparison_from_the_other_side():
    """Signs turn, wins become losses, p stays."""
    results = made({"a": 0.05, "b": 0.0})
    one = summary.find(summary.compare(results, [("a", "b")]), "b", "a", 4)
    other = summary.find(summary.compare(results, [("b", "a")]), "b", "a", 4)
    assert one.difference.chains == pytest.approx(other.difference.chains)
    assert (one.difference.mean, one.difference.sd) == pytest.approx((other.difference.mean, other.difference.sd))
    assert (one.wins, one.losses, one.p) == (other.wins, other.losses, pytest.approx(other.p))


def test_only_runs_that_both_have_are_compared():
    """A method that failed once is compared on its other runs, and its line says that it failed."""
    results = made({"a": 0.05, "b": 0.0})
    broken = results["rows"][0]
    broken |= {"status": "failed", "error": "harbour: the net burst", "dice": None, "cases": []}
    got = summary.compare(results, [("a", "b")])[0]
    rest = [r for r in results["rows"] if (r["seed"], r["chain"]) != (0, 0)]
    assert got.difference == summary.compare({**results, "rows": rest}, [("a", "b")])[0].difference
    line = summary.lines(results, None)[0]
    assert (line.runs, line.failed, line.errors) == (6, 1, ("harbour: the net burst",))


def test_a_line_by_hand():
    """Stages, steps and forgetting of one method in two chains."""
    rows = [
        row("t-imm", 0, chain, scores, stage=stage, curve=curve)
        for chain, (first, last) in enumerate([(0.2, 0.6), (0.4, 0.8)])
        for stage, scores, curve in (
            ("start", [0.1], [[0, 0.1]]),
            ("adapted", [first], [[0, 0.1], [5, first]]),
            ("fine-tuned", [last], [[0, 0.1], [5, first], [10, last]]),
        )
    ]
    forgetting = [
        {"weights": who, "task": "north", "seed": 0, "chain": chain, "target_cases": 4, "dice": dice}
        for chain, lost in ((0, 0.1), (1, 0.3))
        for who, dice in (("north", 0.9), ("south", 0.0), ("t-imm", 0.9 - lost))
    ]
    (line,) = summary.lines({"rows": rows, "forgetting": forgetting}, 0.7)
    assert (line.start.mean, line.adapted.mean, line.score.mean) == pytest.approx((0.1, 0.3, 0.7))
    assert line.score.chains == {0: 0.6, 1: 0.8}
    assert (line.reached, line.reaching) == (10, 1)
    assert line.area.chains == pytest.approx({0: (0.75 + 2.0) / 10, 1: (1.25 + 3.0) / 10})
    assert line.forgetting.chains == pytest.approx({0: 0.1, 1: 0.3})


def test_arms_keep_apart_what_has_one_name():
    """Methods carry their arm; forgetting is measured against the same arm's own bodies."""
    parts = []
    for arm, own in (("bad", 0.5), ("good", 0.9)):
        found = made({"t-imm": 0.0}, seeds=1, chains=1)
        found["forgetting"] = [
            {"weights": who, "task": "north", "seed": 0, "chain": 0, "target_cases": 4, "dice": dice}
            for who, dice in (("north", own), ("t-imm", 0.4))
        ]
        parts.append((arm, found))
    lines = summary.lines(gather.merged(parts), None)
    assert [line.method for line in lines] == ["t-imm@bad", "t-imm@good"]
    assert [line.forgetting.mean for line in lines] == pytest.approx([0.1, 0.5])


def test_what_was_chosen_is_counted():
    """By method, size and choice, the most frequent first; results of older versions have no choices."""
    chosen = ["lwf", "t-imm", "lwf"]
    found = made({"auto": 0.0}, seeds=3, chains=1)
    assert gather.choices(gather.merged([("", found)])) == []
    found["choices"] = [
        {"method": "auto", "target_cases": 4, "chosen": name, "seed": i, "chain": 0} for i, name in enumerate(chosen)
    ]
    assert gather.choices(gather.merged([("x", found)])) == [("auto@x", 4, "lwf", 2), ("auto@x", 4, "t-imm", 1)]


@pytest.mark.parametrize(
    ("shift", "hypothesis", "verdict"),
    [
        (0.1, {"test": "better"}, "confirmed"),
        (0.1, {"test": "better", "p": 0.001}, "refuted"),  # nine cases cannot fall below 2 / 2^9
        (-0.1, {"test": "better"}, "refuted"),
        (0.1, {"test": "better", "n": (8,)}, "not tested"),
        (-0.1, {"test": "not_below", "margin": 0.2}, "confirmed"),
        (-0.1, {"test": "not_below"}, "refuted"),
        (0.0, {"test": "at_least", "value": 0.3}, "confirmed"),
        (0.0, {"test": "at_least", "value": 0.95}, "refuted"),
        (0.0, {"test": "at_least", "value": 0.3, "stage": "start"}, "not tested"),
    ],
)
def test_verdicts(shift, hypothesis, verdict):
    """What each kind of hypothesis takes to be confirmed."""
    results = made({"t-imm": shift, "none": 0.0})
    one = Hypothesis(**{"text": "As expected.", "method": "t-imm", "than": ("none",), "n": (4,), **hypothesis})
    compared = summary.compare(results, verdicts.pairs([one], {"": ["north"]}))
    (got,) = verdicts.judge([one], {"": ["north"]}, summary.lines(results, None), compared)
    assert got.verdict == verdict
    assert all(finding.verdict == verdict for finding in got.findings)


def test_a_difference_that_one_chain_has_the_other_way_confirms_nothing():
    """However small p is over the cases."""
    results = made({"t-imm": 0.1, "none": 0.0})
    for r in results["rows"]:
        if (r["method"], r["chain"]) == ("t-imm", 2):
            for case in r["cases"]:
                case["dice"]["x"] -= 0.15
            r["dice"] -= 0.15
    one = Hypothesis("As expected.", "better", "t-imm", ("none",), (4,), p=0.05)
    compared = summary.compare(results, [("t-imm", "none")])
    (got,) = verdicts.judge([one], {"": ["north"]}, summary.lines(results, None), compared)
    assert compared[0].p_holm < 0.05
    assert got.verdict == "refuted"
    assert "above 0 in 2 of 3 chains" in got.findings[0].numbers
