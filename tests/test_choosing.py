"""`auto` with three sources: it tries merges of the best, and never looks at a test case to choose."""

import shutil

import nibabel
import numpy as np
import pytest
from small import campaign, hospitals

from fedmerge import fusion, results
from fedmerge.errors import CampaignStopped
from server import choosing, inprocess, training
from server import plan as plans
from server.adaptation import Place
from server.app import app as server_app
from server.ground import lay
from server.merging import Outcome
from server.store import Store
from sites.app import app as client_app

CLOSED = """[site.policy]
roles = ["target"]
campaigns = ["*"]
nets = ["*"]
labels = ["*"]
metrics = false
"""


SOURCES = ("north", "south", "west")


def three(folder, name, head=""):
    """The campaign's file; west has north's cases, with labels that mean nothing."""
    plan = campaign(folder, name=f"{name}.toml", head=head)
    text = plan.read_text()
    north = text[text.index('[[site]]\nname = "north"') : text.index('[[site]]\nname = "south"')]
    west = north.replace('name = "north"', 'name = "west"') + "meaningless = 3\n"
    plan.write_text(text.replace('[[site]]\nname = "harbour"', west + '[[site]]\nname = "harbour"'))
    return plan


def run(folder, out, head="", changed=lambda text: text, methods="auto"):
    """A campaign of three tiny sources and a target."""
    plan = three(folder, out.name, head)
    plan.write_text(changed(plan.read_text()))
    config = {"campaign": str(plan), "out": str(out), "methods": methods, "workers": 1}
    inprocess.run(server_app, client_app, config, 4, 1)
    return results.read(out)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The hospitals' files."""
    return hospitals(tmp_path_factory.mktemp("choosing"))


@pytest.fixture(scope="module")
def parallel(data):
    """The results with sources side by side."""
    return run(data, data / "parallel", head='schedule = "parallel"')


def test_merges_of_the_best_sources_are_candidates(parallel):
    """After the single ones, by their order; a chain is not possible."""
    (choice,) = parallel["choices"]
    names = list(choice["scores"])
    assert names[:5] == [
        "imm-mode+stitch+keep-norm+wise-ft", "imm-mode+warm-up",
        "transfer:north", "transfer:south", "transfer:west",
    ]  # fmt: skip
    best = "/".join(best_two(choice))
    assert names[5] == f"imm-mode+warm-up:{best}"
    assert names[6:] == ([f"imm-mode:{best}+stitch+keep-norm+wise-ft"] if "south" in best else [])
    assert choice["chosen"] == max(names, key=lambda name: choice["scores"][name])


def best_two(choice):
    """The two sources that did best alone, in the order of the plan."""
    best = sorted(SOURCES, key=lambda site: -choice["scores"][f"transfer:{site}"])[:2]
    return [site for site in SOURCES if site in best]


def test_a_chain_without_the_worst_source_is_trained_and_tried(data):
    """It is asked for once the single sources have their scores; its row, asked for by name, has the same numbers."""
    out = data / "chain"
    found = run(data, out)
    (choice,) = found["choices"]
    few = "/".join(best_two(choice))
    ends = "+stitch+wise-ft" if "south" in few else ""  # south alone knows the second label
    assert list(choice["scores"])[-1] == f"lwf:{few}{ends}"
    named = run(data, out, methods=f"lwf:{few}{ends},{choice['chosen']}")
    assert {change["way"] for change in found["changes"]} == {"plain", "lwf", f"lwf[{few}]"}
    assert choice["dropped"] == {}
    again = run(data, out)  # a resumed campaign asks nobody anything
    assert [row["dice"] for row in again["rows"]] == [row["dice"] for row in found["rows"]]
    assert again["choices"] == found["choices"]
    last = {row["method"]: row for row in named["rows"]}
    assert last[choice["chosen"]]["dice"] == found["rows"][-1]["dice"]
    assert set(last[f"lwf:{few}{ends}"]["contributions"]) == {few.split("/")[-1]}


