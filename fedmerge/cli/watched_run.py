"""A run's folder as the dashboard shows it: a simulation's with all its sites, or the server's part of a real one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmerge.dashboard import curves, messages, telling
from fedmerge.dashboard.files import Lines, Table, tables
from fedmerge.dashboard.messages import Log, Message

WORDS = {
    "waiting": "Nothing has begun in this folder yet. What begins is shown by itself.",
    "interrupted": "It ended without a word: it was killed, or the machine stopped. What is finished is kept, and the "
    "same command with --resume goes on.",
    "done": "All of it is done; fedmerge report writes its page.",
}


class Run:
    """A run's folder.

    Args:
        out: the folder.
        simulated: whether the sites of a simulation are in it; real ones are at home, and not looked at.
        title: of the page; else the campaign's name.
    """

    def __init__(self, out: Path, *, simulated: bool, title: str = "") -> None:
        self.out, self._simulated, self._title = out, simulated, title
        server = out / "server"
        self._told, self._results = Table(server / "progress.json"), Table(out / "results.json")
        self._tables = {
            name: (Table(server / f"{name}.json"), Table(server / "phases" / f"{name}.json"))
            for name in ("timeline", "traffic")
        }
        self._rows, self._over = Lines(server / "rows.jsonl", None), list[dict[str, Any]]()
        self._curves = curves.Curves(out / "sites", "*/curves/*.jsonl")
        self._doing: dict[str, Table] = {}
        self._drawing = telling.Drawing()
        self.logs = {"": Log(out / "log.txt", "server" if simulated else "campaign")}

    def look(self, now: float) -> dict[str, Any]:
        """All pieces as they are now."""
        told, state = self._told.now(), self.state()
        at_home = self._at_home(told) if state == "running" else {}
        cards = telling.cards(told, now, at_home)
        if state != "running":
            cards = [self._at_rest(card, state) for card in cards]
        rows, total = self.rows(), int(told.get("rows", 0))
        under = told.get("under", []) if state == "running" else []
        roles = told.get("roles") or {site["name"]: site["role"] for site in self._results.now().get("sites", [])}
        own = self._curves.now() if self._simulated else {}
        return {
            "head": self._head(told, state, cards, rows),
            "sites": cards,
            "timeline": self._drawing.now(self._lines("timeline"), under, now, roles),
            "scores": telling.scores(rows, str(told.get("measure", "score")), total),
            "traffic": telling.traffic(told.get("traffic") or self._lines("traffic")),
            **(own or curves.of_rows(rows)),
        }

    def said(self) -> list[Message]:
        """The messages since the last call."""
        if self._simulated:
            for path in self.out.glob("sites/*/site.log"):
                self.logs.setdefault(path.parent.name, Log(path, path.parent.name))
        return messages.in_order([log.more() for log in self.logs.values()])

    def state(self) -> str:
        """Where the run is: "waiting", "running", "done", "stopped" or "interrupted"."""
        from server import verdict

        if verdict.is_running(self.out):
            return "running"
        if words := verdict.words(self.out):
            return "done" if words == verdict.DONE else "stopped"
        if (self.out / "results.json").exists():
            return "done"
        return "interrupted" if self._told.now() else "waiting"

    def rows(self) -> list[dict[str, Any]]:
        """The rows that are over; those of the results where the run left no others."""
        lines, follows = self._rows.more()
        if not follows:
            self._over = []
        self._over += tables(lines)
        found = self._results.now()
        if self._over or not found:
            return self._over
        measure = str(found.get("measure", "dice"))
        return [{**row, "score": row.get(measure), "time": 0.0} for row in found.get("rows", [])]

    def _lines(self, name: str) -> list[dict[str, Any]]:
        for table in self._tables[name]:
            if lines := table.now().get("lines"):
                return list(lines)
        return list(self._results.now().get(name, []))

    def _at_home(self, told: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """Site -> what it is at, where the sites are on this disk."""
        if not self._simulated:
            return {}
        for name in told.get("sites", {}):
            self._doing.setdefault(name, Table(self.out / "sites" / Path(name).name / "doing.json"))
        return {name: table.now() for name, table in self._doing.items()}

    def _at_rest(self, card: dict[str, Any], state: str) -> dict[str, Any]:
        """A site's card when nothing goes on."""
        words = "the run is over"
        if state == "interrupted":
            words = f"when it ended: {card['words']}"
        return {**card, "state": "off", "words": words, "progress": None, "since": None}

    def _head(
        self, told: Mapping[str, Any], state: str, cards: list[dict[str, Any]], rows: list[dict[str, Any]]
    ) -> dict[str, Any]:
        from server import verdict

        words = WORDS.get(state, "")
        if state == "stopped":
            words = f"It stopped: {verdict.words(self.out)}"
        elif state == "running":
            words = telling.waits(cards) or "The server is at work."
        over = len({(r["method"], r["target"], r["seed"], r["chain"]) for r in rows if r["stage"] == "fine-tuned"})
        facts = [f"{over} of {told['rows']} rows are over"] if told.get("rows") else []
        facts += [f"trust: {told['trust']}"] if told.get("trust") else []
        if state == "running":
            since = told.get("began")
        else:
            ended = verdict.path(self.out)
            since = ended.stat().st_mtime if ended.exists() else told.get("time")
        campaign = self._results.now().get("campaign", {}).get("campaign", {}).get("name", "")
        name = told.get("campaign") or campaign
        return {
            "title": self._title or (f"Campaign {name}" if name else f"Run {self.out.name}"),
            "state": state, "words": words, "since": since, "facts": facts, "warnings": [],
        }  # fmt: skip
