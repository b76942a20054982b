"""Intruders in a consortium that runs: somebody else's bundle, and a site that is revoked while it is at work."""

import contextlib
import json
import os
import re
import subprocess
import time

import pytest
import tomli_w
from deployed import Deployment, until

from fedmerge import sessions, surroundings
from fedmerge.trust import audit
from server import consortium, superlink
from sites import bundle as gate
from sites import home as homes
from sites import joining

SERVER_APP = """
from flwr.app import Message, RecordDict, ConfigRecord
from flwr.serverapp import ServerApp
import time
app = ServerApp()

@app.main()
def main(grid, context):
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    content = RecordDict({"task": ConfigRecord({"json": "{}", "to": "north"})})
    asked = [Message(content, dst_node_id=node, message_type="query") for node in nodes]
    for answer in grid.send_and_receive(asked, timeout=60):
        open(%r, "a").write(answer.error.reason if answer.has_error() else "answered")
"""
CLIENT_APP = """
import time
open(%r, "a").write("imported\\n")
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()

@app.query()
def query(message, context):
    open(%r, "a").write("at work\\n")
    time.sleep(15)
    open(%r, "a").write("done\\n")
    return Message(RecordDict(), reply_to=message)
"""


def foreign(folder):
    """A bundle that is not fedmerge's: the app, and the files in which each side leaves its trace."""
    app, mine, theirs = folder / "app", folder / "server.trace", folder / "site.trace"
    app.mkdir(parents=True)
    (app / "north_server.py").write_text(SERVER_APP % str(mine))
    (app / "north_client.py").write_text(CLIENT_APP % ((str(theirs),) * 3))
    parts = {"serverapp": "north_server:app", "clientapp": "north_client:app"}
    table = {
        "project": {"name": "foreign", "version": "1.0.0", "description": "x", "license": "Apache-2.0"},
        "tool": {"flwr": {"app": {"publisher": "somebody", "fab-include": ["*.py"], "components": parts}}},
    }
    (app / "pyproject.toml").write_text(tomli_w.dumps(table))
    return app, mine, theirs


def turned(server):
    """Whether the door has refused a key that is not on the roster."""
    return any(line.reason.startswith("the key is not on the roster") for line in audit.read(server.audit))


def at_work(deployment):
    """Whether a bundle runs at the site."""
    superexec = deployment.state("north")["superexec"]["pid"]
    return superexec is not None and sessions.members(superexec) != [superexec]


@pytest.mark.slow
def test_a_foreign_bundle_does_not_run_and_a_site_at_work_is_cut_off_within_ten_seconds(tmp_path):
    """Whoever owns the SuperLink may order what they like: it is not imported; and revoked means out, also in work."""
    deployment = Deployment(tmp_path / "d")
    deployment.join("north")
    server, north = deployment.server, deployment.sites["north"]
    app, mine, trace = foreign(tmp_path / "foreign")
    try:
        deployment.start_all()
        until(lambda: deployment.ready("server") and deployment.ready("north"), 200, deployment)
        until(lambda: deployment.seen("north"), 60, deployment)
        number = str(superlink.order(server, "run", str(app))["run-id"])

        def refused():
            return [line.reason for line in audit.read(north.audit) if line.way == "refused"]

        until(refused, 120, deployment)
        assert all("the bundle sha256:" in reason and "is not allowed here" in reason for reason in refused())
        assert not trace.exists()
        until(mine.exists, 30, deployment)
        assert re.fullmatch(
            r"the bundle sha256:[0-9a-f]{64} is not on this site's list; install the same version of fedmerge on both "
            "sides, or send the hospital the bundle, which `fedmerge site allow` lets in", mine.read_text(),
        )  # fmt: skip
        mine.unlink()
        with contextlib.suppress(superlink.Unanswered):  # it may have ended by itself
            superlink.order(server, "stop", number)
        environment = {**os.environ, **surroundings.settings(tmp_path / "flower")}
        built = [surroundings.program("flwr"), "build", "--app", str(app)]
        subprocess.run(built, cwd=tmp_path, env=environment, check=True, capture_output=True)
        gate.allow(north, next(tmp_path.glob("*.fab")).read_bytes(), "the test")
        superlink.order(server, "run", str(app))
        until(lambda: trace.exists() and "at work" in trace.read_text(), 120, deployment)
        node = deployment.state("north")["supernode"]["pid"]
        revoked = time.time()
        consortium.revoke(server, "north", revoked)
        until(lambda: turned(server), 60, deployment)
        until(lambda: not sessions.members(node), 60, deployment)
        until(lambda: "done" in trace.read_text() or not at_work(deployment), 60, deployment)
        time.sleep(5)  # what the bundle has to say would be there by now; the node is started again, and refused again
        visits = json.loads((server.run / "door.json").read_text())["sites"]["north"]
        assert visits["seen"] - revoked < 10
        assert "answered" not in (mine.read_text() if mine.exists() else "")  # Flower may tell that it is lost
        joining.refresh_roster(homes.open(north.folder), time.time())
        assert joining.explain(homes.open(north.folder), time.time()).state == "revoked"
    finally:
        deployment.stop()
