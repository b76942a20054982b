"""The adaptation of a row as a conversation: near in one message, far in one message a step."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from fedmerge import acceptance, fusion, tasks, wire
from fedmerge.errors import Refused
from fedmerge.fusion import fitting, mixing
from fedmerge.fusion.mixing import Mix
from fedmerge.params import Params
from server.exchange import Ask, Part
from server.ground import Ground


@dataclass(frozen=True)
class Place:
    """Where a row stands in the table; `fold` of `folds` is held out where a row is a candidate of `auto`."""

    method: fusion.Method
    seed: int
    chain: int
    target: str
    cases: int
    fold: int = -1
    folds: int = 0

    @property
    def columns(self) -> dict[str, Any]:
        """The row's columns in results.json."""
        return {
            "method": self.method.name,
            "seed": self.seed,
            "chain": self.chain,
            "target": self.target,
            "target_cases": self.cases,
        }

    @property
    def label(self) -> str:
        """The row's name for files."""
        fold = f"-fold{self.fold}" if self.folds else ""
        name = self.method.name.replace(":", "-").replace("/", "-")
        return f"{name}-seed{self.seed}-chain{self.chain}-n{self.cases}{fold}"


def near(ground: Ground, place: Place, task: tasks.Row, like: dict[str, tuple[int, ...]]) -> Part:
    """The target fits beside its data and returns the logits, which have the shapes `like`; none: nothing is merged."""
    name = f"{task.key}-adapted"
    if (phase := ground.store.phase(name)) is not None:
        return phase
    answer = yield Ask(place.target, "train.adapt", tasks.to_table(task), what="adaptation")
    told = tasks.from_table(tasks.Adapted, answer.task, place.target)
    if like:
        data = answer.need("logits", place.target)
        sent = wire.params_from_bytes(data, site=place.target)
        if {n: tuple(v.shape) for n, v in sent.items()} != like:
            raise Refused(
                f"{place.target}: logits expected the groups {sorted(like)[:3]}..., got {sorted(sent)[:3]}..."
            )
        ground.store.keep_blob(f"{task.key}-logits", data)
    phase = {**dataclasses.asdict(told), "logits": bool(like)}
    ground.store.keep_phase(name, phase)
    return phase


def far(ground: Ground, place: Place, task: tasks.Row, mix: Mix | None, logits: Params) -> Part:
    """The target sees merged weights only; its gradients move the logits here, one message a step."""
    name = f"{task.key}-adapted"
    if (phase := ground.store.phase(name)) is not None:
        return phase
    assert task.adapt is not None  # noqa: S101 - called for rows with an adaptation only
    last, kind = task.adapt["steps"], task.ratios
    phase = {
        "curve": [],
        "start": None,
        "adapted": None,
        "seconds": 0.0,
        "logits": mix is not None,
        "fused": None,
    }
    state = fitting.fit_state(mix, logits) if mix else None
    step = 0
    if (under_way := ground.store.phase(f"{name}-far")) is not None:
        phase, step = under_way["phase"], under_way["step"]
        if state is not None:
            state = wire.params_from_bytes(ground.store.blob(f"{name}-far-{step}").read_bytes())
    while step <= last:
        now = fitting.fit_logits(mix, state) if mix and state else logits
        fused = mixing.fuse(mix, mixing.ratios(now, kind)) if mix else {}  # type: ignore[arg-type]
        pull = tasks.to_table(tasks.Pull(task, step))
        payload = {"fused": wire.params_to_bytes(fused)}
        answer = yield Ask(place.target, "train.pull", pull, payload, "far step", acceptance.room(task.net))
        told = tasks.from_table(tasks.Pulled, answer.task, place.target)
        phase["curve"] += told.curve
        phase["seconds"] += told.seconds
        phase["start"], phase["adapted"] = told.start or phase["start"], told.adapted
        if step < last and mix and state is not None and place.method.fits:
            gradient = wire.params_from_bytes(answer.need("gradient", place.target), site=place.target)
            state = fitting.fit_step(mix, state, gradient, task.logits_lr, kind=kind, fused=fused)  # type: ignore[arg-type]
        step += 1
        if state is not None:
            ground.store.keep_blob(f"{name}-far-{step}", wire.params_to_bytes(state))
        ground.store.keep_phase(f"{name}-far", {"phase": phase, "step": step})
        ground.store.blob(f"{name}-far-{step - 1}").unlink(missing_ok=True)
    if mix and state:
        ground.store.keep_blob(f"{task.key}-logits", wire.params_to_bytes(fitting.fit_logits(mix, state)))
    ground.store.keep_phase(name, phase)
    return phase
