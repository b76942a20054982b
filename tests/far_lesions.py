"""Hospitals whose patients have a bright lesion far from the middle, where a patch around the centre sees nothing."""

from pathlib import Path

import nibabel
import numpy as np

SITES = ("north", "south", "harbour")
SIDE, PATCH = 20, 8


def hospitals(folder: Path, cases: int = 7) -> Path:
    """A Decathlon folder a site: a bar along an edge of 20 voxels a side, outside the middle 8; two labels at harbour.

    The brighter half of the bar is label 2.
    """
    for number, site in enumerate(SITES):
        draw = np.random.default_rng([7, number])
        for name in ("imagesTr", "labelsTr"):
            (folder / site / name).mkdir(parents=True)
        for k in range(cases):
            grid = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"))
            at = np.where(draw.random(3) < 0.5, 2.5, SIDE - 3.5).reshape(3, 1, 1, 1)
            label = ((((grid - at) ** 2)[:2].sum(0) < 8) & (abs(grid[2] - 9.5) < 8)).astype(np.uint8)
            label[(label > 0) & (grid[0] > at[0])] = 2
            image = label * 100.0 + draw.normal(0, 10, label.shape) + 50
            for kind, array in (("imagesTr", image.astype(np.float32)), ("labelsTr", label)):
                path = folder / site / kind / f"sub-{number}{k:02d}.nii.gz"
                nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
        (folder / site / "dataset.json").write_text('{"channel_names": {"0": "T1"}}')
    return folder


def campaign(folder: Path, name: str, *, net: str = "", head: str = "", train: str = "", adapt: str = "") -> Path:
    """The campaign's file beside the hospitals; the others are lines to add to those tables."""
    path = folder / f"{name}.toml"
    sites = [("north", "source", "{ front = [1] }", "[2]"), ("south", "source", "{ back = [2] }", "[1]")]
    tables = "".join(
        f'[[site]]\nname = "{site}"\nrole = "{role}"\n[site.data]\nfolder = "{site}"\nlabels = {labels}\n'
        f"background = {background}\ntest = 2\n"
        for site, role, labels, background in sites
    )
    path.write_text(
        f"""
[campaign]
name = "far"
precision = "float32"
{head}
[net]
name = "isensee2017"
base_filters = 4
depth = 2
dropout = 0.0
patch = [{PATCH}, {PATCH}, {PATCH}]
{net}
[train]
steps = 40
lr = 1e-2
fisher_cases = 2
{train}
[adapt]
steps = 10
lr = 1e-2
logits_lr = 0.05
validate_every = 5
{adapt}
[finetune]
steps = 30
lr = 1e-2
validate_every = 15
{tables}
[[site]]
name = "harbour"
role = "target"
[site.data]
folder = "harbour"
labels = {{ front = [1], back = [2] }}
train = 3
validate = 2
test = 2
"""
    )
    return path
