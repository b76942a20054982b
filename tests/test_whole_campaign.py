"""Campaigns on whole volumes, through every stage: what lies far from the middle is found, and stops change nothing."""

import pytest
from far_lesions import PATCH, campaign, hospitals
from test_campaign import bare, failing, run

from fedmerge.cli import audit_privacy
from fedmerge.errors import CampaignStopped, ConfigError
from server import plan
from sites import config, findings, preflight

WHOLE = 'field = "whole"\nforeground = 0.5'
SCORES = '\n[evaluate]\nmeasures = ["dice", "hd95", "lesion-dice"]\noverlap = 0.25'
EVERYTHING = 'augment = ["all"]\ndeep = true'


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """The hospitals' folder, with room for campaign files."""
    return hospitals(tmp_path_factory.mktemp("far"))


@pytest.fixture(scope="module")
def whole(far, tmp_path_factory):
    """A campaign on whole volumes without interruption: one merge, fitted, and none."""
    path = campaign(far, "whole", net=WHOLE + SCORES)
    return path, run(path, tmp_path_factory.mktemp("whole"), "t-imm,none")


def last(results, method):
    """A method's last stage."""
    return next(row for row in results["rows"] if (row["method"], row["stage"]) == (method, "fine-tuned"))


def test_what_the_centre_cannot_see_is_found(far, whole, tmp_path):
    """The same campaign around the centre finds nothing at all; on whole volumes lesions are found."""
    centre = run(campaign(far, "centre"), tmp_path, "t-imm")
    assert last(centre, "t-imm")["dice"] == 0
    _, results = whole
    assert last(results, "t-imm")["dice"] > 0.4
    own = [one["dice"] for one in results["forgetting"] if one["weights"] == one["task"]]
    assert len(own) == 2
    assert min(own) > 0.8


