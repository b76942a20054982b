"""Intruders at a hospital: a server that asks for what it should not have, and a bundle that looks around."""

import contextlib
import json
import os
import pwd
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import agents
import consortia
import pytest
from small import hospitals

from fedmerge import parts, supervisor, tasks
from fedmerge.errors import Refused
from fedmerge.transport import Letter
from fedmerge.trust import audit, keys
from server import consortium
from sites import bundle, client, joining, room, service, target, walls
from sites import home as homes
from sites import parts as files
from sites import up as site_up
from sites.home import Users

DESCRIBE = tasks.to_table(tasks.Describe("small", (8, 8, 8), 1, "float32"))
KEY, DIGEST = "a" * 24, "sha256:" + "d" * 64
root_only = pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("useradd"), reason="only root can make users and become them"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The tiny hospitals' folder."""
    return hospitals(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture
def north(small, tmp_path):
    """The home of a source whose policy wants three cases in what leaves."""
    _, data = agents.plan(small, tmp_path / "plan")
    return agents.home(tmp_path / "homes", small, "north", data["north"], campaigns='["small"]', min_cases="3")


def ask(home, op, task, payload=None, bundle=agents.BUNDLE, to="north", **note):
    """The answer of a home's agent."""
    letter = Letter(task, payload or {}, {"campaign": "small", "hold_s": 20.0, **note}, "c" * 64, to)
    return client.call(home.socket, op, letter, bundle=bundle, patience_s=5.0)


def refusals(home):
    """(what, reason) of the refusals in a log that holds."""
    report = audit.verify(home.audit, keys.read_signing(home.signing_key).public_key())
    assert report.sound, report.reason
    return [(line.what, line.reason) for line in report.lines if line.way == "refused"]


def contribute(**changes):
    """A task to contribute, as the server writes it."""
    net = tasks.Net({"name": "isensee2017"}, 1, ("tumour",), (8, 8, 8))
    settings = {"steps": 10, "batch_size": 1, "lr": 1e-3}
    asked = tasks.Contribute(KEY, "small", 0, net, settings, 0, "sampled", 3, DIGEST, DIGEST, 1)
    return json.loads(json.dumps(tasks.to_table(asked))) | changes


@pytest.mark.parametrize(
    ("op", "task"),
    [
        ("train.contribute", contribute(key="../../../x")),
        ("train.contribute", contribute(key="/etc/x")),
        ("train.contribute", contribute(key=[KEY, "../x"])),
        ("train.contribute", contribute(key="../x") | {"row": {"key": KEY, "campaign": "small"}}),
        ("train.contribute", contribute(row={"campaign": "small"}, campaign="other", key="../x")),
        ("train.contribute", contribute(parent="sha256:../../x")),
        ("train.contribute", contribute(key=KEY + "\n")),
        ("train.contribute", {"campaign": "small"}),
        ("query.receive", {"campaign": "small", "digests": ["sha256:../../../x"]}),
        ("query.receive", {"campaign": "small", "digests": {"a": "b"}}),
        ("query.put", {"sha256": "../../x", "size": 1, "offset": 0}),
        ("query.put", {"sha256": "a" * 64, "size": 2**60, "offset": 0}),
        ("query.put", {"sha256": "a" * 64, "size": True, "offset": 0}),
        ("query.have", {"blobs": {"../x": 1}}),
        ("query.have", {"blobs": {f"{i:064d}": 1 for i in range(100)}}),
        ("query.part", {"sha256": "../signing.key", "offset": 0, "length": 100}),
        ("query.part", {"sha256": "a" * 64, "offset": "0", "length": 100}),
        ("query.describe", {**DESCRIBE, "patch": [8] * 100_001}),
        ("query.describe", {**DESCRIBE, "threads": "many"}),
        ("query.describe", {**DESCRIBE, "also": "this"}),
        ("train.pooled", contribute()),
        ("__import__", {}),
    ],
)
def test_a_task_of_a_hostile_form_is_refused_written_down_and_leaves_no_file(north, op, task):
    """Paths for names, a good row beside a bad key, sizes beyond all bounds: one refusal, one line, nothing on disk."""
    with agents.in_thread(north):
        before = {path for path in north.folder.parent.rglob("*") if "work" not in path.parts}
        with pytest.raises(client.Failed):
            ask(north, op, task, {"part": b"x"})
        after = {path for path in north.folder.parent.rglob("*") if "work" not in path.parts}
    assert after == before
    ((what, reason),) = refusals(north)
    assert what == op
    assert reason


def test_what_was_not_offered_does_not_leave_in_parts(north):
    """Files of the site's work are not to be had by their digest, nor what another policy had let go."""
    work = north.private / "work"
    secret = b"a model that stays" * 100
    (work / "contributions").mkdir(parents=True)
    (work / "contributions" / f"{KEY}.safetensors").write_bytes(secret)
    sha = parts.digest(secret)
    with agents.in_thread(north) as agent:
        asked = {"sha256": sha, "offset": 0, "length": 2**20}
        assert ask(north, "query.part", asked).note == {"unknown": "parts"}
        assert ask(north, "query.part", {**asked, "sha256": parts.digest(north.signing_key)}).payload == {}
        files.offer(agent.service._site(), secret)
        north.site_file.write_text(north.site_file.read_text().replace("weights = true", "weights = false"))
        answer = ask(north, "query.part", asked)
    assert (answer.payload, answer.note) == ({}, {"unknown": "parts"})


def test_a_server_that_brings_files_without_end_meets_a_bound(north, monkeypatch):
    """On their number, on their bytes, and on the disk, of which a part stays free; what was begun can be finished."""
    monkeypatch.setattr(files, "MOST_WAITING", 5)
    with agents.in_thread(north):
        for i in range(5):
            assert ask(north, "query.put", {"sha256": f"{i:064d}", "size": 9, "offset": 0}, {"part": b"x"})
        with pytest.raises(client.Failed, match="expected at most 5 files"):
            ask(north, "query.put", {"sha256": "f" * 64, "size": 9, "offset": 0}, {"part": b"x"})
        more = ask(north, "query.put", {"sha256": f"{0:064d}", "size": 9, "offset": 1}, {"part": b"yz"})
        assert more.task == {"there": 3}
        monkeypatch.setattr(files, "MOST_FILES", 8)
        with pytest.raises(client.Failed, match="of 8 bytes that wait"):
            ask(north, "query.put", {"sha256": f"{0:064d}", "size": 9, "offset": 3}, {"part": b"yz"})
        disk = namedtuple("disk", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(10**12, 10**12 - 10**9, 10**9))
        for op, task in (("query.put", {"sha256": f"{0:064d}", "size": 9, "offset": 3}), ("query.describe", DESCRIBE)):
            with pytest.raises(client.Away, match="its disk is full"):
                ask(north, op, task, {"part": b"yz"})
    assert sum(path.stat().st_size for path in (north.private / "work/incoming").iterdir()) == 7


def test_a_disk_is_left_room_by_its_size(tmp_path, monkeypatch):
    """Two gigabytes of a large one, a twentieth of a small one; a folder that is yet to be made counts too."""
    disk = namedtuple("disk", "total used free")
    for total, free, coming, fits in (
        (10**12, 2**31 + 5, 5, True), (10**12, 2**31 + 5, 6, False), (10**8, 5 * 10**6, 0, True),
        (10**8, 5 * 10**6, 1, False),
    ):  # fmt: skip
        monkeypatch.setattr(shutil, "disk_usage", lambda _, total=total, free=free: disk(total, 0, free))
        with contextlib.nullcontext() if fits else pytest.raises(OSError, match="nearly full"):
            room.leave_some(tmp_path / "not/there/yet", coming)


def test_weights_that_nobody_asks_for_go_first(small, tmp_path, monkeypatch):
    """A target keeps no more than its bound, and always what the present task is about."""
    _, data = agents.plan(small, tmp_path / "plan")
    harbour = agents.home(tmp_path / "homes", small, "harbour", data["harbour"])
    monkeypatch.setattr(target, "MOST_RECEIVED", 2500)
    named = []
    with agents.in_thread(harbour):
        for _ in range(4):
            blob = secrets.token_bytes(1000)
            named.append(f"sha256:{parts.digest(blob)}")
            task = tasks.to_table(tasks.Receive((named[-1],)))
            assert ask(harbour, "query.receive", {**task}, {named[-1]: blob}, to="harbour").task["digests"]
    left = {f"sha256:{path.stem}" for path in (harbour.private / "work/received").iterdir()}
    assert left == set(named[2:])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fisher_cases": 1}, r"policy line 'min_cases = 3': the Fisher would be of 1"),
        (
            {"settings": {"steps": 2, "batch_size": 1, "lr": 1e-3}},
            r"policy line 'min_cases = 3': the steps asked for see 2",
        ),
    ],
)
def test_what_leaves_is_never_of_fewer_cases_than_the_policy_says(north, monkeypatch, changes, words):
    """A Fisher of one patient, or a step on one, would be that patient's; it is not even trained."""
    monkeypatch.setattr("sites.source._check_net", lambda *_: None)
    monkeypatch.setattr("sites.source._train", lambda *_: pytest.fail("trained"))
    with agents.in_thread(north), pytest.raises(client.Failed, match=words):
        ask(north, "train.contribute", contribute(**changes), {"start": b"x"})
    assert len(refusals(north)) == 1


