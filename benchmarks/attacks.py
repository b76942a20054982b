"""What differential privacy takes from membership attacks, and whether the attacks can fail the mechanism.

One source trains from fresh weights on n patients: without noise, with epsilon 8, 3 and 1, and with a DP-SGD that was
broken on purpose, once without noise and once without clipping. Coins say who of two patients is a member. Each model
is attacked by the loss, by LiRA and by the Fisher, and beside the areas stands the Dice of further patients. Then
`fedmerge.privacy.canary` makes the same mechanism (sampling rate, noise, steps) train a tiny net many times, with
and without a canary. What the attacks got right gives lower bounds on epsilon at 95 %. Rows `short` are four steps,
repeated often enough that an epsilon of 8 can fail.

    python -m benchmarks.attacks                                   the built-in synthetic hospital `north`
    python -m benchmarks.attacks --data FOLDER --out FOLDER        the Decathlon's hippocampus, `north` of the suites

A line of JSON a row is written as soon as the row is finished; what is there is not made again. The code is 1 if a
lower bound is above the accounted epsilon of a sound training, or not above that of a broken one.
"""

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fedmerge
from fedmerge import answers, campaign, devices, fisher, measures, nets, params, partition, training
from fedmerge.contribution import Contribution
from fedmerge.privacy import accountant, canary, dpsgd, lower_bound
from fedmerge.privacy.accountant import Training
from fedmerge.privacy.mechanism import Mechanism
from server import plan
from server.plan import Plan
from sites import attack, cases, coins, config, predict
from sites.cases import Found
from sites.config import Site
from sites.records import Selection
from sites.scores import Finding, References
from sites.source import parts

BOUND = 1.0  # of a sound training: the lower bound on epsilon by the accounted epsilon
HIPPOCAMPUS = Path(fedmerge.__file__).parent / "bench/campaigns/hippocampus.toml"
DELTA, CLIP = 1e-5, 1.0
CLAIMS = {"cohort": 3.0, "short": 8.0}  # what a broken mechanism claims; higher ones take more runs to fail
SHORT = Training(0.5, 1.0, 4)  # on two patients; its noise is calibrated
SETTINGS = ("none", "epsilon 8", "epsilon 3", "epsilon 1", *canary.BREAKS)
HEADINGS = (
    "n", "setting", "epsilon", "loss, AUC", "loss, TPR at 1 % FPR", "LiRA, AUC", "Fisher, AUC",
    "epsilon at least, pairs (most)", "epsilon at least, canary (most)", "Dice", "minutes", "verdict",
)  # fmt: skip


def hospital(data: Path | None, out: Path, most: int, scored: int) -> tuple[Plan, Site, list[Found]]:
    """The campaign, its site north, and its patients, one case each, in an order that no file tells."""
    path = HIPPOCAMPUS if data else campaign.built_in()
    made = 2 * most + scored
    site = config.from_campaign(path, "north", work=out / "work", data=data or out / f"phantom-{made}", base=out)
    own = replace(site.data, cases=Selection(shuffle=2026), train=None, validate=0, test=0)
    if own.phantom:
        own = replace(own, phantom={**own.phantom, "cases": made})
    found = cases.select(cases.find(own), own.cases)
    single = {one.patient or one.id: one for one in reversed(found)}
    return plan.read(path), replace(site, data=own), [one for one in found if single[one.patient or one.id] is one]


def accounted(setting: str, claim: float, rate: float, steps: int) -> Training | None:
    """What the accountant is told; the broken ones claim what they do not keep."""
    if setting == "none":
        return None
    epsilon = float(setting.split()[1]) if setting.startswith("epsilon") else claim
    return Training(rate, accountant.calibrate(epsilon, DELTA, rate, steps), steps)


def mechanism(setting: str, told: Training, patients: int) -> Mechanism:
    """What really happens."""
    sound = Mechanism(told.rate, told.noise_multiplier, CLIP, patients)
    return canary.broken(sound, setting) if setting in canary.BREAKS else sound


