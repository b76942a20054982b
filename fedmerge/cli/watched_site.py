"""A hospital's home as the dashboard shows it at the hospital: what its agent does, what came, left and was refused."""

import contextlib
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmerge.cli.status import lasting
from fedmerge.dashboard import curves, messages, telling
from fedmerge.dashboard.files import Lines, Table, tables
from fedmerge.dashboard.messages import Log, Message
from fedmerge.pages import markup
from fedmerge.pages.timeline import size
from fedmerge.trust.dossier import WHAT, WHY

MOST_LEFT = 200  # lines of the audit log that are listed
MOST_TASKS = 2000  # of the timeline
SLOWLY_S = 20.0  # between two looks at the roster
PHASES = {
    "train.contribute": "contribution",
    "train.pooled": "contribution",
    "train.admit": "admission",
    "train.adapt": "adaptation",
    "train.pull": "far step",
    "train.finetune": "fine-tuning",
    "evaluate.score": "forgetting",
}
WORDS = {
    "waiting": "Nothing is asked of this site at the moment.",
    "down": "The agent is not running: fedmerge site up starts it.",
}


class Site:
    """A hospital's home; nothing of it is sent anywhere but to the page.

    Args:
        folder: the home.
    """

    def __init__(self, folder: Path) -> None:
        from sites import doing, toml
        from sites import home as homes

        self._paths = homes.Paths(folder.absolute())
        head = toml.table_of(toml.read(self._paths.site_file), "site", self._paths.site_file.name)
        self.name, self.role = str(head.get("name", "")), str(head.get("role", ""))
        self._work = self._paths.folder / str(head.get("work", f"{self.name}-work"))
        self._doing, self._audit = Table(doing.path(self._work)), Audit(self._paths.audit)
        self._curves, self._drawing = curves.Curves(self._work, "curves/*.jsonl"), telling.Drawing(self.name)
        logs = self._paths.run / "logs"
        self._logs = [Log(self._work / "site.log", "site")]
        self._logs += [Log(logs / f"{name}.log", name) for name in ("agent", "roster")]
        self._standing, self._looked = ("", True), float("-inf")

    def look(self, now: float) -> dict[str, Any]:
        """All pieces as they are now."""
        self._audit.look()
        doing, up = self._doing.now(), self._up()
        state = "down" if not up else "running" if doing.get("kind") else "waiting"
        card = self._card(state, doing, now)
        under = [{"site": self.name, **task} for task in self._audit.open.values()] if state == "running" else []
        return {
            "head": self._head(state, doing, card, now),
            "sites": [card],
            "timeline": self._drawing.now(list(self._audit.tasks), under, now, {self.name: self.role}),
            "left": self._audit.table(),
            "traffic": telling.traffic(self._audit.traffic()),
            **self._curves.now(),
        }

    def said(self) -> list[Message]:
        """The messages since the last call."""
        return messages.in_order([log.more() for log in self._logs])

    def _up(self) -> bool:
        from fedmerge import sessions

        return sessions.is_locked(self._paths.private / "agent.lock")

    def _head(self, state: str, doing: Mapping[str, Any], card: Mapping[str, Any], now: float) -> dict[str, Any]:
        sentence, member = self._stands(now)
        words = WORDS.get(state) or f"It {card['words']}{telling.far(card)}."
        campaign = doing.get("campaign") if state == "running" else ""
        facts = [sentence] if member else []
        facts += [f"campaign {campaign}"] if campaign else []
        return {
            "title": f"Site {self.name}", "state": state, "words": words,
            "since": None if state == "down" else doing.get("since"),
            "facts": facts, "warnings": [] if member else [sentence],
        }  # fmt: skip

    def _stands(self, now: float) -> tuple[str, bool]:
        """How the site stands on the last roster that it has seen, and whether all is well."""
        from fedmerge.errors import FedmergeError
        from sites import home as homes
        from sites import membership

        if now - self._looked >= SLOWLY_S:
            self._looked = now
            try:
                standing = membership.explain(homes.open(self._paths.folder), now)
                words = f"{standing.sentence}; {standing.remedy}" if standing.remedy else standing.sentence
                self._standing = words, standing.state == "member"
            except (FedmergeError, OSError) as error:
                self._standing = str(error), False
        return self._standing

    def _card(self, state: str, doing: Mapping[str, Any], now: float) -> dict[str, Any]:
        words, progress = "waits for a task", None
        if state == "down":
            words = "its agent is not running"
        elif state == "running":
            words, progress = telling.doing(str(doing["kind"])), telling.bar(doing.get("progress"), now)
        kept = {"checkpoints": "last checkpoint", "contributions": "last contribution"}
        times = {what: _newest(self._work / folder) for folder, what in kept.items()}
        notes = [f"{what} {lasting(now - moment)} ago" for what, moment in times.items() if moment]
        sums = {key: sum(line["bytes"] for line in self._audit.traffic() if line["from"] == who)
                for key, who in (("sent", "server"), ("received", self.name))}  # fmt: skip
        known = {"running": "working", "waiting": "idle", "down": "off"}
        return telling.card(
            self.name, self.role, known[state], words, progress=progress, notes=notes, since=doing.get("since"), **sums
        )


