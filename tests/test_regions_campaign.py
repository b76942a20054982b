"""Nets that answer regions, from BraTS folders on disk through a campaign to label maps, beside a net of labels."""

import json

import made_layouts
import nibabel
import numpy as np
import pytest
import torch
from commandline import command
from made_layouts import BRATS_2018, BRATS_2023
from torch import nn

from fedmerge import answers, cards, evaluation, fisher, losses, nets, params, penalties, results, tasks, wire
from fedmerge.pages import layers
from fedmerge.pages import net as drawing
from sites import attack, cases, config, importance, patches, predict, ways
from sites.labels import REGIONS

METHODS = ["t-imm", "imm-mode+stitch", "lwf+stitch", "pooled", "fedavg"]
UNSTITCHED = "imm-mode:north+stitch"  # the target's regions out of a head of labels
HEAD = """
[campaign]
precision = "float32"
schedule = "chain"
methods = {methods}
[net]
name = "isensee2017"
base_filters = 2
depth = 2
patch = [8, 8, 8]
field = "whole"
[train]
steps = 2
fisher_cases = 2
deep = true
augment = ["flip"]
rounds = 1
[adapt]
steps = 2
[finetune]
steps = 2
[evaluate]
flips = true
[[site]]
name = "south"
role = "source"
[site.data]
folder = "south"
layout = "brats"
labels = "brats"
outputs = "regions"
pooled_labels = "brats"
test = 1
[[site]]
name = "north"
role = "source"
[site.data]
folder = "north"
layout = "msd"
labels = {{ necrosis = [1] }}
background = [2]
pooled_labels = {{ necrosis = [1], oedema = [2], enhancing = [3] }}
test = 1
[[site]]
name = "harbour"
role = "target"
[site.data]
folder = "harbour"
layout = "brats"
labels = "brats"
outputs = "regions"
train = 2
validate = 1
test = 1
"""
TUMOUR = ["TC", "WT", "ET"]  # in the order of the labels that are each region's own


def campaign(folder, methods, old="", new=""):
    """The file of a campaign of a source with labels, a source and a target with regions, beside their data."""
    made_layouts.decathlon(folder / "north", ["x", "y", "z"])
    graded = ["HGG/Brats18_CBICA_AAB_1", "HGG/Brats18_CBICA_AAC_1", "LGG/Brats18_TCIA09_141_1"]
    made_layouts.brats(folder / "south", graded, BRATS_2018, enhancing=4, axes="LAS")
    timed = [f"BraTS-GLI-{k:05d}-000" for k in range(4)]
    made_layouts.brats(folder / "harbour", timed, BRATS_2023, enhancing=3)
    path = folder / "campaign.toml"
    path.write_text(HEAD.format(methods=json.dumps(methods)).replace(old, new))
    return path


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(file, folder of the run) of a campaign."""
    path = campaign(tmp_path_factory.mktemp("regions"), [*METHODS, UNSTITCHED])
    assert command("simulate", path, "--out", path.parent / "run") == 0
    return path, path.parent / "run"


def target(path, name="harbour"):
    """A site of the campaign, and its cases."""
    site = config.from_campaign(path, name, work=path.parent / "work")
    return site, cases.find(site.data)


def contributions(run, name, kept=False):
    """What a source sent with its Fisher: of the plain training, or of the chain with another site's head."""
    found = [wire.read(one) for one in sorted((run / "server/contributions").iterdir())]
    return [c for c in found if c.site == name and c.fisher and any("@" in n for n in c.weights) == kept]


def test_each_method_comes_to_scores_of_the_regions(ran):
    """Merged by T-IMM, stitched, chained with distillation, pooled, averaged over rounds: in every stage of a row."""
    told = results.read(ran[1])
    *rows, failed = told["rows"]
    assert [row["method"] for row in rows if row["stage"] == "fine-tuned"] == METHODS
    for row in rows:
        assert (row["status"], row["error"]) == ("ok", None)
        assert all(set(case["dice"]) == set(REGIONS) for case in row["cases"])
    assert (failed["method"], failed["status"]) == (UNSTITCHED, "failed")
    assert failed["error"] == (
        "harbour: the region 'TC (necrosis, enhancing)' is none of the sources' (none): heads cannot be stitched"
    )
    assert {line["task"] for line in told["forgetting"]} == {"north", "south"}
    regions = {site["name"]: site.get("regions") for site in told["sites"]}
    assert regions["north"] is None
    assert list(regions["south"]) == list(regions["harbour"]) == TUMOUR


def test_each_source_sends_the_head_of_its_own_kind(ran):
    """Two rows of labels, three of regions; the chain's last model keeps both, and shared filters of one shape."""
    _, run = ran
    (north,), (south,) = contributions(run, "north"), contributions(run, "south")
    assert (north.net["out_channels"], dict(north.regions)) == (2, {})
    assert (south.net["out_channels"], set(south.regions)) == (3, set(TUMOUR))
    heads = nets.heads(nets.bare(north.net), in_channels=4, out_channels=2)
    (chained,) = contributions(run, "north", kept=True)
    for name in heads:
        assert (len(chained.weights[name]), len(chained.weights[f"{name}@south"])) == (2, 3)
    assert north.fisher.keys() == south.fisher.keys()


