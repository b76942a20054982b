"""`fedmerge status`: programs, sites and runs of a consortium, from what lies on the server's disk."""

import shutil
import time
from typing import TYPE_CHECKING, Any

from fedmerge.cli import screen
from fedmerge.cli.programs import SERVER

if TYPE_CHECKING:
    from server.home import Home

ONLINE_S = 60.0  # a node speaks every 20 seconds at least
SCARCE_BYTES = 50_000_000  # on the disk of the runs: less than one contribution of a large net needs
TURNED_S = 120.0  # and one that is refused tries again every 30 seconds or so


def status(*, server: SERVER = None) -> None:
    """Show which sites are connected and what they do, and how far each run is; also when the server is down."""
    from fedmerge import sessions
    from server import home as homes
    from server import renewal, up

    home, now = homes.find(server), time.time()
    there = sessions.is_up(up.state_file(home))
    screen.say(f"{home.name}: the server is {'up' if there else 'down'}")
    if there:
        programs = sessions.read_state(up.state_file(home)).get("programs", {})
        lines = [
            (name, entry["state"], str(entry["restarts"]), entry["words"])
            for name, entry in programs.items()
            if entry["state"] != "running" or entry["restarts"]
        ]
        if lines:
            screen.table(("program", "state", "restarts", "last words"), lines, left=4)
    for warning in renewal.warnings(home, now):
        screen.say(f"warning: {warning}")
    if (free := shutil.disk_usage(home.runs).free) < SCARCE_BYTES:
        screen.say(f"the disk of {home.runs} is full: {size(free)} are free; campaigns go on when there is room")
    working = _working(home)
    screen.table(
        ("site", "roles", "until", "connection", "at work on", "from it", "to it"),
        list(_sites(home, working, now, there)) or [("none yet", *[""] * 6)], left=5,
    )  # fmt: skip
    screen.table(("run", "state", "for", "attempts", "sites", "last words"), _runs(home, now, there), left=6)


def _working(home: "Home") -> dict[str, dict[str, Any]]:
    """Run -> what its server's app said last of each site, of all runs."""
    from server import runs

    return {name: runs.progress(home, name).get("sites", {}) for name in runs.names(home)}


def _sites(home: "Home", working: dict[str, dict[str, Any]], now: float, there: bool) -> Any:  # noqa: ANN401
    """The lines of the table of sites."""
    from fedmerge.trust.dates import day
    from server import consortium, guests, runs

    book = guests.read_book(home.run / "door.json")
    for entry in consortium.current(home, now).entries:
        visits = book.get(entry.name, {})
        seen, turned = (float(visits.get(key, 0.0)) for key in ("seen", "turned"))
        if there and turned > seen and now - turned < TURNED_S:
            connection = f"refused: {visits['reason']}"
        elif there and now - seen < ONLINE_S:
            connection = "online"
        else:
            connection = f"offline for {lasting(now - seen)}" if seen else "never seen"
        if not entry.holds(now):
            connection = "expired" if now >= entry.until else "not valid yet"
        at_work = [
            f"{name}: {_doing(sites[entry.name])}"
            for name, sites in working.items()
            if entry.name in sites and runs.read(home, name).state == "running"
        ]
        sums = [
            sum(sites.get(entry.name, {}).get(key, 0) for sites in working.values()) for key in ("received", "sent")
        ]
        yield (
            entry.name, ", ".join(entry.roles), day(entry.until), connection, "; ".join(at_work) or "-",
            *(size(number) for number in sums),
        )  # fmt: skip


def _doing(facts: dict[str, Any]) -> str:
    """What a site does in a run, in a few words."""
    at = facts.get("progress")
    if at and at["total"] and facts["state"] != "away":
        return f"{at['what']} {at['done']}/{at['total']}"
    words = " ".join(filter(None, (facts.get("what", ""), facts.get("reason", ""))))
    return f"{facts['state']} {words}".strip()


def _runs(home: "Home", now: float, there: bool) -> list[tuple[str, ...]]:
    """The lines of the table of runs."""
    from fedmerge import logs
    from server import runs

    lines: list[tuple[str, ...]] = []
    for name in runs.names(home):
        run = runs.read(home, name)
        words = run.words or logs.last_words(runs.out(home, name) / "log.txt")
        state = run.state if run.over or there else f"{run.state}, server down"
        sites = ", ".join(runs.sites_of(home, name))
        lines.append((name, state, lasting(now - run.since), str(run.attempts), sites, words))
    return lines or [("none yet", *[""] * 5)]


def lasting(seconds: float) -> str:
    """A duration in its largest unit."""
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def size(number: float) -> str:
    """A number of bytes for a reader."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}" if unit != "B" else f"{number:.0f} B"
        number /= 1000
    return f"{number:.3g} TB"
