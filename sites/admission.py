"""Which sources' models a row merges, as the target's validation cases say (`fusion.leaving.admitted`).

A fresh head answers at random whatever lies below it, so the merge of each set of sources that is tried first gets the
row's warm-up: S is adapted for `adapt` steps with the merged weights held, at the ratios that the row begins with.
Stitched heads are scored as they are.
"""

import json
import time
from dataclasses import replace
from typing import Any

from fedmerge import tasks, whole
from fedmerge.fusion import leaving
from sites import outbound, target
from sites.bench import Bench, Unstitched
from sites.config import Site
from sites.inbound import Declined
from sites.progress import report
from sites.source import parts


def admit(site: Site, task: dict[str, Any]) -> dict[str, Any]:
    """Try the row's merge with all sources, and while it helps without one of them.

    Each score is on disk as soon as it is there: what is interrupted goes on behind it.

    Raises:
        Declined: there are no validation cases, or the merge of all sources cannot be made.
    """
    row = tasks.from_table(tasks.Row, task, "server")
    folder = site.work / "rows" / row.key
    if (done := folder / "admitted.json").exists():  # the answer was lost on its way: give it again
        return outbound.answer(site, tasks.from_table(tasks.Admission, json.loads(done.read_text()), site.name))
    kept = folder / "admitting.json"
    known: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    began = time.monotonic()

    def score(sources: tuple[str, ...]) -> float | None:
        name = "/".join(sources)
        if name not in known:
            known[name] = _score(site, row, sources)
            whole.write(kept, json.dumps(known).encode())
        found: float | None = known[name]
        return found

    own = parts(site, row.net.patch, field=row.net.field, seed=row.seed, target_cases=row.target_cases)
    cases = len(own["validate"])
    if not cases:
        raise Declined(f"{site.name}: {row.label} admits sources by validation cases, and there are none")
    found = leaving.admitted(row.sources, score, leaving.margin(row.net.task.measure.varies, cases))
    tried = sum(value is not None for value in found.scores.values())
    answer = tasks.Admission(
        admitted=found.names,
        scores={"/".join(sources): value for sources, value in found.scores.items()},
        steps=tried * (row.adapt["steps"] if row.adapt else 0),
        seconds=time.monotonic() - began,
    )
    whole.write(done, json.dumps(tasks.to_table(answer)).encode())
    kept.unlink(missing_ok=True)
    return outbound.answer(site, answer)


def _score(site: Site, row: tasks.Row, sources: tuple[str, ...]) -> float | None:
    """The validation score of the merge of some sources; None where a label of the target is another source's alone."""
    digest = dict(zip(row.sources, row.digests))
    some = replace(row, sources=sources, digests=tuple(digest[name] for name in sources))
    try:
        bench = Bench(site, some)
    except Unstitched:
        if sources == row.sources:
            raise
        return None
    if row.adapt is not None:
        run, steps = target.adaptation(bench, fits=False), row.adapt["steps"]
        report(site.name, f"trying {'/'.join(sources)} for {row.label}", 0, steps)
        run.advance(steps)
        bench.settle()
    return bench.validate(bench.net) if bench.validate else 0.0
