"""One row of the table as a conversation with its target: adapt (near or far), fine-tune, keep what came."""

import dataclasses
import logging
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmerge import acceptance, fusion, measures, params, tasks, whole, wire
from fedmerge.errors import NetError, Refused
from fedmerge.fusion import recipe
from server import adaptation, choosing, grouping, leaving, merging, sealing, sofar
from server.adaptation import Place
from server.exchange import Answer, Ask, Conversation, Part
from server.ground import Ground
from server.made import Made
from server.merging import Outcome
from server.stages import Finetune
from server.store import key

log = logging.getLogger("fedmerge")


def deliver(ground: Ground, target: str, chain: int, made: Sequence[tuple[str, Made]]) -> Conversation:
    """Bring to the target, once, what its rows start from: the ancestor, and in a near fit the contributions."""
    payload = {params.digest(ground.ancestor(chain)): ground.on_disk(ground.ancestor(chain))}
    answer = yield Ask(
        target, "query.receive", {"digests": list(payload), "campaign": ground.plan.name}, payload, "ancestor"
    )
    if ground.plan.trust == "target":
        yield from sealing.deliver(ground, target, chain, made)
        return
    if ground.plan.trust == "group":
        yield from grouping.deliver(ground, target, chain, made)
        return
    for _, one in made:
        asked = {"digests": [one.name], "campaign": ground.plan.name}
        answer = yield Ask(target, "query.receive", asked, what="roll call")
        if one.name not in tasks.from_table(tasks.Receive, answer.task, target).digests:
            yield Ask(target, "query.receive", asked, {one.name: one.path}, "contribution")


def task_of(ground: Ground, place: Place, made: list[Made]) -> tasks.Row:
    """The row as the target gets it; its key names all that goes into it."""
    plan, site, method = ground.plan, ground.sites[place.target], place.method
    adapt = plan.adapt.settings(place.cases) if method.warm_up else None
    total = plan.adapt.length(place.cases) + plan.finetune.length(place.cases)
    finetune = plan.finetune.settings(place.cases, steps=total - (adapt["steps"] if adapt else 0))
    if method.heads == "stitched":
        for rate in ("lr", "specific_lr"):
            finetune[rate] = finetune[rate] and finetune[rate] * plan.finetune.gentle
    if method.ema:
        finetune["ema"] = plan.finetune.ema
    if method.heads == "stitched":
        _check_labels(ground, place, made)
    if method.soup in ("gou", "gog") and finetune["steps"] < 2 * plan.finetune.soup_cycles:
        raise Refused(
            f"{method.name}: {plan.finetune.soup_cycles} snapshots expected at least twice as many steps of "
            f"fine-tuning, got {finetune['steps']}"
        )
    row = tasks.Row(
        key="",
        label=place.label,
        campaign=plan.name,
        method=dataclasses.asdict(method),
        net=ground.nets[place.target],
        channels=site.channels,
        sources=tuple(one.site for one in made),
        digests=tuple(one.name for one in made),
        ancestor=params.digest(ground.ancestor(place.chain)),
        seed=place.seed,
        net_seed=int(key(seed=plan.seed, row=place.seed, chain=place.chain)[:8], 16) & 0x7FFFFFFF,
        target_cases=place.cases,
        ratios="anchored" if method.chooser == "anchored" else plan.ratios,
        adapt=adapt,
        logits_lr=plan.adapt.logits_lr,
        finetune=finetune,
        threads=plan.threads,
        buffers=plan.buffers,
        precision=plan.precision,
        kept=_kept(ground, place),
        scales={"scale": plan.adapt.scale, "density": plan.adapt.density} if recipe.combines(method) else {},
        finish=_finish(plan.finetune, method),
        folds=place.folds,
        fold=max(place.fold, 0),
        fisher="target" if plan.train.fisher == "target" and method.rule == "mode" else "sources",
        trust=plan.trust,
        measures=plan.evaluate.measures,
        flips=plan.evaluate.flips,
    )
    table = {**tasks.to_table(row), "threads": 0, "campaign": ""}
    table.pop("trust")  # who reads what changes nothing of what is computed
    if row.fisher == "sources":
        table.pop("fisher")  # a row keeps the name that it had before there was a choice
    if not method.admit:
        table["method"].pop("admit")
    return dataclasses.replace(row, key=key(target=place.target, data=site.data, fit=plan.fit, **table))


