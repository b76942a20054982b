"""Model soups: averages of models that were trained from one start, chosen by a score.

    uniform              the mean of all                                   Wortsman et al. 2022, section 2
    greedy               best first; what does not lower the score joins   Wortsman et al. 2022, recipe 1
    greedy_of_uniform    uniform in each group, greedy over the groups     FissionFusion, Sanjeev et al. 2024 (GoU)
    greedy_of_greedy     greedy in each group, greedy over the groups      FissionFusion, Sanjeev et al. 2024 (GoG)

A group holds the models of one learning rate. Laws, all tested: a greedy soup's score is at least that of the best
single model that it chose from; greedy of greedy is at least as good as every model of every group; one model alone
gives itself, bit for bit. The score should be taken on validation cases: it is what the choice is fitted to.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmerge.errors import ConfigError
from fedmerge.fusion import alike, rules
from fedmerge.params import Params

Score = Callable[[Params], float]


@dataclass(frozen=True)
class Soup:
    """A soup, and how it came about.

    Attributes:
        model: the averaged parameters.
        chosen: the indices of what was averaged, in the order in which it joined; of groups where there are groups.
        score: of the soup; None where nobody asked.
        evaluations: how many times the score was asked for.
        members: for groups, in the order of `chosen`: the indices of the models of that group that were averaged.
    """

    model: Params
    chosen: tuple[int, ...]
    score: float | None
    evaluations: int
    members: tuple[tuple[int, ...], ...] = ()


def uniform(models: Sequence[Mapping[str, Tensor]], *, who: Sequence[str] | None = None) -> Soup:
    """The mean of all models; no score is asked for.

    Args:
        models: T sets of parameters of the same names, shapes, dtype and device.
        who: their names, for sentences.

    Raises:
        ConfigError: no model.
        Refused: a model lacks a name of the first one's, or a shape differs.
    """
    names = _check(models, who)
    return Soup(_mean(models, range(len(models)), names), tuple(range(len(models))), None, 0)


def greedy(models: Sequence[Mapping[str, Tensor]], score: Score, *, who: Sequence[str] | None = None) -> Soup:
    """Go through the models from the best to the worst; each joins if the soup's score does not fall by it.

    Models of equal score are tried in the order in which they are listed. A score that is no number counts as
    the worst one. The score is asked for 2T - 1 times: once for each model, and for each soup that is tried.

    Args:
        models: as for `uniform`.
        score: of a model; higher is better. It must not change the tensors that it gets.
        who: as for `uniform`.

    Raises:
        ConfigError: no model, or no model has a score that is a number.
        Refused: as in `uniform`.
    """
    names = _check(models, who)
    alone = [{name: model[name].detach() for name in names} for model in models]
    return _greedy(alone, [_number(score(model)) for model in alone], score, len(models))


def greedy_of_uniform(groups: Sequence[Sequence[Mapping[str, Tensor]]], score: Score) -> Soup:
    """The uniform soup of each group; then the greedy soup of those (GoU of FissionFusion).

    The score is asked for 2G - 1 times for G groups, however many models they hold.

    Args:
        groups: the models of each learning rate.
        score: as for `greedy`.

    Raises:
        ConfigError: no group, a group without models, or no group's soup has a score that is a number.
        Refused: as in `uniform`.
    """
    _check_groups(groups)
    soups = [uniform(group).model for group in groups]
    top = _greedy(soups, [_number(score(soup)) for soup in soups], score, len(groups))
    members = tuple(tuple(range(len(groups[g]))) for g in top.chosen)
    return Soup(top.model, top.chosen, top.score, top.evaluations, members)


def greedy_of_greedy(groups: Sequence[Sequence[Mapping[str, Tensor]]], score: Score) -> Soup:
    """The greedy soup of each group; then the greedy soup of those (GoG of FissionFusion).

    The scores of the groups' soups are known from their choice, so the score is asked for
    sum_g (2 T_g - 1) + G - 1 times for G groups of T_g models.

    Args:
        groups: the models of each learning rate.
        score: as for `greedy`.

    Raises:
        ConfigError: no group, or a group without models or without a score that is a number.
        Refused: as in `uniform`.
    """
    _check_groups(groups)
    soups = [greedy(group, score) for group in groups]
    top = _greedy(
        [soup.model for soup in soups],
        [_number(soup.score) for soup in soups],
        score,
        sum(soup.evaluations for soup in soups),
    )
    return Soup(top.model, top.chosen, top.score, top.evaluations, tuple(soups[g].chosen for g in top.chosen))


def _greedy(models: Sequence[Params], scores: Sequence[float], score: Score, evaluations: int) -> Soup:
    """Recipe 1, with the scores of the single models known."""
    first, *rest = sorted(range(len(models)), key=lambda t: -scores[t])  # the sort is stable
    if scores[first] == -math.inf:
        raise ConfigError(f"a greedy soup needs a model whose score is a number; none of {len(models)} has one")
    names = tuple(models[first])
    model, best, chosen = models[first], scores[first], [first]
    for t in rest:
        tried = _mean(models, [*chosen, t], names)
        got = _number(score(tried))
        evaluations += 1
        if got >= best:
            model, best = tried, got
            chosen.append(t)
    if len(chosen) == 1:  # still the caller's own tensors
        model = {name: value.clone() for name, value in model.items()}
    return Soup(model, tuple(chosen), best, evaluations)


def _number(score: float | None) -> float:
    return -math.inf if score is None or math.isnan(score) else float(score)


@torch.no_grad()
def _mean(models: Sequence[Mapping[str, Tensor]], chosen: Sequence[int], names: Sequence[str]) -> Params:
    ratios = torch.ones(len(chosen), dtype=torch.float64, device=models[0][names[0]].device)
    return {name: rules.mean(torch.stack([models[t][name] for t in chosen]), None, ratios) for name in names}


def _check(models: Sequence[Mapping[str, Tensor]], who: Sequence[str] | None = None) -> tuple[str, ...]:
    """The names of the first model, which all models must have."""
    if not models or not models[0]:
        raise ConfigError("a soup needs models that have parameters, got none")
    names = tuple(models[0])
    alike.check(models, "weights", models[0], names, alike.sites(models, who))
    return names


def _check_groups(groups: Sequence[Sequence[Mapping[str, Tensor]]]) -> None:
    """Whether the groups hold models, and these can be averaged across groups."""
    if not groups or not all(groups):
        raise ConfigError("a hierarchical soup needs groups that hold models, got none or an empty one")
    _check(
        [model for group in groups for model in group],
        [f"model {t} of group {g}" for g, group in enumerate(groups) for t in range(len(group))],
    )
