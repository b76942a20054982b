"""Every row of the table runs on pictures of one class each, through the same campaign as label maps."""

import json
import re

import pytest
from small_pictures import CLASSES, campaign
from test_methods import NAMES

from fedmerge import measures, report, results, wire
from fedmerge.errors import ConfigError
from server import inprocess, plan
from server.app import app as server_app
from sites.app import app as client_app


def made(folder, methods, **options):
    """The results of a campaign of these methods."""
    config = {"campaign": str(campaign(folder, **options)), "out": str(folder / "out"), "methods": ",".join(methods)}
    inprocess.run(server_app, client_app, {**config, "workers": 1}, 3, 1)
    return results.read(folder / "out")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All rows, in one campaign."""
    folder = tmp_path_factory.mktemp("pictures")
    return folder / "out", made(folder, NAMES)


def stages(run, method):
    """Its rows by stage."""
    return {row["stage"]: row for row in run[1]["rows"] if row["method"] == method}


@pytest.mark.parametrize("method", NAMES)
def test_every_row_comes_to_a_score(run, method):
    """From start to end; F1 and accuracy are what the answers of its test cases amount to."""
    found = stages(run, method)
    assert {row["status"] for row in found.values()} == {"ok"}, [row["error"] for row in found.values()]
    last = found["fine-tuned"]
    assert len(last["cases"]) == 6
    assert last["accuracy"] == sum(one["truth"] == one["prediction"] for one in last["cases"]) / 6
    assert last["f1"] == measures.F1.value(last["cases"])
    assert {one["prediction"] for one in last["cases"]} <= set(CLASSES["harbour"])
    assert sorted(one["truth"] for one in last["cases"]) == sorted(CLASSES["harbour"] * 2)  # the classes in turn


def test_no_table_of_a_classification_speaks_of_dice(run):
    """Neither the results nor the page; both name F1 and accuracy."""
    folder, found = run
    rows = [{key: value for key, value in row.items() if key != "error"} for row in found["rows"]]
    page = (folder / "results.md").read_text()
    assert found["measure"] == "f1"
    assert "dice" not in json.dumps([rows, found["forgetting"]]).lower()
    assert "Dice" not in page
    assert {"accuracy", "fine-tuned"} <= set(report.heading(report.table(found)))
    assert "F1 by label" in page
    assert all(0 <= one["f1"] <= 1 for one in found["forgetting"])


def test_a_contribution_has_a_row_for_each_class_and_a_fisher_without_them(run):
    """North's head tells two classes apart; there is no row for a background."""
    north = next(c for p in sorted((run[0] / "server/contributions").iterdir()) if (c := wire.read(p)).site == "north")
    assert north.labels == ("normal", "ring")
    assert north.weights["head.weight"].shape == (2, 4)
    assert not {"head.weight", "head.bias"} & north.fisher.keys()
    assert all((value > 0).any() for value in north.fisher.values())


def test_the_target_keeps_what_the_model_said_of_each_picture(run):
    """A file a case, with the probability of each class."""
    row = stages(run, "mean")["fine-tuned"]
    for case in row["cases"]:
        told = json.loads(
            (run[0] / "sites/harbour/predictions/mean-seed0-chain0-n6" / f"{case['case']}.json").read_text()
        )
        assert told["prediction"] == case["prediction"]
        assert sum(told["probabilities"].values()) == pytest.approx(1)
        assert max(told["probabilities"], key=told["probabilities"].get) == case["prediction"]


def test_auto_says_by_what_it_chose(run):
    """Eighteen labelled pictures, each held out once: twelve to validate are enough for Dice only."""
    (choice,) = run[1]["choices"]
    assert "mean share of right answers" in choice["sentence"]
    assert "18 cases, each held out once" in choice["sentence"]


def test_classes_without_a_common_one_are_not_stitched(tmp_path):
    """The row says why, and `auto` goes on without the candidate that would stitch."""
    options = {"south": ("cyst", "spiculated"), "harbour": ("normal", "ring", "cyst")}
    found = made(tmp_path, ["imm-mode+stitch", "auto"], **options)
    rows = found["rows"]
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert re.search(
        r"harbour: the classes \(normal, ring\) and \(cyst, spiculated\) .* cannot be stitched", failed["error"]
    )
    assert list(found["choices"][0]["scores"]) == ["imm-mode+warm-up", "transfer:north", "transfer:south"]
    assert any(row["method"] == "auto" and row["f1"] is not None for row in rows)


def test_a_site_that_keeps_single_cases_at_home_tells_f1_by_class(tmp_path):
    """One record in place of the cases; the row's numbers are the same."""
    free, strict = tmp_path / "free", tmp_path / "strict"
    for folder in (free, strict):
        folder.mkdir()
    policy = (
        '[site.policy]\nroles = ["*"]\ncampaigns = ["*"]\nnets = ["*"]\nlabels = ["*"]\nmin_cases = 1\nmetrics = true\n'
    )
    (row,) = [row for row in made(free, ["none"])["rows"] if row["stage"] == "fine-tuned"]
    (told,) = [row for row in made(strict, ["none"], more=policy)["rows"] if row["stage"] == "fine-tuned"]
    (record,) = told["cases"]
    assert record == measures.F1.together(row["cases"])
    assert (told["f1"], told["accuracy"]) == pytest.approx((row["f1"], row["accuracy"]))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            '"resnet"',
            '"isensee2017"',
            r'isensee2017 is a net for segmentation, and \[campaign\] task is "classification"',
        ),
        (
            'task = "classification"\n',
            "",
            r'resnet is a net for classification, and \[campaign\] task is "segmentation"',
        ),
        ('"classification"', '"detection"', r"task expected one of segmentation, classification, got 'detection'"),
        ("depth = 2", "depth = 2\ndims = 3", "dims expected 2: campaigns of classification read 2D images, got 3"),
        ("patch = [16, 16]", "patch = [16, 16, 16]", "patch expected 2 sides, got 16x16x16"),
    ],
)
def test_a_plan_that_does_not_fit_its_task_is_told(tmp_path, old, new, sentence):
    """Before anything is read or trained."""
    path = campaign(tmp_path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=sentence):
        plan.read(path)
