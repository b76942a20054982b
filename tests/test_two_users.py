"""A hospital as it should run: `site up` by root, two users, a campaign to its end, and then a hostile bundle."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import tomli_w
from deployed import FEDMERGE, Deployment, until
from walled import REACHED, root_only, skip_unless_reached, two_users

from fedmerge import sessions, surroundings
from fedmerge.trust import audit, keys
from server import superlink
from sites import bundle as gate
from sites import up as site_up
from sites import walls

LOOKS_AROUND = Path(__file__).with_name("looks_around.py")
SERVER_APP = """
import time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    node = next(node.node_id for node in grid.get_nodes() if node.name == "north")
    grid.send_and_receive([Message(RecordDict({"x": ConfigRecord({"y": 1})}), node, "query")], timeout=60)
"""
CLIENT_APP = """
import json, os
from flwr.app import RecordDict, Message
from flwr.clientapp import ClientApp
import looks_around
app = ClientApp()

@app.query()
def query(message, context):
    told = {"user": os.getuid(), "tries": looks_around.attempts(*%r)}
    open(%r, "w").write(json.dumps(told))
    return Message(RecordDict(), reply_to=message)
"""


class TwoUsers(Deployment):
    """North runs under two users, and with it its `site up` where these can reach this Python; the others as always."""

    def wall(self, users):
        """Name the two users in north's file, and give the data to the agent's."""
        home, data = self.sites["north"], self.data / "north"
        text = home.site_file.read_text()
        named = f'[users]\nagent = "{users.agent}"\nnode = "{users.node}"\n'
        home.site_file.write_text(text.replace("[data]", f"{named}[data]", 1))
        site_up.give(data, pwd.getpwnam(users.agent).pw_uid, 0)
        data.chmod(0o700)

    def words(self, name):
        """As root, in a mount namespace of its own; without `--shared-user`."""
        if name != "north":
            return super().words(name)
        up = [FEDMERGE, "site", "up", "--home", str(self.sites[name].folder)]
        return ["unshare", "-m", "sh", "-c", REACHED, "sh", sys.base_prefix, "0", "0", *up]


@pytest.fixture
def users():
    """Two users of this machine, who can run this Python."""
    with two_users() as made:
        skip_unless_reached(made.node)
        skip_unless_reached(made.agent)
        yield made


@pytest.fixture
def deployment(users):
    """All homes, in a folder that both users can pass; what was started ends with the test."""
    root = Path(tempfile.mkdtemp(prefix="fedmerge-two-"))
    root.chmod(0o755)
    made = TwoUsers(root)
    try:
        made.join_all()
        made.wall(users)
        yield made
    finally:
        made.stop()
        shutil.rmtree(root)


def user_of(pid):
    """The users of a process: real, effective, saved, of the file system."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {int(word) for word in status.split("Uid:")[1].splitlines()[0].split()}


def hostile(root, home, cases, agent):
    """(the app, its bundle, the file that says what came of it) of a bundle that looks around at the hospital."""
    app, told = root / "hostile", home.flower / "told.json"
    app.mkdir()
    arguments = (str(home.folder), str(cases), agent, next(iter(user_of(agent))))
    (app / "hostile_server.py").write_text(SERVER_APP)
    (app / "hostile_client.py").write_text(CLIENT_APP % (arguments, str(told)))
    shutil.copy(LOOKS_AROUND, app)
    parts = {"serverapp": "hostile_server:app", "clientapp": "hostile_client:app"}
    table = {
        "project": {"name": "hostile", "version": "1.0.0", "description": "x", "license": "Apache-2.0"},
        "tool": {"flwr": {"app": {"publisher": "somebody", "fab-include": ["*.py"], "components": parts}}},
    }
    (app / "pyproject.toml").write_text(tomli_w.dumps(table))
    built = [surroundings.program("flwr"), "build", "--app", str(app)]
    subprocess.run(built, cwd=root, env={**os.environ, **surroundings.settings(root / "f")}, check=True)
    return app, next(root.glob("*.fab")).read_bytes(), told


@root_only
@pytest.mark.slow
def test_a_campaign_under_two_users_ends_and_a_bundle_among_them_reaches_nothing(deployment, users):
    """Whoever allows a hostile bundle has let it in, and lost no more than what the agent's operations give."""
    server, home = deployment.server, deployment.sites["north"]
    deployment.start_all()
    until(lambda: all(map(deployment.ready, ("server", *deployment.sites))), 200, deployment)
    agent, node = (pwd.getpwnam(name).pw_uid for name in (users.agent, users.node))
    pids = {name: entry["pid"] for name, entry in deployment.state("north").items()}
    assert {name: user_of(pid) for name, pid in pids.items()} == {
        "agent": {agent}, "roster": {agent}, "supernode": {node}, "superexec": {node},
    }  # fmt: skip
    run = [FEDMERGE, "run", deployment.plan, "--server", server.folder, "--methods", "none,t-imm", "--detach"]
    subprocess.run(run, check=True)
    over = until(lambda: (run := deployment.run("small")).over and run, 300, deployment)
    assert (over.state, over.words) == ("done", ""), deployment.told()
    rows = json.loads((server.runs / "small/out/results.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["ok"] * len(rows)
    assert {row["method"] for row in rows} == {"none", "t-imm"}

    app, data, told = hostile(deployment.root, home, deployment.data / "north", pids["agent"])
    gate.allow(home, data, "the test")
    os.chown(home.allowed, agent, -1)
    superlink.order(server, "run", str(app))
    until(told.exists, 120, deployment)
    until(lambda: told.read_text().endswith("}"), 10)
    found = json.loads(told.read_text())
    assert found["user"] == node
    assert len(found["tries"]) > 30
    assert {what: how for what, how in found["tries"].items() if how not in ("EACCES", "EPERM")} == {}
    assert sessions.born(pids["agent"]) == deployment.state("north")["agent"]["born"]
    lines = walls.permissions(home, users) + walls.files(home, users)
    assert [line.result for line in lines] == ["ok", "ok"]
    report = audit.verify(home.audit, keys.read_signing(home.signing_key).public_key())
    assert report.sound, report.reason
    assert "contribution" in {line.what for line in report.lines if line.way == "out"}
