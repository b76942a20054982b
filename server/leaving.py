"""Which sources a row does without, and what each does in its merge, as the target's validation cases tell."""

import dataclasses
from collections.abc import Generator, Mapping
from typing import Any

from fedmerge import tasks
from fedmerge.errors import Refused
from server.adaptation import Place
from server.exchange import Answer, Ask
from server.ground import Ground
from server.made import Made
from server.merging import Outcome
from server.store import key


def admit(ground: Ground, place: Place, task: tasks.Row, outcome: Outcome) -> Generator[Ask, Answer, list[Made]]:
    """Ask the target which sources its row is to merge; what follows is a row of these alone.

    Args:
        ground: the campaign.
        place: the row.
        task: the row as it would be with all its sources.
        outcome: knows what it could be made of, and gets the line of results.json.

    Raises:
        Refused: the target has no validation cases, or its answer names others than the row's sources.
    """
    made = outcome.made
    if len(made) < 2:
        return made
    if not ground.sites[place.target].validate:
        raise Refused(f"{place.target}: {place.method.name} admits sources by validation cases, and there are none")
    adapt = None if place.method.heads == "stitched" else ground.plan.adapt.settings(place.cases)
    trial = dataclasses.replace(task, adapt=adapt, key=key(row=task.key, admit=adapt))
    phase = ground.store.phase(f"{trial.key}-admitted")
    if phase is None:
        answer = yield Ask(place.target, "train.admit", tasks.to_table(trial), what="admission")
        phase = dataclasses.asdict(tasks.from_table(tasks.Admission, answer.task, place.target))
        ground.store.keep_phase(f"{trial.key}-admitted", phase)
    admitted = [one for one in made if one.site in phase["admitted"]]
    names, tried = [one.site for one in admitted], {name for merge in phase["scores"] for name in merge.split("/")}
    if not admitted or names != list(phase["admitted"]) or not tried <= set(task.sources):
        raise Refused(
            f"{place.target}: expected to admit some of {', '.join(task.sources)}, each once and in this order, got "
            f"{', '.join(phase['admitted']) or 'none'}"
        )
    larger_first = sorted(phase["scores"], key=lambda merge: (-merge.count("/"), merge))
    scores = {merge: phase["scores"][merge] for merge in larger_first}
    outcome.admission = {
        **place.columns, "admitted": names, "scores": scores, "sentence": _sentence(ground, place, task, names, scores),
        "target_steps": phase["steps"], "seconds": phase["seconds"],
    }  # fmt: skip
    return admitted


def _sentence(ground: Ground, place: Place, task: tasks.Row, names: list[str], scores: Mapping[str, Any]) -> str:
    """What was admitted and why."""
    gone = [name for name in task.sources if name not in names]
    told = f"{place.method.name} admitted {' and '.join(names)}" + (f", not {' and '.join(gone)}" if gone else "")
    whole, some = scores.get("/".join(task.sources)), scores.get("/".join(names))
    if whole is None or some is None:
        return told
    word = f"validation {ground.plan.measure.name}"
    return f"{told}: {word} {some:.3f}" + (f", {whole:.3f} with all sources" if gone else " with all sources")


def count(outcome: Outcome) -> None:
    """Add what the admission took to the steps and seconds of the row's stages."""
    if outcome.admission:
        for one in outcome.stages:
            for column in ("target_steps", "seconds"):
                one[column] = round(one[column] + outcome.admission[column], 3)


def line(place: Place, task: tasks.Row, phase: Mapping[str, Any], stage: str) -> dict[str, Any] | None:
    """The row's entry of `leave_one_out` in results.json; None where the target has not told any.

    Args:
        place: the row.
        task: the row as the target got it.
        phase: what the target answered; answers of older versions have none.
        stage: whose model was measured.

    Raises:
        Refused: the answer names others than the row's sources.
    """
    told = phase.get("leave_one_out")
    if not told:
        return None
    if told["without"].keys() != set(task.sources):
        raise Refused(
            f"{place.target}: expected a score without each of {', '.join(task.sources)}, got those without "
            f"{', '.join(told['without']) or 'none'}"
        )
    without = {name: told["without"][name] for name in task.sources}
    return {**place.columns, "stage": stage, "score": told["score"], "without": without}