def test_a_message_of_many_payloads_is_refused(north):
    """Each would be a line of the audit log."""
    with agents.in_thread(north), pytest.raises(client.Failed, match="expected at most 256 payloads, got 257"):
        ask(north, "query.receive", {"campaign": "small", "digests": []}, {str(i): b"" for i in range(257)})
    assert len(refusals(north)) == 1


@pytest.mark.parametrize("asked", [10**9, -1, 0, "4", None, True, 1.5])
def test_a_server_asks_for_no_more_threads_than_there_are(asked):
    """Nor for a number that would end the agent's process."""
    for task in ({"threads": asked}, {"row": {"threads": asked}}):
        assert 1 <= service._threads(task) <= (os.cpu_count() or 1)


def test_a_caller_who_announces_much_and_sends_little_takes_no_memory():
    """Memory is taken as bytes come."""
    mine, other = socket.socketpair()
    with mine, other:
        other.sendall(b"x")
        other.close()
        before = int(Path("/proc/self/statm").read_text().split()[1])
        with pytest.raises(EOFError):
            client._exactly(mine, 2**29)
        assert (int(Path("/proc/self/statm").read_text().split()[1]) - before) * os.sysconf("SC_PAGESIZE") < 2**26


def test_a_header_beyond_its_bound_and_words_for_a_terminal_do_no_harm(north, caplog):
    """A gigantic task is refused before it is read; escape sequences and new lines stay out of the agent's log."""
    with agents.in_thread(north):
        with client.connected(north.socket) as line:
            line.sendall(struct.pack(">I", client.MAX_HEADER + 1))
            assert line.recv(4) == b""
        with pytest.raises(client.Failed):
            ask(north, "x\n2026 INFO all is well\x1b[2J", {}, bundle="sha256:\x1b]0;owned\x07\n")
    (_, first), (what, reason) = refusals(north)
    assert "header expected at most" in first
    assert what.startswith("x?2026 INFO all is well?[2J")
    assert "\x1b" not in caplog.text + reason