def row(
    p: Plan, home: Site, cohort: coins.Cohort, asked: dict[str, Any], out: Path, known: dict[int, References]
) -> dict[str, Any]:
    """Train on the members, attack the model, and let a canary into the mechanism."""
    file = out / f"patients-{asked['n']}.txt"
    file.write_text("\n".join((*cohort.members, *cohort.others)))
    site = replace(home, data=replace(home.data, cases=Selection(ids=file), test=cohort.others))
    own, setting, seed = parts(site, p.patch)["train"], asked["setting"], asked["seed"]
    settings = training.Settings(**{**p.train.settings(len(own)), "steps": asked["steps"], "validate_every": 0})
    told = accounted(setting, asked["claim"], min(1.0, settings.batch_size / len(own)), settings.steps)
    labels = tuple(site.data.labels)
    channels = {"in_channels": own[0].image.shape[0], "out_channels": len(labels) + 1}
    net = nets.build(p.net, **channels, seed=seed)
    patients = [[(case.image, case.label)] for case in own]
    options = {"seed": seed, "precision": p.precision, "loss": answers.of(p.net).loss()}
    if told is None:
        training.train(net, cases.batches(own, settings.batch_size, seed), settings, **options)
    else:
        mechanic = mechanism(setting, told, len(own))
        dpsgd.train(net, patients, settings, mechanic, unsafe_seed=seed, **options)
    made = contribution(site, net, nets.canonical(p.net, **channels), patients)
    audit = attack.Audit(site, made, attack.Recipe(p.patch, settings, seed=seed, precision=p.precision))
    names = {one.id: one.patient or one.id for one in cases.find(site.data)}
    pairs = [(names[a], names[b]) for a, b in cohort.pairs]
    scored = replace(home, data=replace(home.data, cases=Selection()))
    held = cases.load(scored, [one for one in cases.find(scored.data) if one.id in cohort.scored], patch=p.patch)
    if asked["references"] and asked["n"] not in known:
        known[asked["n"]] = audit.references(asked["references"])
    findings = audit.membership(known.get(asked["n"], 0))
    result = {
        "patients": len(own),
        "attacks": {found.attack: summary(found, pairs) for found in findings if found.roc},
        "dice": measures.DICE.value(predict.score(net, held, labels)),
    }
    return result | bench(setting, told, canary.cohort(patients), channels["out_channels"], asked)


def bench(
    setting: str, told: Training | None, patients: list[dpsgd.Patient], classes: int, asked: dict[str, Any]
) -> dict[str, Any]:
    """What was told, and the canary's counts."""
    if told is None:
        return {"accounted": None, "noise": 0.0, "canary": None}
    members, others = asked["runs"]
    found = canary.audit(patients, classes, mechanism(setting, told, len(patients)), told.steps, told.noise_multiplier,
                         DELTA, members=members, others=others, seed=asked["seed"])  # fmt: skip
    epsilon = accountant.epsilon([told], DELTA)
    shown = {"counts": vars(found.counts), "epsilon": found.epsilon, "most": found.most}
    return {"accounted": epsilon, "noise": told.noise_multiplier, "rate": told.rate, "canary": shown}


def contribution(site: Site, net: nn.Module, settings: dict[str, Any], patients: list[dpsgd.Patient]) -> Contribution:
    """The weights, and the Fisher of all members with their own labels: with noise it would never leave."""
    heads = nets.heads(settings, **{key: settings[key] for key in ("in_channels", "out_channels")})
    own = partition.of(net, heads)
    some = [case for patient in patients for case in patient]
    found = fisher.diagonal(net, some, (*own.fusable, *own.norms), labels="observed")
    labels, channels = tuple(site.data.labels), site.data.modalities
    return Contribution(
        site.name, settings, labels, channels, len(some), "", "", params.of(net), found, "observed", ""
    )  # fmt: skip


