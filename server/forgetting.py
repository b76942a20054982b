"""What the sources' own tasks lose: somebody's body with a source's own heads and norms, scored where that source is.

Bodies are read from their files one at a time, when their turn has come.
"""

from collections.abc import Callable
from typing import Any

from fedmerge import params, tasks, wire
from fedmerge.params import Params
from server.exchange import Ask, Conversation
from server.ground import Ground
from server.merging import Outcome
from server.outcome import mean_of
from server.store import key
from server.training import POOLED

Line = dict[str, Any]  # an entry of `forgetting` in results.json; its `dice` is filled in by the conversation


def conversations(
    ground: Ground, outcomes: list[Outcome], seed: int, cases: int
) -> tuple[list[Line], list[Conversation]]:
    """The lines of the table, and the conversations that fill them: the sources' own bodies and every merge.

    Args:
        ground: the campaign.
        outcomes: its finished rows.
        seed: of the lines of the sources' own bodies, which no row's seed changes.
        cases: their number of target cases.
    """
    lines: list[Line] = []
    work: list[Conversation] = []

    def add(task: str, line: Line, body: Callable[[], Params]) -> None:
        lines.append(line)
        work.append(_score(ground, task, line, body))

    for task in _willing(ground):
        for (chain, name), made in ground.made.items():
            if name.startswith(POOLED) or (chain, task) not in ground.made:
                continue
            # another source's own model is shown to a source in a simulation only
            if name == task or ground.sites[task].simulation:
                line = {"weights": name, "task": task, "seed": seed, "chain": chain, "target_cases": cases}
                add(task, line, lambda made=made, task=task: made.open().weights)  # type: ignore[misc]
        for outcome in outcomes:
            if (path := outcome.fused) is None or (outcome.place.chain, task) not in ground.made:
                continue
            place = outcome.place
            line = {"weights": place.method.name, "task": task, "seed": place.seed, "chain": place.chain,
                    "target_cases": place.cases}  # fmt: skip
            if len(ground.plan.targets) > 1:
                line["target"] = place.target
            add(task, line, lambda path=path: wire.read_model(path)[0])  # type: ignore[misc]
    return lines, work


def _willing(ground: Ground) -> list[str]:
    """The sources that take merged models in and have cases to score them on."""
    return [
        name for name in ground.plan.sources
        if name in ground.sites and ground.sites[name].receive_fused
        and ground.sites[name].test + ground.sites[name].validate
    ]  # fmt: skip


def _score(ground: Ground, site: str, line: Line, body: Callable[[], Params]) -> Conversation:
    plan, net = ground.plan, ground.nets[site]
    weights = {**ground.made[line["chain"], site].open().weights, **params.split(body(), net.fusable)[0]}
    task = tasks.Score(net, ground.sites[site].channels, plan.name, plan.threads, plan.buffers, plan.precision)
    table = {**tasks.to_table(task), "threads": 0, "campaign": ""}
    name = key(site=site, weights=params.digest(weights), data=ground.sites[site].data, **table)
    phase = ground.store.phase(name)
    if phase is None:
        payload = {"weights": wire.params_to_bytes(weights)}
        del weights
        answer = yield Ask(site, "evaluate.score", tasks.to_table(task), payload, "forgetting")
        phase = {"cases": tasks.from_table(tasks.Scored, answer.task, site).cases}
        ground.store.keep_phase(name, phase)
    line["dice"] = mean_of(phase["cases"] or [])