def _check_labels(ground: Ground, place: Place, made: list[Made]) -> None:
    """Whether the sources' heads can be stitched for this target.

    Raises:
        Refused: a label, or region, of the target is none of the sources', or two classifiers have no class in common.
    """
    kept, net = place.method.training == "lwf", ground.nets[place.target]
    sites = ground.sources(place.chain, place.method.way) if kept else [one.site for one in made]
    try:
        net.task.needed(net.rows, [rows for site in sites if (rows := _rows(ground, site, net))])
    except NetError as error:
        raise Refused(f"{place.target}: {error}") from None


def _kept(ground: Ground, place: Place) -> dict[str, list[str]]:
    """The rows of the heads that the last source of a chain kept for those before it."""
    if place.method.training != "lwf":
        return {}
    net = ground.nets[place.target]
    return {site: list(_rows(ground, site, net)) for site in ground.sources(place.chain, place.method.way)[:-1]}


def _rows(ground: Ground, site: str, target: tasks.Net) -> tuple[str, ...]:
    """What the rows of a source's head stand for; none where it answers labels and the target regions, or otherwise."""
    net = ground.nets[site]
    return net.rows if bool(net.regions) == bool(target.regions) else ()


def _finish(settings: Finetune, method: fusion.Method) -> dict[str, Any]:
    """How the fine-tuning ends."""
    soup = {"rates": list(settings.soup_rates), "cycles": settings.soup_cycles} if method.soup else {}
    return soup | ({"share": settings.share} if method.wise_ft else {})


def row(ground: Ground, place: Place, outcomes: list[Outcome], waiting: dict[Place, str]) -> Conversation:
    """Run one row and add its outcome; a refusal fails the row, not the campaign.

    Args:
        ground: the campaign.
        place: the row.
        outcomes: gets its outcome.
        waiting: gets the way of a chain that `auto` wants to try and that nobody has trained yet (`Method.way`); the
            row is to be run again once it is there, and finds on disk what it has done.
    """
    outcome = Outcome(place, [])
    outcomes.append(outcome)
    try:
        yield from (
            _choose(ground, place, outcome) if place.method.sources == "candidates" else _phases(ground, place, outcome)
        )
    except choosing.Wanted as wanted:
        outcomes.remove(outcome)
        waiting[place] = wanted.way
        return
    except Refused as error:
        log.warning("%s: %s", place.label, error)
        outcome.stages.append(
            stage(ground, place, "fine-tuned", None, [], 0, 0.0) | {"status": "failed", "error": str(error)}
        )
    sofar.note(ground.store, outcome)


def _choose(ground: Ground, place: Place, outcome: Outcome) -> Conversation:
    """`auto`: score the candidates, and run the best one as its own row would run; the steps of all are counted."""

    def run(where: Place) -> Generator[Ask, Answer, Outcome]:
        found = Outcome(where, [])
        yield from _phases(ground, where, found)
        return found

    trials = yield from choosing.measure(ground, place, run)
    scores, told = trials.scores, choosing.sentence(ground, place, trials.scores)
    log.info("%s at %s: %s", place.label, place.target, told)
    name = max(scores, key=lambda candidate: scores[candidate])
    chosen = yield from run(replace(place, method=fusion.method(name, ground.plan.mixed)))
    outcome.made, outcome.fused = chosen.made, chosen.fused
    outcome.ratios = chosen.ratios and chosen.ratios | place.columns
    outcome.leave_one_out = chosen.leave_one_out and chosen.leave_one_out | place.columns
    outcome.choice = {**place.columns, "chosen": name, "sentence": told, "scores": scores, "dropped": trials.dropped}
    more = {"target_steps": trials.steps, "seconds": trials.seconds} if choosing.folds(ground, place) else {}
    outcome.stages = [
        one | place.columns | {key: round(one[key] + value, 3) for key, value in more.items()} for one in chosen.stages
    ]


