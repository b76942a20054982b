"""What a net answers, and all that follows from it: a label or regions for each voxel, or one class for the image.

>>> of({"name": "resnet"}).name
'classification'
>>> of({"name": "resnet"}).channels(("cyst", "ring")), of({"name": "unet"}).channels(("cyst", "ring"))
(2, 3)
>>> of({"name": "unet"}, ("core", "rim"), {"whole": ["core", "rim"], "inner": ["core"]}).rows(("core", "rim"))
('inner (core)', 'whole (core, rim)')
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fedmerge import heads, losses, measures, nets, regions
from fedmerge.errors import ConfigError
from fedmerge.heads import Head
from fedmerge.likelihood import SOFTMAX, Likelihood
from fedmerge.measures import Measure
from fedmerge.params import Params
from fedmerge.regions import Regions


@dataclass(frozen=True)
class Task:
    """One kind of task.

    Attributes:
        name: as a campaign file has it.
        dims: sides of the images.
        background: channels of the logits beside those of the labels.
        images: what its campaigns read, in words.
        loss: makes what trainings minimise.
        measure: what models are scored by.
        needed: which heads the rows wanted take, by the rows of each; see `heads`.
        stitch: puts a head together of them.
        likelihood: what its Fisher is the square of the slope of.
        regions: what the channels stand for, where these are regions and no labels.
    """

    name: str
    dims: int
    background: int
    images: str
    loss: Callable[[], losses.Loss]
    measure: Measure
    needed: Callable[[Sequence[str], Sequence[Sequence[str]]], list[int]]
    stitch: Callable[[Sequence[str], Sequence[Head], Mapping[str, int]], Params]
    likelihood: Likelihood = SOFTMAX
    regions: Regions | None = None

    @property
    def maps(self) -> bool:
        """Whether an answer is a label map."""
        return self.name == "segmentation"

    def channels(self, labels: Sequence[str]) -> int:
        """Logits of a net for these labels."""
        return len(labels) + self.background

    def rows(self, labels: Sequence[str]) -> tuple[str, ...]:
        """What the rows of its heads stand for, the background's left out: labels, or regions and what they are of."""
        return tuple(labels) if self.regions is None else self.regions.rows


TASKS = {
    task.name: task
    for task in [
        Task("segmentation", 3, 1, "volumes", losses.dice_ce, measures.DICE, heads.knowing, heads.stitch),
        Task(
            "classification", 2, 0, "2D images", losses.cross_entropy, measures.F1, heads.linked, heads.stitch_classes
        ),
    ]
}


def of(settings: Mapping[str, Any], labels: Sequence[str] = (), table: regions.Table | None = None) -> Task:
    """The task of a net, by its settings; an unknown net's is segmentation.

    Args:
        settings: of the net.
        labels: the names of the labels; they matter where the net answers regions.
        table: these regions; none: the labels.

    Raises:
        ConfigError: the net is of another package, which cannot be imported; or it cannot answer such regions.
    """
    name = settings.get("name")
    task = TASKS["classification" if isinstance(name, str) and nets.classifies(name) else "segmentation"]
    if not table:
        return task
    if not task.maps:
        raise ConfigError(f"regions are answered voxel by voxel, and the net '{name}' classifies images")
    found = regions.of(labels, table)
    return replace(
        task,
        background=0,
        loss=partial(losses.dice_bce, found.read),
        needed=partial(heads.knowing, what="region"),
        stitch=heads.stitch_regions,
        likelihood=found.likelihood,
        regions=found,
    )
