"""The masked sums of a campaign: which models enter which, and what lies here of each.

summed/KEY/SITE.hello       what a member, or the target, said
summed/KEY/SITE.masked      a member's message, noise to everybody but the target of the whole sum
summed/KEY/all.sum          all messages together, still under the target's masks
summed/KEY/opened.json      who was in it, and by which digest the target has what came of it
summed/KEY/SITE.forgotten   the member has deleted its key
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmerge import params, sums
from fedmerge.errors import CampaignStopped, Refused
from fedmerge.privacy import hello, transcript
from fedmerge.privacy.hello import UNIT, Agreed
from fedmerge.privacy.transcript import Transcript
from fedmerge.trust import keys
from server.ground import Ground
from server.store import key

SUMMED, OPENED, TOTAL = "summed", "opened.json", "all.sum"


@dataclass(frozen=True)
class Whole:
    """One masked sum of a campaign.

    Attributes:
        chain: whose trainings are summed.
        group: what its members and the target are told.
        made: member -> key of the task that made its model.
        folder: where hellos, messages and the sum lie.
    """

    chain: int
    group: sums.Group
    made: dict[str, str]
    folder: Path

    @property
    def agreed(self) -> Agreed:
        """What the hellos have to say."""
        return self.group.agreed

    @property
    def opened(self) -> Path:
        """The record of what came of it, once the target has opened it."""
        return self.folder / OPENED


def sums_of(ground: Ground, chain: int) -> list[Whole]:
    """The sums of a chain, once its sources have trained.

    Raises:
        CampaignStopped: a member is not there any more.
    """
    plan, found = ground.plan, []
    ancestor = ground.ancestor(chain)
    for name, members in plan.grouped.items():
        made = {}
        for site in members:
            if (its := ground.unshown.get((chain, site))) is None or its.stays is None:
                why = ground.why(chain, site) or "it has trained nothing"
                raise CampaignStopped(f"{name} is summed as a whole or not at all, and {site} is missing: {why}")
            made[site] = its.stays.task.key
        number = key(chain=chain, group=name, made=made, target=plan.targets[0], ancestor=params.digest(ancestor))
        group = sums.Group(
            run=f"{ground.run}/{chain}/{number}",
            name=name,
            schema=hello.schema(ancestor),
            weights=dict.fromkeys(members, UNIT),
            target=plan.targets[0],
        )
        found.append(Whole(chain, group, made, ground.store.folder / SUMMED / number))
    return found


def gathered(ground: Ground, one: Whole) -> Transcript:
    """The transcript of the hellos that came; hellos that make up none are thrown away.

    Raises:
        Refused: names the site whose hello is not what was agreed.
    """
    try:
        signing = {
            site: keys.signing_of(ground.keys.get(site, {}).get("signing", ""), site)
            for site in (*one.made, one.group.target)
        }
        found = [hello.read_hello(text.encode(), one.group.name) for text in hellos(one)]
        return transcript.gather(found, one.agreed, signing)
    except Refused:
        for path in one.folder.glob("*.hello"):
            path.unlink()
        raise


def hellos(one: Whole) -> list[str]:
    """The hellos that are there."""
    paths = (one.folder / f"{site}.hello" for site in (*one.made, one.group.target))
    return [path.read_text(encoding="ascii") for path in paths if path.exists()]


def public_keys(ground: Ground, one: Whole) -> dict[str, Any]:
    """The public keys of the group, which only the sites of a simulation believe."""
    return {site: ground.sites[site].keys for site in (*one.made, one.group.target)}
