"""TensorBoard's event files: what lies on a machine, and nothing that came from elsewhere."""

import json

import pytest
from commandline import command
from small import campaign, hospitals
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedmerge import events, results
from fedmerge.errors import DataError
from server import inprocess
from server.app import app as server_app
from sites.app import app as client_app


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a campaign with a merge that is fine-tuned."""
    folder = tmp_path_factory.mktemp("run")
    plan = campaign(hospitals(folder / "data", cases=7))
    config = {"campaign": str(plan), "out": str(folder / "out"), "methods": "t-imm", "workers": 1}
    inprocess.run(server_app, client_app, config, 3, 1)
    return folder / "out"


def drawn(folder):
    """Run -> tag -> (step, value), as TensorBoard itself reads the event files below a folder."""
    found = {}
    for path in {file.parent for file in folder.rglob("events.out.tfevents.*")}:
        read = EventAccumulator(str(path))
        read.Reload()
        tags = {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
        found[path.relative_to(folder).as_posix()] = tags
    return found


def test_a_simulation_has_the_campaign_and_each_site(run, tmp_path):
    """The curve and the scores of the results, and of each training loss and rate by step."""
    assert command("tensorboard", run, "--out", tmp_path) == 0
    found, told = drawn(tmp_path), results.read(run)
    own = found["campaign/harbour/t-imm-seed0-chain0-n2"]
    rows = {row["stage"]: row for row in told["rows"]}
    assert own["validation Dice"] == [(s, pytest.approx(v)) for s, v in rows["fine-tuned"]["curve"]]
    assert own["test Dice"] == [(row["target_steps"], pytest.approx(row["dice"])) for row in told["rows"]]
    for site in ("north", "south"):
        tags = found[f"sites/{site}/training/small/chain 0, plain"]
        assert [step for step, _ in tags["lr"]] == sorted({step for step, _ in tags["lr"]})
        assert tags["loss"][-1][0] == 6
        assert all(value > 0 for _, value in tags["loss"])
    tuned = found["sites/harbour/fine-tuning/small/t-imm-seed0-chain0-n2"]
    assert tuned["validation"][-1][0] == 4 + 5  # steps are counted on from the adaptation, as in the results
    assert set(dict(tuned["validation"])) <= set(dict(own["validation Dice"]))


def test_called_again_it_brings_the_files_up_to_date(run, tmp_path):
    """Nothing is there twice."""
    events.write(events.read(run), tmp_path)
    before = drawn(tmp_path)
    events.write(events.read(run), tmp_path)
    assert drawn(tmp_path) == before


def test_a_site_draws_its_own_curves_and_the_server_has_none_of_them(run, tmp_path):
    """From the site's folder, and from the results alone."""
    events.write(events.read(run / "sites/north"), tmp_path / "site")
    assert set(drawn(tmp_path / "site")) == {"sites/north/training/small/chain 0, plain"}
    alone = tmp_path / "server"
    alone.mkdir()
    (alone / "results.json").write_bytes((run / "results.json").read_bytes())
    assert {point.run.partition("/")[0] for point in events.read(alone)} == {"campaign"}
    kept = [path for path in run.rglob("*.jsonl") if "curves" in path.parts]
    assert kept
    assert all(path.is_relative_to(run / "sites") for path in kept)


def test_a_step_that_was_trained_again_counts_once_and_half_a_line_not_at_all(tmp_path):
    """As a training leaves them that was stopped and resumed."""
    folder = tmp_path / "private" / "work" / "curves"
    folder.mkdir(parents=True)
    line = {"site": "north", "run": "training/a b/..", "loss": 1.0, "lr": 0.1, "validation": None, "time": 5.0}
    lines = [json.dumps({**line, "step": step, "loss": loss}) for step, loss in ((1, 3.0), (2, 2.0), (2, 1.5))]
    (folder / "key.jsonl").write_text("\n".join([*lines, '{"site": "nor']))
    found = {(p.step, p.tag): p.value for p in events.read(tmp_path)}
    assert found == {(1, "loss"): 3.0, (1, "lr"): 0.1, (2, "loss"): 1.5, (2, "lr"): 0.1}
    events.write(events.read(tmp_path), tmp_path / "out")
    assert set(drawn(tmp_path / "out")) == {"sites/north/training/a b/-"}


def test_a_folder_without_curves_is_told(tmp_path):
    """With what was expected in it."""
    with pytest.raises(DataError, match=r"expected results\.json or a folder 'curves'"):
        events.read(tmp_path)
    assert command("tensorboard", tmp_path / "none", "--out", tmp_path / "out") == 2
