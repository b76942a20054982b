"""The site's agent: who may call it, what it answers, what its log says, and that it may be killed at any moment."""

import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress

import agents
import pytest
from small import campaign
from test_campaign import run

from fedmerge import parts, tasks
from fedmerge.errors import CampaignStopped, ConfigError
from fedmerge.transport import Letter
from fedmerge.trust import audit, keys
from sites import agent as agent_module
from sites import client
from sites.agent import Agent


@pytest.fixture(autouse=True)
def with_bundle(monkeypatch):
    """Messages come with the bundle that the homes allow."""
    monkeypatch.setenv("FEDMERGE_BUNDLE", agents.BUNDLE)


@pytest.fixture
def place(small, tmp_path):
    """The plan, and the homes by site."""
    path, data = agents.plan(small, tmp_path / "plan")
    return path, agents.homes(tmp_path / "homes", small, data)


def lines(home, way=""):
    """(way, what, reason) of the log's lines, which all hold."""
    report = audit.verify(home.audit, keys.read_signing(home.signing_key).public_key())
    assert report.sound, report.reason
    return [(line.way, line.what, line.reason) for line in report.lines if way in ("", line.way)]


def letter(task=None, to="north", **note):
    """A letter to north."""
    return Letter(task or {}, {}, {"campaign": "small", "hold_s": 5.0, **note}, "c" * 64, to)


def deployed(path, out, homes, methods="none,t-imm", **config):
    """Run a campaign whose nodes have the agents of these homes."""
    configs = [{"agent": str(home.socket)} for home in homes.values()]
    return run(path, out, methods, node_configs=configs, names=tuple(homes), **config)


DESCRIBE = tasks.to_table(tasks.Describe("small", (8, 8, 8), 1, "float32"))


def test_three_agents_give_the_numbers_of_a_simulation(small, place, tmp_path):
    """Three processes with homes, keys and policies of their own: rows and ratios to the last digit, and three logs."""
    path, homes = place
    with agents.processes(*homes.values()):
        real = deployed(path, tmp_path / "out", homes, "t-imm")
    simulated = run(campaign(small), tmp_path / "simulated", "t-imm")

    def numbers(results):
        return [(row["method"], row["stage"], row["dice"], row["curve"]) for row in results["rows"]]

    assert numbers(real) == numbers(simulated)
    assert real["ratios"] == simulated["ratios"]
    assert [what for way, what, _ in lines(homes["south"]) if way == "out"] == ["answer", "answer", "contribution"]
    assert ("in", "start", "") in lines(homes["south"])
    assert lines(homes["harbour"], "refused") == []


def test_what_left_is_in_the_log_with_the_digest_under_which_the_server_keeps_it(place, tmp_path):
    """The line of a contribution names the bytes that the server has stored; its peer's head is written down."""
    path, homes = place
    with ExitStack() as stack:
        for home in homes.values():
            stack.enter_context(agents.in_thread(home))
        deployed(path, tmp_path / "out", homes, "mean")
    stored = {f"sha256:{parts.digest(p)}": p for p in (tmp_path / "out/server/contributions").iterdir()}
    for site in ("north", "south"):
        (line,) = [x for x in audit.read(homes[site].audit) if x.what == "contribution"]
        assert stored[line.digest].stat().st_size == line.size
        assert (line.peer, line.campaign, line.purpose) == ("server", "small", "train.contribute")


def test_work_that_is_longer_than_a_message_may_be_kept_is_asked_for_again(place, tmp_path, monkeypatch):
    """With a hold of no time at all every task is a job, and the numbers and messages are the same."""
    monkeypatch.setattr("server.strategy.HOLD_S", 0.0)
    path, homes = place
    with ExitStack() as stack:
        for home in homes.values():
            stack.enter_context(agents.in_thread(home))
        results = deployed(path, tmp_path / "out", homes, "none")
    assert sum(line["messages"] for line in results["traffic"] if line["what"] == "waiting") > 6
    assert all(row["status"] == "ok" for row in results["rows"])


