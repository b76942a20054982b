"""A model's card says what its run knows, and nothing of a patient."""

import copy

import pytest
from commandline import command
from small import campaign, hospitals

from fedmerge import cards, results, wire
from fedmerge.errors import DataError
from server import inprocess
from server.app import app as server_app
from sites.app import app as client_app

TOLD = cards.Told("demo", licence="CC-BY-4.0")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a campaign with a merge and a transfer."""
    folder = tmp_path_factory.mktemp("run")
    plan = campaign(hospitals(folder / "data", cases=7))
    config = {"campaign": str(plan), "out": str(folder / "out"), "methods": "t-imm,transfer:north", "workers": 1}
    inprocess.run(server_app, client_app, config, 3, 1)
    return folder / "out"


def model(run, method):
    """The file of a fine-tuned model."""
    (path,) = (run / "models/harbour").glob(f"{method}-seed0*.fine-tuned.safetensors")
    return path


def card(run, method="t-imm", told=TOLD, found=None, **changes):
    """The card of a model of the run."""
    _, info = wire.read_model(model(run, method))
    return cards.markdown({**info, **changes}, 2065, "sha256:abc", told, found or results.read(run))


def test_a_card_says_of_what_how_and_how_well_it_was_made(run):
    """Method and paper, sites and numbers of cases, ratios, scores of the row, labels, licence."""
    text, found = card(run), results.read(run)
    (row,) = [r for r in found["rows"] if r["method"] == "t-imm" and r["stage"] == "fine-tuned"]
    (fitted,) = found["ratios"]
    values = [group[0] for group in fitted["groups"].values()]
    for line in (
        "# demo",
        "| method | t-imm (Geyer 2019) |",
        "| north | source, 5 cases |",
        "| harbour | 2 cases to train on, 2 to validate, 3 to test |",
        f"| north | {sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f}) |",
        "| digest of the weights | `sha256:abc` |",
        "| reads | T1; a box of 8 x 8 x 8 voxels |",
        "CC-BY-4.0",
    ):
        assert line in text
    assert f"| Dice, test cases | {row['dice']:.3f} ±" in text
    assert f"| Dice, validation cases, best | {max(v for _, v in row['curve']):.3f} |" in text


def test_nothing_of_a_case_or_a_folder_is_in_it(run):
    """Neither the simulation's ids nor where its files lie."""
    text, found = card(run), results.read(run)
    cases = {case["case"] for row in found["rows"] for case in row["cases"]}
    assert cases
    assert not any(case in text for case in cases)
    assert str(run.parent) not in text


def test_pseudonyms_stand_for_the_sites_wherever_they_are_named(run):
    """Also in the name of a method."""
    told = cards.Told("demo", pseudonyms=True)
    for method in ("t-imm", "transfer-north"):
        text = card(run, method, told)
        assert "source 1" in text
        assert not any(site in text for site in ("north", "south", "harbour"))
    assert "None has been stated" in text


def test_scores_that_the_policy_withholds_are_not_in_it(run):
    """The results have none."""
    found = copy.deepcopy(results.read(run))
    for row in found["rows"]:
        row |= {"dice": None, "cases": [], "curve": []}
    text = card(run, found=found)
    assert "The target's policy withholds scores." in text
    assert "Dice" not in text


def test_the_sentence_on_privacy_is_about_each_source(run):
    """Those that trained with noise have their bound; of the others it says that there is none."""
    found = copy.deepcopy(results.read(run))
    assert "north and south trained without noise" in card(run, found=found)
    found["privacy"] = [
        {"site": "south", "epsilon": 3.2, "delta": 1e-5, "unit": "patient", "trainings": [], "sentence": "x"}
    ]
    text = card(run, found=found)
    assert "south trained with differential privacy: epsilon 3.2 at delta 1e-05 for each patient" in text
    assert "north trained without noise" in text


def test_results_of_another_run_are_refused(run):
    """A card with another model's scores would be worse than none; without results it says that it has none."""
    with pytest.raises(DataError, match="no fine-tuned model of t-imm that is made of what this one is"):
        card(run, contributions=["sha256:other"])
    _, info = wire.read_model(model(run, "t-imm"))
    text = cards.markdown(info, 1, "x", TOLD, None)
    assert text.count("not at hand") == 2


def test_the_command_finds_the_run_that_a_model_lies_in(run, tmp_path, capsys):
    """It writes the card, replaces none unasked, and `inspect` has the essentials."""
    out = tmp_path / "card.md"
    path = model(run, "t-imm")
    assert command("export", path, "--card", out, "--title", "Hippocampus") == 0
    text = out.read_text()
    assert text.startswith("# Hippocampus\n")
    assert "Dice, test cases" in text
    assert command("export", path, "--card", out) == 2
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(path.read_bytes())
    assert command("export", alone, "--card", out, "--overwrite") == 0
    assert "not at hand" in out.read_text()
    assert command("export", alone, "--card", out, "--overwrite", "--run", run) == 0
    assert "Dice, test cases" in out.read_text()
    assert command("export", path) == 2
    capsys.readouterr()
    assert command("inspect", path) == 0
    assert "t-imm of north, south, fine-tuned on 2 cases" in " ".join(capsys.readouterr().out.split())
