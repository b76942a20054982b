"""Masked groups between hospitals: whose hello it is, the signed roster of the consortium decides, not the server."""

import json
import time
from dataclasses import replace

import pytest
import torch
from consortia import approved, found, hospital

from fedmerge import params, sums, tasks, whole, wire
from fedmerge.contribution import Contribution
from fedmerge.privacy import hello
from fedmerge.privacy.hello import UNIT, Hello
from fedmerge.trust import keys
from server import consortium
from sites import home as homes
from sites import joining, masks
from sites.inbound import Declined
from sites.records import OPEN, Data, Site

MEMBERS, TARGET = ("north", "south", "west"), "harbour"
ANCESTOR = {"conv.weight": torch.arange(12.0).reshape(3, 4), "conv.bias": torch.zeros(3)}
GROUP = sums.Group("r/0/1", "group-1", hello.schema(ANCESTOR), dict.fromkeys(MEMBERS, UNIT), TARGET)
KEY = "0123456789abcdef01234567"


def latest(server, home, now):
    """The hospital fetches the roster."""
    joining.membership.accept(homes.open(home.folder), consortium.public_bytes(server), now)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A consortium's server, and the moment at which all joined."""
    now = time.time()
    return found(tmp_path_factory.mktemp("server"), now=now), now


@pytest.fixture(scope="module")
def sites(server, tmp_path_factory):
    """Four hospitals on its roster; what north trained lies at home."""
    there, now = server
    folder, made = tmp_path_factory.mktemp("hospitals"), {}
    for name in (*MEMBERS, TARGET):
        role = "target" if name == TARGET else "source"
        joined = hospital(folder, there, name, now=now, roles=(role,))
        approved(there, joined, now=now)
        home = joined.home
        data = Data(folder, "folders", {"ball": (1,)}, ("T1",))
        made[name] = Site(name, role, data, OPEN, None, folder / name / "work", simulation=False, home=home.folder)
    for site in made.values():
        latest(there, homes.open(site.home), now)
    digest = params.digest(ANCESTOR)
    weights = {name: value + 0.01 * (value + 1).cumsum(0) for name, value in ANCESTOR.items()}
    kept = Contribution("north", {}, ("ball",), ("T1",), 30, digest, digest, weights, {}, "none", KEY)
    whole.write(made["north"].work / "contributions" / f"{KEY}.safetensors", wire.to_bytes(kept))
    return made


@pytest.fixture(scope="module")
def hellos(sites):
    """What all have said."""
    task = tasks.to_table(sums.Greet("small", GROUP))
    return {name: masks.greet(site, task)["hello"] for name, site in sites.items()}


def mask(site, texts, told=None):
    """The site's message for these hellos; `told`: keys that the server claims."""
    task = sums.Mask("small", KEY, GROUP, tuple(texts), told or {})
    return masks.mask(site, tasks.to_table(task), {"ancestor": wire.params_to_bytes(ANCESTOR)})


def test_a_server_cannot_put_a_member_of_its_own_into_a_group(sites, hellos):
    """A hello in a member's name, signed by a key that the message itself brings, is not believed."""
    own = keys.new_signing()
    said = Hello(**json.loads(hellos["south"]))
    forged = replace(said, key=keys.public_text(keys.new_exchange()), signature="")
    forged = replace(forged, signature=keys.sign(own, hello.PURPOSE, forged.signed()))
    texts = [*(text for name, text in hellos.items() if name != "south"), forged.encode().decode()]
    told = {"south": {"signing": keys.public_text(own.public_key()), "sealing": keys.public_text(keys.new_sealing())}}
    with pytest.raises(Declined, match="north: south: the signature of the hello does not hold"):
        mask(sites["north"], texts, told)


def test_members_on_the_roster_are_summed_until_one_is_taken_off(server, sites, hellos):
    """The honest hellos make a message; after a revocation that the site has heard of, none."""
    task, payload = mask(sites["north"], hellos.values())
    assert task["transcript"].startswith("sha256:")
    assert payload["message"].stat().st_size > 0
    there, now = server
    consortium.revoke(there, "west", now + 1)
    latest(there, homes.open(sites["north"].home), now + 1)
    with pytest.raises(Declined, match="north: 'west' is not on the roster"):
        mask(sites["north"], hellos.values())
