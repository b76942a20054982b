"""The campaigns of a server's home: `runs/NAME/` with the campaign's file, what was asked for, and how far it is.

    run.json        the record below
    campaign.toml   the coordinator's file, with absolute paths
    out/            the results, and out/server/ the store; the form is that of `fedmerge simulate --out`

A run is queued, running, done or stopped; a stopped one is queued again by `submit` with the same name and campaign.
The command and the runner both change the record, one at a time.
"""

import contextlib
import json
import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from fedmerge import campaign, whole
from fedmerge.errors import ConfigError
from server import consortium, verdict
from server.home import Home

STATES = ("queued", "running", "stopping", "done", "stopped")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Run:
    """What is known of a run; moments are seconds since 1970.

    Attributes:
        name: the run's, and its folder's.
        options: the run config's `methods`, `seeds`, `chains`, `target-cases`, `reuse`.
        state: one of `STATES`.
        since: when it came into this state.
        made: when it was first submitted.
        attempts: how often it was given to Flower.
        failures: how many attempts in a row ended soon and without a word.
        unexpected: how many attempts in a row ended with an error that nobody had foreseen.
        flower_run: Flower's number of the current attempt; empty before the first.
        submitted: when that was given to Flower.
        next_try: not before this moment.
        words: how it ended, or why the last attempt did.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    state: str = "queued"
    since: float = 0.0
    made: float = 0.0
    attempts: int = 0
    failures: int = 0
    unexpected: int = 0
    flower_run: str = ""
    submitted: float = 0.0
    next_try: float = 0.0
    words: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in ("done", "stopped")


def folder(home: Home, name: str) -> Path:
    """The folder of a run, which may not be there yet.

    Raises:
        ConfigError: the name is none.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"a run's name is up to 64 letters, digits, dots and dashes, got {name!r:.80}")
    return home.runs / name


def out(home: Home, name: str) -> Path:
    """The folder of a run's results."""
    return folder(home, name) / "out"


def names(home: Home) -> list[str]:
    """All runs whose record can be read, the oldest first."""
    made = {}
    for path in home.runs.glob("*/run.json"):
        with contextlib.suppress(ConfigError):
            made[path.parent.name] = read(home, path.parent.name).made
    return sorted(made, key=lambda name: made[name])


