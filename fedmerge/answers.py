"""What a net answers, and all that follows from it: a label for each voxel, or one class for the whole image.

>>> of({"name": "resnet"}).name
'classification'
>>> of({"name": "resnet"}).channels(("cyst", "ring")), of({"name": "unet"}).channels(("cyst", "ring"))
(2, 3)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmerge import heads, losses, measures, nets
from fedmerge.heads import Head
from fedmerge.measures import Measure
from fedmerge.params import Params


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
        needed: which heads the labels wanted take, by the labels of each; see `heads`.
        stitch: puts a head together of them.
    """

    name: str
    dims: int
    background: int
    images: str
    loss: Callable[[], losses.Loss]
    measure: Measure
    needed: Callable[[Sequence[str], Sequence[Sequence[str]]], list[int]]
    stitch: Callable[[Sequence[str], Sequence[Head], Mapping[str, int]], Params]

    def channels(self, labels: Sequence[str]) -> int:
        """Logits of a net for these labels."""
        return len(labels) + self.background


TASKS = {
    task.name: task
    for task in [
        Task("segmentation", 3, 1, "volumes", losses.dice_ce, measures.DICE, heads.knowing, heads.stitch),
        Task(
            "classification", 2, 0, "2D images", losses.cross_entropy, measures.F1, heads.linked, heads.stitch_classes
        ),
    ]
}


def of(settings: Mapping[str, Any]) -> Task:
    """The task of a net, by its settings; an unknown net's is segmentation.

    Raises:
        ConfigError: it is of another package, which cannot be imported.
    """
    name = settings.get("name")
    return TASKS["classification" if isinstance(name, str) and nets.classifies(name) else "segmentation"]