def test_surfaces_and_lesions_are_in_the_results(whole):
    """Of each case and label, of each row, and of the sources' own tasks; centres of few voxels score no lesion."""
    _, results = whole
    for row in results["rows"]:
        for case in row["cases"]:
            assert case.keys() == {"case", "dice", "hd95", "lesion-dice"}
            assert case["hd95"].keys() == case["dice"].keys() == {"front", "back"}
        assert row["hd95"] >= 0
    assert last(results, "t-imm")["hd95"] < 25
    assert {"hd95", "lesion-dice"} <= results["forgetting"][0].keys()
    assert results["campaign"]["evaluate"] == {"measures": ["dice", "hd95", "lesion-dice"], "overlap": 0.25,
                                               "flips": False}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "site", "label"),
    [
        ("train.adapt", 2, "t-imm"),
        pytest.param("train.contribute", 1, "", marks=pytest.mark.slow),
        pytest.param("train.finetune", 2, "none", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_campaign_goes_on_to_the_same_numbers(whole, tmp_path, kind, site, label):
    """Patches are functions of seed and step, so a second start draws what the first would have drawn."""
    path, uninterrupted = whole
    with pytest.raises(CampaignStopped):
        run(path, tmp_path, "t-imm,none", failing(kind, site, label))
    assert bare(run(path, tmp_path, "t-imm,none")) == bare(uninterrupted)


def test_far_is_near_with_augmented_patches_and_deep_supervision(far, tmp_path):
    """Both ways of fitting see the same patches, changed in the same way: ratios and scores to 1e-6."""
    results = {}
    for fit in ("near", "far"):
        lines = {"train": EVERYTHING, "adapt": EVERYTHING, "net": WHOLE, "head": f'fit = "{fit}"'}
        path = campaign(far, fit, **lines)
        path.write_text(path.read_text().replace("steps = 40", "steps = 20"))
        results[fit] = run(path, tmp_path / fit, "t-imm")
    for (name, here), there in zip(
        results["near"]["ratios"][0]["groups"].items(), results["far"]["ratios"][0]["groups"].values(), strict=True
    ):
        assert here == pytest.approx(there, abs=1e-6), name
    for one, two in zip(results["near"]["rows"], results["far"]["rows"], strict=True):
        assert one["dice"] == pytest.approx(two["dice"], abs=1e-6)


def test_patients_are_protected_on_whole_volumes_too(far, tmp_path):
    """A patient's patch is drawn by dice of its own and clipped alone; the results say what it was bought for."""
    path = campaign(far, "private", net=WHOLE, train="dp_noise = 1.0\ndelta = 1e-3")
    path.write_text(path.read_text().replace("fisher_cases = 2\n", "").replace("steps = 40", "steps = 4"))
    results = run(path, tmp_path, "imm-mode")
    assert {one["site"] for one in results["privacy"]} == {"north", "south"}
    assert last(results, "imm-mode")["status"] == "ok"


def test_policies_let_the_mean_of_every_measure_go_and_no_single_case(far, tmp_path):
    """Where single cases stay at home, one record has the mean of each measure by label."""
    path = campaign(far, "policy", net=WHOLE + SCORES)
    strict = "\n[site.policy]\nroles = ['target']\ncampaigns = ['far']\nnets = ['*']\nlabels = ['*']\nmetrics = true\n"
    path.write_text(path.read_text().replace("steps = 40", "steps = 5") + strict + "min_cases = 1\n")
    row = last(run(path, tmp_path, "none"), "none")
    (record,) = row["cases"]
    assert record["case"] == "all"
    assert record.keys() == {"case", "dice", "hd95", "lesion-dice"}
    assert row["hd95"] == pytest.approx(sum(record["hd95"].values()) / 2)


def test_the_check_warns_of_nothing_outside_a_whole_volume(far, tmp_path):
    """Around the centre every case is warned of; of whole volumes none is, and the site hears what the net sees."""
    site = config.from_campaign(campaign(far, "whole-check"), "harbour", work=tmp_path)
    patch = (PATCH,) * 3
    assert sum("outside the net's patch" in f.sentence for f in preflight.check(site, patch)) == 7
    assert preflight.check(site, patch, field="whole") == []
    told = findings.data(site, patch, "whole")[-1].found
    assert told.endswith("the net sees whole volumes, 8 x 8 x 8 voxels at once")


def test_the_attacks_refuse_what_they_were_not_made_for(far):
    """An audit of a contribution that was trained on whole volumes says so before it reads a case."""
    with pytest.raises(ConfigError, match=r"north: the attacks are made for cases .* \[net\] field is 'whole'"):
        audit_privacy.recipe(plan.read(campaign(far, "audited", net=WHOLE)), 5, "north", 0, 0)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ({"net": 'field = "half"'}, r"\[net\] field expected one of centre, whole, got 'half'"),
        ({"net": "foreground = 1.5"}, r"\[net\] foreground expected a number from 0 to 1, got 1.5"),
        ({"net": '[evaluate]\nmeasures = ["dice", "hd100"]'}, r"\[evaluate\] measures expected one of dice, hd95, les"),
        ({"net": '[evaluate]\nmeasures = ["hd95"]'}, r"\[evaluate\] measures expected 'dice' among them"),
        ({"net": "[evaluate]\nflips = 1"}, r"\[evaluate\] flips expected true or false, got 1"),
        ({"net": "[evaluate]\noverlap = 1.0"}, r"\[evaluate\] overlap expected a number from 0 to 0.9, got 1.0"),
        ({"train": 'augment = ["shear"]'}, r"\[train\] augment expected one of all, rotate, scale"),
        ({"adapt": "deep = 1"}, r"\[adapt\] deep expected true or false, got 1"),
    ],
)
def test_a_plan_says_what_it_cannot_have(far, lines, sentence):
    """Table, key, what was expected, what came."""
    with pytest.raises(ConfigError, match=sentence):
        plan.read(campaign(far, "wrong", **lines))


def test_a_net_without_levels_and_a_task_without_voxels_are_refused(far):
    """Deep supervision needs logits of several levels; a picture is seen whole anyway."""
    path = campaign(far, "other", train="deep = true")
    path.write_text(path.read_text().replace("isensee2017", "segresnet").replace("depth = 2", "depth = 3"))
    with pytest.raises(ConfigError, match=r"\[train\] deep expected a net with logits of several levels .*segresnet"):
        plan.read(path)
    for lines, key in (({"net": WHOLE}, "field"), ({"net": "[evaluate]\nflips = true"}, "evaluate"),
                       ({"train": 'augment = ["flip"]'}, "augment")):  # fmt: skip
        path = campaign(far, "pictures", head='task = "classification"', **lines)
        text = path.read_text().replace('"isensee2017"', '"resnet"').replace("[8, 8, 8]", "[8, 8]")
        path.write_text(text)
        with pytest.raises(ConfigError, match=rf"{key}.* is for volumes, and \[campaign\] task is 'classification'"):
            plan.read(path)
