"""One row of the table as a conversation with its target: adapt (near or far), fine-tune, keep what came."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmerge import evaluation, params, tasks, wire
from fedmerge.errors import Refused
from fedmerge.fusion import mixing, recipe
from fedmerge.params import Params
from server import adaptation
from server.adaptation import Place
from server.exchange import Ask, Conversation, Part
from server.ground import Ground, Made
from server.store import key, write
from server.training import POOLED

log = logging.getLogger("fedmerge")

Stages = list[dict[str, Any]]


@dataclass
class Outcome:
    """What a row came to: its stages, its ratios, and the merged weights for the measure of forgetting."""

    place: Place
    stages: Stages
    ratios: dict[str, Any] | None = None
    fused: Params | None = None


def ingredients(ground: Ground, place: Place) -> list[Made]:
    """The contributions that the row's method is made of."""
    method = place.method
    if method.sources == "one":
        return [ground.made[place.chain, str(method.site)]]
    if method.sources == "pooled":
        return [ground.made[place.chain, f"{POOLED}:{place.target}"]]
    if method.sources == "all":
        return [ground.made[place.chain, name] for name in ground.plan.sources]
    return []


def deliver(ground: Ground, target: str, chain: int, made: list[Made]) -> Conversation:
    """Bring to the target, once, what its rows start from: the ancestor, and in a near fit the contributions."""
    ancestor = wire.params_to_bytes(ground.ancestor(chain))
    payload = {params.digest(ground.ancestor(chain)): ancestor}
    answer = yield Ask(
        target, "query.receive", {"digests": list(payload), "campaign": ground.plan.name}, payload, "ancestor"
    )
    for one in made:
        asked = {"digests": [one.name], "campaign": ground.plan.name}
        answer = yield Ask(target, "query.receive", asked, what="roll call")
        if one.name not in answer.task["digests"]:
            yield Ask(target, "query.receive", asked, {one.name: one.path.read_bytes()}, "contribution")


def task_of(ground: Ground, place: Place, made: list[Made]) -> tasks.Row:
    """The row as the target gets it; its key names all that goes into it."""
    plan, site, method = ground.plan, ground.sites[place.target], place.method
    adapt = plan.adapt.settings(place.cases) if method.warm_up else None
    total = plan.adapt.length(place.cases) + plan.finetune.length(place.cases)
    finetune = plan.finetune.settings(place.cases, steps=total - (adapt["steps"] if adapt else 0))
    row = tasks.Row(
        key="",
        label=place.label,
        campaign=plan.name,
        method=dataclasses.asdict(method),
        net=ground.nets[place.target],
        channels=site.channels,
        sources=tuple(one.contribution.site for one in made),
        digests=tuple(one.name for one in made),
        ancestor=params.digest(ground.ancestor(place.chain)),
        seed=place.seed,
        net_seed=int(key(seed=plan.seed, row=place.seed, chain=place.chain)[:8], 16) & 0x7FFFFFFF,
        target_cases=place.cases,
        ratios=plan.ratios,
        adapt=adapt,
        logits_lr=plan.adapt.logits_lr,
        finetune=finetune,
        threads=plan.threads,
        buffers=plan.buffers,
        precision=plan.precision,
    )
    table = {**tasks.to_table(row), "threads": 0, "campaign": ""}
    return dataclasses.replace(row, key=key(target=place.target, data=site.data, fit=plan.fit, **table))


def row(ground: Ground, place: Place, outcomes: list[Outcome]) -> Conversation:
    """Run one row and add its outcome; a refusal fails the row, not the campaign."""
    outcome = Outcome(place, [])
    outcomes.append(outcome)
    try:
        yield from _phases(ground, place, outcome)
    except Refused as error:
        log.warning("%s: %s", place.label, error)
        outcome.stages.append(stage(place, "fine-tuned", None, [], 0, 0.0) | {"status": "failed", "error": str(error)})


