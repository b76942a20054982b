"""Every row of the table runs in a campaign of tiny hospitals, and is made of what its paper says."""

import re
from pathlib import Path

import pytest
import torch
from small import campaign, hospitals

from fedmerge import fusion, heads, nets, params, results, wire
from fedmerge.fusion import recipe
from server import inprocess
from server.app import app as server_app
from sites.app import app as client_app

ROWS = [name if name != "transfer" else "transfer:north" for name in fusion.METHODS]
OPTIONS = ["lwf+stitch", "lwf+stitch+wise-ft", "imm-mode+stitch+keep-norm", "mean+stitch+merge-norm", "t-imm+stitch",
           "none+ema", "transfer:north+ema"]  # fmt: skip
NAMES = [*ROWS, *OPTIONS]


def made(folder, methods, **changes):
    """The results of a campaign of these methods; `changes` are texts to replace in its file."""
    plan = campaign(hospitals(folder / "data"))
    text = plan.read_text().replace("[finetune]", "[finetune]\nsoup_cycles = 2")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    plan.write_text(text)
    config = {"campaign": str(plan), "out": str(folder / "out"), "methods": ",".join(methods), "workers": 1}
    inprocess.run(server_app, client_app, config, 3, 1)
    return results.read(folder / "out")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All rows, in one campaign."""
    folder = tmp_path_factory.mktemp("methods")
    return folder / "out", made(folder, NAMES)


def stages(run, method):
    """Its rows by stage."""
    return {row["stage"]: row for row in run[1]["rows"] if row["method"] == method}


def contributions(run):
    """What the sources made: (site, digest of the start) -> the contribution."""
    found = [wire.read(path) for path in sorted((run[0] / "server/contributions").iterdir())]
    return [c for c in found if c.site != "pooled"]


@pytest.mark.parametrize("method", NAMES)
def test_every_row_comes_to_a_score(run, method):
    """From start to end, with a curve."""
    found = stages(run, method)
    assert {row["status"] for row in found.values()} == {"ok"}, [row["error"] for row in found.values()]
    assert 0 <= found["fine-tuned"]["dice"] <= 1
    assert len(found["fine-tuned"]["curve"]) > 1


def test_stitched_rows_begin_with_trained_heads_and_others_warm_up(run):
    """What is stitched has no adaptation; what fits ratios has one all the same."""
    assert set(stages(run, "lwf+stitch")) == {"start", "fine-tuned"}
    assert set(stages(run, "t-imm+stitch")) == {"start", "adapted", "fine-tuned"}
    assert set(stages(run, "lwf")) == {"start", "adapted", "fine-tuned"}


def test_a_chain_of_distillation_keeps_the_head_of_the_site_before(run):
    """South's contribution carries a head for north, of north's shape and changed by south's training."""
    (south,) = [c for c in contributions(run) if any(heads.KEPT in name for name in c.weights)]
    assert south.site == "south"
    kept = {n.partition(heads.KEPT)[0]: v for n, v in south.weights.items() if n.endswith("@north")}
    (north,) = [c for c in contributions(run) if c.site == "north" and _began_with(south, c, kept)]
    assert kept.keys() == set(nets.heads(nets.bare(north.net), in_channels=1, out_channels=2))
    for name, value in kept.items():
        assert value.shape == north.weights[name].shape
        assert not torch.equal(value, north.weights[name])


def _began_with(later, earlier, but):
    """Whether a training began with the body that another ended with: all but its heads."""
    return params.digest(params.split(earlier.weights, but)[1]) == later.parent


def test_sources_of_their_own_initialisation_share_no_ancestor(run):
    """Those of `medmerge` and the aligned rows began apart; all others share the ancestor."""
    own = [c for c in contributions(run) if c.ancestor == c.parent and c.site == "south"]
    ancestors = {c.ancestor for c in contributions(run)}
    assert len(ancestors) == 3  # the campaign's, north's own and south's own
    assert len({c.ancestor for c in own}) == 2  # the parallel one, and the one of its own


