"""`fedmerge site check`: everything that could stand in a site's way, a line each, with what to do about it."""

import time
from collections.abc import Callable
from typing import Any

from fedmerge import __version__
from fedmerge import bundle as bundles
from fedmerge.errors import FedmergeError
from fedmerge.trust import keys
from fedmerge.trust.dates import DAY, day
from fedmerge.trust.request import from_text
from fedmerge.trust.roster import Roster
from sites import bundle, config, findings, membership, standing, walls
from sites import home as homes
from sites.findings import Asked, Line
from sites.home import Home, Users
from sites.records import Site

AGAIN = "fedmerge site join, with the same --home and --name, makes anew what is missing; keys that are there stay"


def check(home: Home, asked: Asked | None = None, *, now: Callable[[], float] = time.time) -> list[Line]:
    """Look at everything; what is wrong in one place keeps nothing else from being looked at.

    Args:
        home: of the site; a newer roster is kept in it.
        asked: what a campaign from the coordinator asks; None where there is none yet.
        now: this machine's clock, seconds since 1970.

    Returns:
        the lines: the site's file, its data, the network, the machine, and the policy in words at the end.
    """
    site, lines = site_file(home)
    users, more = named(home)
    if site:
        lines += _tried("hardware", lambda: findings.hardware(site))
        lines += _tried("data", lambda: findings.data(site, *((asked.patch, asked.field) if asked else (None,))))
    network, roster = consortium(home, site, now)
    if site:
        lines += findings.agreed(site, _names(roster))
        lines += findings.campaign(site, asked) if asked else []
        lines += _tried("disk", lambda: [findings.disk(site, asked)])
    lines += network + walls.permissions(home, users) + _tried("policy file", lambda: walls.files(home, users))
    lines += _tried("keys", lambda: own_keys(home)) + more
    if not more:
        lines.append(walls.separation(users, site.data.folder if site else None))
    lines += _tried("bundles", lambda: [bundle_list(home)])
    return lines + (findings.policy(site) if site else [])


def _tried(where: str, look: Callable[[], list[Line]]) -> list[Line]:
    """The lines that a look gives, or why it could not be taken."""
    try:
        return look()
    except FedmergeError as error:
        return [Line(where, "error", str(error), "see the sentence")]
    except OSError as error:
        sentence = f"{error.filename or where}: {error.strerror or error}"
        return [Line(where, "error", sentence, "run site check as root, or as the user who owns the file")]


def site_file(home: Home) -> tuple[Site | None, list[Line]]:
    """The site of the hospital's own file, and whether it can be used."""
    how = f"edit {home.site_file}"
    try:
        site = config.from_file(home.site_file)
    except FedmergeError as error:
        return None, [Line("site.toml", "error", str(error), how)]
    if site.name != home.name:
        sentence = f"[site] has the name '{site.name}', and this is the home of '{home.name}'"
        return site, [Line("site.toml", "error", sentence, how)]
    sentence = f"{site.name} is a {site.role} of {home.consortium}; its policy can be read"
    return site, [Line("site.toml", "ok", sentence)]


def named(home: Home) -> tuple[Users, list[Line]]:
    """The users of the site's file; a line where the table cannot be used."""
    try:
        return homes.users(home), []
    except FedmergeError as error:
        return Users(), [Line("users", "error", str(error), f"edit [users] of {home.site_file}")]


def consortium(home: Home, site: Site | None, now: Callable[[], float]) -> tuple[list[Line], Roster | None]:
    """The front door, the clock, and what the signed roster says of this site."""
    try:
        membership.authority(home)
    except (FedmergeError, OSError) as error:
        return [Line("authority", "error", str(error), "as root; else: " + AGAIN)], None
    lines, found = standing.door(home, now)
    roster: Roster | None = None
    fresh = False
    try:
        if found is not None and found.status == 200:
            roster = membership.accept(home, found.body, now())
            fresh = True
    except FedmergeError as error:
        how = "call the coordinator: the server shows a roster that this hospital must not believe"
        lines.append(Line("roster", "error", str(error), how))
    here = homes.open(home.folder)  # the epoch may have gone on
    if roster is None:
        try:
            roster = membership.last_roster(here, now())
        except FedmergeError as error:
            return [*lines, Line("roster", "error", str(error), AGAIN)], None
    if roster is not None:
        lines.append(_age(roster, now(), fresh))
    return lines + membership_lines(here, site, roster, now()), roster


def _age(roster: Roster, now: float, fresh: bool) -> Line:
    """Which roster is known here, and whether it is the server's."""
    days = max(0, int((now - roster.made) / DAY))
    sentence = f"epoch {roster.epoch}, signed {day(roster.made)} ({days} days ago), {len(roster.entries)} on it"
    if fresh:
        return Line("roster", "ok", f"{sentence}; its signature holds")
    how = "see the lines above: a change since then is not known here"
    return Line("roster", "warning", f"{sentence}; it is the last one seen, not the server's own word", how)


def membership_lines(home: Home, site: Site | None, roster: Roster | None, now: float) -> list[Line]:
    """This site's entry: whether the network lets it in, until when, and as what."""
    told = membership.explain(home, now)
    result: findings.Result = "error"
    if told.member:
        result = "ok" if told.state == "member" else "warning"
    lines = [Line("membership", result, told.sentence, told.remedy)]
    entry = roster.find(home.name) if roster else None
    if entry is not None and site is not None and site.role not in entry.roles:
        roles = " and ".join(entry.roles)
        sentence = f"the roster has {site.name} as {roles}, [site] in site.toml says {site.role}"
        how = f"set `role` of [site], or: fedmerge site join --role {site.role} again, and a new approval"
        lines.append(Line("membership", "error", sentence, how))
    return lines


def _names(roster: Roster | None) -> tuple[str, ...]:
    """The names of labels that the consortium has agreed on."""
    table: Any = roster.policy.get("labels") if roster else None
    return tuple(table) if isinstance(table, dict) else ()


def own_keys(home: Home) -> list[Line]:
    """Whether the private keys are those whose public halves the coordinator was sent."""
    asked = from_text(home.request.read_bytes())
    halves = (
        (home.node_key, keys.read_node, asked.node_key),
        (home.signing_key, keys.read_signing, asked.signing_key),
        (home.sealing_key, keys.read_sealing, asked.sealing_key),
    )
    lines = []
    for path, read, public in halves:
        try:
            same = keys.public_text(read(path)) == public
        except FedmergeError as error:
            lines.append(Line("keys", "error", str(error), AGAIN))
            continue
        if not same:
            how = "restore the newest backup of the home whole, or join again and have the request approved"
            lines.append(Line("keys", "error", f"{path} is another key than request.json has", how))
    fingerprint = keys.pair_fingerprint(asked.signing_key, asked.sealing_key)
    good = f"the three private keys are those of request.json; others' `receivers` may pin {fingerprint}"
    return lines or [Line("keys", "ok", good)]


def bundle_list(home: Home) -> Line:
    """Whether the bundle of the installed version may run here."""
    listed = bundle.allowed(home)
    own = bundles.digest(bundles.build())
    if own in listed:
        others = len(listed) - 1
        more = f", and {others} other{'s' * (others > 1)}: see fedmerge site allow --list" if others else ""
        return Line("bundles", "ok", f"that of the installed version {__version__} may run ({own[:23]}...){more}")
    what = "others may run, but not" if listed else "none may run yet, not even"
    how = "fedmerge site allow; the first fedmerge site up does it too"
    return Line("bundles", "warning", f"{what} that of the installed version {__version__} ({own[:23]}...)", how)
