"""What runs at a hospital: the agent with data and keys, and Flower's node, which talks to the network.

    agent       answers the bundle on a unix socket; the only program that reads patients
    roster      fetches the consortium's signed roster, so that the hospital can tell why the network refuses it
    supernode   Flower's node: asks the front door for work, outbound only
    superexec   starts the bundle for each message, behind the gate of the allow-list

Agent and roster run under one user, supernode and superexec under another one, where `[users]` in site.toml names
them and root starts them. `prepare` gives each user its own folders, and nothing of the other's.
"""

import argparse
import contextlib
import os
import pwd
import secrets
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from fedmerge import bundle as bundles
from fedmerge import sessions, surroundings, units
from fedmerge.errors import ConfigError, FedmergeError
from fedmerge.supervisor import Kept, Program, supervise
from fedmerge.trust import keys
from sites import bundle
from sites import home as homes
from sites.home import Home, Users


def state_file(home: Home) -> Path:
    """What `site up` says of its programs."""
    return home.run / "state.json"


def commands(home: Home) -> Path:
    """The commands that stand first on the superexec's path."""
    return home.folder / "commands"


def secret(home: Home) -> Path:
    """What supernode and superexec share."""
    return home.node / "superexec.secret"


def choose_users(home: Home, *, shared_user: bool) -> Users:
    """The users of the programs; none where all run under the present one."""
    return Users() if shared_user else homes.users(home)


def check(home: Home, *, shared_user: bool) -> str:
    """Refuse a site that cannot run as it is; what is not as it should be otherwise, or nothing.

    Args:
        home: of the site.
        shared_user: whether the hospital accepts that the separation is off.

    Raises:
        ConfigError: site.toml cannot be used, or the separation is off or impossible here and nobody has accepted it.
    """
    from sites import config, walls  # these bring torch, which the supervisor has no use for

    site = config.from_file(home.site_file)
    line = walls.separation(choose_users(home, shared_user=shared_user), site.data.folder)
    if line.result in ("off", "error") and not shared_user:
        raise ConfigError(f"{line.found}; {line.remedy}. Or accept it: --shared-user")
    if not shared_user and os.geteuid() != 0:
        raise ConfigError(
            "starting programs under two users needs root: run this as root, install the units of --systemd, "
            "or accept one user for both: --shared-user"
        )
    return f"{line.found}; {line.remedy}" if line.result != "ok" else ""


def prepare(home: Home, users: Users) -> None:
    """Make what the programs need, each file belonging to who needs it, and put the own bundle on the list.

    Raises:
        ConfigError: a user cannot reach the home, because a folder above it is closed.
    """
    for folder, mode in ((home.socket_folder, 0o750), (home.flower, 0o700), (home.run, 0o700)):
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    if not secret(home).exists():
        keys.keep_bytes(secret(home), secrets.token_urlsafe(48).encode())
    bundle.commands(commands(home))
    own = bundles.build()
    if bundles.digest(own) not in bundle.allowed(home):
        bundle.allow(home, own, "of the version that is installed here")
    if users.agent is None or users.node is None:
        return
    agent, node = pwd.getpwnam(users.agent), pwd.getpwnam(users.node)
    give(home.folder, agent.pw_uid, agent.pw_gid, but=(home.node, home.socket_folder, home.run))
    give(home.node, node.pw_uid, node.pw_gid)
    os.chown(home.socket_folder, agent.pw_uid, node.pw_gid)
    home.folder.chmod(0o711)
    home.site_file.chmod(0o600)
    for folder in (home.private, home.node):
        folder.chmod(0o700)
    home.socket_folder.chmod(0o2750)  # what the agent makes in it belongs to the node's group
    from sites import walls

    for user, folder in ((users.agent, home.private), (users.node, home.node), (users.node, home.socket_folder)):
        if not walls.readable(folder, user):
            raise ConfigError(f"{user} cannot reach {folder}: a folder above it is closed; move the home to /srv, say")


def give(folder: Path, user: int, group: int, but: tuple[Path, ...] = ()) -> None:
    """Let a folder and what is in it belong to a user, without the folders `but`.

    Whoever owns the folder today may be the one from whom the other user is kept apart. So each file is held by a
    handle while it is looked at and given away: neither what a symbolic link points to, nor a file of somebody else
    that has another name in here, changes hands.
    """
    for where, folders, files, handle in os.fwalk(folder, follow_symlinks=False):
        os.fchown(handle, user, group)
        folders[:] = [name for name in folders if Path(where) / name not in but]
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                file = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=handle)
                try:
                    state = os.fstat(file)
                    if not stat.S_ISLNK(state.st_mode) and (state.st_nlink == 1 or state.st_uid == user):
                        os.chown(f"/proc/self/fd/{file}", user, group)
                finally:
                    os.close(file)


