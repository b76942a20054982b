"""Campaigns of masked sums over tiny hospitals: six sources in two groups, or three in one, and a target."""

import json

import torch
from flwr.app import Error, Message
from small import campaign, hospitals

from fedmerge import container, fisher, transport, wire
from sites.app import app as client_app

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


def received(out):
    """What the target holds: the documents' facts, by file."""
    paths = (out / "sites" / TARGET / "received").glob("*.safetensors")
    return {path: json.loads(container.read_header(path).metadata["fedmerge"]) for path in paths}


def ancestor(out):
    """What all began from."""
    (path,) = (path for path, facts in received(out).items() if facts["format"] == wire.PARAMS)
    return wire.open_params(path)


def model(out, group):
    """A group's model as the target keeps it."""
    (path,) = (path for path, facts in received(out).items() if facts.get("site") == group)
    return wire.read(path)


def plain(members, began):
    """Geyer et al. 2019, eq. 2, in binary64 and in the open: the weights of a group, and its Fisher.

    Args:
        members: their contributions.
        began: the common start, of the names that are summed.
    """
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


def close(found, expected, names):
    """Whether each tensor is within 1e-6 of its spread, and what float32 rounds off a number around 1."""
    for name in names:
        want = expected[name].double()
        spread = want.std().item() if want.numel() > 1 else 0.0
        error = (found[name].double() - want).abs().max().item()
        assert error <= 1e-6 * spread + 6e-8 * want.abs().max().item(), (name, error, spread)


def on_the_way(change):
    """The sites' own app, except that `change(kind, site, task, payload)` may alter a reply.

    It gives other task and payloads, or a sentence that makes the reply an error; None leaves the reply as it is.
    """

    def answer(message, context):
        kind, site = message.metadata.message_type, transport.addressee(message.content)
        reply = client_app(message, context)
        other = None if reply.has_error() else change(kind, site, *transport.unpack(reply.content, site))
        if isinstance(other, str):
            return Message(Error(code=2, reason=other), reply_to=message)
        if other is not None:
            reply.content = transport.pack(*other)
        return reply

    return answer
