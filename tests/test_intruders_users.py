"""Two users at a hospital: what a bundle under the node's user cannot reach, and that each refused call is written."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import agents
import consortia
import pytest
from agents import refusals
from walled import as_user, become, root_only, skip_unless_reached, two_users

from fedmerge import supervisor
from sites import bundle, walls
from sites import up as site_up

HOSTILE = Path(__file__).with_name("looks_around.py").read_text()


@pytest.fixture(scope="module")
def users():
    """Two users of this machine."""
    with two_users() as made:
        yield made


@pytest.fixture
def walled(users, small, tmp_path):
    """A joined hospital whose agent runs under its own user, prepared as `site up` does it."""
    skip_unless_reached(users.node)
    folder = Path(tempfile.mkdtemp(prefix="fedmerge-walled-"))
    process = None
    try:
        folder.chmod(0o755)
        server = consortia.found(tmp_path)
        home = consortia.hospital(folder, server, "north").home
        shutil.copytree(small / "north", folder / "cases")
        _, data = agents.plan(small, tmp_path / "plan")
        rows = "".join(f"{key} = {value}\n" for key, value in {"roles": '["source"]', **agents.POLICY}.items())
        home.site_file.write_text(
            f'[site]\nname = "north"\nrole = "source"\nwork = "private/work"\n'
            f'[users]\nagent = "{users.agent}"\nnode = "{users.node}"\n'
            f'[data]\nfolder = "{folder / "cases"}"\n{data["north"]}\n[policy]\n{rows}'
        )
        site_up.prepare(home, users)
        site_up.give(folder / "cases", pwd.getpwnam(users.agent).pw_uid, 0)
        (folder / "cases").chmod(0o700)
        words = site_up.surroundings.module("sites.agent", str(home.folder))
        here = {**os.environ, "HOME": str(home.private), "OMP_NUM_THREADS": "1"}
        with (tmp_path / "agent.log").open("wb") as log:
            process = subprocess.Popen(
                [*become(users.agent), *words], stdout=log, stderr=log, cwd=home.folder, env=here
            )
        yield home, process.pid, folder / "cases", tmp_path / "agent.log"
    finally:
        if process is not None:
            process.terminate()
            process.wait(60)
        shutil.rmtree(folder)


@root_only
@pytest.mark.slow
def test_a_bundle_under_its_own_user_reaches_neither_data_nor_keys_nor_the_agent(walled, users):
    """Whatever it opens, writes, attaches to or becomes: the kernel says no; and the agent is none the worse."""
    home, pid, cases, log = walled
    wait_for_socket(home, log)
    uid = pwd.getpwnam(users.agent).pw_uid
    done = as_user(users.node, sys.executable, "-c", HOSTILE, str(home.folder), str(cases), str(pid), str(uid))
    told = json.loads(done.stdout or done.stderr)
    assert len(told) > 30
    assert {what: how for what, how in told.items() if how not in ("EACCES", "EPERM")} == {}
    assert [line.result for line in walls.permissions(home, users) + walls.files(home, users)] == ["ok", "ok"]
    assert walls.separation(users, cases).result == "ok"
    assert call_as(users.node, home, "hello") == "{'site': 'north'}"


CALL = """
import sys
from pathlib import Path
from fedmerge.transport import Letter
from sites import client
home, op, bundle, to, campaign = sys.argv[1:]
task = {"campaign": campaign, "patch": [8, 8, 8], "threads": 1, "precision": "float32"}
try:
    letter = Letter(task, note={"campaign": campaign, "hold_s": 50.0}, to=to)
    print(client.call(Path(home) / "socket/agent.sock", op, letter, bundle=bundle, patience_s=0).task)
except (client.Failed, client.Away) as error:
    print(error)
"""


def call_as(user, home, op, name="", to="north", campaign="small"):
    """What the agent answers to another user, as text."""
    words = [sys.executable, "-P", "-c", CALL, str(home.folder), op, name, to, campaign]
    done = as_user(user, *words)
    return (done.stdout or done.stderr).strip()


def wait_for_socket(home, log):
    """Until the agent listens."""
    for _ in range(1200):
        if home.socket.exists():
            return
        subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError(log.read_text())


@root_only
@pytest.mark.slow
def test_each_call_that_is_refused_is_a_line_with_its_reason(walled, users):
    """Unknown operation, wrong user, a bundle that is not listed, a line of the policy, a mere stranger."""
    home, _, _, log = walled
    wait_for_socket(home, log)
    (listed,) = bundle.allowed(home)
    home.site_file.write_text(home.site_file.read_text().replace('campaigns = ["*"]', 'campaigns = ["small"]'))
    assert "'site': 'north'" in call_as(users.node, home, "query.describe", listed)
    calls = [
        (users.node, "query.describe", "sha256:" + "0" * 64, "small", "the bundle sha256:000"),
        (users.node, "query.describe", "", "small", "the bundle (none named) is not allowed here"),
        (users.node, "train.steal", listed, "small", "there is no operation 'train.steal'"),
        (users.node, "query.describe", listed, "other", "policy line 'campaigns' does not list 'other'"),
        ("root", "query.describe", listed, "small", "user 0 may not call the agent"),
    ]
    for user, op, name, campaign, words in calls:
        assert words in call_as(user, home, op, name, campaign=campaign), words
    assert "does not answer (PermissionError)" in call_as("nobody", home, "query.describe", listed)
    found = refusals(home)
    assert [what for what, _ in found] == [op for _, op, *_ in calls]
    assert all(words in reason for (_, reason), (*_, words) in zip(found, calls))


@root_only
def test_giving_a_home_to_its_users_gives_away_nothing_else(users, tmp_path):
    """Neither what a link points to, nor another's file under a second name, changes hands."""
    uid = pwd.getpwnam(users.node).pw_uid
    node, other = tmp_path / "node", tmp_path / "shadow"
    (node / "flower/apps").mkdir(parents=True)
    other.write_text("root's")
    (node / "own").write_text("")
    (node / "link").symlink_to(other)
    (node / "flower/folder").symlink_to(tmp_path)
    (node / "hard").hardlink_to(other)
    site_up.give(node, uid, uid)
    assert (other.stat().st_uid, tmp_path.stat().st_uid) == (0, 0)
    assert {path.stat().st_uid for path in (node, node / "flower/apps", node / "own")} == {uid}


@root_only
def test_a_program_under_another_user_inherits_no_secret_of_roots(users, tmp_path, monkeypatch):
    """Of root's variables it has those that are named, and its own."""
    monkeypatch.setenv("SOME_TOKEN", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    program = supervisor.Program("env", ["env"], tmp_path / "log", {"MINE": "yes"}, users.node, Path("/"))
    assert supervisor.start(program).wait(20) == 0
    told = (tmp_path / "log").read_text().splitlines()
    assert {"MINE=yes", "OMP_NUM_THREADS=1", f"USER={users.node}"} <= set(told)
    assert "secret" not in "".join(told)