def test_the_policy_as_it_was_at_each_start_and_change_is_in_the_signed_log(north):
    """Whoever edits the file while the agent runs, or while it does not, leaves a line, or a difference to the last."""
    digests = [parts.digest(north.site_file)]
    with agents.in_thread(north):
        north.site_file.write_text(north.site_file.read_text().replace("weights = true", "weights = false"))
        digests.append(parts.digest(north.site_file))
        ask(north, "query.describe", DESCRIBE)
    assert walls.files(north, Users())[0].result == "ok"
    lines = [line for line in audit.read(north.audit) if line.purpose == walls.POLICY]
    assert [(line.what, line.digest) for line in lines] == [
        ("agent started", f"sha256:{digests[0]}"), ("site.toml changed", f"sha256:{digests[1]}"),
    ]  # fmt: skip
    north.site_file.write_text(north.site_file.read_text().replace("weights = false", "weights = true") + "# x")
    (line,) = walls.files(north, Users())
    assert line.result == "warning"
    assert f"not the one that the agent read last (line {lines[-1].n} of its audit log)" in line.found


@pytest.mark.parametrize("name", ["folder", "site_file", "allowed"])
def test_a_file_that_decides_and_that_others_can_change_is_an_error_of_the_check(north, name):
    """Its mode, and its owner."""
    path = getattr(north, name)
    mode = path.stat().st_mode
    path.chmod(mode | 0o020)
    (line,) = walls.files(north, Users())
    assert (line.check, line.result) == ("policy file", "error")
    assert str(path) in line.found
    path.chmod(mode)
    assert walls.files(north, Users())[0].result == "ok"
    if os.getuid() == 0:
        os.chown(path, 65534, -1)
        (line,) = walls.files(north, Users("root", "daemon"))
        assert line.found.startswith(f"{path} belongs to nobody")