def test_what_is_scored_is_the_label_map_that_lies_on_disk(ran):
    """The prediction of each test case read back from its file, on its image's voxels: the Dice of the table."""
    path, run = ran
    site, found = target(path)
    by_id = {one.id: one for one in found}
    last = [row for row in results.read(run)["rows"] if row["stage"] == "fine-tuned" and row["status"] == "ok"]
    for row in last:
        for case in row["cases"]:
            (kept,) = (run / "sites/harbour/predictions").glob(f"{row['method']}-*/{case['case']}.nii.gz")
            answer, truth = (nibabel.load(one) for one in (kept, by_id[case["case"]].label))
            np.testing.assert_allclose(answer.affine, truth.affine, atol=1e-4)
            values = {
                name: tuple(list(site.data.labels).index(part) + 1 for part in own) for name, own in REGIONS.items()
            }
            want = evaluation.dice(np.asarray(answer.dataobj), np.asarray(truth.dataobj), values)
            assert case["dice"] == pytest.approx(want)


def test_predict_says_what_the_campaign_said(ran, tmp_path):
    """The model file knows its regions: from the files of a test case the same label map, voxel by voxel."""
    path, run = ran
    _, found = target(path)
    (model,) = run.glob("models/harbour/t-imm*fine-tuned.safetensors")
    (kept,) = (run / "sites/harbour/predictions").glob("t-imm-*/*.nii.gz")
    one = next(one for one in found if kept.name.startswith(one.id))
    assert command("predict", model, *one.images, "--out", tmp_path, "--flips") == 0
    (made,) = tmp_path.glob("*.nii.gz")
    first, second = nibabel.load(made), nibabel.load(kept)
    np.testing.assert_array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))
    assert "2 oedema" in " ".join((tmp_path / "labels-slicer.ctbl").read_text().split())


class Bright(nn.Module):
    """TC, WT and ET by the first channel's normalised brightness: the core is what is brightest."""

    def forward(self, x):
        """(B, 4, *S) -> (B, 3, *S)."""
        whole, core = 20 * (x[:, :1] - 0.9), 20 * (x[:, :1] - 3.2)
        return torch.cat([core, whole, core], 1)


@pytest.mark.parametrize("window", [{"patch": [12, 10, 8]}, {"patch": [6, 6, 6], "field": "whole", "overlap": 0.25}])
@pytest.mark.parametrize("flips", [False, True])
def test_a_known_shape_comes_back_at_its_own_place(ran, tmp_path, window, flips):
    """At once or window by window, mirrored or not: the grey block is oedema, the bright one enhancing, to a voxel."""
    site, found = target(ran[0])
    info = {
        "net": {"name": "isensee2017"}, "channels": list(site.data.modalities), "labels": list(site.data.labels),
        "regions": site.data.answered, **window,
    }  # fmt: skip
    for one in found[:2]:
        predict.predict_file(Bright(), info, one.images, tmp_path / "answer.nii.gz", flips=flips)
        answer, drawn = (np.asarray(nibabel.load(path).dataobj) for path in (tmp_path / "answer.nii.gz", one.label))
        np.testing.assert_array_equal(answer, np.array([0, 3, 2, 3])[drawn])


