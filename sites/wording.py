"""A site's policy in words: one sentence for each key, and which keys stand in the way of the site's own role.

Whoever signs for a hospital's data reads these sentences, not the keys.
"""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from sites.records import Policy, Site


def sentences(policy: Policy) -> dict[str, str]:
    """Key -> what it says, for every key of the policy, in the order of the record.

    Raises:
        KeyError: the record has a key that has no words here.
    """
    return {field.name: WORDS[field.name](getattr(policy, field.name)) for field in fields(policy)}


def obstacles(site: Site) -> dict[str, str]:
    """Key -> why, for the keys of the policy that decline every task of the site's own role."""
    policy, labels = site.policy, site.data.labels
    found: dict[str, str] = {}
    if policy.roles is not None and site.role not in policy.roles:
        found["roles"] = f"the site is a {site.role}, and the policy does not list that role"
    for key in ("campaigns", "nets"):
        if getattr(policy, key) == ():
            found[key] = "the list is empty"
    missing = [label for label in labels if policy.labels is not None and label not in policy.labels]
    if missing:
        found["labels"] = f"[data] has {_listed(missing)}, which the policy does not list"
    if site.role == "source":
        if policy.trust == ():
            found["trust"] = "the list is empty"
        if not policy.weights:
            found["weights"] = "a source that lets no weights go contributes nothing"
        for key in ("max_contributions", "max_bytes"):
            if getattr(policy, key) == 0:
                found[key] = "a source with a limit of 0 contributes nothing"
        if 0 < policy.epsilon < math.inf and not 0 < policy.delta < 1:
            found["delta"] = "a budget of privacy loss needs a delta between 0 and 1, such as 1e-5"
    return found


def _listed(words: tuple[str, ...] | list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def _names(one: str, kind: str) -> Callable[[tuple[str, ...] | None], str]:
    """The words of a list: none, some, or all of a kind."""

    def words(allowed: tuple[str, ...] | None) -> str:
        if allowed is None:
            return one.format(f"any {kind}")
        return one.format(
            f"the {kind}{'s' if len(allowed) > 1 else ''} {_listed(allowed)}" if allowed else f"no {kind}"
        )

    return words


def _choice(**texts: str) -> Callable[[str], str]:
    return lambda value: texts[value]


def _switch(yes: str, no: str) -> Callable[[bool], str]:
    return lambda value: yes if value else no


def _limit(none: str, one: str, some: str, unlimited: str) -> Callable[[int | None], str]:
    def words(limit: int | None) -> str:
        return unlimited if limit is None else {0: none, 1: one}.get(limit, some).format(limit)

    return words


def _trust(modes: tuple[str, ...] | None) -> str:
    """The words of `trust`."""
    readers = {
        "server": "where the server and the target can read them",
        "target": "where only the target can read them",
        "group": "where nobody reads more than the sum of a group",
    }
    if modes is None:
        return "They may leave whoever can read them: a campaign decides."
    return f"They may leave {'; '.join(readers[mode] for mode in modes)}." if modes else "They leave in no campaign."


WORDS: dict[str, Callable[[Any], str]] = {
    "roles": _names("The hospital takes {} in a campaign.", "role"),
    "campaigns": _names("It takes part in {}.", "campaign"),
    "nets": _names("It trains {}.", "net"),
    "labels": _names("It shares a model of {}.", "label"),
    "min_cases": lambda value: f"It contributes only what was trained on at least {value} case{'s' * (value != 1)}.",
    "weights": _switch("The weights of a model that it trained may leave.", "No weights leave."),
    "trust": _trust,
    "receivers": _names("Sealed, or in a sum of several sites, they may go to {}.", "site of the consortium"),
    "fisher": _choice(
        none="No Fisher leaves: ones are sent in its place.",
        channel="Of the Fisher only its mean over each output channel may leave.",
        full="The whole Fisher may leave: who holds a patient's images can test whether they were among its cases.",
    ),
    "metrics": _switch(
        "Mean scores, validation curves and the training loss may leave.", "No score, curve or loss leaves."
    ),
    "per_case_metrics": _switch(
        "Scores of single cases may leave, under pseudonyms, where scores may leave at all.",
        "No score of a single case leaves.",
    ),
    "receive_fused": _switch(
        "It measures merged models on its own test cases.", "It takes no merged model in for measuring."
    ),
    "release_finetuned": _switch(
        "The model that is fine-tuned on its cases may leave.", "The model that is fine-tuned on its cases stays here."
    ),
    "landmarks": _switch(
        "Landmarks of its images' intensities may leave, in a file or with a model that was trained with them.",
        "No landmarks of its images' intensities leave, nor a model whose card has them.",
    ),
    "reuse": _choice(
        never="A contribution that was sent is not used again: the hospital is asked anew, its policy with it.",
        campaign="A contribution that was sent may be used again when its own run goes on.",
        consortium="A contribution that was sent may be used again in other runs of the consortium.",
    ),
    "max_contributions": _limit(
        "No contribution leaves.",
        "In all, one contribution may leave.",
        "In all, {:,} contributions may leave.",
        "Any number of contributions may leave.",
    ),
    "max_bytes": _limit(
        "No contribution leaves, whatever its size.",
        "A contribution of one byte may leave.",
        "A contribution of up to {:,} bytes may leave.",
        "A contribution of any size may leave.",
    ),
    "epsilon": lambda value: {
        0.0: "There is no budget for trainings with differential privacy.",
        math.inf: "No differential privacy is asked for, and no limit is set to trainings with it.",
    }.get(value, f"Only models trained with differential privacy leave, all of them together up to epsilon {value:g}."),
    "delta": lambda value: f"The delta of that budget is {value:g}.",
    "max_attack_auc": lambda value: (
        f"An audit of a contribution fails where an attack finds its patients with an AUC above {value:g}."
    ),
}
