"""What the sources' own tasks lose: somebody's body with a source's own heads and norms, scored where that source is.

Bodies are read from their files one at a time, when their turn has come.
"""

from collections.abc import Callable
from typing import Any

from fedmerge import heads, params, tasks, wire
from fedmerge.params import Params
from server.exchange import Ask, Conversation
from server.ground import Ground
from server.made import Made
from server.merging import Outcome
from server.store import key

Line = dict[str, Any]  # an entry of `forgetting` in results.json; its score is filled in by the conversation


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
    if ground.plan.trust != "server":
        return lines, work  # nobody here has a model to show to a source

    def add(task: str, line: Line, body: Callable[[], Params]) -> None:
        lines.append(line)
        work.append(_score(ground, task, line, body))

    for task in _willing(ground):
        for (chain, name), made in ground.made.items():
            if name not in ground.plan.sources or _home(ground, chain, task) is None:
                continue
            # another source's own model is shown to a source in a simulation only
            if name == task or ground.sites[task].simulation:
                line = {"weights": name, "task": task, "seed": seed, "chain": chain, "target_cases": cases}
                net = ground.nets[task]
                add(task, line, lambda made=made, net=net: params.split(made.open().weights, net.fusable)[0])  # type: ignore[misc]
        for outcome in outcomes:
            place = outcome.place
            body = _body(ground, outcome, task)
            if body is None or _home(ground, place.chain, task) is None:
                continue
            line = {"weights": place.method.name, "task": task, "seed": place.seed, "chain": place.chain,
                    "target_cases": place.cases}  # fmt: skip
            if len(ground.plan.targets) > 1:
                line["target"] = place.target
            add(task, line, body)
    return lines, work


def _body(ground: Ground, outcome: Outcome, task: str) -> Callable[[], Params] | None:
    """What a row brings to a source's task: merged weights, the average of rounds, or the last model of a chain.

    The last model answers with its own head and norms where the task is its own, or with the head that it has kept.
    """
    place, path, made, net = outcome.place, outcome.fused, outcome.made, ground.nets[task]
    if path is not None:
        return lambda: params.split(wire.read_model(path)[0], net.fusable)[0]
    if place.method.sources == "rounds" and made:
        return lambda: params.split(wire.open_params(made[0].path), net.fusable)[0]
    if place.method.sources != "last" or not made or not ground.sites[task].simulation:
        return None

    def last() -> Params:
        weights = made[0].open().weights
        head = weights if made[0].site == task else heads.kept(weights, net.heads).get(task, {})
        body = params.split(weights, {*net.fusable, *(net.norms if head else ())})[0]
        return {**body, **params.split(head, net.heads)[0]}

    return last


def _home(ground: Ground, chain: int, task: str) -> Made | None:
    """The source's own model, whose heads and norms a body is scored with; whichever way it trained."""
    others = (made for (number, name), made in ground.made.items() if number == chain and name.endswith(f":{task}"))
    return ground.made.get((chain, task)) or next(others, None)


def _willing(ground: Ground) -> list[str]:
    """The sources that take merged models in and have cases to score them on."""
    return [
        name for name in ground.plan.sources
        if name in ground.sites and ground.sites[name].receive_fused
        and ground.sites[name].test + ground.sites[name].validate
    ]  # fmt: skip


def _score(ground: Ground, site: str, line: Line, body: Callable[[], Params]) -> Conversation:
    plan, net = ground.plan, ground.nets[site]
    home = _home(ground, line["chain"], site)
    assert home is not None  # noqa: S101 - `conversations` asks for it first
    weights = {**home.open().weights, **body()}
    weights = {name: value for name, value in weights.items() if heads.KEPT not in name}
    task = tasks.Score(
        net, ground.sites[site].channels, plan.name, plan.threads, plan.buffers, plan.precision,
        plan.evaluate.measures, plan.evaluate.flips,
    )  # fmt: skip
    table = {**tasks.to_table(task), "threads": 0, "campaign": ""}
    name = key(site=site, weights=params.digest(weights), data=ground.sites[site].data, **table)
    phase = ground.store.phase(name)
    if phase is None:
        payload = {"weights": wire.params_to_bytes(weights)}
        del weights
        answer = yield Ask(site, "evaluate.score", tasks.to_table(task), payload, "forgetting")
        phase = {"cases": tasks.from_table(tasks.Scored, answer.task, site).cases}
        plan.measure.check(phase["cases"] or [], site)
        ground.store.keep_phase(name, phase)
    line |= plan.measure.numbers(phase["cases"] or [])
