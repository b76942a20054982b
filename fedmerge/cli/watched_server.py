"""A server's home as the dashboard shows it: its runs, and of each what the server knows of the sites."""

import shutil
from typing import TYPE_CHECKING, Any

from fedmerge.cli import status
from fedmerge.cli.status import ONLINE_S, SCARCE_BYTES, TURNED_S, lasting
from fedmerge.cli.watched_run import Run
from fedmerge.dashboard import telling
from fedmerge.dashboard.messages import Log

if TYPE_CHECKING:
    from server.home import Home

SLOWLY_S = 20.0  # between two looks at roster and certificates


class Consortium:
    """What is known of a server's home besides its runs.

    Args:
        home: of the server.
    """

    def __init__(self, home: "Home") -> None:
        self.home = home
        self._looked, self._entries, self._warnings = float("-inf"), list[Any](), list[str]()

    def up(self) -> bool:
        """Whether `server up` is at work."""
        from fedmerge import sessions
        from server import up

        return sessions.is_up(up.state_file(self.home))

    def roster(self, now: float) -> list[Any]:
        """The entries of the roster; those of the last look where it cannot be read."""
        from fedmerge.errors import FedmergeError
        from server import consortium, renewal

        if now - self._looked >= SLOWLY_S:
            self._looked = now
            try:
                self._entries = list(consortium.current(self.home, now).entries)
                self._warnings = renewal.warnings(self.home, now)
            except (FedmergeError, OSError) as error:
                self._warnings = [str(error)]
        return self._entries

    def warnings(self, now: float) -> list[str]:
        """Sentences on programs, certificates and the disk."""
        from fedmerge import sessions
        from server import up

        self.roster(now)
        there, told = self.up(), list(self._warnings)
        if not there:
            told.append(f"The server is down: fedmerge server up --server {self.home.folder}")
        for name, entry in sessions.read_state(up.state_file(self.home)).get("programs", {}).items():
            if there and (entry["state"] != "running" or entry["restarts"]):
                words = f": {entry['words']}" if entry["words"] else ""
                told.append(f"{name} is {entry['state']}, started again {entry['restarts']} times{words}")
        if (free := shutil.disk_usage(self.home.runs).free) < SCARCE_BYTES:
            told.append(f"The disk of {self.home.runs} is full: {status.size(free)} are free.")
        return told

    def connections(self, now: float) -> dict[str, str]:
        """Site -> whether its node passes the front door."""
        from server import guests

        book, found, there = guests.read_book(self.home.run / "door.json"), {}, self.up()
        for entry in self.roster(now):
            visits = book.get(entry.name, {})
            seen, turned = (float(visits.get(key, 0.0)) for key in ("seen", "turned"))
            if not entry.holds(now):
                found[entry.name] = "its time on the roster has ended, or has not begun"
            elif there and turned > seen and now - turned < TURNED_S:
                found[entry.name] = f"refused at the front door: {visits['reason']}"
            elif there and now - seen < ONLINE_S:
                found[entry.name] = "online"
            else:
                found[entry.name] = f"offline for {lasting(now - seen)}" if seen else "never seen"
        return found


class ServerRun(Run):
    """A run of a server's home.

    Args:
        consortium: the home.
        name: the run's.
    """

    def __init__(self, consortium: Consortium, name: str) -> None:
        from server import runs

        self._consortium, self._name = consortium, name
        super().__init__(runs.out(consortium.home, name), simulated=False, title=f"Run {name}")
        logs = consortium.home.run / "logs"
        self.logs |= {program: Log(logs / f"{program}.log", program) for program in ("runner", "door")}

    def look(self, now: float) -> dict[str, Any]:
        """All pieces, with the record of the run and the sites' connections."""
        from server import runs

        found = super().look(now)
        record, head = runs.read(self._consortium.home, self._name), found["head"]
        connections = self._consortium.connections(now)
        roles = {entry.name: "/".join(entry.roles) for entry in self._consortium.roster(now)}
        there = {card["name"] for card in found["sites"]}
        expected = [name for name in runs.sites_of(self._consortium.home, self._name) if name not in there]
        found["sites"] += [
            telling.card(name, roles.get(name, ""), "off", "is asked when it begins") for name in expected
        ]
        for card in found["sites"]:
            card["notes"] = [connections[card["name"]]] if card["name"] in connections else []
        others = [name for name in roles if name not in there and name not in expected]
        head["state"] = "interrupted" if head["state"] == "interrupted" and record.state == "running" else record.state
        head["since"] = record.since
        head["words"] = _words(record, head["words"], now)
        head["facts"] += [f"attempt {record.attempts}"] if record.attempts > 1 else []
        head["facts"] += [f"not in this run: {', '.join(others)}"] if others else []
        head["warnings"] = self._consortium.warnings(now)
        return found


def _words(record: Any, words: str, now: float) -> str:  # noqa: ANN401 - a run's record
    if record.state == "queued":
        again = f" It is tried again in {lasting(record.next_try - now)}." if record.next_try > now else ""
        return f"It waits for its turn.{again} {record.words}".strip()
    if record.state == "stopping":
        return "It is being stopped; what is finished is kept."
    if record.state == "stopped":
        return f"It was stopped: {record.words}" if record.words else "It was stopped."
    return words


class NoRun:
    """A server's home without a run.

    Args:
        consortium: the home.
    """

    def __init__(self, consortium: Consortium) -> None:
        self._consortium = consortium

    def look(self, now: float) -> dict[str, Any]:
        """Who is on the roster, and how it is connected."""
        connections = self._consortium.connections(now)
        cards = [
            telling.card(entry.name, "/".join(entry.roles), "off", connections[entry.name])
            for entry in self._consortium.roster(now)
        ]
        head = {
            "title": f"Consortium {self._consortium.home.name}", "state": "waiting", "since": None, "facts": [],
            "words": "No run was submitted yet: fedmerge run CAMPAIGN begins one.",
            "warnings": self._consortium.warnings(now),
        }  # fmt: skip
        empty = {"drawing": "", "table": "", "left_out": ""}
        return {"head": head, "sites": cards, "timeline": empty, "scores": "", "traffic": ""}

    def said(self) -> list[Any]:
        """No messages."""
        return []
