"""Soups: worked examples, a plain oracle of the greedy recipe, and the laws."""

import itertools
import math

import pytest
import small_nets
import torch

from fedmerge.errors import ConfigError, Refused
from fedmerge.fusion import soup

EACH = {
    "greedy": soup.greedy,
    "greedy of uniform": lambda models, score: soup.greedy_of_uniform([models[:2], models[2:]], score),
    "greedy of greedy": lambda models, score: soup.greedy_of_greedy([models[:2], models[2:]], score),
}

ALONE = {
    "uniform": lambda model, score: soup.uniform([model]),
    "greedy": lambda model, score: soup.greedy([model], score),
    "greedy of uniform": lambda model, score: soup.greedy_of_uniform([[model]], score),
    "greedy of greedy": lambda model, score: soup.greedy_of_greedy([[model]], score),
}


def line(*numbers):
    """Models of one number each."""
    return [{"w": torch.tensor([x])} for x in numbers]


def near(wanted):
    """The closer the model's number, the higher the score."""
    return lambda model: -abs(model["w"].item() - wanted)


class Counted:
    """A score that knows how often it was asked."""

    def __init__(self, score):
        self.score, self.count = score, 0

    def __call__(self, model):
        """The score of a model."""
        self.count += 1
        return self.score(model)


def drawn(T, seed):
    """T models of three numbers, and a score of a crooked landscape."""
    g = torch.Generator().manual_seed(seed)
    models = [{"w": torch.randn(3, generator=g)} for _ in range(T)]
    return models, lambda model: math.sin(3 * model["w"][0]) + math.cos(2 * model["w"].sum()) - model["w"].norm() ** 2


def greedy_by_recipe(models, score):
    """Recipe 1 as the paper writes it, in float64."""
    order = sorted(range(len(models)), key=lambda t: score(models[t]), reverse=True)
    chosen = []
    for t in order:

        def mean(of):
            return {"w": torch.stack([models[s]["w"].double() for s in of]).mean(0).float()}

        if not chosen or score(mean([*chosen, t])) >= score(mean(chosen)):
            chosen.append(t)
    return chosen


def test_uniform_worked_by_hand():
    """1, 2 and 6 make 3, and nobody is asked for a score."""
    got = soup.uniform(line(1.0, 2.0, 6.0))
    assert (got.model["w"].item(), got.chosen, got.score, got.evaluations) == (3.0, (0, 1, 2), None, 0)


def test_greedy_worked_by_hand():
    """Wanted 2. Best first: 1 (off by 1), then 4 (the mean 2.5 is off by 0.5: joins), then -5 (off by 2: stays out)."""
    score = Counted(near(2.0))
    got = soup.greedy(line(-5.0, 1.0, 4.0), score)
    assert (got.model["w"].item(), got.chosen, got.score) == (2.5, (1, 2), -0.5)
    assert got.evaluations == score.count == 5


def test_a_model_that_changes_nothing_joins():
    """The recipe says at least as good, not better; equals are tried in their order."""
    assert soup.greedy(line(1.0, 1.0, 1.0), near(0.0)).chosen == (0, 1, 2)


def test_greedy_of_uniform_worked_by_hand():
    """Groups (0, 4) and (7, 9) make 2 and 8; wanted 4: 2 first (off by 2), and with 8 it is 5 (off by 1)."""
    score = Counted(near(4.0))
    got = soup.greedy_of_uniform([line(7.0, 9.0), line(0.0, 4.0)], score)
    assert (got.model["w"].item(), got.chosen, got.members, got.score) == (5.0, (1, 0), ((0, 1), (0, 1)), -1.0)
    assert got.evaluations == score.count == 3


def test_greedy_of_greedy_worked_by_hand():
    """Wanted 4. In (7, 9): 7 alone. In (0, 4): 4 alone, exact; 5.5 of both is worse, so 4 it is."""
    score = Counted(near(4.0))
    got = soup.greedy_of_greedy([line(7.0, 9.0), line(0.0, 4.0)], score)
    assert (got.model["w"].item(), got.chosen, got.members, got.score) == (4.0, (1,), ((1,),), 0.0)
    assert got.evaluations == score.count == 7


@pytest.mark.parametrize("seed", range(20))
def test_greedy_is_the_papers_recipe(seed):
    """The same choice as a plain implementation makes."""
    models, score = drawn(6, seed)
    assert list(soup.greedy(models, score).chosen) == greedy_by_recipe(models, score)


@pytest.mark.parametrize("each", ["greedy", "greedy of greedy"])
@pytest.mark.parametrize("seed", range(10))
def test_a_greedy_soup_is_never_worse_than_the_best_single_model(each, seed):
    """By the score that chose it; and the score that it tells is its own."""
    models, score = drawn(5, seed)
    got = EACH[each](models, score)
    assert got.score >= max(score(model) for model in models)
    assert got.score == score(got.model)


@pytest.mark.parametrize("seed", range(10))
def test_greedy_of_uniform_is_never_worse_than_the_best_groups_mean(seed):
    """It may be worse than a single model: within a group nobody is left out."""
    models, score = drawn(5, seed)
    got = EACH["greedy of uniform"](models, score)
    assert got.score >= max(score(soup.uniform(group).model) for group in (models[:2], models[2:]))


@pytest.mark.parametrize("make", ALONE)
def test_one_model_alone_is_itself_bit_for_bit(make):
    """Of a whole net; the score is asked for once at most."""
    model = small_nets.weights()
    model["stem.bias"] = torch.tensor([-0.0, 1e-42, 1e30, 0.0])
    got = ALONE[make](model, lambda m: 1.0)
    assert all(torch.equal(got.model[n].view(torch.int32), value.view(torch.int32)) for n, value in model.items())
    assert got.chosen == (0,)
    assert got.evaluations <= 1
    assert got.model["stem.bias"].data_ptr() != model["stem.bias"].data_ptr()


def test_the_order_of_the_models_does_not_matter_where_scores_differ():
    """The same models are chosen, and their mean is the same to the last digits."""
    models, score = drawn(4, 3)
    expected = soup.greedy(models, score)
    for order in itertools.permutations(range(4)):
        got = soup.greedy([models[t] for t in order], score)
        assert tuple(order[t] for t in got.chosen) == expected.chosen
        torch.testing.assert_close(got.model["w"], expected.model["w"])


def test_a_score_that_is_no_number_is_the_worst():
    """A model that diverged stays out."""
    broken = {"w": torch.tensor([math.nan])}
    got = soup.greedy([broken, *line(1.0)], near(1.0))
    assert (got.chosen, got.model["w"].item()) == ((1,), 1.0)
    with pytest.raises(ConfigError, match="needs a model whose score is a number; none of 2 has one"):
        soup.greedy([broken, broken], near(1.0))


def test_what_cannot_be_averaged_is_refused():
    """No models, an empty group, another shape; the sentence says which model."""
    other = [{"w": torch.ones(2)}]
    for call in (lambda: soup.uniform([]), lambda: soup.greedy([], near(0))):
        with pytest.raises(ConfigError, match="a soup needs models"):
            call()
    for groups in ([], [line(1.0), []]):
        with pytest.raises(ConfigError, match="needs groups that hold models"):
            soup.greedy_of_uniform(groups, near(0))
    with pytest.raises(Refused, match=r"model 0 of group 1: weights\['w'\] expected shape \(1,\), got \(2,\)"):
        soup.greedy_of_greedy([line(1.0), other], near(0))
    with pytest.raises(Refused, match=r"south: weights\['w'\] expected shape \(1,\), got \(2,\)"):
        soup.uniform([*line(1.0), *other], who=["north", "south"])