class Audit:
    """The site's audit log as it grows: tasks, traffic, and what came, left and was refused.

    Its signatures are not checked here: `fedmerge audit verify` does that.

    Args:
        path: the log.
    """

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path, None)
        self._forget()

    def _forget(self) -> None:
        self.tasks: deque[dict[str, Any]] = deque(maxlen=MOST_TASKS)
        self.open: dict[str, dict[str, Any]] = {}
        self._listed: deque[dict[str, Any]] = deque(maxlen=MOST_LEFT)
        self._traffic: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._drawn: str | None = None

    def look(self) -> None:
        """Read what was written since the last look."""
        lines, follows = self._lines.more()
        if not follows:
            self._forget()
        for line in tables(lines):
            self._take(line)

    def _take(self, line: Mapping[str, Any]) -> None:
        way, purpose, owner = line.get("way"), str(line.get("purpose", "")), str(line.get("owner", ""))
        moment, bytes_ = _seconds(str(line.get("at", ""))), int(line.get("size", 0))
        if way in ("out", "refused"):
            self._listed.append(dict(line))
            self._drawn = None
        if way == "in" and line.get("what") == "task":
            about = str(line.get("campaign", ""))
            self.open[purpose] = {"what": PHASES.get(purpose, "roll call"), "about": about, "begin": moment, "down": 0}
        if way == "in" and purpose in self.open:
            self.open[purpose]["down"] += bytes_
        if way == "out" and line.get("what") == "answer" and purpose in self.open:
            task = self.open.pop(purpose)
            self.tasks.append({**task, "site": owner, "end": moment, "asks": 1, "up": bytes_, "failed": 0})
        elif way == "out" and self.tasks and self.tasks[-1]["end"] <= moment:
            self.tasks[-1].update(up=self.tasks[-1]["up"] + bytes_)
        if way == "refused" and line.get("what") in self.open:
            task = self.open.pop(str(line["what"]))
            self.tasks.append({**task, "site": owner, "end": moment, "asks": 1, "up": 0, "failed": 1})
        if way in ("in", "out") and bytes_:
            sender, receiver = ("server", owner) if way == "in" else (owner, "server")
            key = (sender, receiver, f"{line.get('what')} ({PHASES.get(purpose, 'roll call')})")
            found = self._traffic.setdefault(
                key, {"from": sender, "to": receiver, "what": key[2], "bytes": 0, "messages": 0}
            )
            found["bytes"] += bytes_
            found["messages"] += 1

    def traffic(self) -> list[dict[str, Any]]:
        """Bytes by sender, receiver and kind."""
        return list(self._traffic.values())

    def table(self) -> str:
        """What left and what was refused, the newest first, as HTML."""
        if self._drawn is None:
            rows = []
            for line in reversed(self._listed):
                moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_seconds(str(line["at"]))))
                left = line["way"] == "out"
                why = WHY.get(line["purpose"], line["purpose"]) if left else line["reason"]
                what = WHAT.get(line["what"], line["what"])
                rows.append([moment, "left" if left else "refused", what, why, line["campaign"],
                             size(line["size"]) if left else ""])  # fmt: skip
            heading = ["when", "", "what", "why", "campaign", "size"]
            self._drawn = markup.table(heading, rows, left=5, name="what left and what was refused") if rows else ""
        return self._drawn


def _newest(folder: Path) -> float:
    """When the last model in a folder was written; 0: there is none."""
    times = [0.0]
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # it was replaced meanwhile
            times.append(path.stat().st_mtime)
    return max(times)


def _seconds(text: str) -> float:
    """A moment of the audit log."""
    from fedmerge.errors import FedmergeError
    from fedmerge.trust import dates

    try:
        return float(dates.seconds(text, "its moment"))
    except (FedmergeError, ValueError):
        return 0.0