def _phases(ground: Ground, place: Place, outcome: Outcome) -> Conversation:
    made = ingredients(ground, place)
    task = task_of(ground, place, made)
    mix = None
    logits: Params = {}
    if place.method.sources == "all":
        given = [one.contribution for one in made]
        mix = recipe.mix(
            place.method,
            [c.weights for c in given],
            [c.fisher for c in given],
            task.net.fusable,
            axes=ground.axes(place.target),
            who=task.sources,
        )
        logits = recipe.starting_logits(mix, place.method, place.seed)
    curve: list[Any] = []
    steps = 0
    if task.adapt:
        phase = yield from (adaptation.far if ground.plan.fit == "far" else adaptation.near)(
            ground, place, task, mix, logits
        )
        if phase["logits"]:
            stored = wire.params_from_bytes(ground.store.blob(f"{task.key}-logits").read_bytes())
            logits = {group: stored[group] for group in logits}  # in the net's order again, not the file's
        curve, steps = phase["curve"], task.adapt["steps"]
        outcome.stages += [
            stage(place, "start", phase["start"], curve[:1], 0, 0.0),
            stage(place, "adapted", phase["adapted"], curve, steps, phase["seconds"]),
        ]
    if mix is not None:
        ratios = mixing.ratios(logits, ground.plan.ratios)  # type: ignore[arg-type]  # the plan allows two words
        outcome.fused = mixing.fuse(mix, ratios)
        outcome.ratios = _ratios(place, task, ratios)
        if task.adapt and ground.plan.fit == "near":
            _same(place, outcome.fused, phase["fused"])
        _keep_fused(ground, place, task, outcome.fused)
    done = yield from _finetune(ground, place, task, outcome.fused)
    if mix is not None and not task.adapt:
        _same(place, outcome.fused or {}, done["fused"])
    if not task.adapt:
        outcome.stages.append(stage(place, "start", done["start"], done["curve"][:1], 0, 0.0))
    whole = [*curve, *(p for p in done["curve"] if p[0] > steps or not curve)]
    before = outcome.stages[-1]["seconds"]
    outcome.stages.append(
        stage(place, "fine-tuned", done["finetuned"], whole, steps + done["steps"], before + done["seconds"])
    )
    final = outcome.stages[-1]["dice"]
    log.info("%s at %s: Dice %s", place.label, place.target, "withheld" if final is None else f"{final:.3f}")


def _finetune(ground: Ground, place: Place, task: tasks.Row, fused: Params | None) -> Part:
    """Fine-tuning at the target; a released model is kept beside the merged one."""
    name = f"{task.key}-finetuned"
    if (phase := ground.store.phase(name)) is not None:
        return phase
    payload = {}
    if ground.plan.fit == "far" and fused is not None and not task.adapt:
        payload = {"fused": wire.params_to_bytes(fused)}
    answer = yield Ask(place.target, "train.finetune", tasks.to_table(task), payload, "fine-tuning")
    told = dataclasses.asdict(tasks.from_table(tasks.Finetuned, answer.task, place.target))
    if model := answer.payload.get("model"):
        write(models(ground) / place.target / f"{place.label}.fine-tuned.safetensors", model)
    ground.store.keep_phase(name, told)
    return told


def _same(place: Place, fused: Params, told: str) -> None:
    """The server's merged model is the target's, bit for bit."""
    if told != params.digest(fused):
        raise Refused(
            f"{place.target}: the merged model expected digest {params.digest(fused)[:15]}, got {told[:15]}: "
            f"server and target did not compute the same"
        )


def models(ground: Ground) -> Path:
    """Where merged and released models lie."""
    return ground.store.folder.parent / "models"


def _keep_fused(ground: Ground, place: Place, task: tasks.Row, fused: Params) -> None:
    info = {
        "net": task.net.settings,
        "in_channels": task.net.in_channels,
        "labels": list(task.net.labels),
        "method": place.method.name,
        "sources": list(task.sources),
        "parameters": "fusable only: the heads and norms are the target's own",
    }
    path = models(ground) / place.target / f"{place.label}.fused.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    wire.write_model(fused, info, path)


def stage(
    place: Place, name: str, cases: list[tasks.CaseScore] | None, curve: list[Any], steps: int, seconds: float
) -> dict[str, Any]:
    """One entry of `rows` in results.json."""
    return {
        **place.columns,
        "stage": name,
        "status": "ok",
        "error": None,
        "target_steps": steps,
        "dice": evaluation.mean_dice(case["dice"] for case in cases) if cases else None,
        "cases": cases or [],
        "curve": [list(point) for point in curve],
        "seconds": round(seconds, 3),
    }


def _ratios(place: Place, task: tasks.Row, ratios: Params) -> dict[str, Any]:
    return {
        **place.columns,
        "sites": list(task.sources),
        "grain": place.method.grain,
        "groups": {name: value.tolist() for name, value in ratios.items()},
    }
