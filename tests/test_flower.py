"""Flower's own runtime: the same apps, the same numbers, nothing left running."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from small import campaign, hospitals

from fedmerge import bundle, fusion
from fedmerge import campaign as campaigns
from server import flower, inprocess
from server.app import app as server_app
from sites.app import app as client_app

ROOT = Path(__file__).parent.parent
METHODS = "none,t-imm,t-imm-kernel,t-imm+admit"


def both(tmp_path, path, methods, nodes=3, seeds="0"):
    """The results of both engines without the rows' seconds, and their folders."""
    run = {"campaign": str(path), "methods": methods, "seeds": seeds, "workers": 2}
    here, there = tmp_path / "here", tmp_path / "there"
    inprocess.run(server_app, client_app, {**run, "out": str(here)}, 3, 2)
    flower.run({**run, "out": str(there)}, nodes, there / "flwr")
    results = [json.loads((out / "results.json").read_text()) for out in (here, there)]
    for row in (row for one in results for row in one["rows"]):
        del row["seconds"]
    return results, (here, there)


def test_flowers_runtime_gives_the_numbers_of_the_inprocess_engine(tmp_path):
    """Rows, curves, ratios, forgetting and stored contributions are equal to the last digit and byte."""
    (near, far), (here, there) = both(tmp_path, campaign(hospitals(tmp_path / "hospitals")), METHODS, seeds="0,1")
    for part in ("rows", "ratios", "leave_one_out", "forgetting", "environment"):
        assert near[part] == far[part]
    scores = [[(told["admitted"], told["scores"]) for told in one["admissions"]] for one in (near, far)]
    assert scores[0] == scores[1]
    stored = [{p.name: p.read_bytes() for p in (out / "server/contributions").iterdir()} for out in (here, there)]
    assert stored[0] == stored[1]
    assert len(stored[0]) == 2


def test_the_bundle_holds_the_two_sides_and_no_patient(tmp_path):
    """What Flower ships is Python of `sites` and `server`; data beside it stays where it is."""
    app = bundle.folder(tmp_path / "app")
    (app / "sites" / "patients.json").write_text("{}")
    built = subprocess.run(
        [Path(sys.executable).with_name("flwr"), "build", "--app", app],
        cwd=tmp_path, env=flower.environment(tmp_path / "home"), capture_output=True, text=True, check=True,
    )  # fmt: skip
    (made,) = tmp_path.glob("*.fab")
    import zipfile

    names = zipfile.ZipFile(made).namelist()
    assert built.returncode == 0
    assert {"server/app.py", "sites/app.py", "pyproject.toml"} <= set(names)
    assert not any(name.endswith("patients.json") for name in names)


def test_the_folder_of_the_project_is_the_same_app():
    """`flwr run .` in a checkout finds the components and run-config keys that the engine uses."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert told["config"] == bundle.CONFIG
    assert told["components"] == {"serverapp": "server.app:app", "clientapp": "sites.app:app"}
    assert told["fab-include"] == ["sites/**/*.py", "server/**/*.py"]


def test_a_run_without_a_folder_lies_in_flowers_home(monkeypatch, tmp_path):
    """Plain `flwr run .` writes below FLWR_HOME, the same folder for the server and its sites."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    assert campaigns.folder("") == tmp_path / "fedmerge"
    assert campaigns.locate("", tmp_path / "x") == (campaigns.built_in(), tmp_path / "x")


@pytest.mark.slow
def test_two_nodes_are_enough_for_three_sites(tmp_path):
    """Flower's default number of nodes runs the campaign to the numbers of the in-process engine."""
    (near, far), _ = both(tmp_path, campaign(hospitals(tmp_path / "hospitals")), METHODS, nodes=2)
    assert near["rows"] == far["rows"]


@pytest.mark.slow
def test_every_row_of_the_table_is_the_same_through_flower(tmp_path):
    """Chains with a way of their own, rounds, soups, rows that choose: equal to the last digit."""
    path = campaign(hospitals(tmp_path / "hospitals"))
    path.write_text(path.read_text().replace("[finetune]", "[finetune]\nsoup_cycles = 2"))
    options = ["lwf+stitch+wise-ft", "imm-mode+stitch+keep-norm", "mean+stitch+merge-norm", "none+ema"]
    (near, far), _ = both(tmp_path, path, ",".join([*fusion.METHODS, *options]))
    assert {row["status"] for row in near["rows"]} == {"ok"}
    for part in ("rows", "ratios", "forgetting", "choices"):
        assert near[part] == far[part]