def programs(home: Home, users: Users, port: int) -> list[Program]:
    """The four programs.

    Args:
        home: of the site.
        users: who runs them; None: the present user.
        port: of the SuperNode's own API, on loopback.
    """
    logs, here = home.run / "logs", {homes.VARIABLE: str(home.folder)}
    path = surroundings.path_with(commands(home), inherited=os.environ.get("PATH", os.defpath))
    flower = {**here, **surroundings.settings(home.flower), "PATH": path}
    supernode = [
        *surroundings.module("sites.node"), "--superlink", home.address, "--root-certificates",
        str(home.authority), "--auth-supernode-private-key", str(home.node_key), "--host", "127.0.0.1",
        "--port", str(port), "--isolation", "process", "--superexec-auth-secret-file", str(secret(home)),
        "--node-config", f'agent="{home.socket}"',
    ]  # fmt: skip
    superexec = [
        *surroundings.module("sites.superexec"), "--runtime-api-address", f"127.0.0.1:{port}", "--insecure",
        "--superexec-auth-secret-file", str(secret(home)),
    ]  # fmt: skip
    agent, roster = (surroundings.module(name, str(home.folder)) for name in ("sites.agent", "sites.watch"))
    return [
        Program("agent", agent, logs / "agent.log", here, users.agent, home.folder, home.socket.exists),
        Program("roster", roster, logs / "roster.log", here, users.agent, home.folder),
        Program("supernode", supernode, logs / "supernode.log", flower, users.node, home.node, lambda: _healthy(port)),
        Program("superexec", superexec, logs / "superexec.log", flower, users.node, home.node, after=("supernode",)),
    ]


def up(home: Home, *, shared_user: bool = False, on_change: Callable[[Kept], None] | None = None) -> None:
    """Run the site until SIGTERM or SIGINT.

    Args:
        home: of the site.
        shared_user: accept that one user runs everything.
        on_change: hears of each program that was started, became ready, or ended.

    Raises:
        ConfigError: it is up already.
    """
    users = choose_users(home, shared_user=shared_user)
    supervise(programs(home, users, surroundings.free_port()), state_file(home), on_change=on_change)


def make_ready(home: Home, *, shared_user: bool) -> str:
    """`check` and `prepare`, in a process of their own, so that the supervisor stays small; what `check` found.

    Raises:
        ConfigError: the site is up already, or as `check` and `prepare` say.
    """
    if sessions.is_up(state_file(home)):
        raise ConfigError(f"{home.folder} is up already; stop that one first")
    command = surroundings.module("sites.up", str(home.folder), *["--shared-user"] * shared_user)
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if done.returncode:
        raise ConfigError(done.stderr.strip().removeprefix("fedmerge: ") or "the site could not be prepared")
    return done.stdout.strip()


def systemd(home: Home, *, shared_user: bool = False) -> str:
    """The units of a site: one for each program, under its user and out of the other's reach.

    The agent has no network. What the bundle starts has none but loopback. With one user for both it is one unit, which
    is `fedmerge site up`.
    """
    if shared_user:
        up_ = (surroundings.program("fedmerge"), "site", "up", "--home", str(home.folder), "--shared-user")
        whole = units.Service(
            "fedmerge-site", f"fedmerge site {home.name}", up_, home.folder.owner(), writable=(home.folder,),
            devices=True,
        )  # fmt: skip
        return units.text(whole)
    from sites import config, walls

    users, data = homes.users(home), config.from_file(home.site_file).data.folder
    line = walls.separation(users)
    if line.result in ("off", "error"):
        raise ConfigError(f"{line.found}; {line.remedy}")
    told = []
    for program in programs(home, users, surroundings.free_port()):
        mine = program.user == users.agent
        writable = {"agent": (home.private, home.socket_folder), "roster": (home.folder,)}
        told.append(
            units.Service(
                f"fedmerge-{program.name}",
                f"fedmerge {program.name} of {home.name}",
                tuple(program.argv),
                str(program.user),
                env=program.env,
                cwd=program.cwd,
                before=tuple(surroundings.module("sites.up", str(home.folder))) if program.name == "agent" else (),
                after=("fedmerge-agent",) if program.name != "agent" else (),
                writable=writable.get(program.name, (home.node,)),
                hidden=() if program.name == "agent" else (home.private, data),
                network=program.name != "agent",
                loopback_only=program.name == "superexec",
                devices=mine and program.name == "agent",
            )
        )
    return "\n".join(map(units.text, told))


def _healthy(port: int) -> bool:
    """Whether the SuperNode answers on its own API; it does so before it has reached the server."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=0.8, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def main() -> int:
    """Check a site's home and prepare it for its users; `site up` and the units of `--systemd` call this first."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("home", type=Path, help="the site's home")
    parser.add_argument("--shared-user", action="store_true", help="one user runs everything")
    given = parser.parse_args()
    try:
        home = homes.open(given.home)
        found = check(home, shared_user=given.shared_user)
        prepare(home, choose_users(home, shared_user=given.shared_user))
    except (FedmergeError, OSError) as error:
        print(f"fedmerge: {error}", file=sys.stderr)
        return 2
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