def test_a_roster_that_was_put_back_or_edited_is_found_at_the_hospital(tmp_path):
    """An older one, one with other roles, one with another's key: the console says so, and it is not taken in."""
    now = consortia.NOW
    server = consortia.found(tmp_path)
    old = consortium.public_bytes(server)
    joined = consortia.hospital(tmp_path, server)
    consortia.approved(server, joined)
    home = joined.home
    joining.membership.accept(home, consortium.public_bytes(server), now)
    home = homes.open(home.folder)
    assert joining.explain(home, now).member
    good = home.roster.read_bytes()
    with pytest.raises(Refused, match="is older than the one seen"):
        joining.membership.accept(home, old, now)
    for spoiled in (
        good.replace(b'"source"', b'"target"'), good.replace(b'"epoch": 2', b'"epoch": 3'),
        json.dumps(json.loads(old)["roster"]).encode(),
    ):  # fmt: skip
        assert spoiled != good
        home.roster.write_bytes(spoiled)
        told = joining.explain(home, now)
        assert (told.state, told.member) == ("bad", False)
        with pytest.raises(Refused):
            joining.membership.accept(
                home, json.dumps({**json.loads(old), "roster": json.loads(spoiled)}).encode(), now
            )
    home.roster.unlink()
    assert joining.explain(home, now).state == "bad"


@pytest.mark.parametrize("how", ["edited", "removed", "moved", "cut off", "signed anew"])
def test_a_log_that_was_tampered_with_is_found(tmp_path, how):
    """By the chain and the signature; a tail that is gone, or a whole log written anew, by what the other side saw."""
    mine, theirs = keys.new_signing(), keys.new_signing()
    site = audit.Log(tmp_path / "site.jsonl", mine, "north")
    server = audit.Log(tmp_path / "server.jsonl", theirs, audit.SERVER)
    for i in range(5):
        site.append("out", f"contribution {i}", size=i)
        server.append("in", "contribution", peer="north", peer_head=site.head)
    rows = site.path.read_bytes().splitlines(keepends=True)
    if how == "edited":
        rows[2] = rows[2].replace(b'"size":2', b'"size":1')
    elif how == "removed":
        del rows[2]
    elif how == "moved":
        rows[1], rows[2] = rows[2], rows[1]
    elif how == "cut off":
        del rows[3:]
    site.path.write_bytes(b"".join(rows))
    if how == "signed anew":
        site.path.unlink()
        again = audit.Log(site.path, mine, "north")
        for i in range(5):
            again.append("out", f"contribution {i}", size=9)
    report = audit.verify(site.path, mine.public_key())
    seen = audit.witnessed(site.path, server.path, "north")
    if how in ("cut off", "signed anew"):
        assert report.sound
        assert [line.n for line in seen.missing] == ([4, 5] if how == "cut off" else [1, 2, 3, 4, 5])
    else:
        assert report.bad in (2, 3)
        assert seen.missing or how == "moved"  # every head is still there


@pytest.fixture(scope="module")
def users():
    """Two users of this machine that are made for these tests, and gone after them."""
    made = Users(*(f"fmt{what}{secrets.token_hex(3)}" for what in ("a", "n")))
    try:
        for name in (made.agent, made.node):
            subprocess.run(["useradd", "--system", "--no-create-home", "--shell", "/bin/sh", name], check=True)
        yield made
    finally:
        for name in (made.agent, made.node):
            subprocess.run(["userdel", name], check=False, capture_output=True)


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
exec setpriv --reuid "$user" --regid "$group" --clear-groups "$@"
"""
"""Becomes a user in a mount namespace of its own, where a Python that is installed in root's home can be reached."""


