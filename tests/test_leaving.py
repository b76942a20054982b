"""Leaving models out of a merge: the ratios of those that stay, and which of them stay."""

import pytest
import torch
from mixes import AXES, NAMES, drawn_logits, ingredients, mixed

from fedmerge import measures
from fedmerge.errors import ConfigError
from fedmerge.fusion import leaving, mixing


@pytest.mark.parametrize("grain", ["layer", "kernel"])
@pytest.mark.parametrize("kind", ["sigmoid", "softmax", "anchored"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_merge_without_a_model_is_the_merge_of_the_others_in_their_proportion(grain, kind, which):
    """As if it had never been there: a mix of the others alone, with their ratios scaled to sum 1."""
    mix = mixed(3, grain=grain)
    logits = {group: value.abs() / 20 for group, value in drawn_logits(mix).items()}  # inside the anchored simplex
    ratios = mixing.ratios(logits, kind)
    models, fishers = ingredients(3)
    others = [t for t in range(3) if t != which]
    alone = mixing.prepare([models[t] for t in others], [fishers[t] for t in others], NAMES, grain=grain, axes=AXES)
    scaled = {group: a[others] / a[others].sum(0) for group, a in ratios.items()}
    found, expected = mixing.fuse(mix, leaving.without(ratios, which)), mixing.fuse(alone, scaled)
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("grain", ["model", "kernel"])
def test_of_two_models_the_other_one_is_left_bit_for_bit(grain):
    """Whatever the ratios were."""
    mix = mixed(2, grain=grain, dtype=torch.float32)
    ratios = mixing.ratios(drawn_logits(mix))
    found = mixing.fuse(mix, leaving.without(ratios, 0))
    assert all(torch.equal(found[name], mix.theta[name][1]) for name in NAMES)


@pytest.mark.parametrize("dust", [0.0, 1e-9])
def test_models_without_a_ratio_share_alike_when_the_only_one_goes(dust):
    """MedMerge begins at its anchor; what rounding has left of the others tells no proportion."""
    ratios = {
        "a": torch.tensor([1 - 4 * dust, dust, 3 * dust]),
        "b": torch.tensor([[1.0, 0.2], [0.0, 0.2], [0.0, 0.6]]),
    }
    found = leaving.without(ratios, 0)
    torch.testing.assert_close(found["a"], torch.tensor([0.0, 0.5, 0.5]))
    torch.testing.assert_close(found["b"], torch.tensor([[0.0, 0.0], [0.5, 0.25], [0.5, 0.75]]))
    torch.testing.assert_close(leaving.without(ratios, 1)["b"][:, 0], torch.tensor([1.0, 0.0, 0.0]))


def test_a_merge_of_one_cannot_do_without_it():
    """There would be nothing left."""
    with pytest.raises(ConfigError, match="a merge of one model cannot do without it"):
        leaving.without({"a": torch.ones(1)}, 0)


def test_the_margin_shrinks_with_the_cases_that_the_score_is_a_mean_of():
    """Two standard errors: a quarter of the cases, twice the margin."""
    assert leaving.margin(0.06, 16) == pytest.approx(0.03)
    assert leaving.margin(0.06, 4) == pytest.approx(2 * leaving.margin(0.06, 16))
    assert leaving.margin(measures.F1.varies, 100) == pytest.approx(0.1)


def admitted(**scores):
    """What is admitted of a, b and c, when merges have these scores; those not named have 0.5."""
    return leaving.admitted("abc", lambda names: scores.get("".join(names), 0.5), margin=0.02)


def test_a_model_stays_unless_the_score_gains_more_than_the_margin():
    """A gain of exactly the margin is none; four merges are tried then."""
    found = admitted(abc=0.60, bc=0.62)
    assert found.names == ("a", "b", "c")
    assert set(found.scores) == {("a", "b", "c"), ("b", "c"), ("a", "c"), ("a", "b")}


def test_the_model_whose_absence_gains_most_goes_first():
    """And then the next one, as long as it helps."""
    assert admitted(abc=0.3, bc=0.4, ac=0.6, ab=0.5).names == ("a", "c")
    found = admitted(abc=0.3, bc=0.4, ac=0.6, ab=0.5, c=0.7)
    assert found.names == ("c",)
    assert len(found.scores) == 6


def test_a_merge_that_cannot_be_made_leaves_nobody_out():
    """Nor does one without a score to begin with go on."""
    assert admitted(abc=0.0, bc=None, ac=None, ab=None).names == ("a", "b", "c")
    assert admitted(abc=0.3, bc=None, ac=0.6, a=None, c=None).names == ("a", "c")
    with pytest.raises(ConfigError, match="the merge of a, b, c has no score to begin with"):
        admitted(abc=None)