def test_check_says_that_a_site_trains_on_regions(ran, capsys):
    """From the widest to the narrowest, with the labels of each; of a site that trains on labels it says nothing."""
    assert command("check", ran[0]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for name in ("south", "harbour"):
        assert (
            f"{name}: a net answers regions, a channel each: WT (necrosis, oedema, enhancing), "
            "TC (necrosis, enhancing), ET (enhancing); the narrowest that is on at a voxel says its label." in told
        )
    assert "north: a net answers" not in told


def test_a_target_makes_the_fisher_of_a_source_of_regions_by_yes_and_no(ran):
    """Drawn from the model's own sigmoids, at the target: what `fisher.diagonal` makes of the same draws."""
    path, run = ran
    site, found = target(path)
    (south,) = contributions(run, "south")
    train = cases.load(site, found[:2], patch=(8, 8, 8))
    body = tuple(south.fisher)
    net = tasks.Net(dict(south.net), 4, tuple(site.data.labels), (8, 8, 8), body, regions=site.data.answered)
    row = tasks.Row(
        "", "", "", {}, net, (), (), (), "", 7, 0, 2, "", None, 0.0, {}, 1, fisher="target",
    )  # fmt: skip
    built = nets.build(south.net, in_channels=4, out_channels=3, seed=0)
    params.load(built, south.weights)
    by_hand = fisher.diagonal(
        built, [patches.pieces(case) for case in train], body,
        generator=torch.Generator().manual_seed(importance.seed_of(row, south)), likelihood=net.task.likelihood,
    )  # fmt: skip
    made = importance.fisher_of(site, row, south, train)
    assert made.keys() == by_hand.keys()
    assert all(torch.equal(made[name], by_hand[name]) for name in made)


def test_the_attacks_on_a_contribution_know_its_loss(ran):
    """The loss of each patient is that of the regions; a Fisher of these patients is held against theirs."""
    path, run = ran
    site, found = target(path, "south")
    (south,) = contributions(run, "south")
    audit = attack.Audit(site, south, attack.Recipe((8, 8, 8), fisher_cases=2, settings=None))
    loss, _, domination = audit.membership()
    built = nets.build(south.net, in_channels=4, out_channels=3, seed=0).eval()
    params.load(built, south.weights)
    read = answers.of(south.net, south.labels, south.regions).regions.read
    by_id = {one.patient: case for one, case in zip(found, cases.load(site, found, patch=(8, 8, 8)))}
    for who, score in {**loss.inside, **loss.outside}.items():
        case = by_id[who]
        want = losses.dice_bce(read)(built(case.image[None]), case.label[None]).item()
        assert abs(score) == pytest.approx(want, rel=1e-5)
    assert len(domination.inside) == 2
    assert all(np.isfinite(value) for value in domination.inside.values())


def test_a_head_of_regions_is_distilled_by_yes_and_no(ran):
    """At a site of labels whose predecessor answers regions: the term is theirs, of the rows that are kept for them."""
    path, run = ran
    site, found = target(path, "north")
    (north,), (south,) = contributions(run, "north"), contributions(run, "south")
    heads = nets.heads(nets.bare(north.net), in_channels=4, out_channels=2)
    net = tasks.Net(dict(north.net), 4, north.labels, (8, 8, 8), heads=heads)
    asked = tasks.Contribute(
        "", "", 0, net, {"steps": 1, "lr": 1.0}, 0, "none", 0, "", "", 1, way="lwf", strength=0.5, regional=("south",)
    )
    built = nets.build(north.net, in_channels=4, out_channels=2, seed=0)
    params.load(built, north.weights)
    way = ways.prepare(asked, built, params.of(built), [south])
    x = cases.load(site, found[:1], patch=(8, 8, 8))[0].image[None]
    answer, term = way.options["through"](way.net.eval(), x, 0)
    teacher = nets.build(south.net, in_channels=4, out_channels=3, seed=0).eval()
    params.load(teacher, south.weights)
    with torch.no_grad():
        want = 0.5 * penalties.distillation(answer[:, 2:], teacher(x), regions=True)
        other = 0.5 * penalties.distillation(answer[:, 2:], teacher(x))
    assert term.item() == pytest.approx(want.item(), rel=1e-5)
    assert term.item() != pytest.approx(other.item(), rel=1e-2)


def test_a_models_card_and_the_drawing_of_its_net_tell_of_regions(ran):
    """The labels, what each region is of, and as many logits as regions."""
    _, run = ran
    (model,) = run.glob("models/harbour/t-imm*fine-tuned.safetensors")
    weights, info = wire.read_model(model)
    text = cards.markdown(info, 1, params.digest(weights), cards.Told("demo"), results.read(run))
    assert "| 0 | background |" in text
    assert "| region WT | necrosis, oedema, enhancing |" in text
    drawn, why = drawing.of(results.read(run))
    assert why == ""
    assert drawn == layers.of(nets.bare(info["net"]), info["patch"], in_channels=1, out_channels=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "engine"),
    [("", "", "flower"), ("[campaign]", '[campaign]\nfit = "far"', "inprocess"),
     ("[campaign]", '[campaign]\ntrust = "target"', "inprocess")],
)  # fmt: skip
def test_other_ways_of_running_it_have_the_same_numbers(ran, tmp_path, old, new, engine):
    """By Flower, fitted far from the data, sealed to the target: T-IMM has the scores of the plain run."""
    path = campaign(tmp_path, ["t-imm"], old, new)
    assert command("simulate", path, "--out", tmp_path / "run", "--engine", engine) == 0
    want = [row["cases"] for row in results.read(ran[1])["rows"] if row["method"] == "t-imm"]
    assert [row["cases"] for row in results.read(tmp_path / "run")["rows"]] == want


@pytest.mark.slow
def test_a_source_of_regions_trains_with_noise(tmp_path):
    """With differential privacy: what it cost stands in the results, no Fisher leaves, and the row has its scores."""
    path = campaign(tmp_path, ["t-imm"], "fisher_cases = 2", "dp_noise = 1.0")
    text = path.read_text().replace('augment = ["flip"]\n', "")
    path.write_text(text.replace('folder = "north"', 'folder = "north"\npatient = "(.*)"'))
    assert command("simulate", path, "--out", tmp_path / "run") == 0
    told = results.read(tmp_path / "run")
    assert {line["site"] for line in told["privacy"]} == {"north", "south"}
    assert all(row["status"] == "ok" and set(row["cases"][0]["dice"]) == set(REGIONS) for row in told["rows"])
    sent = [wire.read(one) for one in (tmp_path / "run/server/contributions").iterdir()]
    assert {one.fisher_labels for one in sent} == {"flat"}
