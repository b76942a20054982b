"""A training that is wanted of a source: what it starts from and looks back at, and what its contribution has to be."""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from fedmerge import acceptance, nets, params, tasks
from fedmerge import heads as many
from fedmerge.contribution import Expected
from fedmerge.errors import Refused
from fedmerge.privacy import accountant
from server.exchange import Answer, Ask
from server.ground import Ground
from server.made import Made, Start

log = logging.getLogger("fedmerge")

POOLED = "pooled"
T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """A training that is wanted.

    Attributes:
        name: of what comes of it, as `Ground.named` has it.
        site: who does it.
        kind: the message type.
        start: what it starts from.
        before: contributions that it looks back at.
        kept: the sites whose heads it keeps beside its own.
        then: the source that starts from it, if one does.
        readers: sources that will look back at it.
    """

    name: str
    site: str
    kind: str
    start: Start
    before: Sequence[Made] = ()
    kept: Sequence[str] = ()
    then: Sequence[str] = ()
    readers: Sequence[str] = ()

    @property
    def who(self) -> str:
        """The name that the contribution bears."""
        return POOLED if self.kind == "train.pooled" else self.site


def expected(task: tasks.Contribute, heads: Mapping[str, tuple[int, ...]]) -> Expected:
    """What the contribution of a task has to be; `heads`: shapes of those that it keeps for other sites."""
    return acceptance.of_training(
        task.net, task.ancestor, parent=task.parent, key=task.key, fisher=task.fisher, heads=heads
    )


def heads(ground: Ground, kept: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The heads that a source keeps for those before it: names and shapes."""
    found: dict[str, tuple[int, ...]] = {}
    for site in kept:
        net = ground.nets[site]
        shapes = params.shapes(nets.on_meta(net.settings, in_channels=net.in_channels, out_channels=net.out_channels))
        found |= {f"{name}{many.KEPT}{site}": shapes[name] for name in net.heads}
    return found


def twice(ground: Ground, ask: Ask, take: Callable[[Answer], T]) -> Generator[Ask, Answer, T]:
    """Ask, and once more where what came is refused: a site has it on its disk, and a link may have broken it.

    Args:
        ground: the campaign; its witness writes each refusal down.
        ask: what is asked.
        take: checks and keeps what came.

    Raises:
        CampaignStopped: the site is absent, or failed.
        Refused: twice.
    """
    try:
        return take((yield ask))
    except Refused as error:
        ground.witness.refused(ask.site, ask.what, str(error))
        log.warning("%s; asked once more", error)
    try:
        return take((yield replace(ask)))
    except Refused as error:
        ground.witness.refused(ask.site, ask.what, str(error))
        raise


def there(ground: Ground, target: str, made: Made) -> Generator[Ask, Answer, bool]:
    """Whether a target still has a model that it has opened itself.

    Raises:
        Refused: it is what the target trained for `pooled`, is gone, and nobody can bring it again.
    """
    asked = tasks.to_table(tasks.Receive((made.name,), ground.plan.name, vouched=True))
    answer = yield Ask(target, "query.receive", asked, what="roll call")
    if made.name in tasks.from_table(tasks.Receive, answer.task, target).digests:
        return True
    if made.site == POOLED:
        raise Refused(f"{target}: what it trained for 'pooled' is not there any more; run the campaign anew")
    return False


def keep_noise(ground: Ground, task: tasks.Contribute, told: tasks.Trained, site: str) -> None:
    """Store the mechanism of a training with differential privacy.

    Raises:
        Refused: the site has trained with none.
    """
    if task.private:
        ground.store.keep_noise(task.key, _noise(told, site))


def _noise(told: tasks.Trained, site: str) -> accountant.Training:
    """The mechanism that a site says that it has trained with.

    Raises:
        Refused: it is none.
    """
    if not (0 < told.rate <= 1 and told.noise_multiplier > 0):
        raise Refused(f"{site}: expected a training with differential privacy, got one without noise")
    return accountant.Training(told.rate, told.noise_multiplier, told.steps)
