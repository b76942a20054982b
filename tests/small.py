"""Three tiny hospitals and a campaign over them, seconds long, for the tests of whole campaigns."""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

SITES = ("north", "south", "harbour")
PATCH = 8


def hospitals(folder: Path, cases: int = 8, seed: int = 0, sites: Sequence[str] = SITES) -> Path:
    """A Decathlon folder a site: a bright ball (label 1) and a brighter cube (label 2) in noise, 10 voxels a side."""
    for number, site in enumerate(sites):
        draw = np.random.default_rng([seed, number])
        for name in ("imagesTr", "labelsTr"):
            (folder / site / name).mkdir(parents=True)
        names = [f"{site}_{k:03d}" for k in range(cases)]
        for name in names:
            grid = np.stack(np.meshgrid(*[np.arange(10)] * 3, indexing="ij"))
            label = np.zeros((10, 10, 10), np.uint8)
            at = draw.uniform(2.5, 4.5, 3).reshape(3, 1, 1, 1)
            label[((grid - at) ** 2).sum(0) < 5] = 1
            label[(abs(grid - at - 3) < 1.6).all(0)] = 2
            image = label * 100.0 + draw.normal(0, 20, label.shape) + 50
            affine = np.diag([1.0, 1.0, 1.0, 1.0])
            nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), affine), _file(folder, site, "imagesTr", name))
            nibabel.save(nibabel.Nifti1Image(label, affine), _file(folder, site, "labelsTr", name))
        told = {
            "channel_names": {"0": "T1"},
            "modality": {"0": "T1"},
            "labels": {"0": "background", "1": "ball", "2": "cube"},
            "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        }
        (folder / site / "dataset.json").write_text(json.dumps(told))
    return folder


def _file(folder: Path, site: str, kind: str, name: str) -> Path:
    return folder / site / kind / f"{name}.nii.gz"


def campaign(folder: Path, *, name: str = "small.toml", head: str = "", adapt: str = "", south: str = "") -> Path:
    """The campaign's file beside the hospitals; `head`, `adapt` and `south` are lines to add to those tables."""
    path = folder / name
    path.write_text(
        f"""
[campaign]
name = "small"
precision = "float32"
{head}
[net]
name = "isensee2017"
base_filters = 2
depth = 2
patch = [{PATCH}, {PATCH}, {PATCH}]
[train]
steps = 6
lr = 5e-3
fisher_cases = 3
[adapt]
steps = 4
lr = 1e-2
logits_lr = 0.05
validate_every = 2
{adapt}
[finetune]
steps = 5
lr = 3e-3
validate_every = 2
[[site]]
name = "north"
role = "source"
[site.data]
folder = "north"
labels = {{ ball = [1] }}
background = [2]
pooled_labels = {{ ball = [1], cube = [2] }}
test = 2
[[site]]
name = "south"
role = "source"
{south}
[site.data]
folder = "south"
labels = {{ cube = [2] }}
background = [1]
pooled_labels = {{ ball = [1], cube = [2] }}
test = 2
[[site]]
name = "harbour"
role = "target"
[site.data]
folder = "harbour"
labels = {{ ball = [1], cube = [2] }}
train = 2
validate = 2
test = 3
"""
    )
    return path
