"""Masked sums between hospitals with agents of their own and a signed roster: the group's model of the simulation."""

import time
from contextlib import ExitStack

import agents
import pytest
import torch
from consortia import approved, found, hospital
from made_groups import TARGET, THREE, consortium, model, plan
from test_agent import deployed
from test_campaign import run

from fedmerge import container, wire
from fedmerge.trust import audit, keys
from server import consortium as servers
from sites import home as homes
from sites import joining

POLICY = {**agents.POLICY, "trust": '["group"]', "receivers": f'["{TARGET}"]'}


@pytest.fixture
def hospitals(tmp_path, monkeypatch):
    """(server, campaign file, homes by site) of four hospitals that have joined; and the simulation's campaign file."""
    monkeypatch.setenv("FEDMERGE_BUNDLE", agents.BUNDLE)
    now, data = time.time(), consortium(tmp_path / "data", THREE)
    whole = plan(data, [list(THREE)])
    server, made = found(tmp_path, now=now), {}
    tables = [table.split("[[site]]")[0] for table in whole.read_text().split("[site.data]\n")[1:]]
    for name, table in zip((*THREE, TARGET), tables, strict=True):
        role = "target" if name == TARGET else "source"
        joined = hospital(tmp_path / "homes", server, name, now=now, roles=(role,))
        approved(server, joined, now=now)
        paths = made[name] = homes.Paths(joined.home.folder)
        own = "\n".join(line for line in table.splitlines() if not line.startswith("folder"))
        lines = "".join(f"{k} = {v}\n" for k, v in {"roles": f'["{role}"]', **POLICY}.items())
        paths.site_file.write_text(
            f'[site]\nname = "{name}"\nrole = "{role}"\nwork = "private/work"\n'
            f'[data]\nfolder = "{data / name}"\n{own}\n[policy]\n{lines}'
        )
        paths.allowed.write_text(f'[bundles]\n"{agents.BUNDLE}" = "the tests"\n')
    for paths in made.values():
        joining.membership.accept(homes.open(paths.folder), servers.public_bytes(server), now)
    entries = "".join(
        f'[[site]]\nname = "{name}"\nrole = "{"target" if name == TARGET else "source"}"\n' for name in made
    )
    path = tmp_path / "deployed.toml"
    path.write_text(whole.read_text().split("[[site]]")[0] + entries)
    return server, path, made, whole


def test_agents_and_a_roster_give_the_groups_model_of_a_simulation(hospitals, tmp_path):
    """The same weights and Fisher; every hospital's log has what came and left, and holds."""
    server, path, made, whole = hospitals
    out = server.folder / "runs/one/out"
    with ExitStack() as stack:
        for paths in made.values():
            stack.enter_context(agents.in_thread(paths))
        results = deployed(path, out, made, "imm-mode", nodes=4)
    assert {row["status"] for row in results["rows"]} == {"ok"}
    run(whole, tmp_path / "simulated", "imm-mode", nodes=4)
    expected = model(tmp_path / "simulated", "group-1")
    (at,) = (
        file
        for file in (made[TARGET].private / "work/received").glob("*.safetensors")
        if '"site":"group-1"' in container.read_header(file).metadata["fedmerge"]
    )
    found_ = wire.read(at)
    assert all(torch.equal(found_.weights[name], value) for name, value in expected.weights.items())
    assert all(torch.equal(found_.fisher[name], value) for name, value in expected.fisher.items())
    for name in THREE:
        report = audit.verify(made[name].audit, keys.read_signing(made[name].signing_key).public_key())
        assert report.sound
        left = [(line.what, line.purpose) for line in report.lines if line.way == "out"]
        assert ("message", "query.mask") in left
        assert not [what for what, _ in left if what == "contribution"]
        assert not list((made[name].private / "work/masked").glob("*.key"))
