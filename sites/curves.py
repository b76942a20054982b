"""A site's own learning curves: what a training tells of itself, a line of JSON a record, in its working folder.

Nobody else reads them. `fedmerge tensorboard` and `fedmerge mlflow` draw them where they lie.
"""

import json
import time

from fedmerge import schedules
from fedmerge.records import Record, Settings
from sites.records import Site


def keep(site: Site, key: str, run: str, record: Record) -> None:
    """Write down one record.

    Args:
        site: whose training it is.
        key: of the task, by which the file is named.
        run: what trains, for readers.
        record: with its step counted from the run's beginning; one that is written again replaces the earlier.
    """
    facts = {key: getattr(record, key) for key in ("step", "loss", "lr", "validation")}
    line = {"site": site.name, "run": run, **facts, "time": time.time()}
    path = site.work / "curves" / f"{key}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def point(site: Site, key: str, run: str, settings: Settings, at: tuple[int, float]) -> None:
    """Write down a validation beside which there is no record of the loss.

    Args:
        site: as for `keep`.
        key: as for `keep`.
        run: as for `keep`.
        settings: of the training.
        at: (step, score).
    """
    step, score = at
    factor = schedules.factor(
        settings.schedule, step, max(1, settings.steps), final=settings.final, cycles=settings.cycles
    )
    keep(site, key, run, Record(step, None, settings.lr * factor, score, 0.0))
