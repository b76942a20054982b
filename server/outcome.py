"""The results of a campaign in the form of results.json."""

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fedmerge.privacy import accountant
from server.ground import Ground
from server.holding import Change, told
from server.merging import Outcome


def environment(ground: Ground) -> dict[str, Any]:
    """Versions, and what the sites compute on: two runs are equal to the last digit only where these are."""
    packages = ("fedmerge", "flwr", "torch", "monai", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    devices = sorted({site.device for site in ground.sites.values()})
    return {
        **versions,
        "python": platform.python_version(),
        "device": ", ".join(devices),
        "threads": ground.plan.threads,
    }


def resolved(ground: Ground) -> dict[str, Any]:
    """The campaign's tables with every default written out."""
    plan = ground.plan
    table = dict(plan.raw)
    table["campaign"] = {
        "name": plan.name, "task": plan.task, "method": plan.method, "methods": list(plan.methods), "fit": plan.fit,
        "schedule": plan.schedule, "seed": plan.seed, "trust": plan.trust, "threads": plan.threads,
        "buffers": plan.buffers, "precision": plan.precision, "ratios": plan.ratios, "timeout_s": plan.timeout_s,
        "absent": plan.absent, "wait_s": plan.wait_s, "max_change": plan.max_change,
        "groups": [list(group) for group in plan.groups],
    }  # fmt: skip
    target = ground.nets[plan.targets[0]].settings
    net = {k: v for k, v in target.items() if k not in ("in_channels", "out_channels")}
    table["net"] = {
        **net,
        "patch": list(plan.patch),
        "field": plan.field,
        "foreground": plan.foreground,
        "specific": list(plan.specific),
        "fusable": list(plan.fusable),
    }
    if plan.weights is not None:
        table["net"]["weights"] = str(plan.weights)
    for name, stage in (("train", plan.train), ("adapt", plan.adapt), ("finetune", plan.finetune)):
        values = {k: getattr(stage, k) for k in stage.__dataclass_fields__}
        values.pop("epochs" if stage.steps else "steps")
        table[name] = values
    table["evaluate"] = asdict(plan.evaluate)
    return table


def privacy(ground: Ground) -> list[dict[str, Any]]:
    """What all contributions of a source together tell of a patient, a line for each that trained with noise."""
    trainings: dict[str, list[accountant.Training]] = {}
    for place, training in ground.noisy.items():
        trainings.setdefault(place[1].rpartition(":")[2], []).append(training)
    delta, lines = ground.plan.train.delta, []
    for site, own in trainings.items():
        epsilon = accountant.epsilon(own, delta)
        lines.append({
            "site": site, "epsilon": accountant.round_up(epsilon), "delta": delta, "unit": "patient",
            "trainings": [asdict(training) for training in own], "sentence": accountant.sentence(epsilon, delta),
        })  # fmt: skip
    return lines


def assemble(
    ground: Ground,
    outcomes: list[Outcome],
    forgotten: list[dict[str, Any]],
    moved: dict[str, list[dict[str, Any]]],
    changes: Sequence[Change] = (),
) -> dict[str, Any]:
    """Everything in one table, rows in the order in which they were asked for.

    Args:
        ground: the campaign.
        outcomes: of its rows.
        forgotten: the lines of `forgetting`.
        moved: `traffic` and `timeline`.
        changes: how far training moved each source.
    """
    return {
        "format": "fedmerge-results/1",
        "measure": ground.plan.measure.key,
        "campaign": resolved(ground),
        "environment": environment(ground),
        "sites": [
            {"name": s.site, "role": s.role, "labels": list(s.labels), "train": s.train, "validate": s.validate,
             "test": s.test, "disjoint_by": "patient" if s.by_patient else "case",
             **({"regions": s.regions} if s.regions else {})}
            for s in ground.sites.values()
        ],
        "left_out": [
            {"site": site, "chain": chain, "reason": reason} for (chain, site), reason in ground.left.items()
        ],
        "changes": [
            {"site": c.site, "chain": c.chain, "way": c.way, "change": c.change, "times": told(c.times),
             "verdict": c.verdict}
            for c in changes
        ],
        "privacy": privacy(ground),
        "rows": [
            stage | {"contributions": {made.site: made.name for made in outcome.made}}
            for outcome in outcomes
            for stage in outcome.stages
        ],
        "ratios": [outcome.ratios for outcome in outcomes if outcome.ratios],
        "choices": [outcome.choice for outcome in outcomes if outcome.choice],
        "admissions": [outcome.admission for outcome in outcomes if outcome.admission],
        "leave_one_out": [outcome.leave_one_out for outcome in outcomes if outcome.leave_one_out],
        "forgetting": forgotten,
        **moved,
    }  # fmt: skip
