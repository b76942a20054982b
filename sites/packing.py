"""A prepared case as arrays and plain facts, and back: what of it lies on the site's disk."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sites.foreground import Box
from sites.prepared import Arrays
from sites.preprocess import Grid
from sites.volumes import Frame

if TYPE_CHECKING:
    from sites.loading import Case


def packed(case: "Case") -> tuple[Arrays, dict[str, Any]]:
    """Its arrays, and what else of it neither the files' names nor the site's settings tell."""
    frame = case.frame
    arrays = {"image": case.image.numpy(), "label": case.label.numpy().astype(np.uint8), "truth": case.truth}
    facts = {
        "box": asdict(case.box) if case.box else None,
        "grid": asdict(case.grid),
        "shape": frame.shape,
        "affine": frame.affine.tolist(),
        "orientation": frame.orientation.tolist(),
        "codes": frame.codes,
        "regridded": case.regridded,
        "patch": case.patch,
        "label": str(case.label.dtype).removeprefix("torch."),
    }
    return arrays, facts


def unpacked(arrays: Arrays, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What `packed` undoes: a case's fields by their names."""
    lay = (tuple(facts["shape"]), np.array(facts["affine"]), np.array(facts["orientation"]), tuple(facts["codes"]))
    return {
        "image": torch.from_numpy(arrays["image"]),
        "label": torch.from_numpy(arrays["label"].astype(facts["label"])),
        "truth": arrays["truth"],
        "box": Box(**{key: tuple(value) for key, value in facts["box"].items()}) if facts["box"] else None,
        "grid": Grid(**{key: tuple(value) for key, value in facts["grid"].items()}),
        "frame": Frame(*lay),
        "regridded": facts["regridded"],
        "patch": tuple(facts["patch"]),
    }