@pytest.mark.slow
def test_an_agent_killed_in_the_middle_of_a_training_costs_no_more_than_its_last_checkpoint(
    small, tmp_path, monkeypatch
):
    """Killed right after a checkpoint and started anew: by itself the campaign comes to the numbers of a quiet run, and
    the training goes on from the checkpoint.
    """
    path, data = agents.plan(small, tmp_path / "plan", name="long.toml")
    for file in (path, small / "whole-long.toml"):
        file.write_text(file.read_text().replace("[train]\nsteps = 6", "[train]\nsteps = 400"))
    homes = agents.homes(tmp_path / "homes", small, data)
    quiet = run(small / "whole-long.toml", tmp_path / "quiet", "transfer:north")
    monkeypatch.setattr("server.strategy.HOLD_S", 0.3)
    work, found = homes["north"].private / "work", {}
    with ExitStack() as stack:
        (north,) = stack.enter_context(agents.processes(homes["north"]))
        for site in ("south", "harbour"):
            stack.enter_context(agents.in_thread(homes[site]))
        thread = threading.Thread(
            target=lambda: found.update(deployed(path, tmp_path / "out", homes, "transfer:north"))
        )
        thread.start()
        end = time.monotonic() + 60
        while time.monotonic() < end and not list((work / "checkpoints").glob("*.safetensors")):
            time.sleep(0.005)
        north.kill()
        trained = list((work / "contributions").glob("*.safetensors"))
        north.start()
        thread.join(100)
    assert trained == []
    assert [row["dice"] for row in found["rows"]] == [row["dice"] for row in quiet["rows"]]
    again = [line for line in audit.read(homes["north"].audit) if (line.way, line.what) == ("in", "start")]
    assert len(again) == 2
    assert not found["left_out"]
    told = (homes["north"].folder / "agent.log").read_text().split("answers on")[2]
    assert re.search(r"training (\d+)/400", told)[1] == "100"


def test_a_call_by_another_user_is_refused_and_written_down(place, monkeypatch):
    """The kernel names the caller; who is not on the list hears that, whatever they ask."""
    home = place[1]["north"]
    monkeypatch.setattr(agent_module, "callers", lambda home: {12345})
    with agents.in_thread(home, answers=False):  # noqa: SIM117 - the log is whole when the agent has ended
        with pytest.raises(client.Failed, match=f"north: user {os.getuid()} may not call the agent"):
            client.call(home.socket, "query.describe", letter(DESCRIBE), bundle=agents.BUNDLE)
    assert ("refused", "query.describe", f"user {os.getuid()} may not call the agent") in lines(home)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_kernel_says_who_calls(place):
    """A process of another user meets the refusal, although the socket's folder lets it in."""
    home = place[1]["north"]
    with agents.in_thread(home):
        for folder in (home.folder, *home.folder.parents):
            if folder.stat().st_uid == 0 and folder.name:
                folder.chmod(folder.stat().st_mode | 0o011)
        home.socket_folder.chmod(0o755)
        home.socket.chmod(0o666)
        code = (
            "import os, sys\nfrom pathlib import Path\n"
            "from sites import client\nfrom fedmerge.transport import Letter\n"
            "os.setuid(65534)\n"
            "try:\n    client.call(Path(sys.argv[1]), 'query.describe', Letter({}), patience_s=0)\n"
            "except client.Failed as error:\n    print(error)\n"
        )
        told = subprocess.run([sys.executable, "-c", code, home.socket], capture_output=True, text=True)
    assert told.stdout.strip() == "north: user 65534 may not call the agent", told.stderr
    assert lines(home, "refused") == [("refused", "query.describe", "user 65534 may not call the agent")]


