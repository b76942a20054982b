"""The privacy budget of a site: spent before training, once for each release, over campaigns, and refused when gone."""

import json
import math
from dataclasses import replace

import pytest

from fedmerge import whole
from fedmerge.errors import DataError
from fedmerge.privacy import accountant
from fedmerge.privacy.accountant import Training
from sites import budget
from sites.inbound import Declined
from sites.records import OPEN, Data, Policy, Site

ONE = Training(0.5, 8.0, 20)
DELTA = 1e-3
ALONE = accountant.epsilon([ONE], DELTA)


def site(folder, epsilon=3.0, delta=DELTA, policy=None):
    """A hospital with this budget."""
    policy = policy or Policy(epsilon=epsilon, delta=delta, weights=True)
    return Site("north", "source", Data(folder, "msd", {"ball": (1,)}), policy, None, folder / "work", True)


def fitting(count):
    """A budget that `count` trainings fit into, and no more."""
    inside, beyond = (accountant.epsilon([ONE] * n, DELTA) for n in (count, count + 1))
    return (inside + beyond) / 2


def test_a_budget_is_spent_over_campaigns_and_then_refused(tmp_path):
    """Two trainings fit; the refusal of the third names line, spent, asked and left, and writes nothing."""
    north = site(tmp_path, fitting(2))
    budget.spend(north, "a", "spring", ONE)
    budget.spend(north, "b", "autumn", ONE)
    before = (north.work / "budget.json").read_bytes()
    with pytest.raises(Declined) as told:
        budget.spend(north, "c", "winter", ONE)
    assert (north.work / "budget.json").read_bytes() == before
    together = [accountant.round_up(accountant.epsilon([ONE] * n, DELTA)) for n in (1, 2, 3)]
    words = str(told.value)
    assert f"policy line 'epsilon = {north.policy.epsilon:g}' at delta 0.001" in words
    assert f"{together[1]:g} is spent, {together[0]:g} is asked for, together that is {together[2]:g}" in words
    assert words.endswith(f"{north.policy.epsilon - together[1]:g} is left")
    assert [(e.key, e.campaign) for e in budget.entries(north)] == [("a", "spring"), ("b", "autumn")]


def test_trainings_are_composed_and_their_epsilons_not_added(tmp_path):
    """Four fit into a budget of less than four times one of them."""
    north = site(tmp_path, fitting(4))
    assert north.policy.epsilon < 4 * ALONE
    for key in "abcd":
        budget.spend(north, key, "spring", ONE)
    assert budget.spent(north, DELTA) == pytest.approx(accountant.epsilon([ONE] * 4, DELTA))


def test_a_training_that_goes_on_is_spent_once(tmp_path):
    """However often it begins anew; one of another noise under the same key is another one."""
    north = site(tmp_path, fitting(1))
    for _ in range(3):
        budget.spend(north, "a", "spring", ONE)
    assert len(budget.entries(north)) == 1
    with pytest.raises(Declined):
        budget.spend(north, "a", "spring", replace(ONE, noise_multiplier=7.9))


def test_a_contribution_that_is_sent_again_is_spent_once(tmp_path):
    """And trained again once it was sent, since its file is lost, it is a second release."""
    north = site(tmp_path, fitting(1))
    budget.spend(north, "a", "spring", ONE)
    for _ in range(3):
        assert budget.sending(north, "a").training == ONE
    assert len(budget.entries(north)) == 1
    with pytest.raises(Declined, match="is spent"):
        budget.spend(north, "a", "spring", ONE)


def test_a_crash_before_training_never_forgets_what_is_spent(tmp_path, monkeypatch):
    """The ledger is on the disk when `spend` returns; a crash while it is written leaves the old one."""
    north = site(tmp_path, fitting(2))
    budget.spend(north, "a", "spring", ONE)
    synced = []
    monkeypatch.setattr(budget.os, "fsync", lambda number: synced.append(number))
    budget.spend(north, "b", "spring", ONE)
    assert len(synced) == 2  # the file, by `whole`, which has the same `os`, and the folder
    assert len(budget.entries(site(tmp_path, fitting(2)))) == 2
    monkeypatch.undo()

    def crash(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole, "write", crash)
    with pytest.raises(OSError, match="No space"):
        budget.spend(site(tmp_path, math.inf), "c", "spring", ONE)
    assert [e.key for e in budget.entries(north)] == ["a", "b"]


@pytest.mark.parametrize("text", ["", "{}", '{"format": "fedmerge-budget/2", "entries": []}', "[1]",
                                  '{"format": "fedmerge-budget/1", "entries": [{"key": "a"}]}'])  # fmt: skip
def test_a_ledger_that_cannot_be_read_stops_everything(tmp_path, text):
    """It is not taken for an empty one."""
    north = site(tmp_path)
    north.work.mkdir()
    (north.work / "budget.json").write_text(text)
    for ask in (lambda: budget.spend(north, "a", "spring", ONE), lambda: budget.sending(north, "a")):
        with pytest.raises(DataError, match=r"budget\.json"):
            ask()


def test_an_entry_with_impossible_numbers_stops_everything(tmp_path):
    """A noise that somebody has turned into a text, say."""
    north = site(tmp_path)
    budget.spend(north, "a", "spring", ONE)
    path = north.work / "budget.json"
    told = json.loads(path.read_text())
    told["entries"][0]["noise_multiplier"] = "much"
    path.write_text(json.dumps(told))
    with pytest.raises(DataError):
        budget.spend(north, "b", "spring", ONE)


def test_what_was_trained_without_noise_does_not_leave_where_there_is_a_budget(tmp_path):
    """Neither trained now nor kept from before; without a budget, and without a limit, it does."""
    north = site(tmp_path)
    with pytest.raises(Declined, match="policy line 'epsilon = 3'"):
        budget.check_plain(north)
    with pytest.raises(Declined, match="policy line 'epsilon = 3'"):
        budget.sending(north, "kept")
    for policy in (OPEN, Policy(weights=True)):
        budget.check_plain(site(tmp_path, policy=policy))
        assert budget.sending(site(tmp_path, policy=policy), "kept") is None


@pytest.mark.parametrize(("epsilon", "delta", "line"), [(0.0, DELTA, "epsilon = 0"), (3.0, 0.0, "delta = 0"),
                                                        (3.0, 1.0, "delta = 1")])  # fmt: skip
def test_a_policy_without_a_budget_has_nothing_to_spend(tmp_path, epsilon, delta, line):
    """The strict default, and a delta that is none."""
    with pytest.raises(Declined, match=line):
        budget.spend(site(tmp_path, epsilon, delta), "a", "spring", ONE)


def test_without_a_limit_trainings_are_written_down_all_the_same(tmp_path):
    """A budget that is set later counts them, and lets nothing go that is beyond it."""
    budget.spend(site(tmp_path, policy=OPEN), "a", "spring", ONE)
    budget.spend(site(tmp_path, policy=OPEN), "b", "spring", ONE)
    with pytest.raises(Declined, match="is spent"):
        budget.sending(site(tmp_path, fitting(1)), "a")
    assert budget.sending(site(tmp_path, fitting(2)), "a").sent is False
    assert [e.sent for e in budget.entries(site(tmp_path))] == [True, False]
