"""`fedmerge audit-privacy` end to end: a site's own contribution, attacked with its own patients."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from commandline import command
from pages import keys, named, tables
from small import PATCH, campaign, hospitals

from fedmerge import fisher, losses, nets, params, partition, tasks, training, wire
from fedmerge.contribution import Contribution
from fedmerge.errors import ConfigError
from fedmerge.privacy import separation
from sites import attack, config, outbound, scores, source
from sites import home as homes
from sites import tables as site_tables
from sites.records import OPEN

NET = {"name": "isensee2017", "base_filters": 2, "depth": 2}
PAGE = "docs/attacks.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The campaign's file, and north's contribution: 60 steps on 8 cases, 4 held back, an observed Fisher of 5."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = hospitals(tmp_path_factory.mktemp("audited"), cases=12)
    path = campaign(folder)
    text = path.read_text().replace("fisher_cases = 3", 'fisher = "observed"\nfisher_cases = 5')
    path.write_text(text.replace("steps = 6", "steps = 60", 1).replace("test = 2", "test = 4", 1))
    site = config.from_campaign(path, "north", work=folder / "work")
    built = nets.build(NET, in_channels=1, out_channels=2, seed=0)
    heads = nets.heads(NET, in_channels=1, out_channels=2)
    parts = partition.of(built, heads)
    net = tasks.Net(NET, 1, ("ball",), (PATCH,) * 3, parts.fusable, parts.norms, parts.heads, parts.other)
    start = params.split(params.of(built), {*parts.fusable, *parts.norms})[0]
    digest = params.digest(start)
    settings = asdict(training.Settings(steps=60, lr=5e-3))
    asked = tasks.Contribute(
        digest, "small", 0, net, settings, 0, "observed", 5, digest, digest, 1, precision="float32"
    )
    _, payload = source.contribute(site, tasks.to_table(asked), {"start": wire.params_to_bytes(start)})
    yield path, payload["contribution"]
    torch.set_num_threads(threads)


def audited(made, out, *options, campaign=None):
    """The command's exit code, and what it wrote."""
    path, file = made
    code = command("audit-privacy", campaign or path, "--site", "north", "--contribution", file, "--out", out, *options)
    return code, json.loads((out / "audit.json").read_text()) if code < 2 else None


def with_policy(made, lines):
    """The campaign with a policy for north, beside the old one."""
    path = made[0].with_name("policy.toml")
    text = made[0].read_text().replace('role = "source"', f'role = "source"\n[site.policy]\n{lines}', 1)
    path.write_text(text)
    return path


def test_a_plain_fisher_gives_its_cohort_away(made, tmp_path, capsys):
    """Five members, four others, an area of 1: above the threshold, and the command ends with 1."""
    code, told = audited(made, tmp_path / "audit", "--threshold", "0.9")
    loss, lira, domination = told["attacks"]
    assert code == 1
    assert (domination["auc"], domination["tpr"], domination["fpr"], domination["verdict"]) == (1.0, 1.0, 0.0, "above")
    assert (domination["members"], domination["others"], loss["members"]) == (5, 4, 8)
    assert domination["least_fpr"] == 0.25
    assert (lira["verdict"], lira["auc"]) == ("not run", None)
    out = capsys.readouterr().out
    assert "Fisher domination" in out
    assert "at 0 of 4" in out
    assert "north: Fisher domination above an AUC of 0.9" in out.replace("loss threshold and ", "")


def test_what_the_policy_keeps_at_home_is_not_attacked(made, tmp_path):
    """`fisher = "none"` and a threshold of 1: nothing is above it, and the command ends with 0."""
    path = with_policy(made, 'fisher = "none"\nmax_attack_auc = 1')
    code, told = audited(made, tmp_path / "audit", campaign=path)
    assert code == 0
    assert (told["threshold"], told["fisher"]) == (1.0, "flat")
    assert told["attacks"][2]["verdict"] == "not run"


