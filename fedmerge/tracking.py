"""The points of `fedmerge/events.py` as runs of MLflow: in a database file, or at a tracking server that is named.

Nothing goes anywhere else: MLflow's own reports on its use are switched off. The client is that of `mlflow-skinny`
(`pip install fedmerge[mlflow]`); to look at a file needs MLflow itself, on whatever machine.
"""

import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmerge.errors import ConfigError
from fedmerge.events import Point, by_run

BATCH = 1000  # metrics of one request, MLflow's own limit
RUNS = 500  # runs of one answer
SURROUNDINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}  # MLflow's own would try for minutes where no server is

History = dict[tuple[str, int], float]  # (metric, step) -> value


def write(points: Sequence[Point], to: str, experiment: str) -> int:
    """Bring an experiment up to date with these points; the number of runs.

    A run that is there gets the points that it lacks. One that says something else, of a step or of its facts, is
    deleted (MLflow keeps it in its bin) and made anew.

    Args:
        points: of `events.read`.
        to: path of a database file, which is made where it is missing, or a tracking URI.
        experiment: the name under which MLflow shows the runs.

    Raises:
        ConfigError: MLflow's client is not installed, or the store cannot be used.
    """
    os.environ.update(SURROUNDINGS)
    for key, value in PATIENCE.items():
        os.environ.setdefault(key, value)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise ConfigError("MLflow is not installed: pip install fedmerge[mlflow]") from None
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    runs = by_run(points)
    try:
        client = MlflowClient(address(to))
        number = _experiment(client, experiment)
        there = _there(client, number)
        for name, own in runs.items():
            _bring(client, number, name, own, there.get(name))
    except MlflowException as error:
        raise ConfigError(f"{to}: MLflow says: {str(error).splitlines()[0]}") from None
    return len(runs)


def address(to: str) -> str:
    """The tracking URI that is meant: a path is that of an SQLite file.

    Raises:
        ConfigError: the path is a folder.
    """
    if re.match(r"[a-z][a-z0-9+.-]*:", to):
        return to
    path = Path(to).resolve()
    if path.is_dir():
        raise ConfigError(f"{to}: expected a database file or a tracking URI, got a folder; name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{path}"


def metric(tag: str) -> str:
    """A point's tag with the characters that MLflow allows in a metric's name."""
    return re.sub(r"[^\w ./:-]", "", tag)


def _experiment(client: Any, name: str) -> str:  # noqa: ANN401 - MLflow's client ships no types that mypy can follow
    """The experiment's id; it is made where it is missing."""
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


def _there(client: Any, experiment: str) -> dict[str, Any]:  # noqa: ANN401 - as above
    """Name -> run, of an experiment's runs."""
    found: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=RUNS, page_token=token)
        found |= {run.info.run_name: run for run in page}
        token = page.token
        if not token:
            return found


def _bring(client: Any, experiment: str, name: str, own: Sequence[Point], run: Any) -> None:  # noqa: ANN401 - as above
    """Make one run say what its points say."""
    from mlflow.entities import Metric, Param

    points = {(metric(point.tag), point.step): point for point in own}
    facts, kept = dict(own[0].facts), History()
    if run is not None:
        kept = _history(client, run)
        if run.data.params != facts or not _agree(kept, {key: point.value for key, point in points.items()}):
            client.delete_run(run.info.run_id)
            run, kept = None, {}
    now = time.time()
    times = {key: _ms(now if point.time is None else point.time) for key, point in points.items()}
    if run is None:
        run = client.create_run(experiment, run_name=name, start_time=min(times.values()))
        client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in facts.items()])
    new = [
        Metric(key, point.value, times[key, step], step)
        for (key, step), point in points.items()
        if (key, step) not in kept
    ]
    for begin in range(0, len(new), BATCH):
        client.log_batch(run.info.run_id, metrics=new[begin : begin + BATCH])
    client.set_terminated(run.info.run_id, end_time=max(times.values()))


def _history(client: Any, run: Any) -> History:  # noqa: ANN401 - as above
    """What a run has."""
    points = [point for key in run.data.metrics for point in client.get_metric_history(run.info.run_id, key)]
    return {(point.key, point.step): point.value for point in points}


def _agree(kept: History, told: Mapping[tuple[str, int], float]) -> bool:
    """Whether all that is kept is told, with the same values; stores keep what is not finite in ways of their own."""
    return all(key in told and (value == told[key] or not math.isfinite(told[key])) for key, value in kept.items())


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
