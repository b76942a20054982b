"""What `server up` and `site up` start, with the real Flower: it comes up, comes back, and leaves nothing behind."""

import os
import pwd
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
import pytest
from commandline import command
from deployed import FEDMERGE, Deployment, until
from made_consortium import signed

from fedmerge import sessions, surroundings, units
from fedmerge.errors import ConfigError
from fedmerge.trust import keys
from server import consortium
from server import up as server_up
from sites import bundle, walls
from sites import home as homes
from sites import up as site_up
from sites.home import Users


@pytest.fixture
def deployment(tmp_path):
    """Homes of a server and its sites; what was started ends with the test."""
    made = Deployment(tmp_path)
    yield made
    made.stop()


def test_a_server_lets_its_sites_nodes_in_and_cuts_off_one_that_is_revoked(deployment, capsys):
    """The real SuperLink, door and SuperNode: no control, revoked means out within 10 s, nothing is left."""
    deployment.join("north")
    server, home = deployment.server, deployment.sites["north"]
    process = deployment.start("server")
    until(lambda: deployment.ready("server"), 30, deployment)
    trusted = ssl.create_default_context(cafile=server.authority)
    with httpx.Client(base_url=f"https://localhost:{server.port}", verify=trusted, trust_env=False) as client:
        key = keys.read_node(home.node_key)
        for path in ("/v1/control/start-run", "/v1/control/register-node", "/v1/fleet/register-node", "/docs"):
            assert client.post(path, headers=signed(key)).status_code == 404
        assert client.get("/v1/roster").json()["roster"]["body"]["entries"][0]["name"] == "north"
        assert client.post("/v1/fleet/pull-messages", headers=signed(keys.new_node())).status_code == 401
    site_up.prepare(home, Users())
    programs = {program.name: program for program in site_up.programs(home, Users(), surroundings.free_port())}
    supernode = programs["supernode"]
    until(lambda: server.nodes.exists() and "north" in server.nodes.read_text(), 20, deployment)
    supernode.log.parent.mkdir(parents=True)
    with supernode.log.open("wb") as log:
        node = subprocess.Popen(supernode.argv, env={**os.environ, **supernode.env}, stdout=log, stderr=log)
    try:
        until(lambda: deployment.seen("north"), 20, deployment)
        assert command("status", "--server", server.folder) == 0
        assert re.search(r"north +source +\S+ +online", capsys.readouterr().out)
        consortium.revoke(server, "north", time.time())
        began = time.monotonic()
        node.wait(10)
        assert time.monotonic() - began < 10
    finally:
        node.kill()
        node.wait()
    family = deployment.pids("server")
    process.terminate()
    assert process.wait(30) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in family)
    assert "is up: hospitals reach it at localhost" in deployment.told()
    assert command("status", "--server", server.folder) == 0
    assert "the server is down" in capsys.readouterr().out


def test_one_home_has_one_server_and_the_port_has_to_be_free(deployment):
    """Each with a sentence, before anything is started."""
    home = deployment.server
    with sessions.alone(server_up.state_file(home)), pytest.raises(ConfigError, match="is up already"):
        server_up.up(home)
    with (
        socket.create_server(("127.0.0.1", home.port)),
        pytest.raises(ConfigError, match="is taken by another program"),
    ):
        server_up.up(home)
    home.superexec_secret.unlink()
    with pytest.raises(ConfigError, match=r"has no keys/superexec\.secret; see fedmerge server init"):
        server_up.up(home)


def test_a_site_whose_users_are_one_does_not_start_unasked(deployment, capsys):
    """The sentence says what is off and how to accept it."""
    deployment.join("north")
    assert command("site", "up", "--home", deployment.sites["north"].folder) == 2
    told = capsys.readouterr().err
    assert "the separation is off" in told
    assert "--shared-user" in told


def test_what_a_site_runs_is_prepared_once_and_again(deployment):
    """Folders, a secret, the gate's commands and the own bundle on the list; a second time changes nothing."""
    deployment.join("north")
    home = deployment.sites["north"]
    found = site_up.make_ready(home, shared_user=True)
    assert "the separation is off" in found
    secret, listed = site_up.secret(home).read_bytes(), bundle.allowed(home)
    assert len(listed) == 1
    assert os.access(site_up.commands(home) / "flwr-clientapp", os.X_OK)
    assert site_up.secret(home).stat().st_mode & 0o077 == 0
    site_up.prepare(home, Users())
    assert (site_up.secret(home).read_bytes(), bundle.allowed(home)) == (secret, listed)


