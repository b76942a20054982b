"""Masked groups of made-up sites: fixed keys, small models, and every step from the hellos to the sum."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedmerge import whole
from fedmerge.privacy import hello, ledger, masking, transcript
from fedmerge.privacy.hello import UNIT, Agreed
from fedmerge.trust import keys

NAMES = ("east", "north", "south")
TARGET = "harbour"
SHAPES = {"stem.weight": (4, 1, 3, 3), "stem.bias": (4,), "norm.weight": (3,), "deep.weight": (70001,)}  # two slabs
EQUAL = dict.fromkeys(NAMES, UNIT)


class Model(NamedTuple):
    """What a site has to send."""

    weights: dict
    fisher: dict


class Group(NamedTuple):
    """A group whose hellos were said and gathered."""

    folder: Path
    ancestor: dict
    agreed: Agreed
    transcript: transcript.Transcript
    target_key: X25519PrivateKey

    def home(self, name):
        """The folder of a site's ledger."""
        return self.folder / "homes" / name


def seed(text):
    """32 bytes of a word."""
    return hashlib.sha256(text.encode()).digest()


def signing(name):
    """A site's signing key."""
    return Ed25519PrivateKey.from_private_bytes(seed(f"sign {name}"))


def roster(*names):
    """The public signing keys, as a roster has them."""
    return {name: signing(name).public_key() for name in names}


def ancestor(shapes: Mapping = SHAPES):
    """The weights that all began from."""
    g = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=g) * 0.1 for name, shape in shapes.items()}


def model(name, began, spread=0.02):
    """A site's weights, some way from the ancestor, and a Fisher over many decades; a head that is not summed."""
    g = torch.Generator().manual_seed(int.from_bytes(seed(name)[:4]))
    weights = {key: value + spread * torch.randn(value.shape, generator=g) for key, value in began.items()}
    fisher = {key: torch.rand(value.shape, generator=g) ** 8 for key, value in began.items()}
    return Model({**weights, "head.weight": torch.ones(2)}, fisher)


def fixed_key(home, run, group, name):
    """Put the key that this name always has into the home, instead of a fresh one."""
    path = ledger.key_file(home, run, group)
    if not path.exists():
        keys.keep(path, X25519PrivateKey.from_private_bytes(seed(f"key {run} {group} {name}")))


def agree(began, weights=EQUAL, run="r1", group="g1"):
    """The plan's part."""
    return Agreed(run, group, hello.schema(began), weights, TARGET)


def say(folder, agreed):
    """The hellos of all members and of the target, and the target's key."""
    for name in agreed.weights:
        fixed_key(folder / "homes" / name, agreed.run, agreed.group, name)
    target_key = X25519PrivateKey.from_private_bytes(seed(f"key {agreed.run} {agreed.group} {TARGET}"))
    said = [
        hello.greet(agreed, name, ledger.begin(folder / "homes" / name, agreed.run, agreed.group), signing(name))
        for name in agreed.weights
    ]
    return [*said, hello.greet(agreed, TARGET, target_key.public_key(), signing(TARGET))], target_key


def form(folder, *, began=None, weights=EQUAL, run="r1", group="g1"):
    """A group up to its transcript."""
    began = ancestor() if began is None else began
    agreed = agree(began, weights, run, group)
    hellos, target_key = say(folder, agreed)
    return Group(folder, began, agreed, transcript.gather(hellos, agreed, roster(*weights, TARGET)), target_key)


def send(made, name, own):
    """A member's masked message as a file."""
    path = made.folder / f"{made.agreed.run}-{made.agreed.group}-{name}.masked"
    whole.write(path, masking.mask(own.weights, own.fisher, made.ancestor, made.transcript, name, made.home(name)))
    return path


def relay(made, models):
    """All members' messages, summed, as a file."""
    path = made.folder / f"{made.agreed.run}-{made.agreed.group}.sum"
    whole.write(path, masking.add([send(made, name, own) for name, own in models.items()]))
    return path


def opened(made, models):
    """The sums, at the target."""
    return masking.open_sum(relay(made, models), made.transcript, made.target_key, made.ancestor)
