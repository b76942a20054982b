"""Runs of MLflow: the points of event files, read back with MLflow's own client, and nothing sent elsewhere."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import made_run
import pytest
from commandline import command
from mlflow import MlflowClient

from fedmerge import events, results, tracking
from fedmerge.errors import ConfigError
from fedmerge.events import Point

FACTS = {"site": "north", "training": "a b"}
POINTS = [Point("sites/north/a b", "loss", step, 1 / step, 5.0 + step, FACTS) for step in (1, 2, 3)]


def shown(store, experiment):
    """Run -> (parameters, metric -> (step, value)), as MLflow's own client reads a store."""
    client = MlflowClient(tracking.address(str(store)))
    found = {}
    for run in client.search_runs([client.get_experiment_by_name(experiment).experiment_id]):
        metrics = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        points = {key: [(point.step, point.value) for point in history] for key, history in metrics.items()}
        assert run.info.status == "FINISHED"
        assert run.info.run_name not in found
        found[run.info.run_name] = run.data.params, points
    return found


def test_a_run_of_a_campaign_has_its_facts_curve_and_scores(tmp_path, capsys):
    """The parameters by which one compares, and the points that TensorBoard gets."""
    run, store = made_run.write(tmp_path / "first", cases=2, shape=(6, 6, 6)), tmp_path / "new" / "mlflow.db"
    assert command("mlflow", run, "--to", store) == 0
    assert capsys.readouterr().out.startswith("2 runs in 'first': ")
    found, told = shown(store, "first"), results.read(run)
    facts, points = found["campaign/harbour/t-imm-seed0-chain0-n4"]
    assert facts == {
        "method": "t-imm", "seed": "0", "chain": "0", "target": "harbour", "target_cases": "4", "campaign": "made",
        **told["environment"],
    }  # fmt: skip
    rows = {row["stage"]: row for row in told["rows"] if row["method"] == "t-imm"}
    assert points["validation Dice"] == [tuple(point) for point in rows["fine-tuned"]["curve"]]
    assert points["test Dice"] == [(row["target_steps"], row["dice"]) for row in rows.values()]
    drawn = {(p.run, tracking.metric(p.tag), p.step, p.value) for p in events.read(run)}
    assert drawn == {(n, key, s, v) for n, (_, own) in found.items() for key, pairs in own.items() for s, v in pairs}


def test_called_again_it_adds_what_is_new_and_makes_anew_what_changed(tmp_path):
    """A run keeps its identity while it grows; one whose past or facts changed is another."""
    store = tmp_path / "mlflow.db"
    client = MlflowClient(tracking.address(str(store)))

    def bring(points):
        tracking.write(points, str(store), "home")
        found = client.search_runs([client.get_experiment_by_name("home").experiment_id])
        (params, metrics) = shown(store, "home")["sites/north/a b"]
        return [run.info.run_id for run in found], params, metrics["loss"]

    first, _, losses = bring(POINTS[:2])
    assert losses == [(1, 1.0), (2, 0.5)]
    more, _, losses = bring(POINTS)
    assert more == first
    assert losses == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    again, _, losses = bring([POINTS[0], replace(POINTS[1], value=0.4)])
    assert again != first
    assert losses == [(1, 1.0), (2, 0.4)]
    other, facts, losses = bring([replace(point, facts={"site": "north"}) for point in POINTS[:1]])
    assert other != again
    assert (facts, losses) == ({"site": "north"}, [(1, 1.0)])


def test_more_points_than_one_request_takes_arrive(tmp_path):
    """MLflow takes a thousand at a time."""
    points = [replace(POINTS[0], step=step) for step in range(2 * tracking.BATCH + 1)]
    tracking.write(points, str(tmp_path / "mlflow.db"), "home")
    ((_, metrics),) = shown(tmp_path / "mlflow.db", "home").values()
    assert [step for step, _ in metrics["loss"]] == list(range(2 * tracking.BATCH + 1))


def test_no_connection_is_made_but_to_what_is_named(tmp_path):
    """Neither does MLflow report its use, nor does it leave an identity of the installation in the user's home."""
    folder, home = tmp_path / "work" / "curves", tmp_path / "home"
    folder.mkdir(parents=True)
    home.mkdir()
    line = {"site": "north", "run": "training", "step": 1, "loss": 1.0, "lr": 0.1, "validation": None, "time": 5.0}
    (folder / "key.jsonl").write_text(json.dumps(line) + "\n")
    code = """
import sys
from pathlib import Path
sys.addaudithook(lambda event, _: print(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
from fedmerge import events, tracking
tracking.write(events.read(Path("work")), "mlflow.db", "home")
from mlflow.telemetry import get_telemetry_client
print(get_telemetry_client())
"""
    known = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR")
    around = {key: os.environ[key] for key in known if key in os.environ} | {"HOME": str(home)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=around, capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines() == ["None"]
    assert list(home.rglob("*")) == []
    assert len(shown(tmp_path / "mlflow.db", "home")) == 1


def test_a_store_that_cannot_be_used_is_told(tmp_path):
    """A folder, and a server that is not there."""
    with pytest.raises(ConfigError, match="expected a database file or a tracking URI, got a folder"):
        tracking.write(POINTS, str(tmp_path), "home")
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:9: MLflow says: "):
        tracking.write(POINTS, "http://127.0.0.1:9", "home")