def test_each_way_of_training_comes_to_weights_of_its_own(run):
    """Plain, parallel, own, l2, drop, ewc and lwf: seven different contributions of south, beside the rounds'."""
    digests = {params.digest(c.weights) for c in contributions(run) if c.site == "south" and c.fisher}
    assert len(digests) == 7 + 5  # and the five rounds of fedavg-fisher, which send a Fisher too
    rounds = {params.digest(c.weights) for c in contributions(run) if c.site == "south" and not c.fisher}
    assert len(rounds) == 5 + 1  # fedavg and fedprox; at a round's first step the penalty is zero, and four have one


def test_medmerge_begins_at_its_anchor_and_moves(run):
    """Its ratios are one number a kernel; they began at (1, 0)."""
    (fitted,) = [one for one in run[1]["ratios"] if one["method"] == "medmerge"]
    values = torch.tensor([v for group in fitted["groups"].values() for v in group[1]])
    assert fitted["grain"] == "kernel"
    assert (values > 0).any()
    assert (values <= 1).all()


def test_auto_says_what_it_chose_and_is_that_row(run):
    """All candidates have a score, the best one is chosen, and its stages are those of its own row."""
    (choice,) = run[1]["choices"]
    scores = choice["scores"]
    assert list(scores) == ["lwf+stitch+wise-ft", "imm-mode+warm-up", "transfer:north", "transfer:south"]
    assert choice["chosen"] == max(scores, key=scores.get)
    assert choice["sentence"].startswith(f"auto chose {choice['chosen']}: mean Dice {scores[choice['chosen']]:.3f}")
    assert "4 cases, each held out once" in choice["sentence"]
    if choice["chosen"] in NAMES:
        auto, own = (stages(run, name)["fine-tuned"] for name in ("auto", choice["chosen"]))
        assert (auto["dice"], auto["cases"]) == (own["dice"], own["cases"])
        assert auto["target_steps"] > own["target_steps"]  # the candidates' steps are counted


def test_auto_without_common_labels_does_not_stitch(tmp_path):
    """The target's labels are new: the end of the chain goes on with a fresh head."""
    labels = {"labels = { ball = [1], cube = [2] }": "labels = { both = [1, 2] }"}
    found = made(tmp_path, ["auto"], **labels)
    (choice,) = found["choices"]
    assert list(choice["scores"]) == ["lwf", "imm-mode+warm-up", "transfer:north", "transfer:south"]


def test_what_cannot_be_stitched_fails_its_row_with_the_label(tmp_path):
    """The other rows go on."""
    labels = {"labels = { ball = [1], cube = [2] }": "labels = { ball = [1], disc = [2] }"}
    rows = made(tmp_path, ["imm-mode+stitch", "imm-mode"], **labels)["rows"]
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert "the label 'disc' is none of the sources' (ball, cube): heads cannot be stitched" in failed["error"]
    assert any(row["method"] == "imm-mode" and row["dice"] is not None for row in rows)


def test_a_new_method_is_a_rule_and_a_row(tmp_path, monkeypatch):
    """As the page on methods adds it: the lines that its diff adds are what is run here."""
    page = (Path(__file__).parent.parent / "docs/methods.md").read_text()
    (diff,) = re.findall(r"```diff\n(.*?)```", page, re.DOTALL)
    added = "\n".join(line[1:] for line in diff.splitlines() if line.startswith("+"))
    rule, row = added.split("        Method(")
    scope = {"torch": torch, "Method": fusion.Method}
    monkeypatch.setitem(recipe.COMBINED, "median", eval(f"{{{rule}}}", scope)["median"])  # noqa: S307 - our own page
    monkeypatch.setitem(fusion.METHODS, "median", eval(f"(Method({row})", scope)[0])  # noqa: S307
    rows = made(tmp_path, ["median"])["rows"]
    assert [row["status"] for row in rows] == ["ok"] * 3
    found = [wire.read(path).weights for path in (tmp_path / "out/server/contributions").iterdir()]
    (path,) = (tmp_path / "out/models/harbour").glob("median*.fused.safetensors")
    for name, value in wire.read_model(path)[0].items():
        assert torch.allclose(value, (found[0][name] + found[1][name]) / 2, atol=1e-6)
