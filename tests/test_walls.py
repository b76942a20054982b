"""Who may read what on a site's machine: open folders, wrong owners, one user for two, data that anybody may read."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from sites import walls
from sites.home import Paths, Users

ME = pwd.getpwuid(os.getuid()).pw_name
root = pytest.mark.skipif(os.getuid() != 0, reason="only root may give files to another user")


@pytest.fixture
def home(tmp_path):
    """A home whose private files are closed."""
    home = Paths(tmp_path / "home")
    for folder, key in ((home.private, home.signing_key), (home.node, home.node_key)):
        folder.mkdir(parents=True, mode=0o700)
        key.touch(0o600)
    return home


def test_closed_folders_and_keys_are_one_green_line(home):
    """Whoever owns them, as long as [users] names nobody."""
    (line,) = walls.permissions(home, Users())
    assert line.result == "ok"


@pytest.mark.parametrize(
    ("which", "mode", "command"),
    [("private", 0o750, "chmod 700"), ("node", 0o701, "chmod 700"), ("signing_key", 0o640, "chmod 600"),
     ("node_key", 0o604, "chmod 600")],
)  # fmt: skip
def test_an_open_folder_or_key_is_named_with_the_command_that_closes_it(home, which, mode, command):
    """One error, for the one path."""
    path = getattr(home, which)
    path.chmod(mode)
    (line,) = walls.permissions(home, Users())
    assert (line.result, line.remedy) == ("error", f"{command} {path}")
    assert f"({mode:04o})" in line.found
    path.chmod(int(command.split()[1], 8))
    assert walls.permissions(home, Users())[0].result == "ok"


def test_a_folder_that_is_not_there_is_an_error(home):
    """Nothing is taken for closed that cannot be looked at."""
    home.node_key.unlink()
    home.node.rmdir()
    (line,) = walls.permissions(home, Users())
    assert line.result == "error"
    assert str(home.node) in line.found


@root
def test_a_folder_of_another_user_than_the_file_names_is_an_error(home):
    """Folder and key, each with its owner."""
    lines = walls.permissions(home, Users("root", "nobody"))
    assert [line.result for line in lines] == ["error", "error"]
    assert f"{home.node} belongs to root, not to nobody" in lines[0].found
    for path in (home.node, home.node_key):
        os.chown(path, pwd.getpwnam("nobody").pw_uid, -1)
    assert walls.permissions(home, Users("root", "nobody"))[0].result == "ok"


@pytest.mark.parametrize("users", [Users(), Users("carol", None), Users("carol", "carol")])
def test_one_user_for_both_is_said_in_red_and_is_no_error(users):
    """The remedy is the table of the site's file."""
    line = walls.separation(users)
    assert line.result == "off"
    assert line.found.startswith("the separation is off")
    assert "[users]" in line.remedy


def test_a_user_that_does_not_exist_is_an_error():
    """With the command that makes it."""
    line = walls.separation(Users(ME, "nobody-of-this-name"))
    assert (line.result, line.remedy) == ("error", "useradd --system nobody-of-this-name")


@root
@pytest.mark.parametrize("asked", ["the kernel", "the bits"])
def test_data_that_the_nodes_user_may_read_are_a_warning(monkeypatch, asked):
    """Two users are no wall around data that are open to all; a closed folder on the way is enough."""
    if asked == "the bits":
        monkeypatch.setattr(walls.shutil, "which", lambda _: None)
    users = Users("root", "nobody")
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        archive = Path(name)
        data = archive / "data"
        data.mkdir(mode=0o755)
        archive.chmod(0o755)
        assert walls.separation(users, data).result == "warning"
        archive.chmod(0o700)
        assert walls.separation(users, data).result == "ok"
        archive.chmod(0o710)
        assert walls.separation(users, data).result == "ok"
        os.chown(archive, -1, pwd.getpwnam("nobody").pw_gid)
        assert walls.separation(users, data).result == "warning"


@root
def test_data_that_the_agents_user_cannot_read_are_an_error():
    """Else it is told by the first task."""
    with tempfile.TemporaryDirectory() as name:  # 0700, and root's
        line = walls.separation(Users("nobody", "root"), Path(name))
    assert line.result == "error"
    assert "cannot be read by nobody, the agent's user" in line.found


@root
@pytest.mark.skipif(shutil.which("setfacl") is None, reason="there is no setfacl here")
def test_a_list_of_access_is_heeded():
    """The bits alone would say no."""
    with tempfile.TemporaryDirectory() as name:
        assert walls.separation(Users("nobody", "root"), Path(name)).result == "error"
        if subprocess.run(["setfacl", "-m", "u:nobody:rx", name], check=False).returncode:
            pytest.skip("this file system has no lists of access")
        assert walls.readable(Path(name), "nobody")