def read(home: Home, name: str) -> Run:
    """The record of a run.

    Raises:
        ConfigError: there is no such run, or its record is damaged.
    """
    path = folder(home, name) / "run.json"
    try:
        return Run(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        known = ", ".join(sorted(p.parent.name for p in home.runs.glob("*/run.json"))) or "none yet"
        raise ConfigError(f"there is no run '{name}'; runs are: {known}") from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is damaged: {error}") from None


@contextlib.contextmanager
def alone(home: Home, name: str) -> Iterator[None]:
    """Nobody else changes the run's record while the block runs."""
    place = folder(home, name)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with whole.locked(place / ".lock"):
        yield


def keep(home: Home, run: Run) -> Run:
    """Write the record; `alone` is around it."""
    whole.write(folder(home, run.name) / "run.json", json.dumps(asdict(run), indent=1).encode())
    return run


def move(run: Run, state: str, now: float, **changes: Any) -> Run:  # noqa: ANN401 - fields of the record
    """The record in another state."""
    since = now if state != run.state else run.since
    return replace(run, state=state, since=since, **changes)


def submit(
    home: Home,
    path: Path | None,
    name: str = "",
    options: Mapping[str, Any] | None = None,
    *,
    extend: str = "",
    now: float | None = None,
) -> Run:
    """Queue a campaign; one that was stopped goes on where it was.

    Args:
        home: of the server.
        path: the campaign's file; None: the file of the run `name`, which is there already.
        name: of the run; else the campaign's own.
        options: `methods`, `seeds`, `chains`, `target-cases` of the run config.
        extend: an earlier run whose contributions are used where inputs agree and their owners let them.
        now: seconds since 1970.

    Raises:
        ConfigError: the file is no campaign for a consortium, a site is not on the roster, the name belongs to another
            campaign, or this run is under way.
    """
    now = time.time() if now is None else now
    given = {key: value for key, value in (options or {}).items() if value}
    if extend:
        if not (out(home, extend) / "server").is_dir():
            raise ConfigError(f"--extend expected a run that has begun, got '{extend}'")
        given["reuse"] = str(out(home, extend))
    if path is None:
        before = read(home, name)
        text, given = (folder(home, name) / "campaign.toml").read_text(encoding="utf-8"), given or before.options
    else:
        text, name = resolved(path), name or _named(path)
    check_sites(home, text, now)
    with alone(home, name):
        return keep(home, _queued(home, name, text, given, now))


def _queued(home: Home, name: str, text: str, options: dict[str, Any], now: float) -> Run:
    """The record of a run that begins, or begins again."""
    file = folder(home, name) / "campaign.toml"
    if not (folder(home, name) / "run.json").exists():
        whole.write(file, text.encode())
        return Run(name, options, "queued", now, now)
    run = read(home, name)
    if not run.over:
        raise ConfigError(f"the run '{name}' is {run.state}; fedmerge status shows it, fedmerge stop {name} ends it")
    if file.read_text(encoding="utf-8") != text or (options and options != run.options):
        raise ConfigError(f"the run '{name}' is another campaign, or has other options: give this one another --name")
    verdict.forget(out(home, name))
    return move(run, "queued", now, attempts=0, failures=0, unexpected=0, next_try=0.0, words="")


def stop(home: Home, name: str, now: float | None = None) -> Run:
    """Ask for the end of a run; the runner ends it. What is queued ends at once.

    Raises:
        ConfigError: there is no such run, or it is over.
    """
    now = time.time() if now is None else now
    read(home, name)
    with alone(home, name):
        run = read(home, name)
        if run.over:
            raise ConfigError(f"the run '{name}' is over: {run.words or run.state}")
        if run.state == "queued" and not run.flower_run:
            return keep(home, move(run, "stopped", now, words=BY_HAND))
        return keep(home, move(run, "stopping", now))


BY_HAND = "stopped by hand; fedmerge run with the same name goes on"


def resolved(path: Path) -> str:
    """The text of a campaign's file, with the paths in it absolute, checked as the server will read it.

    Raises:
        ConfigError: it is no campaign, or holds what belongs into a hospital's own file.
    """
    from server import plan  # brings torch, which the runner has no use for

    plan.read(path, deployed=True)
    table = campaign.read(path)
    base = path.absolute().parent
    if "weights" in table.get("net", {}):
        table["net"]["weights"] = str((base / table["net"]["weights"]).absolute())
    for site in table["site"]:
        if "contribution" in site:
            site["contribution"] = str((base / site["contribution"]).absolute())
    table.setdefault("campaign", {}).setdefault("name", path.stem)
    return tomli_w.dumps(table)


def check_sites(home: Home, text: str, now: float) -> None:
    """Refuse a campaign with a site that is not on the roster in its role, before anybody waits for it.

    Raises:
        ConfigError: the sentence names the site.
        Refused: the roster was edited.
    """
    roster = consortium.current(home, now)
    for site in tomllib.loads(text)["site"]:
        entry = roster.find(site["name"])
        if "contribution" in site:
            continue
        if entry is None:
            known = ", ".join(one.name for one in roster.entries) or "none yet"
            raise ConfigError(f"site '{site['name']}' is not on the roster; its sites are: {known}")
        if site["role"] not in entry.roles:
            raise ConfigError(f"{entry.name} takes part as {', '.join(entry.roles)}, not as {site['role']}")


def _named(path: Path) -> str:
    """The run's name where none is given: the campaign's, made fit for a folder."""
    name = str(campaign.read(path).get("campaign", {}).get("name", path.stem))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:64] or "campaign"


def sites_of(home: Home, name: str) -> tuple[str, ...]:
    """The sites of a run, in the order of its campaign."""
    table = campaign.read(folder(home, name) / "campaign.toml")
    return tuple(site["name"] for site in table["site"])


def progress(home: Home, name: str) -> dict[str, Any]:
    """What the server's app last said of each site; empty before it has begun."""
    try:
        found: dict[str, Any] = json.loads((out(home, name) / "server" / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found
