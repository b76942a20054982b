"""Small cases of a simulated site: volumes on disk, a folder of them, and cases by name only."""

import json
from pathlib import Path

import numpy as np

from sites import volumes
from sites.config import OPEN, Data, Site
from sites.folders import Found


def write(path, array, affine=None):
    """A volume at a place that need not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    volumes.write(array, np.eye(4) if affine is None else affine, path)


def head(k, shape=(10, 12, 8)):
    """An image, and a label map with the values 0, 1 and 2."""
    dice = np.random.default_rng(k)
    label = np.zeros(shape, np.uint8)
    label[3:6, 4:8, 2:6], label[6:8, 4:8, 2:6] = 1, 2
    return (dice.normal(100, 10, shape) + 60 * label).astype(np.float32), label


def decathlon(folder, ids):
    """A folder in the Decathlon's layout with these cases."""
    for k, case in enumerate(ids):
        image, label = head(k)
        write(folder / "imagesTr" / f"{case}.nii.gz", image)
        write(folder / "labelsTr" / f"{case}.nii.gz", label)
    (folder / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}}))
    return Data(folder, "msd", {"front": (1,), "back": (2,)})


def site_of(data, scanner=None):
    """A simulated source with this data."""
    return Site("north", "source", data, OPEN, scanner, Path("work"), simulation=True)


def found(*ids, patients=None):
    """Cases by name only."""
    patients = patients or [None] * len(ids)
    return [Found(i, p, (Path(f"{i}.nii"),), Path(f"{i}.nii")) for i, p in zip(ids, patients)]
