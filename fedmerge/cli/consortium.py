"""`fedmerge server init, approve, revoke, roster, renew` and `fedmerge site join`: who takes part."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli import screen

if TYPE_CHECKING:
    from fedmerge.trust.roster import Roster
    from server.home import Home

SERVER = Annotated[
    Path | None,
    typer.Option("--server", help="Home of the server; else FEDMERGE_SERVER, else this folder."),
]


def init(
    folder: Annotated[Path, typer.Argument(help="Home of the server; new or empty.")],
    *,
    name: Annotated[str, typer.Option("--name", help="Name of the consortium.")],
    host: Annotated[
        list[str],
        typer.Option("--host", help="Name or address under which hospitals reach this server; may be given again."),
    ],
    port: Annotated[int, typer.Option("--port", help="Port of the front door.")] = 8443,
    superlink_port: Annotated[
        int, typer.Option("--superlink-port", help="Port of Flower's SuperLink on loopback; 0: any free one.")
    ] = 0,
) -> None:
    """Found a consortium: its authority, the server's certificate, the signed roster, a policy template."""
    from server import consortium

    home = consortium.init(folder, name, host, port=port, superlink_port=superlink_port, now=time.time())
    screen.say(f"{home.name} is founded in {home.folder}; whoever has {home.keys} is the consortium: guard it.")
    screen.say("Hand this line to each hospital, and tell the fingerprint by telephone too:")
    screen.say(f"  {consortium.invitation(home)}")


def approve(
    request: Annotated[Path, typer.Argument(help="The hospital's request.json.")],
    *,
    server: SERVER = None,
    fingerprint: Annotated[
        str, typer.Option("--fingerprint", help="Fingerprint as the hospital told it; else it is asked for.")
    ] = "",
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="Role that the site takes, of those that it offers; may be given again."),
    ] = None,
    days: Annotated[int, typer.Option("--days", help="How long the site may take part.")] = 365,
    replace: Annotated[
        bool, typer.Option("--replace", help="The site has new keys, which replace the old ones.")
    ] = False,
) -> None:
    """Take a hospital into the roster, renew it, or take its new keys."""
    from fedmerge.trust import request as requests
    from fedmerge.trust.dates import day
    from server import consortium
    from server import home as homes

    home, text, now = homes.find(server), request.read_bytes(), time.time()
    asked = requests.from_text(text)
    screen.say(f"{asked.site} offers to be {' and '.join(asked.roles)}.")
    if not fingerprint:
        screen.say("Which fingerprint does the hospital tell? (the one that site join printed there)")
        fingerprint = typer.prompt("fingerprint", default="", show_default=False)
    entry = consortium.approve(home, text, fingerprint, roles=role or (), days=days, replaces=replace, now=now)
    screen.say(f"{entry.name} takes part as {' and '.join(entry.roles)} until {day(entry.until)}.")
    follow(home, now)


def revoke(
    name: Annotated[str, typer.Argument(help="Name of the site.")],
    *,
    server: SERVER = None,
) -> None:
    """Take a hospital off the roster; the network refuses it from now on."""
    from server import consortium
    from server import home as homes

    home, now = homes.find(server), time.time()
    made = consortium.revoke(home, name, now)
    screen.say(f"{name} takes part no more; the roster has epoch {made.epoch}.")
    follow(home, now)


def roster(
    *,
    server: SERVER = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Make a new epoch, with the policy template as it is now.")
    ] = False,
    after: Annotated[
        int,
        typer.Option(
            "--after", help="With --publish: the epoch that hospitals have seen, after a backup was restored."
        ),
    ] = 0,
) -> None:
    """Show who takes part, as what and until when."""
    from server import consortium
    from server import home as homes

    home, now = homes.find(server), time.time()
    shown = consortium.publish(home, now, after) if publish or after else consortium.current(home, now)
    heading = ("site", "role", "from", "until", "")
    screen.table(heading, rows(shown, now), left=len(heading))
    screen.say(f"{shown.consortium}, epoch {shown.epoch} of {moment(shown.made)}")
    screen.say(f"To invite a hospital: {consortium.invitation(home)}")


