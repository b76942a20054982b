"""Campaigns of masked sums over tiny hospitals: six sources in two groups, or three in one, and a target."""

import json

import torch
from safetensors.torch import load_file
from small import campaign, hospitals

from fedmerge import fisher, params, wire
from fedmerge.container import parse

SIX = ("north", "south", "west", "east", "inland", "island")
THREE = SIX[:3]
TARGET = "harbour"


def consortium(folder, sources=SIX):
    """Folders of images for these sources and the target."""
    return hospitals(folder, cases=7, sites=(*sources, TARGET))


def plan(folder, groups, *, name="groups.toml", head="", trust="group"):
    """A campaign file of parallel sources; `groups`: lists of names."""
    sources = [site for group in groups for site in group]
    grouped = f"groups = {json.dumps(groups)}" if trust == "group" else ""
    path = campaign(folder, name=name, head=f'trust = "{trust}"\nschedule = "parallel"\n{grouped}\n{head}')
    text = path.read_text()
    start, harbour = text.partition("[[site]]")[0], "[[site]]" + text.rpartition("[[site]]")[2]
    tables = [
        f"""
[[site]]
name = "{site}"
role = "source"
[site.data]
folder = "{site}"
labels = {{ {("ball = [1]", "cube = [2]")[k % 2]} }}
background = [{(2, 1)[k % 2]}]
pooled_labels = {{ ball = [1], cube = [2] }}
test = 2
"""
        for k, site in enumerate(sources)
    ]
    path.write_text(start + "".join(tables) + harbour)
    return path


def contributions(out, sites):
    """What each source made and kept at home."""
    found = {}
    for site in sites:
        (path,) = (out / "sites" / site / "contributions").glob("*.safetensors")
        found[site] = wire.read(path)
    return found


def ancestor(out):
    """What all began from, as the target received it."""
    bodies = []
    for path in (out / "sites" / TARGET / "received").glob("*.safetensors"):
        if parse(_facts(path), "facts")["format"] == wire.PARAMS:
            bodies.append(load_file(path))
    (body,) = bodies
    return body


def _facts(path):
    from fedmerge import container

    return container.read_header(path).metadata["fedmerge"]


def model(out, group):
    """A group's model as the target keeps it."""
    for path in (out / "sites" / TARGET / "received").glob("*.safetensors"):
        if parse(_facts(path), "facts").get("site") == group:
            return wire.read(path)
    raise AssertionError(f"{group} is not there")


def plain(members, began):
    """Geyer et al. 2019, eq. 2, in binary64 and in the open: the weights and the Fisher of a group."""
    tops = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in began.items()}
    bottoms = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in began.items()}
    for c in members:
        precision = fisher.normalise({name: c.fisher[name] for name in began})
        for name, value in began.items():
            f = precision[name].double()
            tops[name] += f * (c.weights[name].double() - value.double())
            bottoms[name] += f
    weights = {name: value.double() + tops[name] / bottoms[name] for name, value in began.items()}
    return weights, bottoms


def apart(found, expected, began):
    """The largest difference of a tensor, in spreads of that tensor's weights."""
    worst = 0.0
    for name in began:
        spread = expected[name].double().std().item() if expected[name].numel() > 1 else 0.0
        worst = max(worst, (found[name].double() - expected[name].double()).abs().max().item() / (spread or 1.0))
    return worst


__all__ = ["SIX", "TARGET", "THREE", "ancestor", "apart", "consortium", "contributions", "model", "params", "plain", "plan"]