@pytest.mark.parametrize(
    ("op", "sent", "reason"),
    [
        ("train.steal", letter(), "there is no operation 'train.steal'"),
        ("exec", letter({"code": "1"}), "there is no operation 'exec'"),
        ("train.contribute", letter(to="south"), "expected a message for this site, got one for 'south'"),
        ("query.describe", letter({**DESCRIBE, "campaign": "other"}), "policy line 'campaigns' does not list 'other'"),
        ("query.have", letter({"blobs": {}}, campaign="other"), "policy line 'campaigns' does not list 'other'"),
        ("train.adapt", letter({"campaign": "small"}), "'adapt' is for a target, and this site is a source"),
        ("train.pooled", letter({"campaign": "small"}), "'pooled' is for a target, and this site is a source"),
        ("train.contribute", letter({"key": "../../x", "campaign": "small"}), "the task's key expected"),
    ],
)  # fmt: skip
def test_what_is_refused_is_one_sentence_and_one_line(small, tmp_path, op, sent, reason):
    """An operation that there is not, another site's message, a line of the policy: each time both."""
    _, data = agents.plan(small, tmp_path / "plan")
    home = agents.home(tmp_path, small, "north", data["north"], campaigns='["small"]')
    with agents.in_thread(home):
        with pytest.raises(client.Failed) as told:
            client.call(home.socket, op, sent, bundle=agents.BUNDLE)
        assert str(told.value).startswith(f"north: {reason}")
    ((way, what, written),) = lines(home, "refused")
    assert (way, what) == ("refused", op)
    assert written.startswith(f"north: {reason}")


@pytest.mark.parametrize("bundle", ["", "sha256:" + "a" * 64])
def test_a_bundle_that_is_not_on_the_list_gets_no_answer(place, bundle):
    """Not even a description; and when the list is gone, nothing is allowed any more."""
    home = place[1]["north"]
    with agents.in_thread(home):
        with pytest.raises(client.Failed, match=r"north: the bundle .* is not allowed here"):
            client.call(home.socket, "query.describe", letter(DESCRIBE), bundle=bundle)
        home.allowed.unlink()
        with pytest.raises(client.Failed, match="is not allowed here"):
            client.call(home.socket, "query.describe", letter(DESCRIBE), bundle=agents.BUNDLE)
    assert [what for _, what, _ in lines(home, "refused")] == ["query.describe"] * 2


def test_a_policy_that_stands_against_a_training_stops_the_campaign_with_its_line(place, tmp_path):
    """What comes of a long job is the same sentence, and a line under the name of what was asked."""
    path, homes = place
    homes["south"].site_file.write_text(
        homes["south"].site_file.read_text().replace("weights = true", "weights = false")
    )
    with ExitStack() as stack:
        for home in homes.values():
            stack.enter_context(agents.in_thread(home))
        with pytest.raises(
            CampaignStopped, match=r"south failed in train\.contribute: south: policy line 'weights = f"
        ):
            deployed(path, tmp_path / "out", homes, "mean")
    ((_, what, reason),) = lines(homes["south"], "refused")
    assert what == "train.contribute"
    assert reason == "south: policy line 'weights = false': no weights leave this site"


def test_a_policy_is_read_again_when_its_file_has_changed(place):
    """No restart is needed; and a file that cannot be read is no policy: nothing is answered until it can."""
    home = place[1]["north"]
    text = home.site_file.read_text()
    with agents.in_thread(home):
        assert (
            client.call(home.socket, "query.describe", letter(DESCRIBE), bundle=agents.BUNDLE).task["site"] == "north"
        )
        home.site_file.write_text(text.replace('campaigns = ["*"]', "campaigns = []"))
        with pytest.raises(client.Failed, match="policy line 'campaigns' does not list 'small'"):
            client.call(home.socket, "query.describe", letter(DESCRIBE), bundle=agents.BUNDLE)
        home.site_file.write_text(text + "roels = 3\n")
        with pytest.raises(client.Away, match=r"its site\.toml cannot be used at the moment"):
            client.call(home.socket, "query.describe", letter(DESCRIBE), bundle=agents.BUNDLE)


