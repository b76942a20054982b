"""A run's folder as a simulation leaves it, in its real file formats, of any size and without any training."""

import json
import math
import random
import shutil
from pathlib import Path

import numpy as np
import tomli_w
from made_up import row, stages

from fedmerge import measures, results
from fedmerge.pages import cases as packing
from fedmerge.pages import net
from sites import volumes

LABELS = ("core", "rim", "fluid")
NET = {"name": "isensee2017", "dims": 3, "base_filters": 4, "depth": 3, "patch": [16, 16, 16]}


def write(folder, *, cases=4, shape=(26, 30, 22), sources=2, methods=("none", "t-imm"), layout="msd", odd=""):
    """Write results, campaign, the target's images and every method's predictions; the folder.

    Args:
        folder: of the run, new.
        cases: test cases of the target, which is called harbour.
        shape: voxels.
        sources: how many.
        methods: of the table.
        layout: of the target's data.
        odd: put behind the names of cases and labels, where it hurts a page that does not escape.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = [f"{name}{odd}" for name in LABELS]
    data = {"folder": str(folder / "data"), "layout": layout, "labels": {n: [k] for k, n in enumerate(labels, 1)}}
    campaign = {
        "campaign": {"name": f"made{odd}", "task": "segmentation", "method": "t-imm", "trust": "server", "fit": "near"},
        "net": NET,
        "site": [
            *({"name": name, "role": "source"} for name in names(sources)),
            {"name": "harbour", "role": "target", "data": data | {"test": cases}},
        ],
    }
    (folder / "campaign.toml").write_text(tomli_w.dumps(campaign))
    ids = [f"case_{i:03d}{odd}" for i in range(cases)]
    told = made(campaign, ids, labels, sources, methods)
    (folder / "results.json").write_text(results.to_json(told))
    images(folder, ids, labels, shape, methods)
    return folder


def names(sources):
    """Of the sources."""
    return [f"site{k}" for k in range(sources)]


def made(campaign, ids, labels, sources, methods):
    """The results of such a campaign."""
    draw = random.Random(0)
    ease = [draw.gauss(0, 0.05) for _ in ids]
    level = {"none": 0.6}
    rows = []
    for method in methods:
        for stage in stages(method):
            one = row(method, 0, "harbour", stage, level.get(method, 0.75), ease, draw)
            scored = [next(iter(case["dice"].values())) for case in one["cases"]]
            one["cases"] = [
                {
                    "case": case,
                    "dice": dict.fromkeys(labels, dice),
                    "hd95": dict.fromkeys(labels, 20 * (1 - dice)),
                    "lesion-dice": dict.fromkeys(labels, dice**2),
                }
                for case, dice in zip(ids, scored)
            ]
            one |= measures.DICE.numbers(one["cases"])
            rows.append(one)
    whole = {"campaign": campaign, "sites": [{"role": "target", "labels": labels}]}
    layers = [layer.name for layer in net.of(whole)[0] if not layer.name.startswith("heads")]
    groups = {}
    for i, layer in enumerate(layers):
        parts = [1 + 0.6 * math.sin(i + 2 * k) for k in range(sources)]
        groups[layer] = [part / sum(parts) for part in parts]
    place = {"seed": 0, "chain": 0, "target": "harbour", "target_cases": 4}
    ratios = [{"method": "t-imm", **place, "sites": names(sources), "grain": "layer", "groups": groups}]
    sites = [{"name": name, "role": "source", "labels": labels[:1]} for name in names(sources)]
    return {
        "format": "fedmerge-results/1",
        "measure": "dice",
        "campaign": campaign,
        "environment": {"fedmerge": "0.1.0", "flwr": "1.41.0", "torch": "2.13.0", "device": "cpu"},
        "sites": [*sites, {"name": "harbour", "role": "target", "labels": labels}],
        "rows": rows,
        "ratios": ratios if "t-imm" in methods else [],
        "forgetting": [{"weights": "site0", "task": "site0", "dice": 0.8, **place}],
        "traffic": [{"from": "site0", "to": "server", "what": "contribution", "bytes": 1_000_123}],
        "timeline": timeline(sources, methods),
    }


def timeline(sources, methods):
    """Sources one after the other, then, after a night, the rows at the target."""
    lines, now = [], 1_790_000_000.0
    for name in names(sources):
        lines.append(line(name, "contribution", "chain 0", now, now + 3600, 2_000_000, 4_000_000))
        now += 3600
    now += 50_000
    for method in methods:
        lines.append(line("harbour", "fine-tuning", f"{method}-seed0-chain0-n4", now, now + 1800, 9_000, 2_000_000))
        now += 1800
    return lines


def line(site, what, about, begin, end, down, up):
    """One line of the timeline."""
    return {"site": site, "what": what, "about": about, "begin": begin, "end": end, "asks": 1, "down": down,
            "up": up, "failed": 0}  # fmt: skip


def images(folder, ids, labels, shape, methods):
    """A head with three nested bodies and noise for each case; predictions are shifted by up to two voxels."""
    dice = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    affine = np.diag([-1.5, 1.0, 2.0, 1.0])  # as files often lie: x from right to left
    for kind in ("imagesTr", "labelsTr"):
        (folder / "data" / kind).mkdir(parents=True)
    for case in ids:
        centre = dice.uniform(-0.15, 0.15, 3).reshape(3, 1, 1, 1)
        far = np.sqrt(((grid - centre) ** 2).sum(0))
        truth = ((far < 0.5).astype(np.uint8) + (far < 0.35) + (far < 0.18)).astype(np.uint8)
        image = 300.0 * (far < 0.9) + 120.0 * truth + dice.normal(0, 25, shape)
        volumes.write(image.astype(np.float32), affine, folder / "data/imagesTr" / f"{case}.nii.gz")
        volumes.write(truth, affine, folder / "data/labelsTr" / f"{case}.nii.gz")
        for k, method in enumerate(methods):
            place = folder / "sites/harbour/predictions" / f"{method.replace(':', '-')}-seed0-chain0-n4"
            place.mkdir(parents=True, exist_ok=True)
            path = place / f"{case}.nii.gz"
            if k < 6:
                volumes.write(np.roll(truth, 1 + k % 2, axis=k % 3), affine, path)
                written = path
            else:  # the same again, which costs nothing
                shutil.copy(written, path)
    told = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, **{name: k for k, name in enumerate(labels, 1)}},
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in ids],
    }
    Path(folder / "data/dataset.json").write_text(json.dumps(told))


AFFINE = np.array([[1, 0.1, 0, -7], [-0.05, 2, 0, 5], [0, 0, 3, 11], [0, 0, 0, 1]])


def example(shape=(20, 24, 16), seed=0):
    """A case for the page, with a body and noise."""
    dice = np.random.default_rng(seed)
    image = dice.normal(0, 1, shape)
    image[4:15, 5:20, 3:12] += 200
    truth = np.zeros(shape, np.uint8)
    truth[6:10, 8:12, 5:8] = 3
    return packing.Shown(
        f"c{seed}", image, truth, {"m": np.roll(truth, 1, 0)}, AFFINE, (1.0, 2.0, 3.0), {"m": {"dice": 0.5}}
    )
