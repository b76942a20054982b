"""A policy in words: no key without a sentence, no two meanings with the same one."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from sites import wording
from sites.records import FISHER, OPEN, REUSE, Data, Policy, Site

DIFFERENT = {
    **{key: [(), ("a",), ("a", "b"), None] for key in ("roles", "campaigns", "nets", "labels", "receivers")},
    "trust": [(), ("server",), ("target", "group"), None],
    **{key: [False, True] for key in ("weights", "metrics", "per_case_metrics", "receive_fused")},
    **{key: [False, True] for key in ("release_finetuned", "landmarks")},
    **{key: [0, 1, 2000, None] for key in ("max_contributions", "max_bytes")},
    "min_cases": [1, 20],
    "fisher": FISHER,
    "reuse": REUSE,
    "epsilon": [0.0, 3.0, float("inf")],
    "delta": [0.0, 1e-5],
    "max_attack_auc": [0.5, 0.6, 1.0],
}


@pytest.mark.parametrize("key", [field.name for field in fields(Policy)])
def test_every_key_has_a_sentence_for_each_of_its_meanings(key):
    """A new key fails here until it has words; every sentence ends, and no two values share one."""
    told = [wording.sentences(replace(Policy(), **{key: value}))[key] for value in DIFFERENT[key]]
    assert len(set(told)) == len(told)
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in told)


def test_the_words_are_those_of_the_policy_and_of_nothing_else():
    """All keys, in the order of the record; no words for a key that is gone."""
    assert list(wording.sentences(OPEN)) == list(wording.WORDS) == [field.name for field in fields(Policy)]


def test_lists_are_read_out_as_one_would_say_them():
    """None, one, two, any."""
    say = wording.WORDS["campaigns"]
    assert say(()) == "It takes part in no campaign."
    assert say(("first",)) == "It takes part in the campaign first."
    assert say(("first", "second", "third")) == "It takes part in the campaigns first, second and third."
    assert say(None) == "It takes part in any campaign."


def site(policy, role="source"):
    """A hospital with one label."""
    return Site("north", role, Data(Path(), "msd", {"ball": (1,)}), policy, None, Path(), simulation=False)


def test_the_strictest_policy_stands_in_its_own_way_by_these_keys():
    """A source needs them all, a target needs no line about contributions; an open policy has no obstacle."""
    lists = {"roles", "campaigns", "nets", "labels"}
    assert wording.obstacles(site(Policy())).keys() == lists | {"trust", "weights", "max_contributions", "max_bytes"}
    assert wording.obstacles(site(Policy(), "target")).keys() == lists
    assert wording.obstacles(site(OPEN)) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [("roles", ("target",)), ("labels", ("cube",)), ("weights", False), ("max_bytes", 0), ("campaigns", ())],
)
def test_a_key_that_declines_everything_is_found_alone(key, value):
    """One closed line in an open policy is one obstacle, with a reason."""
    assert list(wording.obstacles(site(replace(OPEN, **{key: value})))) == [key]