def test_means_over_channels_give_the_cohort_away_too(made, tmp_path):
    """Sums of inequalities are inequalities; a policy without a threshold tolerates chance only."""
    code, told = audited(made, tmp_path / "audit", campaign=with_policy(made, 'fisher = "channel"'))
    assert (code, told["threshold"], told["fisher"]) == (1, 0.5, "observed")
    assert told["attacks"][2]["tpr"] == 1.0


def test_labels_that_were_sampled_with_a_known_seed_hide_nobody(made, tmp_path):
    """With the draws of the task every member is found; with other draws none reaches a share of 1."""
    site = config.from_campaign(made[0], "north", work=tmp_path)
    found, own = wire.read(made[1]), source.parts(site, (PATCH,) * 3)["train"][:5]
    net = nets.build(NET, in_channels=1, out_channels=2, seed=1)
    params.load(net, found.weights)
    cohort, draws = [(case.image, case.label) for case in own], torch.Generator().manual_seed(7)
    sampled = fisher.diagonal(net, cohort, found.fisher, labels="sampled", generator=draws)
    found = replace(found, fisher=sampled, fisher_labels="sampled")
    same, other = (attack.Audit(site, found, recipe(draws=seed)) for seed in (7, 8))
    told = same.membership()[2].roc
    assert (told.auc, told.tpr, told.members) == (1.0, 1.0, 5)
    assert all(same._held(case) == 1.0 > other._held(case) for case in own)


def test_reference_models_and_an_image_from_the_gradient(made, tmp_path):
    """The line of LiRA has numbers, and the picture is there; the form of the file is the page's."""
    path = made[0].with_name("short.toml")
    path.write_text(made[0].read_text().replace("steps = 60", "steps = 4", 1))
    _, told = audited(made, tmp_path / "a", "--references", "4", "--inversion", "3", campaign=path)
    lira = told["attacks"][1]
    assert 0 <= lira["auc_interval"][0] <= lira["auc"] <= lira["auc_interval"][1] <= 1
    assert lira["why"] == ""
    assert -1 <= told["inversion"]["found"]["ncc"] <= 1
    assert (tmp_path / "a/inversion.png").read_bytes()[:4] == b"\x89PNG"
    assert set(keys(PAGE, "audit.json")) == told.keys()
    assert set(keys(PAGE, "attacks")) == lira.keys()
    (verdicts,) = [rows for title, rows in tables(PAGE) if title == "Reading the table"]
    assert {named(row[0])[0]: row[1] for row in verdicts} == separation.VERDICTS


def test_the_losses_are_those_of_the_contribution_s_weights(made, tmp_path):
    """The area is that of losses taken by hand, case by case."""
    path, file = made
    site = config.from_campaign(path, "north", work=tmp_path)
    contribution = wire.read(file)
    audit = attack.Audit(site, contribution, recipe())
    net = nets.build(NET, in_channels=1, out_channels=2, seed=1).eval()
    params.load(net, contribution.weights)
    own = source.parts(site, (PATCH,) * 3)
    with torch.no_grad():
        inside, outside = (
            [-losses.dice_ce()(net(case.image[None]), case.label[None]).item() for case in own[part]]
            for part in ("train", "test")
        )
    found = audit.membership()[0]
    assert found.roc == separation.roc(inside, outside)
    assert ([*found.inside.values()], [*found.outside.values()]) == (pytest.approx(inside), pytest.approx(outside))
    assert (found.inside.keys(), found.outside.keys()) == (audit.members.keys(), audit.others.keys())


def recipe(**changes):
    """As the campaign trains."""
    made = attack.Recipe((PATCH,) * 3, training.Settings(steps=2, lr=1e-3), fisher_cases=5)
    return replace(made, **changes)


def test_what_reference_models_say_serves_other_models_of_the_same_patients(made, tmp_path):
    """Handed over they give the scores that their training gives, patient by patient."""
    site = config.from_campaign(made[0], "north", work=tmp_path)
    audit = attack.Audit(site, wire.read(made[1]), recipe())
    assert audit.membership(audit.references(4))[1] == audit.membership(4)[1]


