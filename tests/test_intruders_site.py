"""Intruders at a hospital: a server that asks for what it should not have, and callers who send too much."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import struct
from collections import namedtuple
from pathlib import Path

import agents
import pytest
from agents import ask, refusals

from fedmerge import parts, tasks
from sites import client, room, service, target
from sites import parts as files

DESCRIBE = tasks.to_table(tasks.Describe("small", (8, 8, 8), 1, "float32"))
KEY, DIGEST = "a" * 24, "sha256:" + "d" * 64


@pytest.fixture
def north(small, tmp_path):
    """The home of a source whose policy wants three cases in what leaves."""
    _, data = agents.plan(small, tmp_path / "plan")
    return agents.home(tmp_path / "homes", small, "north", data["north"], campaigns='["small"]', min_cases="3")


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


def test_empty_payloads_are_not_written_to_somebody_who_has_answered():
    """The agent knows from the header that nothing follows, and may hang up: that is no reason to ask it again."""
    mine, other = socket.socketpair()
    with mine:

        class Line:
            def sendall(self, data):
                mine.sendall(data)
                other.close()

        client.send(Line(), {"op": "query.receive"}, {"a": b"", "b": b""})
        with pytest.raises(BrokenPipeError):
            mine.sendall(b"")


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
    # two connections, two threads: either may be the first to write its line
    (_, first), (what, reason) = sorted(refusals(north), key=lambda line: "header" not in line[1])
    assert "header expected at most" in first
    assert what.startswith("x?2026 INFO all is well?[2J")
    assert "\x1b" not in caplog.text + reason