def become(name):
    """The words before a command that another user is to run with this Python."""
    entry = pwd.getpwnam(name)
    ids = [str(entry.pw_uid), str(entry.pw_gid)]
    return ["unshare", "-m", "sh", "-c", REACHED, "sh", sys.base_prefix, *ids]


def as_user(name, *words):
    """A command as another user."""
    return subprocess.run([*become(name), *words], capture_output=True, text=True, cwd="/")


@pytest.fixture
def walled(users, small, tmp_path):
    """A joined hospital whose agent runs under its own user, prepared as `site up` does it."""
    if (tried := as_user(users.node, sys.executable, "-c", "import sites")).returncode:
        pytest.skip(f"another user cannot run this Python here: {tried.stderr.strip()[-200:]}")
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


HOSTILE = """
import ctypes, errno, json, os, socket, sys
home, cases, pid, agent = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
libc = ctypes.CDLL(None, use_errno=True)

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result

def replace(path):
    fresh = f"{home}/node/fresh"
    open(fresh, "w").write("mine")
    os.rename(fresh, path)

def listen():
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(f"{home}/socket/mine.sock")

class Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]

def peek():
    buffer = ctypes.create_string_buffer(8)
    mine, other = Span(ctypes.cast(buffer, ctypes.c_void_p), 8), Span(ctypes.c_void_p(0x400000), 8)
    checked(libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(other), 1, 0))

tries = {
    "list the cases": lambda: os.listdir(cases),
    "read a case": lambda: open(f"{cases}/dataset.json").read(),
    "list private": lambda: os.listdir(f"{home}/private"),
    "read signing.key": lambda: open(f"{home}/private/signing.key").read(),
    "read sealing.key": lambda: open(f"{home}/private/sealing.key").read(),
    "read audit.jsonl": lambda: open(f"{home}/private/audit.jsonl").read(),
    "add to audit.jsonl": lambda: open(f"{home}/private/audit.jsonl", "a"),
    "read site.toml": lambda: open(f"{home}/site.toml").read(),
    "list run": lambda: os.listdir(f"{home}/run"),
    "the agent's mem": lambda: open(f"/proc/{pid}/mem", "rb").read(1),
    "the agent's maps": lambda: open(f"/proc/{pid}/maps").read(),
    "the agent's environ": lambda: open(f"/proc/{pid}/environ").read(),
    "the agent's files": lambda: os.listdir(f"/proc/{pid}/fd"),
    "the agent's root": lambda: os.listdir(f"/proc/{pid}/root"),
    "the agent's folder": lambda: os.listdir(f"/proc/{pid}/cwd/private"),
    "ptrace": lambda: checked(libc.ptrace(16, pid, 0, 0)),
    "process_vm_readv": peek,
    "kill": lambda: os.kill(pid, 9),
    "become the agent": lambda: os.setuid(agent),
    "become root": lambda: os.setuid(0),
    "open the socket's folder": lambda: os.chmod(f"{home}/socket", 0o777),
    "take the socket away": lambda: os.unlink(f"{home}/socket/agent.sock"),
    "listen beside it": listen,
    "a file in the home": lambda: open(f"{home}/x", "w"),
    "chmod private": lambda: os.chmod(f"{home}/private", 0o777),
}
for name in ("allowed.toml", "site.toml", "consortium.json", "commands/flwr-clientapp", "ca.crt"):
    if os.path.lexists(f"{home}/{name}"):
        tries[f"write {name}"] = lambda name=name: open(f"{home}/{name}", "a")
        tries[f"replace {name}"] = lambda name=name: replace(f"{home}/{name}")
told = {}
for name, attempt in tries.items():
    try:
        attempt()
        told[name] = "done"
    except OSError as error:
        told[name] = errno.errorcode.get(error.errno, str(error.errno))
print(json.dumps(told))
"""


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