def test_a_hospital_s_own_file_tells_data_and_policy(made, tmp_path):
    """With --home the campaign is the coordinator's, without a table of any hospital."""
    paths = homes.Paths(tmp_path / "home")
    paths.consortium_file.parent.mkdir(parents=True)
    facts = {"name": "north", "consortium": "c", "address": "localhost:1", "fingerprint": "f", "epoch": 1}
    paths.consortium_file.write_text(json.dumps(facts))
    paths.site_file.parent.mkdir(parents=True, exist_ok=True)
    paths.site_file.write_text(
        f'[site]\nname = "north"\nrole = "source"\n[data]\nfolder = "{made[0].parent / "north"}"\ntest = 4\n'
        'background = [2]\nlabels = { ball = [1] }\n[policy]\nmax_attack_auc = 0.99\nfisher = "full"\n'
    )
    head = made[0].read_text().partition("[[site]]")[0]
    plan = tmp_path / "plan.toml"
    plan.write_text(
        head + "".join(f'[[site]]\nname = "{n}"\nrole = "{r}"\n' for n, r in (("north", "source"), ("c", "target")))
    )
    code, told = audited(made, tmp_path / "audit", "--home", paths.folder, campaign=plan)
    assert (code, told["threshold"]) == (1, 0.99)
    assert told["attacks"][2]["verdict"] == "above"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"site": "south"}, "site expected north, got south"),
        ({"labels": ("cube",)}, "labels expected"),
        ({"cases": 7}, "trained on 7 cases, and the site has 8"),
    ],
)
def test_a_contribution_that_is_not_of_these_patients_is_refused(made, tmp_path, capsys, changes, words):
    """Another site's, of other labels, of cases that are not there any more: a sentence, and exit code 2."""
    other = tmp_path / "other.safetensors"
    found: Contribution = wire.read(made[1])
    wire.write(replace(found, **changes), other)
    assert audited((made[0], other), tmp_path / "audit")[0] == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--references", "3"), ("--references", "2"), ("--home", ".")])
def test_options_that_make_no_sense_are_refused(made, tmp_path, options):
    """References come in pairs, at least two of them; a folder that is no home."""
    assert audited(made, tmp_path / "audit", *options)[0] == 2


def test_every_patient_is_unseen_by_half_of_the_references():
    """Also with an odd number of patients; and the draw is a function of the seed."""
    saw = scores.halves(9, 6, seed=0)
    assert (saw.sum(0) == 3).all()
    assert set(saw.sum(1)) == {4, 5}
    assert np.array_equal(saw, scores.halves(9, 6, seed=0))
    assert not np.array_equal(saw, scores.halves(9, 6, seed=1))


def test_the_threshold_of_a_policy_is_an_area():
    """From 0 to 1; what is missing is chance, and without a policy everything is tolerated."""
    assert site_tables.policy({}, "x").max_attack_auc == 0.5
    assert OPEN.max_attack_auc == 1.0
    with pytest.raises(ConfigError, match="from 0 to 1"):
        site_tables.policy({"max_attack_auc": 60}, "x")


def test_verdicts_look_at_the_interval_too():
    """Above, below with all of the interval, and otherwise too few patients to tell."""
    found = separation.roc(np.arange(10.0), np.arange(10.0) + 0.5)
    low, high = found.auc_interval
    assert low < found.auc < high
    told = [separation.verdict(found, threshold) for threshold in (found.auc - 0.01, found.auc + 0.01, high)]
    assert told == ["above", "too few to tell", "below"]


def test_the_door_out_and_the_audit_reduce_alike(made, tmp_path):
    """What is attacked is, bit for bit, what leaves."""
    site = config.from_campaign(made[0], "north", work=tmp_path)
    for allowed in ("none", "channel", "full"):
        strict = replace(site, policy=replace(OPEN, fisher=allowed))
        leaves = outbound.contribution(strict, made[1], f"name-{allowed}")
        leaves = wire.from_bytes(leaves) if isinstance(leaves, bytes) else wire.read(leaves)
        assert attack.Audit(strict, wire.read(made[1]), recipe()).made == leaves
