"""Which sites are there: the nodes that Flower knows of, those that do not answer, since when, and who is told.

A SuperNode that dies is missing from Flower's list after at most a minute. It is named here `NAMED_AFTER_S` later, so
that nobody waits in the dark; what follows is the plan's word (`absent`, `wait_s`).
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from flwr.serverapp import Grid

log = logging.getLogger("fedmerge")

LOOK_S = 5.0  # between two looks at Flower's list of nodes
NAMED_AFTER_S = 30.0
GONE = "its node is not connected"


@dataclass
class Gap:
    """A time in which a site is not there: since when, why, and whether it was named already."""

    since: float
    reason: str
    named: bool = False


class Presence:
    """The sites' nodes, and the gaps in their presence.

    Args:
        grid: Flower's.
        deployed: whether the sites are real, so that they may go and come; the nodes of a simulation are always there.
    """

    def __init__(self, grid: Grid, deployed: bool) -> None:
        self.grid, self.deployed = grid, deployed
        self.nodes: dict[str, int] = {}
        self._offline: dict[str, Gap] = {}
        self._troubled: dict[str, Gap] = {}
        self._heard: dict[str, float] = {}
        self._looked: float | None = None

    def look(self, sites: Iterable[str], now: float) -> list[str]:
        """Look at Flower's list again, when it is time.

        Args:
            sites: who is expected.
            now: seconds of a clock that only goes forward.

        Returns:
            the sites that are back, or have another node than before: what was on its way to them may be lost.
        """
        if not self.deployed or (self._looked is not None and now - self._looked < LOOK_S):
            return []
        self._looked = now
        online = {node.name: node.node_id for node in self.grid.get_nodes() if node.name}
        back = []
        for site in sites:
            if site not in online:
                gap = self._offline.setdefault(site, Gap(now, GONE))
                if site in self._troubled:  # and this is the reason why
                    self._troubled[site].reason = gap.reason
            else:
                gone = self._offline.pop(site, None)
                if gone is not None or self.nodes.get(site) != online[site]:
                    back.append(site)
                if gone is not None and gone.named:
                    log.warning("%s is connected again, after %.0f s", site, now - gone.since)
                self.nodes[site] = online[site]
        return back

    def troubled(self, site: str, reason: str, since: float) -> None:
        """A site's node is there, but its message came back without an answer, or does not come back."""
        gap = self._troubled.setdefault(site, Gap(since, reason))
        gap.reason = reason

    def heard(self, site: str, now: float) -> None:
        """A site has answered."""
        self._heard[site] = now
        gap = self._troubled.pop(site, None)
        if gap is not None and gap.named:
            log.warning("%s answers again, after %.0f s", site, now - gap.since)

    def last_heard(self, site: str) -> float:
        """When a site has last answered."""
        return self._heard.get(site, float("-inf"))

    def offline(self, site: str) -> bool:
        """Whether Flower does not list the site's node."""
        return site in self._offline

    def gap(self, site: str) -> Gap | None:
        """Since when a site is not there, or does not answer; None where it is there."""
        gaps = [gaps[site] for gaps in (self._offline, self._troubled) if site in gaps]
        return min(gaps, key=lambda gap: gap.since, default=None)

    def name_the_absent(self, sites: Iterable[str], now: float) -> None:
        """Say it once, when a site has been gone for a while."""
        for site in sites:
            gap = self.gap(site)
            if gap is not None and not gap.named and now - gap.since >= NAMED_AFTER_S:
                gap.named = True
                log.warning("%s is not there since %.0f s: %s", site, now - gap.since, gap.reason)
