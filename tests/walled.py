"""Two users of this machine, and a Python that they can run: for the tests of what one keeps from the other."""

import os
import pwd
import secrets
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

from sites.home import Users

root_only = pytest.mark.skipif(os.getuid() != 0, reason="only root can become two other users")
PLAIN = ("daemon", "nobody", "games")

REACHED = """
set -e
base=$1 user=$2 group=$3
shift 3
hold=$(mktemp -d)
mount --make-rprivate /
mount --bind "$base" "$hold"
mount -t tmpfs -o mode=755 none /root
mkdir -p "$base"
mount --move "$hold" "$base"
rmdir "$hold"
if [ "$user" = 0 ]; then exec "$@"; fi
exec setpriv --reuid "$user" --regid "$group" --clear-groups "$@"
"""
"""Becomes a user in a mount namespace of its own, where a Python that is installed in root's home can be reached."""


@contextmanager
def two_users():
    """Two users that are made for the block and gone after it; where none can be made, two that every system has."""
    made = Users(*(f"fmt{what}{secrets.token_hex(3)}" for what in ("a", "n")))
    if not shutil.which("useradd"):
        found = [entry.pw_name for entry in pwd.getpwall() if entry.pw_uid and entry.pw_name in PLAIN]
        if len(found) < 2:
            pytest.skip("there is no useradd here, and no two plain users")
        yield Users(*found[:2])
        return
    try:
        for name in (made.agent, made.node):
            subprocess.run(["useradd", "--system", "--no-create-home", "--shell", "/bin/sh", name], check=True)
        yield made
    finally:
        for name in (made.agent, made.node):
            subprocess.run(["userdel", name], check=False, capture_output=True)


def become(name):
    """The words before a command that another user is to run with this Python."""
    entry = pwd.getpwnam(name)
    ids = [str(entry.pw_uid), str(entry.pw_gid)]
    return ["unshare", "-m", "sh", "-c", REACHED, "sh", sys.base_prefix, *ids]


def as_user(name, *words):
    """A command as another user."""
    return subprocess.run([*become(name), *words], capture_output=True, text=True, cwd="/")


def skip_unless_reached(user):
    """Skip the test where another user cannot run this Python here: no namespaces, or a closed folder above it."""
    tried = as_user(user, sys.executable, "-c", "import sites")
    if tried.returncode:
        pytest.skip(f"another user cannot run this Python here: {tried.stderr.strip()[-200:]}")