def test_the_sites_superexec_finds_the_gate_first(deployment):
    """Its path begins with our commands; the agent's has no reason to."""
    deployment.join("north")
    home = deployment.sites["north"]
    programs = {program.name: program for program in site_up.programs(home, Users("a", "n"), 1)}
    assert programs["superexec"].env["PATH"].split(":")[0] == str(site_up.commands(home))
    assert {name: program.user for name, program in programs.items()} == {
        "agent": "a", "roster": "a", "supernode": "n", "superexec": "n",
    }  # fmt: skip
    assert all("-P" in programs[name].argv for name in ("agent", "roster"))


def two_users():
    """Two users of this machine that are not root."""
    names = [
        entry.pw_name for entry in pwd.getpwall() if entry.pw_uid and entry.pw_name in ("daemon", "nobody", "games")
    ]
    return names[:2] if os.getuid() == 0 and len(names) > 1 else None


@pytest.mark.skipif(two_users() is None, reason="only root can give files to two other users")
def test_each_user_gets_its_own_and_nothing_of_the_others(deployment):
    """The node's user reads no key, no data and no log of the agent's, and still meets it at the socket."""
    deployment.join("north")
    folder = Path(tempfile.mkdtemp(prefix="fedmerge-"))
    try:
        folder.chmod(0o755)
        shutil.copytree(deployment.sites["north"].folder, folder / "site")
        home, users = homes.open(folder / "site"), Users(*two_users())
        site_up.prepare(home, users)
        for path, user, may in (
            (home.private, users.agent, True), (home.private, users.node, False),
            (home.node, users.node, True), (home.node, users.agent, False),
            (home.socket_folder, users.node, True),
        ):  # fmt: skip
            assert walls.readable(path, user) is may, (path, user)
        for words, code in (
            (f"cat {home.signing_key}", 1), (f"cat {home.site_file}", 1), (f"echo x > {home.allowed}", 1),
            (f"echo x > {site_up.commands(home)}/flwr-clientapp", 1), (f"cat {home.allowed}", 0),
            (f"cat {home.node_key}", 0), (f"cat {home.consortium_file}", 0), (f"touch {home.flower}/x", 0),
            (f"cat {home.authority}", 0),
        ):  # fmt: skip
            entry = pwd.getpwnam(users.node)
            done = subprocess.run(
                ["sh", "-c", words], user=entry.pw_uid, group=entry.pw_gid, extra_groups=[], capture_output=True
            )
            assert (done.returncode != 0) is bool(code), words
        (home.folder / "socket/agent.sock").touch()
        assert [line.result for line in walls.permissions(home, users)] == ["ok"]
        folder.chmod(0o700)
        with pytest.raises(ConfigError, match="a folder above it is closed"):
            site_up.prepare(home, users)
    finally:
        shutil.rmtree(folder)


def test_units_wall_the_agent_off_the_network_and_the_bundle_off_the_data(deployment):
    """One unit a program, under its user; `systemd-analyze` agrees where there is one."""
    deployment.join("north")
    home = deployment.sites["north"]
    data = deployment.data / "north"
    shutil.copymode(deployment.root, data)
    text = home.site_file.read_text()
    home.site_file.write_text(text.replace("[data]", '[users]\nagent = "daemon"\nnode = "nobody"\n[data]', 1))
    told = site_up.systemd(home)
    found = {part.split(".service")[0]: part for part in told.split("# /etc/systemd/system/")[1:]}
    assert list(found) == ["fedmerge-agent", "fedmerge-roster", "fedmerge-supernode", "fedmerge-superexec"]
    agent, superexec = found["fedmerge-agent"], found["fedmerge-superexec"]
    for line in ("User=daemon", "PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX\n", "ProtectSystem=strict"):
        assert line in agent
    assert "PrivateDevices" not in agent
    for line in (
        "User=nobody",
        "IPAddressDeny=any",
        f"InaccessiblePaths=-{home.private}",
        f"InaccessiblePaths=-{data}",
    ):
        assert line in superexec
    assert f"ReadWritePaths={home.private}" in agent
    assert f"ReadWritePaths={home.node}" in superexec
    assert '--node-config "agent=\\"' in found["fedmerge-supernode"]
    server = server_up.systemd(deployment.server)
    assert f"ExecStart={FEDMERGE} server up --server {deployment.server.folder}" in server
    if shutil.which("systemd-analyze"):
        for name, unit in {**found, "fedmerge-server": server}.items():
            path = deployment.root / f"{name}.service"
            path.write_text(f"# {unit}")
            done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
            assert "Unknown" not in done.stderr, done.stderr


def test_words_of_a_unit_are_as_systemd_reads_them():
    """Spaces, quotes, percent and dollar signs."""
    assert units.command(("/bin/x", "a b", 'k="v"', "50%", "$HOME")) == '/bin/x "a b" "k=\\"v\\"" 50%% $$HOME'
