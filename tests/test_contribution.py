"""The check of a contribution: each thing that can be wrong, with its sentence."""

import dataclasses

import pytest
import torch
from made_contributions import ANCESTOR, contribution, expected

from fedmerge.contribution import check, common_ancestor
from fedmerge.errors import Refused


def with_tensor(part, name, value):
    """The contribution with one tensor put in the place of another; None takes it out."""
    tensors = {**getattr(contribution(), part), name: value}
    return contribution(**{part: {key: v for key, v in tensors.items() if v is not None}})


def one_bad(shape, value):
    """Ones, but for the last element."""
    tensor = torch.ones(shape)
    tensor.flatten()[-1] = value
    return tensor


def test_what_was_agreed_passes():
    """And what is None is not asked for."""
    check(contribution(), expected(), "north")
    anything = expected(ancestor=None, net=None, labels=None, parent=None, settings=None, fisher_labels=None)
    check(contribution(ancestor="x", net={}, labels=(), parent="y", settings="z"), anything, "north")


def test_a_withheld_fisher_passes_where_none_is_expected():
    """Rule mean needs none."""
    check(contribution(fisher={}, fisher_labels="none"), expected(fisher=(), fisher_labels=("none",)), "north")


@pytest.mark.parametrize(
    ("came", "sentence"),
    [
        (with_tensor("weights", "stem.bias", None), r"weights\['stem\.bias'\] is missing"),
        (with_tensor("weights", "trunk.bias", torch.ones(2)), r"weights\['trunk\.bias'\] is not expected"),
        (with_tensor("weights", "stem.bias", torch.ones(3)), r"'stem\.bias'\] expected shape \(2,\), got \(3,\)"),
        (with_tensor("weights", "stem.bias", torch.ones(2, 1)), r"expected shape \(2,\), got \(2, 1\)"),
        (with_tensor("weights", "stem.bias", torch.ones(2).double()), r"expected torch\.float32, got torch\.float64"),
        (with_tensor("weights", "stem.bias", torch.ones(2).long()), r"expected torch\.float32, got torch\.int64"),
        (with_tensor("weights", "stem.bias", one_bad(2, torch.nan)), r"weights\['stem\.bias'\] expected finite.*got 1"),
        (with_tensor("weights", "stem.bias", one_bad(2, -torch.inf)), r"weights\['stem\.bias'\] expected finite"),
        (with_tensor("fisher", "stem.bias", None), r"fisher\['stem\.bias'\] is missing"),
        (with_tensor("fisher", "head.weight", torch.ones(3, 2)), r"fisher\['head\.weight'\] is not expected"),
        (with_tensor("fisher", "stem.bias", torch.ones(3)), r"fisher\['stem\.bias'\] expected shape"),
        (with_tensor("fisher", "stem.bias", one_bad(2, torch.nan)), r"fisher\['stem\.bias'\] expected finite"),
        (with_tensor("fisher", "stem.bias", one_bad(2, -1e-6)), r"fisher\['stem\.bias'\] .* negative.*-1e-06"),
        (contribution(fisher={n: 0 * f for n, f in contribution().fisher.items()}), "the whole Fisher is zero"),
        (contribution(fisher={}), r"fisher\['stem\.weight'\] is missing"),
        (contribution(ancestor="sha256:0"), f"ancestor expected {ANCESTOR}, got sha256:0"),
        (contribution(net={**contribution().net, "dims": 3}), r"net\.dims expected 2, got 3"),
        (contribution(net={**contribution().net, "depth": 3}), r"net\.depth expected null, got 3"),
        (contribution(labels=("organ", "Lesion")), r"labels expected \['organ', 'lésion'\], got \['organ', 'Lesion'\]"),
        (contribution(cases=0), "cases expected at least 1, got 0"),
        (contribution(site="south"), "site expected 'north', got 'south'"),
        (contribution(parent="sha256:0"), "parent expected sha256:b*, got sha256:0: trained from other weights"),
        (contribution(settings="old"), "settings expected sha256:c*, got old: made for another task"),
        (contribution(fisher_labels="observed"), "fisher_labels expected sampled or flat, got observed"),
    ],
)  # fmt: skip
def test_what_was_not_agreed_is_refused(came, sentence):
    """The sentence begins with the site and names the tensor or field, what was expected and what came."""
    with pytest.raises(Refused, match=f"^north: .*{sentence}"):
        check(came, expected(), "north")


def test_a_fisher_of_one_zero_tensor_passes():
    """It counts as flat when it is normalised."""
    check(with_tensor("fisher", "stem.bias", torch.zeros(2)), expected(), "north")


def test_a_common_ancestor_is_the_one_of_all():
    """The first two sites that differ are named."""
    made = [contribution(site) for site in ("north", "south", "west")]
    assert common_ancestor(made) == ANCESTOR
    made[2] = contribution("west", ancestor="sha256:9")
    with pytest.raises(Refused, match=f"north and west share no ancestor: {ANCESTOR} and sha256:9"):
        common_ancestor(made)
    with pytest.raises(Refused, match="there is no contribution"):
        common_ancestor([])


def test_contributions_are_equal_by_value():
    """The order of the names does not matter; a number, a name, a dtype or a fact does."""
    same = contribution(weights=dict(reversed(contribution().weights.items())))
    assert contribution() == same
    for other in [
        contribution(cases=4),
        with_tensor("weights", "stem.bias", torch.zeros(2)),
        with_tensor("weights", "stem.bias", contribution().weights["stem.bias"].double()),
        with_tensor("fisher", "stem.bias", None),
    ]:
        assert contribution() != other
    assert contribution() != "north"


def test_contributions_are_frozen():
    """Nothing is put into one after it was made."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        contribution().cases = 7