def test_a_bundle_that_asks_in_a_loop_does_not_fill_the_audit_log(place, monkeypatch):
    """Ten lines of each kind, then their number: of bundles that are not allowed, of tasks that the policy declines."""
    home = place[1]["north"]
    with agents.in_thread(home) as agent:
        for i in range(60):
            with pytest.raises(client.Failed, match="is not allowed here"):
                client.call(home.socket, f"op {i % 3}", letter(DESCRIBE), bundle=f"sha256:{i:064d}")
        for _ in range(15):
            with pytest.raises(client.Failed, match=r"there is no operation 'train\.steal'"):
                client.call(home.socket, "train.steal", letter(DESCRIBE), bundle=agents.BUNDLE)
        clock = time.monotonic
        monkeypatch.setattr(agent.refusals, "_clock", lambda: clock() + 60.0)
        end = time.monotonic() + 10
        while len(lines(home, "refused")) < 22 and time.monotonic() < end:
            time.sleep(0.05)
        with pytest.raises(client.Failed, match="is not allowed here"):
            client.call(home.socket, "op 7", letter(DESCRIBE), bundle="sha256:0")
    told = [(what, reason) for _, what, reason in lines(home, "refused")]
    assert [what for what, _ in told] == [f"op {i % 3}" for i in range(10)] + ["train.steal"] * 10 + ["calls"] * 3
    first, second, last = (re.sub(r"within \d+ s", "within N s", reason) for _, reason in told[20:])
    assert first == "bundles not allowed: and 50 more within N s (op 1 17, op 2 17, op 0 16)"
    assert second == "tasks declined: and 5 more within N s (train.steal 5)"
    assert last == "bundles not allowed: and 1 more within N s (op 7 1)"
    site_log = (home.private / "work/site.log").read_text()
    assert site_log.count("there is no operation") == 10


def test_the_eleventh_task_that_fails_in_a_minute_is_told_that_its_reason_is_not_kept(place):
    """No reference into the log that is not there."""
    home, asked = place[1]["north"], {**DESCRIBE, "also": "this"}
    told = []
    with agents.in_thread(home):
        for _ in range(11):
            with pytest.raises(client.Failed) as failed:
                client.call(home.socket, "query.describe", letter(asked), bundle=agents.BUNDLE)
            told.append(str(failed.value))
    site_log = (home.private / "work/site.log").read_text()
    for words in told[:10]:
        assert re.fullmatch(r"the log of north has the reason (\[[0-9a-f]{8}\])", words)[1] in site_log
    assert told[10] == "north: so many tasks failed within a minute that its log has the reasons of the first only"


def test_a_result_that_was_made_under_another_policy_is_made_anew(place, monkeypatch):
    """A job ends, the policy is tightened, the server asks for the result: the door out is asked once more."""
    home = place[1]["north"]
    with agents.in_thread(home):
        told = client.call(home.socket, "query.describe", letter(DESCRIBE, hold_s=0.0), bundle=agents.BUNDLE)
        job = told.note["later"]
        home.site_file.write_text(home.site_file.read_text().replace("metrics = true", "metrics = false"))
        asked = letter({"job": job}, hold_s=20.0)
        assert client.call(home.socket, "query.job", asked, bundle=agents.BUNDLE).note == {"unknown": "job"}
    assert lines(home, "out") == []


def test_a_full_disk_is_no_end_but_a_reason_to_wait(place, monkeypatch):
    """The server hears that the disk is full and asks again; the log of the site has more."""
    home = place[1]["north"]

    def full(*_):
        raise OSError(28, "No space left on device")

    with agents.in_thread(home):
        with monkeypatch.context() as patch:
            patch.setattr("sites.source.describe", full)
            with pytest.raises(client.Away, match="its disk is full"):
                client.call(home.socket, "query.describe", letter(DESCRIBE), bundle=agents.BUNDLE)
        assert (
            client.call(home.socket, "query.describe", letter(DESCRIBE), bundle=agents.BUNDLE).task["site"] == "north"
        )


def test_an_agent_that_is_being_started_anew_is_waited_for(place):
    """A call that finds nobody, and later a call that is cut off, are made again."""
    home = place[1]["north"]
    told = {}

    def call():
        told.update(client.call(home.socket, "query.describe", letter(DESCRIBE), bundle=agents.BUNDLE).task)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.3)
    with agents.in_thread(home):
        thread.join(30)
    assert told["site"] == "north"
    with pytest.raises(client.Away, match="its agent does not answer"):
        client.call(home.socket, "hello", Letter({}), patience_s=0)