def test_a_chain_that_a_source_does_not_train_again_for_is_no_candidate(tmp_path):
    """Its words are the candidate's reason, and stand beside the scores; the campaign loses nobody."""
    described = {"role": "source", "labels": ["ball"], "channels": ["T1"], "train": 2, "pool": 2, "validate": 0,
                 "test": 1, "by_patient": True, "data": "d", "device": "cpu", "simulation": True,
                 "receive_fused": False, "reuse": "never"}  # fmt: skip
    told = {name: {**described, "site": name} for name in SOURCES}
    told["harbour"] = {**described, "site": "harbour", "role": "target", "validate": 2}
    ground = lay(plans.read(three(tmp_path, "plan")), Store(tmp_path / "server"), told)
    place = Place(fusion.method("auto", SOURCES), 0, 0, "harbour", 2)
    scores = {"transfer:north": 0.1, "transfer:south": 0.3, "transfer:west": 0.2}

    def trial(where):
        cases = [{"case": "harbour_000", "dice": {"ball": scores.get(where.method.name, 0.15)}}]
        return Outcome(where, [{"cases": cases, "target_steps": 5, "seconds": 0.5}])
        yield  # a conversation that asks nobody

    def tried():
        with pytest.raises(StopIteration) as ended:
            next(choosing.measure(ground, place, trial))
        return ended.value.value

    with pytest.raises(choosing.Wanted, match=r"^lwf\[south/west\]$") as wanted:
        next(choosing.measure(ground, place, trial))
    talk = training.another(ground, 0, wanted.value.way)
    assert next(talk).site == "south"
    with pytest.raises(StopIteration):
        talk.throw(CampaignStopped("south: its policy's max_contributions is 2"))
    assert (ground.left, ground.sources(0, wanted.value.way)) == ({}, ())
    found = tried()
    assert found.dropped == {"lwf:south/west+stitch+wise-ft": "south: its policy's max_contributions is 2"}
    assert {name: found.scores[name] for name in scores} == pytest.approx(scores)
    assert (found.steps, found.seconds) == (5 * 3 * len(found.scores), 0.5 * 3 * len(found.scores))


def test_a_merge_of_some_sources_is_made_of_those(data):
    """Its ratios and its contributions name them."""
    found = run(data, data / "some", head='schedule = "parallel"', methods="imm-mode:west/north")
    assert found["ratios"][0]["sites"] == ["north", "west"]
    assert all(set(row["contributions"]) == {"north", "west"} for row in found["rows"])


def test_the_choice_does_not_hang_on_test_cases(data, parallel, tmp_path):
    """With other images in the target's test cases, the scores of all candidates are the same to the last digit."""
    folder = tmp_path / "other"
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("parallel", "some"))
    for number in (2, 3, 4):  # two validate, three test
        path = folder / f"harbour/imagesTr/harbour_{number:03d}.nii.gz"
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32)[::-1].copy() ** 2, image.affine), path)
    other = run(folder, folder / "out", head='schedule = "parallel"')
    assert other["choices"][0]["scores"] == parallel["choices"][0]["scores"]
    assert [row["dice"] for row in other["rows"]] != [row["dice"] for row in parallel["rows"]]


def test_enough_validation_cases_choose_alone(data):
    """Twelve are enough: nothing is trained for the choice that is not a row."""
    larger = hospitals(data / "larger", cases=18)
    found = run(
        larger, data / "enough", head='schedule = "parallel"',
        changed=lambda text: text.replace("validate = 2\ntest = 3", "validate = 12\ntest = 2"),
    )  # fmt: skip
    assert "over 12 validation cases" in found["choices"][0]["sentence"]
    assert not list((data / "enough/sites/harbour/rows").glob("*fold*"))


def test_a_target_that_releases_no_scores_cannot_have_auto(data):
    """The row fails and says so; nothing else does."""
    found = run(
        data, data / "closed", head='schedule = "parallel"',
        changed=lambda text: text + CLOSED,
    )  # fmt: skip
    (row,) = found["rows"]
    assert row["status"] == "failed"
    assert "auto had nothing to choose among at harbour: its policy releases no scores" in row["error"]