def summary(found: Finding, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Area, rate and interval, and how often the member of a pair has the higher score."""
    right = coins.right(pairs, found.inside, found.outside)
    bounds = [lower_bound.paired_lower_bound(count, len(pairs), DELTA) for count in (right, len(pairs))]
    return {**vars(found.roc), "right": right, "pairs": len(pairs), "epsilon": bounds[0], "most": bounds[1]}


def least(line: dict[str, Any]) -> float:
    """The highest lower bound that attacks on what leaves have given; with noise no Fisher leaves."""
    pairs = [told["epsilon"] for name, told in line.get("attacks", {}).items() if name != "Fisher domination"]
    return max([line["canary"]["epsilon"], *pairs])


def verdict(line: dict[str, Any]) -> str:
    """Whether the lower bound stands to the accounted epsilon as it should."""
    if line["accounted"] is None:
        return "no promise"
    if line["asked"]["setting"].startswith("epsilon"):
        return "held" if least(line) <= BOUND * line["accounted"] else "EXCEEDED"
    if line["canary"]["most"] <= line["accounted"]:
        return "TOO FEW RUNS"
    return "caught" if line["canary"]["epsilon"] > line["accounted"] else "MISSED"


def cells(line: dict[str, Any]) -> list[str]:
    """A row of the table."""
    told, tried = line["canary"], line.get("attacks", {})
    area = {name: f"{one['auc']:.3f} ({' to '.join(f'{end:.2f}' for end in one['auc_interval'])})"
            for name, one in tried.items()}  # fmt: skip
    loss = tried.get("loss threshold")
    best = max((one["epsilon"] for name, one in tried.items() if name != "Fisher domination"), default=0.0)
    return [
        str(line["patients"]) if tried else "short",
        line["asked"]["setting"],
        "none" if line["accounted"] is None else f"{line['accounted']:.2f}",
        area.get("loss threshold", ""),
        f"{loss['tpr']:.2f}" + ("" if loss["least_fpr"] <= 0.01 else f" at 0 of {loss['others']}") if loss else "",
        area.get("LiRA", ""),
        area.get("Fisher domination", ""),
        f"{best:.2f} ({loss['most']:.2f})" if loss else "",
        f"{told['epsilon']:.2f} ({told['most']:.2f})" if told else "",
        f"{line['dice']:.3f}" if line.get("dice") is not None else "",
        f"{line['seconds'] / 60:.1f}",
        verdict(line),
    ]


def stored(file: Path) -> list[dict[str, Any]]:
    """The lines that are there; one that a crash has torn is taken away."""
    whole = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
    file.write_text("".join(f"{line}\n" for line in whole))
    return [json.loads(line) for line in whole]


def shown(lines: Iterable[dict[str, Any]]) -> str:
    """The table, as pages have it."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *map(cells, lines)]
    return "\n".join(f"| {' | '.join(one)} |" for one in rows)


def rows(told: argparse.Namespace, data: str, steps: int) -> list[dict[str, Any]]:
    """What is asked for, row by row; a line with the same facts stands for it."""
    common = {"data": data, "seed": told.seed}
    cohort = {"claim": CLAIMS["cohort"], "steps": steps, "runs": list(told.runs), "references": told.references,
              "scored": told.scored}  # fmt: skip
    wanted = [{**common, "n": n, "setting": name, **cohort} for n in told.patients for name in told.settings]
    short = {"n": 0, "claim": CLAIMS["short"], "runs": list(told.short)}
    names = [name for name in told.settings if name != "none"] if min(told.short) else []
    return wanted + [{**common, "setting": name, **short} for name in names]


def main() -> int:
    """Make what is missing, print the table; 1 if a sound training exceeded epsilon, or a broken one passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with the hippocampus of the Decathlon")
    parser.add_argument("--out", type=Path, default=Path("runs/attacks"), help="folder for attacks.jsonl")
    parser.add_argument("--patients", type=int, nargs="*", default=[32, 60, 120])
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=SETTINGS)
    parser.add_argument("--steps", type=int, default=0, help="of each training; 0: the campaign's")
    parser.add_argument("--references", type=int, default=0, help="models for LiRA; even, from 4")
    parser.add_argument("--runs", type=int, nargs=2, default=(140, 140), help="with the canary, and without")
    parser.add_argument("--short", type=int, nargs=2, default=(1000, 17000), help="the same for the rows `short`")
    parser.add_argument("--scored", type=int, default=20, help="patients for the Dice")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    logging.getLogger("fedmerge").setLevel(logging.ERROR)
    logging.getLogger("fedmerge.progress").setLevel(logging.ERROR)
    told.out.mkdir(parents=True, exist_ok=True)
    p, site, found = hospital(told.data, told.out, max(told.patients, default=2), told.scored)
    wanted = rows(told, cases.digest(found, site.data, site.scanner), told.steps or p.train.steps)
    file = told.out / "attacks.jsonl"
    lines = stored(file)
    known: dict[int, References] = {}
    for asked in wanted:
        if any(line["asked"] == asked for line in lines):
            continue
        began = time.process_time()
        if asked["n"]:
            cohort = coins.toss([one.id for one in found], asked["n"], told.scored, told.seed)
            result = row(p, site, cohort, asked, told.out, known)
        else:
            two = [[(case.image, case.label)] for case in cases.load(site, found[:2], patch=p.patch)]
            training_ = accounted(asked["setting"], asked["claim"], SHORT.rate, SHORT.steps)
            classes = len(site.data.labels) + 1
            result = bench(asked["setting"], training_, canary.cohort(two), classes, asked)
        lines.append({"asked": asked, **result, "seconds": time.process_time() - began})
        with file.open("a") as log:
            log.write(json.dumps(lines[-1]) + "\n")
        print(" | ".join(cells(lines[-1])), flush=True)
    mine = [line for asked in wanted for line in lines if line["asked"] == asked]
    print(f"\n{shown(mine)}\n")
    promised = [line for line in mine if line["accounted"] is not None]
    held = [least(line) / line["accounted"] for line in promised if line["asked"]["setting"] not in canary.BREAKS]
    broken = [
        line["canary"]["epsilon"] / line["accounted"] for line in promised if line["asked"]["setting"] in canary.BREAKS
    ]
    print(f"lower bound / accounted epsilon: at most {max(held, default=math.nan):.2f} where sound (bound {BOUND:g}), "
          f"at least {min(broken, default=math.nan):.2f} where broken (has to be above it)")  # fmt: skip
    return int(any(verdict(line) in ("EXCEEDED", "MISSED", "TOO FEW RUNS") for line in mine))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with devices.threads(1):
        sys.exit(main())