def test_a_home_has_one_agent(place):
    """A second one says so and does not touch the socket."""
    home = place[1]["north"]
    with agents.in_thread(home):
        with pytest.raises(ConfigError, match="another agent is running"):
            Agent(home)
        assert agents.wait_for(home) == {"site": "north"}


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0\0",
        struct.pack(">I", 2**31) + b"x",
        struct.pack(">I", 4) + b"null",
        struct.pack(">I", 9) + b"not json!",
        struct.pack(">I", 30) + b'{"op": "hello", "payload": []}',
        struct.pack(">I", 36) + b'{"op": "hello", "payload": {"x": -1}}'[:36],
        struct.pack(">I", 37) + b'{"op": "a", "payload": {"x": 1' + b"0" * 5 + b"}}"[:2],
        struct.pack(">I", 4000) + b"[" * 4000,
        struct.pack(">I", 2) + b"{}",
    ],
)
def test_a_frame_of_another_form_harms_nobody(place, frame):
    """Cut off, endless, no JSON, impossible sizes: that caller gets no answer or a refusal, the next one is served."""
    home = place[1]["north"]
    with agents.in_thread(home):
        with client.connected(home.socket) as line:
            line.sendall(frame)
            line.shutdown(socket.SHUT_WR)
            line.settimeout(10)
            with suppress(ConnectionResetError):
                answer = line.recv(4)
                assert answer == b"" or b"failed" in line.recv(1000)
        assert agents.wait_for(home) == {"site": "north"}


def test_payloads_beyond_the_bound_are_refused_before_they_are_taken_in(place):
    """A header that announces a gigabyte closes the line."""
    home = place[1]["north"]
    text = json.dumps({"op": "query.receive", "bundle": agents.BUNDLE, "payload": {"x": 2**30}}).encode()
    with agents.in_thread(home), client.connected(home.socket) as line:
        line.sendall(struct.pack(">I", len(text)) + text)
        line.settimeout(10)
        assert line.recv(4) == b""
    ((_, _, reason),) = lines(home, "refused")
    assert reason == "a caller: payloads expected at most 536870912 bytes, got 1073741824"


def test_the_path_of_a_socket_may_be_long(small, tmp_path):
    """A home deep in the file system is served like any other."""
    _, data = agents.plan(small, tmp_path / "plan")
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    home = agents.home(deep, small, "north", data["north"])
    with agents.in_thread(home):
        assert agents.wait_for(home) == {"site": "north"}


def test_the_messenger_brings_nothing_heavy_along():
    """A process that begins for every message loads neither torch nor monai, nor the readers of images."""
    code = (
        "import sys, sites.app\n"
        "heavy = {'torch', 'monai', 'nibabel', 'scipy', 'cryptography', 'safetensors', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    base = subprocess.run(
        [sys.executable, "-c", code.replace("sites.app", "flwr.clientapp")], capture_output=True, text=True, check=True
    )
    assert told.stdout == base.stdout


def test_large_files_come_in_parts_and_leave_in_parts(place, tmp_path, monkeypatch):
    """Through the agents with parts of 3000 bytes: the same numbers, each file a line, and nothing left over."""
    monkeypatch.setattr(parts, "PART_BYTES", 3000)
    path, homes = place
    with ExitStack() as stack:
        for home in homes.values():
            stack.enter_context(agents.in_thread(home))
        results = deployed(path, tmp_path / "out", homes, "t-imm")
    small_parts = [row["dice"] for row in results["rows"]]
    monkeypatch.setattr(parts, "PART_BYTES", 64 * 2**20)
    with ExitStack() as stack:
        for home in homes.values():
            stack.enter_context(agents.in_thread(home))
        whole = deployed(path, tmp_path / "whole", homes, "t-imm")
    assert small_parts == [row["dice"] for row in whole["rows"]]
    left = [what for _, what, _ in lines(homes["north"], "out") if what != "answer"]
    assert left == ["contribution"] * 2
    for home in homes.values():
        for shelf in ("incoming", "outgoing"):
            assert not list((home.private / "work" / shelf).glob("*"))
