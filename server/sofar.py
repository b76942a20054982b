"""The rows that are over, for those who watch: `rows.jsonl` in the server's part of a run, a line a stage.

    {"time": 1760000000.0, "method": "t-imm", "seed": 0, "chain": 0, "target": "harbour", "target_cases": 4,
     "stage": "fine-tuned", "status": "ok", "error": null, "score": 0.81, "target_steps": 400, "curve": [[0, 0.3], ...]}

They are the stages of `results.json`, without the single cases. A run that is resumed writes them anew.
"""

import json
import time

from fedmerge import measures
from server.merging import Outcome
from server.store import Store

KEPT = ("stage", "status", "error", "target_steps", "curve")


def begin(store: Store) -> None:
    """No row is over yet."""
    (store.folder / "rows.jsonl").unlink(missing_ok=True)


def note(store: Store, outcome: Outcome) -> None:
    """Write down a row that is over."""
    lines = [
        {
            "time": time.time(),
            **outcome.place.columns,
            **{key: stage[key] for key in KEPT},
            "score": measures.number(stage),
        }
        for stage in outcome.stages
    ]
    with (store.folder / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
