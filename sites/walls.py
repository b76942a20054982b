"""Who may read what on this machine: the home's folders and keys, and whether agent and node are two users."""

import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

from fedmerge import parts
from fedmerge.trust import audit
from sites.findings import Line
from sites.home import Paths, Users

POLICY = "policy"  # purpose of the lines of the audit log that carry the digest of the site's file


def permissions(home: Paths, users: Users) -> list[Line]:
    """Whether what is private is closed to others, and belongs to the user who needs it."""
    told: list[Line] = []
    for folder, owner in ((home.private, users.agent), (home.node, users.node)):
        try:
            paths = [folder, *(path for path in sorted(folder.glob("*")) if _secret(path))]
            states = [(path, path.lstat()) for path in paths]
        except OSError as error:
            sentence = f"{folder} cannot be looked at: {error.strerror}"
            told.append(
                Line("permissions", "error", sentence, "run site check as root, or as the user who owns the home")
            )
            continue
        for path, state in states:
            if state.st_mode & 0o077:
                mode = stat.S_IMODE(state.st_mode)
                sentence = f"{path} is open to other users of this machine ({mode:04o})"
                told.append(Line("permissions", "error", sentence, f"chmod {mode & 0o700:o} {path}"))
            if owner and state.st_uid != _uid(owner):
                sentence = f"{path} belongs to {name_of(state.st_uid)}, not to {owner}, as [users] in site.toml has it"
                told.append(Line("permissions", "error", sentence, f"chown -R {owner} {folder}"))
    if not told:
        told.append(Line("permissions", "ok", f"{home.private} and {home.node} are closed to others, keys too"))
    return told


def _secret(path: Path) -> bool:
    """Keys, secrets and what they lie in; a site's work below a closed folder is closed by it."""
    return path.suffix in (".key", ".secret") and path.is_file()


def files(home: Paths, users: Users) -> list[Line]:
    """Whether nobody but the agent's user and root can change what the site decides, and whether anybody has.

    That is its policy, whom it joined, and what may run. The agent writes the digest of the site's file into its audit
    log when it starts, and whenever the file has changed.
    """
    told: list[Line] = []
    owner = _uid(users.agent) if users.agent else home.folder.stat().st_uid
    listed = (home.folder, home.site_file, home.allowed, home.consortium_file, home.roster)
    for path in (path for path in listed if path.exists()):
        state = path.lstat()
        if state.st_uid not in (owner, 0):
            sentence = f"{path} belongs to {name_of(state.st_uid)}, who can change what this site allows"
            to = users.agent or name_of(home.folder.stat().st_uid)
            told.append(Line("policy file", "error", sentence, f"look at what is in it, then chown {to} {path}"))
        elif state.st_mode & 0o022:
            mode = stat.S_IMODE(state.st_mode)
            sentence = f"{path} can be changed by other users of this machine ({mode:04o})"
            remedy = f"look at what is in it, then chmod {mode & 0o755:o} {path}"
            told.append(Line("policy file", "error", sentence, remedy))
    known = [line for line in audit.read(home.audit) if line.purpose == POLICY] if home.audit.exists() else []
    if known and home.site_file.exists() and known[-1].digest != f"sha256:{parts.digest(home.site_file)}":
        sentence = f"{home.site_file} is not the one that the agent read last (line {known[-1].n} of its audit log)"
        remedy = "if nobody here has changed it: look at what is in it, and who could"
        told.append(Line("policy file", "warning", sentence, remedy))
    if told:
        return told
    when = f", and is as in line {known[-1].n} of the audit log" if known else ""
    return [Line("policy file", "ok", f"{home.site_file} can be changed by its owner only{when}")]


def separation(users: Users, data: Path | None = None) -> Line:
    """Whether data and keys are out of reach of the program that runs the coordinator's bundle.

    Args:
        users: of the site's file.
        data: the folder of the cases.
    """
    how = "name two users of this machine in [users] of site.toml, agent and node, and run `fedmerge site up` as root"
    if not users.separate:
        who = f"both are {users.agent}" if users.agent and users.agent == users.node else "[users] does not name two"
        sentence = f"the separation is off: agent and node share a user ({who}), so a bundle can read data and keys"
        return Line("users", "off", sentence, how)
    assert users.agent is not None and users.node is not None  # noqa: S101, PT018 - they are separate
    for name in (users.agent, users.node):
        if _uid(name) is None:
            return Line("users", "error", f"there is no user {name} on this machine", f"useradd --system {name}")
    if data is not None and data.exists() and not readable(data, users.agent):
        sentence = f"the data in {data} cannot be read by {users.agent}, the agent's user"
        return Line("users", "error", sentence, f"setfacl -R -m u:{users.agent}:rX {data}, and passage to it")
    if data is not None and readable(data, users.node):
        sentence = f"agent is {users.agent}, node is {users.node}, but {users.node} may read the data in {data} too"
        return Line("users", "warning", sentence, f"chown -R {users.agent} {data}; chmod -R go= {data}")
    return Line("users", "ok", f"agent is {users.agent}, node is {users.node}: a bundle reads neither data nor keys")


def readable(folder: Path, user: str) -> bool:
    """Whether a user may list a folder: passage on the way to it, and the folder itself.

    Root asks the kernel in that user's place, lists of access (ACL) included; others look at the permission bits.
    """
    entry = pwd.getpwnam(user)
    groups, there, ask = os.getgrouplist(user, entry.pw_gid), folder.resolve(), shutil.which("test")
    if os.geteuid() == 0 and ask:
        words = [ask, "-r", str(there), "-a", "-x", str(there)]
        who: dict[str, Any] = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
        return subprocess.run(words, cwd="/", check=False, **who).returncode == 0  # noqa: S603 - our own words, no shell
    if not all(_may(path, entry.pw_uid, set(groups), 1) for path in reversed(there.parents)):
        return False
    return _may(there, entry.pw_uid, set(groups), 5)


def _may(path: Path, uid: int, groups: set[int], bits: int) -> bool:
    """Whether the bits (4 read, 2 write, 1 search) are set for this user."""
    try:
        state = path.stat()
    except OSError:
        return False
    if uid == 0:
        return True
    shift = 6 if state.st_uid == uid else 3 if state.st_gid in groups else 0
    return (state.st_mode >> shift) & bits == bits


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def name_of(uid: int) -> str:
    """The user's name, or the number where there is no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
