"""The first `site.toml` of a hospital: each key with what it means, and a policy that forbids everything."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import tomli_w

from sites.records import Policy

MEANING = {
    "roles": "the roles that the site takes: source, target",
    "campaigns": 'names of the campaigns that it takes part in; ["*"]: all',
    "nets": 'names of the nets that it trains; ["*"]: all',
    "labels": 'names of the labels that it shares a model of; ["*"]: all',
    "min_cases": "with fewer training cases nothing is contributed",
    "weights": "a trained model's weights may leave",
    "trust": 'who may read what leaves: "server" (and the target), "target" only, "group" (sums only)',
    "receivers": 'names of the sites to which it may be sealed; ["*"]: any of the consortium',
    "fisher": 'how much of the Fisher may leave: "none", "channel" (means) or "full"',
    "metrics": "mean scores may leave",
    "per_case_metrics": "scores of single cases may leave, under pseudonyms",
    "receive_fused": "the site measures fused models on its own cases",
    "release_finetuned": "the fine-tuned model may leave",
    "landmarks": "landmarks of the images' intensities may leave, in a file or with a model",
    "reuse": 'where a contribution may be used again: "never", "campaign" or "consortium"',
    "max_contributions": 'how many contributions may ever leave; "*": any number',
    "max_bytes": 'the largest message that may leave; "*": any size',
    "epsilon": "budget of privacy loss: above 0 only noisy trainings leave; inf: no limit; 0: no budget",
    "delta": "the delta that goes with it, such as 1e-5",
    "max_attack_auc": "fedmerge audit-privacy fails above this AUC of an attack; 0.5: chance, 1: never",
}

HEAD = """\
# {name}'s own file. Nobody else sees it, and nothing in it can be changed from outside.
# After a change: fedmerge site check

[site]
name = {quoted}
role = "{role}"                  # "source" trains a model for others, "target" gets one made for it
work = "private/work"            # checkpoints, contributions, received models

# [users]                        # two users of this machine: what comes from outside then reads no data
# agent = "fedmerge-agent"       # has the data and the keys, and trains
# node = "fedmerge-node"         # talks to the network

[data]
folder = "cases"                 # <- where the images lie
layout = "msd"                   # also "folders", "brats", "freesurfer", "bids": docs/layouts.md shows each tree
# modalities = ["T1"]            # images of a case, in this order
# train = 40                     # cases to train on, then to validate and to test on
# validate = 5
# test = 10

[data.labels]                    # <- what the values in the label maps mean; 0 is the background
{labels}
[policy]                         # what is not allowed here is forbidden
"""


def site_file(name: str, role: str, proposed: Mapping[str, Any]) -> str:
    """The text of a new `site.toml`.

    Args:
        name: the site's.
        role: "source" or "target".
        proposed: the consortium's policy template, from the signed roster; it is quoted in comments, and decides
            nothing.
    """
    policy, labels = proposed.get("policy"), proposed.get("labels")
    policy = policy if isinstance(policy, dict) else {}
    names = list(labels)[:100] if isinstance(labels, dict) and labels else ["tumour"]
    lines = [
        HEAD.format(
            name=name, quoted=json.dumps(name), role=role, labels="".join(f"# {_line(n, [1])}\n" for n in names)
        )
    ]
    for field in fields(Policy):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        text = _line(field.name, default)
        comment = MEANING[field.name]
        if field.name in policy:
            comment += f"; the consortium proposes {_line(field.name, policy[field.name]).partition(' = ')[2]}"
        lines.append(f"{text:<32} # {comment}\n")
    return "".join(lines)


def _line(key: str, value: Any) -> str:  # noqa: ANN401 - whatever the consortium proposes
    """`key = value` in TOML, on one line whatever it is: what comes from outside must stay in its comment."""
    try:
        text = tomli_w.dumps({key: json.dumps(value)} if isinstance(value, dict) else {key: value})
    except TypeError:
        text = ""
    line = " ".join(text.split())  # a list has its elements on lines of their own
    return line.replace("[ ", "[").replace(", ]", "]")[:200]
