"""One campaign of two groups of three sources in every mode: in one process, through Flower, between machines."""

import json
import shutil

import pytest
from agents import apart
from deployed import Deployment, until
from made_groups import SIX, consortium, plan
from small import campaign
from small import hospitals as small
from test_campaign import run
from test_flower import both

from server import runs

GROUPS = [list(SIX[:3]), list(SIX[3:])]
MODES = {
    "near": ("server", 'fit = "near"'),
    "far": ("server", 'fit = "far"'),
    "target": ("target", ""),
    "group": ("group", ""),
}
METHODS = "none,imm-mode,t-imm"


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """The images of six sources and a target, with room for campaign files."""
    return consortium(tmp_path_factory.mktemp("hospitals"))


def file(hospitals, mode):
    """The campaign's file in a mode."""
    trust, head = MODES[mode]
    return plan(hospitals, GROUPS, name=f"{mode}.toml", trust=trust, head=head)


@pytest.fixture(scope="module")
def here(hospitals, tmp_path_factory):
    """The results in each mode, in one process."""
    return {mode: run(file(hospitals, mode), tmp_path_factory.mktemp(mode), METHODS, nodes=7) for mode in MODES}


def scores(results):
    """What the rows say of the target's cases, whatever the cases are called."""
    return [
        (row["method"], row["stage"], row["target_steps"], sorted(str(case["dice"]) for case in row["cases"]))
        for row in results["rows"]
    ]


def test_the_same_campaign_runs_in_every_mode(here):
    """A seal changes no number; near and far compute the same; and what needs no source is the same in all."""
    assert all({row["status"] for row in results["rows"]} == {"ok"} for results in here.values())
    assert scores(here["target"]) == scores(here["near"])
    near, far, group = (
        {(row["method"], row["stage"]): row["dice"] for row in here[mode]["rows"]} for mode in ("near", "far", "group")
    )
    assert far == pytest.approx(near, abs=1e-6)
    assert group.keys() == near.keys()
    assert group["none", "fine-tuned"] == near["none", "fine-tuned"]
    assert group["t-imm", "fine-tuned"] != near["t-imm", "fine-tuned"]  # of two groups, and not of six sources
    assert [bool(results["ratios"]) for results in here.values()] == [True, True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_flowers_runtime_has_the_numbers_of_one_process(hospitals, mode, tmp_path):
    """Rows are equal to the last digit."""
    (near, far), _ = both(tmp_path, file(hospitals, mode), METHODS, nodes=7)
    assert near["rows"] == far["rows"]


@pytest.mark.slow
@pytest.mark.parametrize("trust", ["server", "target"])
def test_so_has_a_chain_that_does_not_forget(trust, tmp_path):
    """Bodies and whole contributions go from site to site, in the clear or sealed."""
    path = campaign(small(tmp_path / "hospitals"), name=f"{trust}.toml", head=f'trust = "{trust}"')
    (near, far), _ = both(tmp_path, path, "t-imm,ewc,lwf+stitch,auto")
    assert near["rows"] == far["rows"]


@pytest.mark.slow
def test_seven_hospitals_have_the_numbers_of_one_process(hospitals, here, tmp_path):
    """Seven agents and a server as processes of their own; four campaigns one after the other, all of them right."""
    data = tmp_path / "data"
    shutil.copytree(hospitals, data)
    deployed = Deployment(tmp_path, whole=file(data, "near"))
    deployed.join_all()
    try:
        deployed.start_all()
        until(lambda: all(deployed.seen(site) for site in deployed.sites), 300, deployed)
        for mode in MODES:
            path, _ = apart(file(data, mode), tmp_path, f"{mode}.toml")
            runs.submit(deployed.server, path, mode, {"methods": METHODS})
            until(lambda mode=mode: deployed.run(mode).over, 900, deployed)
            assert deployed.run(mode).state == "done", deployed.told()
            out = tmp_path / "server/runs" / mode / "out"
            assert scores(json.loads((out / "results.json").read_text())) == scores(here[mode])
    finally:
        deployed.stop()
