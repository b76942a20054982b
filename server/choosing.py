"""`auto`: candidates that the target's own cases choose among.

Candidates are each single source, a merge of all, and where the sources train one after the other the end of the chain
that does not forget. Where the target's labels are the sources' own, heads are stitched. A target with few validation
cases cross-validates: every labelled case is held out once while a candidate trains on the others, and the candidate
with the highest mean score over all of them is trained as its row says. A single source that is better than all merges
by that measure is what comes out; so is one that is good where another is bad. Of three sources and more, merges of
the best two, the best three and so on are candidates too, by what each source did alone. Test cases are never looked
at.
"""

import itertools
import logging
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

from fedmerge import fusion
from fedmerge.errors import Refused
from server.adaptation import Place
from server.exchange import Answer, Ask
from server.ground import Ground
from server.merging import Outcome

log = logging.getLogger("fedmerge")

ENOUGH = 12  # validation cases: with as many they choose alone, and nothing is trained more than once
FOLDS = 3


def candidates(ground: Ground, target: str) -> list[fusion.Method]:
    """The methods that `auto` chooses among at a target, best guess first: of equals the first is taken."""
    plan = ground.plan
    known = {label for name in plan.sources if name in ground.nets for label in ground.nets[name].labels}
    theirs = set(ground.nets[target].labels) <= known
    whole = ["imm-mode+warm-up"]
    if plan.fit == "far":
        return fusion.expand(whole, plan.sources)
    if plan.schedule == "chain" and len(plan.sources) > 1 and not ground.given:
        whole.insert(0, "lwf+stitch+wise-ft" if theirs else "lwf")
    elif theirs:
        whole.insert(0, "imm-mode+stitch+keep-norm+wise-ft")
    return fusion.expand([*whole, "transfer"], plan.sources)


def fewer(ground: Ground, scores: dict[str, float]) -> list[fusion.Method]:
    """Merges of the sources that did best alone: the first two, the first three, and so on."""
    alone = {site: scores[f"transfer:{site}"] for site in ground.plan.sources if f"transfer:{site}" in scores}
    best_first = sorted(alone, key=lambda site: -alone[site])
    names = [f"imm-mode+warm-up:{'/'.join(best_first[:count])}" for count in range(2, len(ground.plan.sources))]
    return fusion.expand(names, ground.plan.sources) if len(best_first) > 2 else []


def ways(ground: Ground, targets: tuple[str, ...]) -> list[str]:
    """How the sources have to train for the candidates."""
    found = (method.training for target in targets for method in candidates(ground, target))
    return list(dict.fromkeys(found))


def folds(ground: Ground, place: Place) -> int:
    """Into how many parts the labelled cases are divided; 0: the validation cases are enough."""
    validate = ground.sites[place.target].validate
    labelled = validate + place.cases
    return 0 if validate >= ENOUGH or labelled < 2 else min(FOLDS, labelled)


Run = Generator[Ask, Answer, Outcome]


def measure(ground: Ground, place: Place, run: Any) -> Generator[Ask, Answer, tuple[dict[str, float], int, float]]:  # noqa: ANN401
    """The score of each candidate, and the steps and seconds that it took to know.

    Args:
        ground: the campaign.
        place: `auto`'s row.
        run: place -> the conversation of a row, which returns its outcome.

    Raises:
        Refused: the target's policy releases no metrics, or no candidate could be run; says why.
    """
    scores: dict[str, float] = {}
    failed: list[str] = []
    parts, steps, seconds = folds(ground, place), 0, 0.0
    first = candidates(ground, place.target)
    for method in itertools.chain(first, _later(lambda: fewer(ground, scores))):
        found: list[float] = []
        try:
            for fold in range(parts) if parts else [-1]:
                outcome = yield from run(replace(place, method=method, fold=fold, folds=parts))
                last = outcome.stages[-1]
                values = [ground.plan.measure.case(case) for case in last["cases"]] if parts else [best(last)]
                found += [value for value in values if value is not None]
                steps, seconds = steps + last["target_steps"], seconds + last["seconds"]
        except Refused as error:
            failed.append(f"{method.name}: {error}")
        if found:
            scores[method.name] = sum(found) / len(found)
    if not scores:
        reasons = "; ".join(failed) or "its policy releases no scores"
        raise Refused(f"auto had nothing to choose among at {place.target}: {reasons}")
    return scores, steps, seconds


def _later(listed: Callable[[], list[fusion.Method]]) -> Iterator[fusion.Method]:
    """What is listed, asked for when its turn has come."""
    yield from listed()


def best(stage: dict[str, Any]) -> float | None:
    """The best validation of a row."""
    return max((value for _, value in stage["curve"] if value is not None), default=None)


def sentence(ground: Ground, place: Place, scores: dict[str, float]) -> str:
    """What was chosen and why."""
    chosen = max(scores, key=lambda name: scores[name])
    parts = folds(ground, place)
    cases = ground.sites[place.target].validate + (place.cases if parts else 0)
    how = f"{cases} cases, each held out once" if parts else f"{cases} validation cases"
    single = {name: value for name, value in scores.items() if name.startswith("transfer:")}
    first = max(single, key=lambda name: single[name], default="")
    beside = "" if not first or first == chosen else f", against {single[first]:.3f} of {first}, the best single source"
    measure = ground.plan.measure
    what = measure.single if parts else measure.name
    return f"auto chose {chosen}: mean {what} {scores[chosen]:.3f} over {how}{beside}"
