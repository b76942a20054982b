"""Made-up results in the form of `results.json`, for the tests of what is drawn and written from them."""

import math
import random

TEN = (
    "none",
    "transfer:north",
    "transfer:south",
    "mean",
    "imm-mode",
    "imm-mode+warm-up",
    "random-ratios",
    "t-imm",
    "t-imm-kernel",
    "pooled",
)
FOUR = ("none", "transfer:south", "imm-mode", "t-imm")
LEVEL = {"none": 0.74, "transfer:north": 0.78, "transfer:south": 0.79, "mean": 0.785, "pooled": 0.823}
ADAPTED = ("imm-mode+warm-up", "random-ratios", "t-imm", "t-imm-kernel")


def results(methods=TEN, seeds=(0, 1, 2), targets=("harbour",), cases=50, layers=14):
    """What a run of these methods could have left, the same at every call."""
    draw = random.Random(0)
    ease = [draw.gauss(0, 0.05) for _ in range(cases)]
    rows, ratios = [], []
    for target in targets:
        for seed in seeds:
            for method in methods:
                final = LEVEL.get(method, 0.806) + draw.gauss(0, 0.006)
                rows += [row(method, seed, target, stage, final, ease, draw) for stage in stages(method)]
                if method.startswith(("t-imm", "random")):
                    ratios.append(mixing(method, seed, target, layers, draw))
    return {
        "format": "fedmerge-results/1",
        "campaign": {"campaign": {"name": "made up", "method": "t-imm"}},
        "environment": {"fedmerge": "0.1.0", "flwr": "1.41.0", "torch": "2.13.0", "device": "cpu"},
        "rows": rows,
        "ratios": ratios,
        "forgetting": [
            {"weights": weights, "task": task, "seed": seed, "chain": 0, "target_cases": 4, "dice": dice}
            for seed in seeds
            for weights, task, dice in (
                ("north", "north", 0.85),
                ("south", "north", 0.01),
                ("t-imm", "north", 0.6),
            )
        ],
        "traffic": [{"from": "north", "to": "server", "what": "contribution", "bytes": 1_000_123}],
    }


def stages(method):
    """The stages that a method has rows for."""
    return ("start", "adapted", "fine-tuned") if method in ADAPTED else ("start", "fine-tuned")


def row(method, seed, target, stage, final, ease, draw):
    """One row: Dice that saturates at `final`, each case with its own ease."""
    share = {"start": 0.05, "adapted": 0.8, "fine-tuned": 1.0}[stage]
    scored = [min(max(final * share + e + draw.gauss(0, 0.02), 0.0), 1.0) for e in ease]
    curve = [[s, min(1.0, final * (1 - 0.9 * math.exp(-s / 18)) + draw.gauss(0, 0.008))] for s in range(0, 101, 10)]
    return {
        "method": method,
        "seed": seed,
        "chain": 0,
        "target": target,
        "target_cases": 4,
        "target_steps": {"start": 0, "adapted": 20, "fine-tuned": 100}[stage],
        "stage": stage,
        "status": "ok",
        "error": None,
        "dice": sum(scored) / len(scored),
        "cases": [
            {"case": f"case_{i:03d}", "dice": {"anterior": dice, "posterior": dice}} for i, dice in enumerate(scored)
        ],
        "curve": curve if stage == "fine-tuned" else [],
        "seconds": 4.0,
    }


def mixing(method, seed, target, layers, draw):
    """Ratios of two sites that swing around one half from layer to layer."""
    kernel = method == "t-imm-kernel"
    groups = {}
    for i in range(layers):
        name = f"contexts.{i // 3}.conv{i % 3 + 1}"
        north = [min(max(0.5 + 0.15 * math.sin(i) + draw.gauss(0, 0.08), 0), 1) for _ in range(8 if kernel else 1)]
        south = [1 - ratio for ratio in north]
        groups[name] = [north, south] if kernel else [north[0], south[0]]
    return {
        "method": method,
        "seed": seed,
        "chain": 0,
        "target": target,
        "target_cases": 4,
        "sites": ["north", "south"],
        "grain": "kernel" if kernel else "layer",
        "groups": groups,
    }


def failing(results, method, sentence):
    """The same results, as if `method` had failed before its start."""
    rows = [row for row in results["rows"] if row["method"] != method]
    failed = {
        **next(row for row in results["rows"] if row["method"] == method),
        "status": "failed",
        "error": sentence,
        "dice": None,
        "cases": [],
        "curve": [],
        "target_steps": 0,
    }
    return {**results, "rows": [*rows, failed]}