def _phases(ground: Ground, place: Place, outcome: Outcome) -> Conversation:
    outcome.made = made = merging.ingredients(ground, place)
    task = task_of(ground, place, made)
    if place.method.admit:
        outcome.made = made = yield from leaving.admit(ground, place, task, outcome)
        task = task_of(ground, place, made)
    near, alone = ground.plan.fit == "near", ground.plan.trust != "server"
    digest, told, mixed = "", "", None
    curve: list[Any] = []
    steps = 0
    if task.adapt:
        if near:
            like = {} if alone else merging.logit_shapes(ground, place, task)
            phase = yield from adaptation.near(ground, place, task, like)
            told = phase["fused"]
            outcome.leave_one_out = leaving.line(place, task, phase, "adapted")
        else:
            mixed = merging.mix(ground, place, task, made)
            logits = recipe.starting_logits(mixed, place.method, place.seed) if mixed else {}
            phase = yield from adaptation.far(ground, place, task, mixed, logits)
        curve, steps = phase["curve"], task.adapt["steps"]
        outcome.stages += [
            stage(ground, place, "start", phase["start"], curve[:1], 0, 0.0),
            stage(ground, place, "adapted", phase["adapted"], curve, steps, phase["seconds"]),
        ]
    if alone:
        pass  # the target merges, and its ratios stay there
    elif task.fisher == "target":  # which merges alone, and tells its ratios
        merging.taken(ground, place, task, outcome)
    elif (mixed := mixed or merging.mix(ground, place, task, made)) is not None:
        digest = merging.merge(ground, place, task, outcome, mixed, told)
        mixed = None  # the target may work for hours from here
    elif place.method.rule is not None:
        digest = merging.combine(ground, place, task, outcome)
        if told:
            merging.same(place, digest, told)
    done = yield from _finetune(ground, place, task, outcome.fused)
    outcome.leave_one_out = outcome.leave_one_out or leaving.line(place, task, done, "start")
    if digest and not task.adapt:
        merging.same(place, digest, done["fused"])
    if not task.adapt:
        outcome.stages.append(stage(ground, place, "start", done["start"], done["curve"][:1], 0, 0.0))
    whole = [*curve, *(p for p in done["curve"] if p[0] > steps or not curve)]
    before = outcome.stages[-1]["seconds"]
    outcome.stages.append(
        stage(ground, place, "fine-tuned", done["finetuned"], whole, steps + done["steps"], before + done["seconds"])
    )
    leaving.count(outcome)
    final, word = measures.number(outcome.stages[-1]), ground.plan.measure.name
    log.info("%s at %s: %s %s", place.label, place.target, word, "withheld" if final is None else f"{final:.3f}")


def _finetune(ground: Ground, place: Place, task: tasks.Row, fused: Path | None) -> Part:
    """Fine-tuning at the target; a released model is kept beside the merged one."""
    name = f"{task.key}-finetuned"
    if (phase := ground.store.phase(name)) is not None:
        return phase
    payload: dict[str, bytes] = {}
    if ground.plan.fit == "far" and fused is not None and not task.adapt:
        payload = {"fused": wire.params_to_bytes(wire.read_model(fused)[0])}
    most = acceptance.room(task.net)
    answer = yield Ask(place.target, "train.finetune", tasks.to_table(task), payload, "fine-tuning", most)
    told = dataclasses.asdict(tasks.from_table(tasks.Finetuned, answer.task, place.target))
    if "model" in answer.payload:
        model = answer.need("model", place.target)
        whole.write(merging.models(ground) / place.target / f"{place.label}.fine-tuned.safetensors", model)
    ground.store.keep_phase(name, told)
    return told


def stage(
    ground: Ground,
    place: Place,
    name: str,
    cases: list[tasks.CaseScore] | None,
    curve: list[Any],
    steps: int,
    seconds: float,
) -> dict[str, Any]:
    """One entry of `rows` in results.json.

    Raises:
        Refused: the cases are scored as another task's are.
    """
    ground.plan.measure.check(cases or [], place.target)
    return {
        **place.columns,
        "stage": name,
        "status": "ok",
        "error": None,
        "target_steps": steps,
        **ground.plan.measure.numbers(cases or []),
        "cases": cases or [],
        "curve": [list(point) for point in curve],
        "seconds": round(seconds, 3),
    }