def renew(*, server: SERVER = None) -> None:
    """Make new certificates of the server and of the roster's key; hospitals need nothing new."""
    from fedmerge import sessions
    from fedmerge.trust.dates import day
    from server import home as homes
    from server import renewal, up

    home, now = homes.find(server), time.time()
    made = renewal.renew(home, now)
    screen.say(f"The certificates are valid until {day(made.until)}; the roster has epoch {made.epoch}.")
    if sessions.is_up(up.state_file(home)):
        screen.say("Stop `fedmerge server up` and start it again: it still shows the old one.")


def rows(shown: "Roster", now: float) -> list[tuple[str, ...]]:
    """A line a site, those that left at the end."""
    told: list[tuple[str, ...]] = []
    for entry in shown.entries:
        state = "" if entry.holds(now) else "expired" if now >= entry.until else "not yet"
        told.append((entry.name, ", ".join(entry.roles), moment(entry.since), moment(entry.until), state))
    return told + [(one.name, "", "", moment(one.ended), one.why) for one in shown.past]


def moment(seconds: float) -> str:
    """A moment in UTC, to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def follow(home: "Home", now: float) -> None:
    """Make Flower's registry follow the roster where the server is up, and say so."""
    from server import registry

    change = registry.sync_nodes(home, now=now)
    if change is None:
        screen.say("The server is not up; its registry follows when it is.")
    elif change.registered or change.unregistered:
        done = [f"{site} registered" for site in change.registered]
        screen.say(f"SuperLink: {', '.join(done + [f'{site} unregistered' for site in change.unregistered])}.")


def join(
    *,
    server: Annotated[str, typer.Option("--server", help="Front door of the consortium, HOST or HOST:PORT.")],
    name: Annotated[str, typer.Option("--name", help="Name of this site.")],
    home: Annotated[
        Path | None, typer.Option("--home", help="Folder of the site; else FEDMERGE_SITE, else one of the site's name.")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="source or target; may be given again; source unless given."),
    ] = None,
    ca_fingerprint: Annotated[
        str, typer.Option("--ca-fingerprint", help="Fingerprint of the consortium's authority, from the invitation.")
    ] = "",
    ca: Annotated[
        Path | None, typer.Option("--ca", help="The authority's certificate as a file; else the server shows it.")
    ] = None,
    new_keys: Annotated[bool, typer.Option("--new-keys", help="Make new keys; the coordinator approves them.")] = False,
) -> None:
    """Make this site's keys and folder, and write the request that the coordinator approves."""
    from sites import home as homes
    from sites import joining

    folder = home or Path(os.environ.get(homes.VARIABLE, name))
    made = joining.join(
        folder, server, name, roles=role or ("source",), authority=ca, fingerprint=ca_fingerprint, confirm=confirmed,
        new_keys=new_keys, now=time.time(),
    )  # fmt: skip
    if made.unreached:
        screen.complain(f"warning: no roster yet: {made.unreached}")
    screen.say(f"{name} has its keys in {made.home.folder}; private keys never leave it.")
    screen.say(f"1. Send {made.home.request} to the coordinator of {made.home.consortium}.")
    screen.say(f"2. Tell by telephone: {made.request.fingerprint}")
    screen.say(f"3. Fill in {made.home.site_file}: data and policy.")
    screen.say(f"4. fedmerge site check --home {made.home.folder}")


def confirmed(fingerprint: str) -> bool:
    """Ask whether a fingerprint is the one that the coordinator tells."""
    screen.say(f"The server shows an authority with the fingerprint {fingerprint}")
    return typer.confirm("Does the coordinator tell the same, by telephone?", default=False)
