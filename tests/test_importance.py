"""`[train] fisher = "target"`: no Fisher leaves a source, and the target makes one of each model that it gets."""

import dataclasses

import pytest
import torch
from small import campaign, hospitals

from fedmerge import fisher, fusion, nets, params, results, tasks, wire
from fedmerge.errors import ConfigError
from fedmerge.fusion import mixing, recipe
from server import inprocess
from server import plan as plans
from server.app import app as server_app
from server.store import Store
from sites import config as site_config
from sites import importance, source
from sites.app import app as client_app
from sites.inbound import Declined

METHODS = "mean,imm-mode,t-imm,imm-mode+warm-up,auto"


def made(folder, text, methods=METHODS):
    """The results of the tiny campaign with `text` in place of its `fisher_cases`, and a patient a case."""
    path = campaign(folder)
    whole = path.read_text().replace("fisher_cases = 3", text)
    path.write_text(whole.replace("[site.data]\n", '[site.data]\npatient = "(.*)"\n'))
    out = folder / "out"
    inprocess.run(server_app, client_app, {"campaign": str(path), "out": str(out), "methods": methods, "workers": 1}, 3)
    return results.read(out)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, results) of a campaign."""
    folder = hospitals(tmp_path_factory.mktemp("importance"))
    return folder, made(folder, 'fisher = "target"')


def row_of(folder, name="north"):
    """The target's row, its training cases, and what a source sent."""
    found = [wire.read(path) for path in sorted((folder / "out/server/contributions").iterdir())]
    contribution = next(c for c in found if c.site == name and not any("@" in n for n in c.weights))
    site = site_config.from_campaign(folder / "small.toml", "harbour", work=folder / "out/sites/harbour")
    train = source.parts(site, (8, 8, 8), seed=0, target_cases=2)["train"]
    own = contribution.net
    like = nets.on_meta(own, in_channels=own["in_channels"], out_channels=own["out_channels"])
    heads = nets.heads(own, in_channels=own["in_channels"], out_channels=own["out_channels"])
    body = tuple(name for name in params.shapes(like) if name not in heads)
    net = tasks.Net(own, 1, ("ball", "cube"), (8, 8, 8), body, (), (), ())
    row = tasks.Row(
        "", "", "small", dataclasses.asdict(fusion.METHODS["imm-mode"]), net, ("T1",), (), (), "", 7, 0, 2, "", None,
        0.0, {}, 1, fisher="target",
    )  # fmt: skip
    return site, row, train, contribution


def test_no_fisher_leaves_and_every_row_comes_to_a_score(run):
    """Contributions are weights alone; ratios are still told where they were fitted, merged models are not here."""
    folder, found = run
    sent = [wire.read(path) for path in (folder / "out/server/contributions").iterdir()]
    assert {(c.fisher_labels, len(c.fisher)) for c in sent} == {("none", 0)}
    assert {row["status"] for row in found["rows"]} == {"ok"}
    assert all(row["dice"] is not None for row in found["rows"])
    told = {one["method"] for one in found["ratios"]}
    assert {"mean", "t-imm", "imm-mode+warm-up"} <= told
    assert "imm-mode" not in told  # its ratios are equal, and nobody fits or sends them
    kept = {path.name.partition("-seed")[0] for path in (folder / "out/models/harbour").glob("*.fused.safetensors")}
    assert kept == {"mean"}


def test_the_merge_is_that_of_fishers_made_of_the_targets_cases(run):
    """Mode-IMM, made again here from the models alone."""
    folder = run[0]
    models, fishers = [], []
    for name in ("north", "south"):
        site, row, train, contribution = row_of(folder, name)
        seeded = dataclasses.replace(row, seed=0)
        models.append(contribution.weights)
        fishers.append(importance.fisher_of(site, seeded, contribution, train))
    plan = plans.read(folder / "small.toml")
    like = nets.on_meta(plan.net, in_channels=1, out_channels=3)
    heads = nets.heads(plan.net, in_channels=1, out_channels=3)
    fusable = [n for n in params.shapes(like) if n not in heads and "norm" not in n]
    method = fusion.METHODS["imm-mode"]
    mixed = recipe.mix(method, models, fishers, fusable, net=like, image=(1, 8, 8, 8), who=("north", "south"))
    fused = mixing.fuse(mixed, mixing.ratios(mixing.zeros(mixed), plan.ratios))
    phases = [
        Store(folder / "out/server").phase(p.stem) for p in (folder / "out/server/phases").glob("*finetuned.json")
    ]
    assert params.digest(fused) in {phase["fused"] for phase in phases}


def test_the_fisher_is_of_the_model_and_of_no_label_of_the_target(run):
    """Squares of gradients, averaged; other labels give the same, another seed and another model do not."""
    site, row, train, contribution = row_of(run[0])
    found = importance.fisher_of(site, row, contribution, train)
    blind = [dataclasses.replace(case, label=torch.zeros_like(case.label)) for case in train]
    again = importance.fisher_of(site, row, contribution, blind)
    assert all(torch.equal(found[name], again[name]) for name in found)
    others = (dataclasses.replace(row, seed=8), row_of(run[0], "south"))
    assert params.digest(importance.fisher_of(site, others[0], contribution, train)) != params.digest(found)
    assert params.digest(importance.fisher_of(site, row, others[1][3], train)) != params.digest(found)
    single = [importance.fisher_of(site, row, contribution, [case]) for case in train[:1]]
    net = nets.build(contribution.net, in_channels=1, out_channels=2, seed=0)
    params.load(net, {name: contribution.weights[name] for name in params.shapes(net)})
    assert single[0].keys() == set(row.net.fusable)
    assert all((value >= 0).all() for value in found.values())
    generator = torch.Generator().manual_seed(importance.seed_of(row, contribution))
    expected = fisher.diagonal(net, [(train[0].image, train[0].label)], row.net.fusable, generator=generator)
    assert params.digest(expected) == params.digest(single[0])


def test_models_of_other_channels_are_refused(run):
    """A clear word in place of an error of torch."""
    site, row, train, contribution = row_of(run[0])
    two = dataclasses.replace(row, net=dataclasses.replace(row.net, in_channels=2))
    with pytest.raises(Declined, match="harbour: a Fisher at the target expected models of 2 image channels, got 1"):
        importance.fisher_of(site, two, contribution, train)


def test_with_differential_privacy_the_target_makes_it_too(tmp_path):
    """The contribution is weights and noise; it says that it has no Fisher."""
    found = made(hospitals(tmp_path), 'fisher = "target"\nepsilon = 50.0\ndelta = 1e-3', "t-imm")
    assert {row["status"] for row in found["rows"]} == {"ok"}
    sent = [wire.read(path) for path in (tmp_path / "out/server/contributions").iterdir()]
    assert {c.fisher_labels for c in sent} == {"none"}
    assert {one["site"] for one in found["privacy"]} == {"north", "south"}


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ('fit = "far"', "the server has no Fisher to merge with"),
        ('method = "ewc"', "ewc needs the sources' Fishers"),
        ('method = "fedavg-fisher"', "fedavg-fisher needs the sources' Fishers"),
    ],
)
def test_what_needs_the_sources_fishers_is_refused(tmp_path, head, words):
    """Before anything is trained."""
    path = campaign(tmp_path, head=head)
    path.write_text(path.read_text().replace("fisher_cases = 3", 'fisher = "target"'))
    with pytest.raises(ConfigError, match=words):
        plans.read(path)
