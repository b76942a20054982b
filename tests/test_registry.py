"""Flower's registry of nodes follows the roster: registered, unregistered, never twice, also after an interruption."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from consortia import DAY, NOW, approved, found, hospital

from fedmerge.errors import ConfigError
from server import consortium, registry, superlink


@pytest.fixture
def server(tmp_path):
    """A new consortium."""
    return found(tmp_path)


class Flower:
    """Flower's registry as the orders of `flwr supernode` see it: a key is never taken a second time."""

    def __init__(self, monkeypatch):
        self.nodes, self.keys, self.dies_after = {}, set(), None
        monkeypatch.setattr(superlink, "address", lambda home: "127.0.0.1:1")
        monkeypatch.setattr(superlink, "healthy", lambda home, port: True)
        monkeypatch.setattr(superlink, "order", self.order)

    def order(self, home, group, what, *words):
        """One order."""
        assert group == "supernode"
        if what == "list":
            return {"nodes": [{"node-id": n, "status": s} for n, (_, s) in self.nodes.items()]}
        if what == "unregister":
            self.nodes[words[0]] = (self.nodes[words[0]][0], "unregistered")
            return {}
        key = Path(words[0]).read_text()
        if key in self.keys:
            raise superlink.Unanswered("Public key already in use")
        self.keys.add(key)
        self.nodes[str(len(self.nodes) + 1)] = (words[2], "registered")
        if self.dies_after == "register":
            raise KeyboardInterrupt
        return {"node-id": str(len(self.nodes))}

    def registered(self):
        """Names of the sites."""
        return sorted(name for name, status in self.nodes.values() if status != "unregistered")


def test_flowers_registry_follows_the_roster(server, tmp_path, monkeypatch):
    """Registered once, unregistered when revoked, new keys are a new node; an expired site stays for its renewal."""
    flower, joined = Flower(monkeypatch), hospital(tmp_path, server)
    approved(server, joined, days=1)
    approved(server, hospital(tmp_path, server, name="south"))
    assert registry.sync_nodes(server, now=NOW) == registry.Change(("north", "south"), ())
    assert registry.sync_nodes(server, now=NOW + 2 * DAY) == registry.Change()
    approved(server, hospital(tmp_path, server, new_keys=True), replaces=True)
    assert registry.sync_nodes(server, now=NOW) == registry.Change(("north",), ("north",))
    consortium.revoke(server, "south", NOW)
    assert registry.sync_nodes(server, now=NOW) == registry.Change((), ("south",))
    assert flower.registered() == ["north"]
    assert registry.nodes(server) == {"3": "north"}


def test_a_registration_that_was_interrupted_is_finished(server, tmp_path, monkeypatch):
    """Flower took the key, and we died before we wrote the number down: it is found, and not registered again."""
    flower = Flower(monkeypatch)
    approved(server, hospital(tmp_path, server))
    flower.dies_after = "register"
    with pytest.raises(KeyboardInterrupt):
        registry.sync_nodes(server, now=NOW)
    flower.dies_after = None
    assert registry.sync_nodes(server, now=NOW) == registry.Change()
    assert registry.nodes(server) == {"1": "north"}


def test_a_node_that_nobody_approved_goes_and_a_lost_table_is_told(server, tmp_path, monkeypatch):
    """Somebody on the server's machine registered a key; or our own table is gone, and with it who is who."""
    flower = Flower(monkeypatch)
    approved(server, hospital(tmp_path, server))
    registry.sync_nodes(server, now=NOW)
    flower.nodes["99"] = ("stranger", "registered")
    registry.sync_nodes(server, now=NOW)
    assert flower.registered() == ["north"]
    server.nodes.unlink()
    with pytest.raises(ConfigError, match=r"nodes.json is missing, but Flower knows nodes: .* remove .*state.db"):
        registry.sync_nodes(server, now=NOW)
    server.nodes.write_text("{}")
    with pytest.raises(ConfigError, match="is damaged"):
        registry.sync_nodes(server, now=NOW)


def test_without_a_superlink_the_registry_waits(server):
    """Before the first `server up`, and while it is down."""
    assert registry.sync_nodes(server, now=NOW) is None
    superlink.connect(server, 9)
    assert registry.sync_nodes(server, now=NOW) is None


@pytest.mark.slow
def test_a_real_superlink_takes_and_forgets_the_nodes(tmp_path):
    """Flower's own program and command: registered, listed, unregistered; the same key is not taken again."""
    now = time.time()
    server = found(tmp_path, now=now)
    port = superlink.choose_port(server)
    superlink.connect(server, port)
    program = superlink.programs(server, port)[0]
    env = {**os.environ, **program.env}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            program.argv, env=env, cwd=server.flower, stdout=log, stderr=log, start_new_session=True
        )
    try:
        end = time.monotonic() + 60
        while not superlink.healthy(server, port):
            assert time.monotonic() < end
            time.sleep(0.3)
        joined = hospital(tmp_path, server, now=now)
        approved(server, joined, now=now)
        assert registry.sync_nodes(server, now=now) == registry.Change(("north",), ())
        assert registry.sync_nodes(server, now=now) == registry.Change()
        consortium.revoke(server, "north", now)
        assert registry.sync_nodes(server, now=now) == registry.Change((), ("north",))
        told = superlink.order(server, "supernode", "list")["nodes"]
        assert [node["status"] for node in told] == ["unregistered"]
        path = tmp_path / "again.pub"
        path.write_text(joined.request.node_key + "\n")
        with pytest.raises(superlink.Unanswered, match="already in use"):
            superlink.order(server, "supernode", "register", str(path), "--name", "north")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
