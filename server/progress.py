"""Where each site is, for those who watch: `progress.json` in the server's part of a run, rewritten once a second.

    {"time": 1760000000.0, "campaign": "first", "began": 1759980000.0, "rows": 6, "roles": {"north": "source"},
     "sites": {"north": {"state": "working", "what": "train.contribute", "since": 1759990000.0, "reason": "",
     "progress": {"what": "training", "done": 400, "total": 2000, "began": 1759990010.0, "from": 0,
     "at": 1759999990.0}, "sent": 120, "received": 240}}, "traffic": [...], "under": [...]}

Times are seconds since 1970, traffic is bytes from the server to the site and back. `state` is `idle`, `asked`,
`working` (the site has said that it is at it) or `away`, then with a reason. `began` and `from` of a progress are when
the work was first told of, and how much was done then, `at` when it was last told of. `traffic` is the
exchange's table, `under` the asks under way; those that are over are in `timeline.json` beside it (`server.spans`),
which is written when one has ended.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from server.presence import Presence

EVERY_S = 1.0


class Progress:
    """The file.

    Args:
        path: where it is; None: nowhere.
        wall: the time of day in seconds since 1970.
        facts: of the campaign as a whole, beside the sites'.
    """

    def __init__(
        self, path: Path | None = None, wall: Callable[[], float] = time.time, facts: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self._wall = path, wall
        self.facts = {"began": wall(), **(facts or {})}
        self.told: dict[str, dict[str, Any]] = {}
        self._begun: dict[str, dict[str, Any]] = {}
        self._last = 0.0  # when the last ask of the timeline ended
        self._states: dict[str, tuple[str, str, float]] = {}
        self._written = 0.0

    def tell(self, site: str, facts: Any) -> None:  # noqa: ANN401 - as it came
        """What a site says of its work; None: it has answered."""
        if isinstance(facts, dict) and all(type(facts.get(key)) is int for key in ("done", "total")):
            self.told[site] = {
                "what": str(facts.get("what", ""))[:120],
                "done": facts["done"],
                "total": facts["total"],
            }
            now, before = self.told[site], self._begun.get(site)
            if before is None or before["what"] != now["what"] or before["from"] > now["done"]:
                self._begun[site] = {"what": now["what"], "began": self._wall(), "from": now["done"]}
            self._begun[site]["at"] = self._wall()
        elif facts is None:
            self.told.pop(site, None)
            self._begun.pop(site, None)

    def write(
        self,
        sites: Iterable[str],
        presence: Presence,
        asked: Mapping[str, str],
        traffic: list[dict[str, Any]],
        *,
        at_last: bool = False,
        timeline: Sequence[dict[str, Any]] = (),
        under: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        """Write the file anew, when it is time.

        Args:
            sites: all of them.
            presence: which of them are there.
            asked: site -> what it is asked at the moment.
            traffic: the exchange's table.
            at_last: whether nothing comes after this for a while.
            timeline: the lines of the asks that are over.
            under: gives those of the asks under way.
        """
        now = self._wall()
        if self.path is None or (not at_last and 0 <= now - self._written < EVERY_S):
            return
        self._written = now
        table = {}
        for site in sites:
            gap, what, told = presence.gap(site), asked.get(site, ""), self.told.get(site)
            state = "away" if gap else "working" if what and told else "asked" if what else "idle"
            if self._states.get(site, ("", "", 0.0))[:2] != (state, what):
                self._states[site] = (state, what, now)
            table[site] = {
                "state": state,
                "what": what,
                "since": self._states[site][2],
                "reason": gap.reason if gap else "",
                "progress": told and {**self._begun[site], **told},
                "sent": sum(line["bytes"] for line in traffic if line["to"] == site),
                "received": sum(line["bytes"] for line in traffic if line["from"] == site),
            }
        _write(
            self.path,
            {"time": now, **self.facts, "sites": table, "traffic": list(traffic), "under": under()},
        )
        last = max((line["end"] for line in timeline), default=0.0)
        if last != self._last:
            self._last = last
            _write(self.path.with_name("timeline.json"), {"lines": list(timeline)})


def _write(path: Path, what: dict[str, Any]) -> None:
    fresh = path.with_name(f".{path.name}")
    fresh.parent.mkdir(parents=True, exist_ok=True)
    fresh.write_text(json.dumps(what), encoding="utf-8")
    fresh.replace(path)
