"""Messages to real sites: sent again, late, one at a time; who is away is named, waited for, and written down."""

import hashlib
import json
import threading
import time
from dataclasses import asdict

import pytest
from flwr.app import Message
from grids import NAMES, Clock, Fallible, asking, deployed, echo_app

from fedmerge import transport
from fedmerge.errors import Absent, CampaignStopped
from fedmerge.trust import audit, keys
from server.asks import Send
from server.exchange import Ask
from server.post import SILENCE_S, SILENT, Post
from server.presence import GONE, LOOK_S, NAMED_AFTER_S, Presence
from server.progress import Progress
from server.record import Witness

HOLD_S = 15.0  # as of a deployment


@pytest.mark.parametrize("code", [3, 4, 5, 8])
def test_an_error_that_says_nothing_of_the_task_is_asked_again(code):
    """A program that died, a node that was gone, a reply that was lost: the question is put once more."""
    grid = Fallible(echo_app(), lambda site, kind, n: code if (site, kind, n) == ("north", "train.echo", 1) else None)
    exchange, heard = deployed(grid), []
    exchange.roll_call(NAMES, {}, 0.0)
    exchange.converse(asking(heard, "north", "south"))
    assert sorted(heard) == [("north", "north"), ("south", "south")]
    assert grid.sent.count(("north", "train.echo")) == 2


@pytest.mark.parametrize("code", [1, 2, 6, 7])
def test_an_error_of_the_task_is_final(code):
    """What the site itself says, or a bundle that it does not let in, is not asked again."""
    grid = Fallible(echo_app(), lambda site, kind, n: code if kind == "train.echo" else None)
    exchange = deployed(grid)
    exchange.roll_call(NAMES, {}, 0.0)
    with pytest.raises(CampaignStopped, match=r"north failed in train\.echo: a reason"):
        exchange.converse(asking([], "north"))
    assert grid.sent.count(("north", "train.echo")) == 1


def test_a_message_that_nobody_answers_is_sent_again(caplog):
    """A node that lost a message when it was started anew answers the second one."""
    grid = Fallible(echo_app(), lambda site, kind, n: "lost" if (kind, n) == ("train.echo", 1) else None)
    exchange, heard = deployed(grid), []
    exchange.roll_call(NAMES, {}, 0.0)
    exchange.converse(asking(heard, "harbour"))
    assert heard == [("harbour", "harbour")]


def test_a_late_reply_is_used_and_its_double_is_not():
    """The site answers the first message long after it was asked again; the answer counts, once."""
    counted = []
    app = echo_app(lambda site, task: counted.append(site))
    grid = Fallible(app, lambda site, kind, n: (1.5 if n == 1 else 9.0) if kind == "train.echo" else None)
    exchange, heard = deployed(grid), []
    exchange.roll_call(NAMES, {}, 0.0)
    began = time.monotonic()
    exchange.converse(asking(heard, "north"))
    assert heard == [("north", "north")]
    assert counted == ["north", "north"]
    assert time.monotonic() - began < 5.0


def test_a_real_site_gets_one_message_at_a_time():
    """A node of Flower works on one message at a time; four questions to each of two sites come in order."""
    at_work, most = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0)

    def behave(site, task):
        at_work[site] += 1
        most[site] = max(most[site], at_work[site])
        time.sleep(0.02)
        at_work[site] -= 1

    exchange, heard = deployed(Fallible(echo_app(behave))), []
    exchange.roll_call(NAMES, {}, 0.0)
    exchange.converse(asking(heard, *["north", "south"] * 4))
    assert [site for site, _ in heard].count("north") == 4
    assert (most["north"], most["south"]) == (1, 1)


def test_a_late_site_is_waited_for(caplog):
    """A site whose node comes an hour after the others is named meanwhile, and then takes part."""
    grid = Fallible(echo_app())
    grid.offline.add("south")
    threading.Timer(1.0, grid.offline.clear).start()  # a hundred seconds
    told, absent = deployed(grid).roll_call(NAMES, {}, 0.0)
    assert (sorted(told), absent) == (sorted(NAMES), {})
    assert "south is not there since" in caplog.text
    assert "south is connected again, after" in caplog.text


def test_a_dead_site_is_named_within_two_minutes():
    """Flower misses a node after a minute at most; forty seconds later the log has its name."""
    assert 60 + LOOK_S + NAMED_AFTER_S <= 120
    presence = Presence(Fallible(echo_app()), deployed=True)
    presence.grid.offline.add("north")
    presence.look(NAMES, 1000.0)
    presence.name_the_absent(NAMES, 1000.0 + NAMED_AFTER_S - 1)
    assert not presence.gap("north").named
    presence.name_the_absent(NAMES, 1000.0 + NAMED_AFTER_S)
    assert presence.gap("north").named
    assert presence.gap("south") is None


@pytest.fixture
def quiet():
    """A post whose three nodes are there, and what they are asked is lost."""
    grid = Fallible(echo_app(), lambda site, kind, n: "lost")
    post = Post(grid, Presence(grid, deployed=True), HOLD_S, ttl_s=3600.0)
    post.presence.look(NAMES, 0.0)
    return post


def sending(post, kind, task=None, **payload):
    """Send a message to the first site at 0 s."""
    post.take(Send(Ask(NAMES[0], kind, {}), kind, task or {}, payload, {}, "task"))
    assert post.dispatch(str, 0.0)


def test_a_node_that_is_there_and_silent_is_named_within_two_minutes(quiet):
    """A program hangs behind a node that still says that it is there: asked again, and named at once."""
    sending(quiet, "train.work")
    for now, named in ((HOLD_S + SILENCE_S, False), (HOLD_S + SILENCE_S + LOOK_S, True)):
        quiet.dispatch(str, now)
        quiet.presence.name_the_absent(NAMES, now)
        assert bool(quiet.presence.gap("north")) is named
    assert now < 120
    assert (quiet.presence.gap("north").named, quiet.presence.gap("north").reason) == (True, SILENT)
    assert quiet.grid.sent == [("north", "train.work")] * 2
    quiet.presence.heard("north", now + 1)
    quiet.dispatch(str, now + 2)
    assert quiet.presence.gap("north") is None


def test_a_node_that_answers_something_is_not_silent(quiet):
    """The second of two parts waits at the node while the first one travels: its time begins when that has come."""
    sending(quiet, "query.have")
    quiet.presence.heard("north", 60.0)
    quiet.dispatch(str, 130.0)
    assert quiet.presence.gap("north") is None
    quiet.dispatch(str, 60.0 + HOLD_S + SILENCE_S + 1)
    assert quiet.presence.gap("north").since == 60.0


@pytest.mark.parametrize(
    ("kind", "task", "payload"),
    [("query.part", {"length": 10**7}, {}), ("query.put", {}, {"part": bytes(10**7)})],
)
def test_a_part_may_take_as_long_as_a_slow_link_needs(quiet, kind, task, payload):
    """10 MB over 1 Mbit/s are 80 s more, in which a part is not asked for a second time."""
    sending(quiet, kind, task, **payload)
    quiet.dispatch(str, HOLD_S + SILENCE_S + 79)
    assert quiet.presence.gap("north") is None
    quiet.dispatch(str, HOLD_S + SILENCE_S + 81)
    assert quiet.presence.gap("north").reason == SILENT


def test_a_plan_that_waits_for_nobody_goes_on_when_a_silent_site_is_named(caplog):
    """What hangs behind a node that is there is absent as soon as it is named, and its reason is said."""
    exchange = deployed(Fallible(echo_app(), lambda site, kind, n: "lost" if kind == "train.echo" else None), wait_s=0)
    exchange.roll_call(NAMES, {}, 0.0)
    with pytest.raises(Absent, match=f"north has not been there for .* s: {SILENT}"):
        exchange.converse(asking([], "north"))
    assert "north is not there since" in caplog.text


def test_a_node_that_is_gone_is_the_reason_of_what_came_back_before():
    """A hung node's reply is lost some seconds before Flower misses the node: named once, for what is the matter."""
    presence = Presence(Fallible(echo_app()), deployed=True)
    presence.troubled("north", "its reply could not be read whole", 1000.0)
    presence.grid.offline.add("north")
    presence.look(NAMES, 1005.0)
    assert (presence.gap("north").since, presence.gap("north").reason) == (1000.0, GONE)


def test_a_site_that_stays_away_is_absent_when_the_wait_is_over():
    """The conversation hears of it and may go on without; the others are not disturbed."""
    grid, heard, missed = Fallible(echo_app()), [], []
    exchange = deployed(grid, wait_s=60.0)
    exchange.roll_call(NAMES, {}, 0.0)
    grid.offline.add("south")

    def without():
        try:
            yield Ask("south", "train.echo", {})
        except Absent as error:
            missed.append(str(error))
        answer = yield Ask("north", "train.echo", {})
        heard.append(answer.task["by"])

    exchange.converse([without(), *asking([], "harbour")])
    assert heard == ["north"]
    assert "south has not been there for" in missed[0]
    assert "its node is not connected" in missed[0]
    with pytest.raises(Absent, match="south has not been there"):
        exchange.converse(asking([], "south"))


def test_after_a_failure_nobody_waits_for_an_absent_site():
    """A campaign that stops does not stop after the wait for another site."""
    grid = Fallible(echo_app(), lambda site, kind, n: 2 if (site, kind) == ("north", "train.echo") else None)
    exchange = deployed(grid, wait_s=10**6)
    exchange.roll_call(NAMES, {}, 0.0)
    grid.offline.add("south")
    began = time.monotonic()
    with pytest.raises(CampaignStopped, match="north failed"):
        exchange.converse(asking([], "south", "north"))
    assert time.monotonic() - began < 5.0


def test_a_site_that_only_ever_works_is_absent_after_its_time():
    """A site that answers that it is at it, again and again, has as long as the plan gives it for a task."""
    app = echo_app()

    @app.query("job")
    def job(message, context):
        return Message(transport.pack({}, note={"later": "1"}), reply_to=message)

    @app.train("work")
    def work(message, context):
        return Message(transport.pack({}, note={"later": "1"}), reply_to=message)

    exchange = deployed(Fallible(app), timeout_s=50.0)
    exchange.roll_call(NAMES, {}, 0.0)
    with pytest.raises(Absent, match=r"north did not answer train\.work within 50 s"):
        exchange.converse(asking([], "north", kind="train.work"))


def test_an_agent_that_is_away_is_asked_again_and_named_if_it_stays_away(caplog):
    """The node is there, the agent is not: the same question later, and the reason for those who watch."""
    away = [3]

    def app():
        made = echo_app()

        @made.train("work")
        def work(message, context):
            if away[0]:
                away[0] -= 1
                return Message(transport.pack({}, note={"away": "its agent does not answer"}), reply_to=message)
            return Message(transport.pack({"by": "north"}), reply_to=message)

        return made

    exchange, heard = deployed(Fallible(app())), []
    exchange.roll_call(NAMES, {}, 0.0)
    exchange.converse(asking(heard, "north", kind="train.work"))
    assert heard == [("north", "north")]
    away[0] = 10**6
    exchange = deployed(Fallible(app()), wait_s=60.0)
    exchange.roll_call(NAMES, {}, 0.0)
    with pytest.raises(Absent, match=r"north has not been there for .* s: its agent does not answer"):
        exchange.converse(asking([], "north", kind="train.work"))
    assert "north is not there since" in caplog.text


def test_a_job_that_a_site_has_forgotten_is_asked_for_from_the_top():
    """The agent was killed between two questions: the whole ask is sent again, and its answer counts."""
    app, began = echo_app(), []

    @app.query("job")
    def job(message, context):
        task, _ = transport.unpack(message.content, "server")
        note = {"unknown": "job"} if len(began) == 1 else {"later": task["job"]} if len(began) < 2 else {}
        return Message(transport.pack({"by": "north"}, note=note), reply_to=message)

    @app.train("work")
    def work(message, context):
        began.append(transport.unpack(message.content, "server"))
        return Message(transport.pack({}, note={"later": f"job {len(began)}"}), reply_to=message)

    exchange, heard = deployed(Fallible(app)), []
    exchange.roll_call(NAMES, {}, 0.0)
    exchange.converse(asking(heard, "north", kind="train.work"))
    assert heard == [("north", "north")]
    assert began == [({"k": 1}, {"x": b"1"})] * 2


def test_progress_tells_where_each_site_is(tmp_path):
    """Working with its progress, away with its reason, idle at the end; bytes both ways."""
    app = echo_app()
    seen = []

    @app.query("job")
    def job(message, context):
        seen.append(json.loads((tmp_path / "progress.json").read_text())["sites"])
        note = {"later": "1", "progress": {"what": "training", "done": len(seen), "total": 9}} if len(seen) < 6 else {}
        time.sleep(0.02)
        return Message(transport.pack({"by": "north"}, note=note), reply_to=message)

    @app.train("work")
    def work(message, context):
        note = {"later": "1", "progress": {"what": "training", "done": 0, "total": 9}}
        return Message(transport.pack({}, note=note), reply_to=message)

    grid = Fallible(app)
    exchange = deployed(grid, progress=Progress(tmp_path / "progress.json", Clock()))
    exchange.roll_call(NAMES, {}, 0.0)
    grid.offline.add("south")
    exchange.converse(asking([], "north", kind="train.work"))
    north = seen[-1]["north"]
    assert (north["state"], north["what"]) == ("working", "train.work")
    assert north["progress"]["what"] == "training"
    assert 0 < north["progress"]["done"] < 9
    last = json.loads((tmp_path / "progress.json").read_text())["sites"]
    assert last["north"] | {"since": 0} == {
        "state": "idle", "what": "", "since": 0, "reason": "", "progress": None,
        "sent": last["north"]["sent"], "received": last["north"]["received"],
    }  # fmt: skip
    assert last["north"]["received"] > 0
    exchange.presence.look(NAMES, 10**6)
    exchange.converse([])
    last = json.loads((tmp_path / "progress.json").read_text())["sites"]
    assert (last["south"]["state"], last["south"]["reason"]) == ("away", "its node is not connected")


def test_what_a_site_says_of_its_progress_is_no_more_than_a_line():
    """Texts without end and numbers that are none do not get into the file."""
    progress = Progress()
    progress.tell("north", {"what": "x" * 10**6, "done": 1, "total": 2})
    assert len(progress.told["north"]["what"]) == 120
    for facts in ("text", {"what": "a", "done": "1", "total": 2}, [1]):
        progress.tell("south", facts)
    assert "south" not in progress.told


def test_each_ask_and_answer_is_a_line_of_the_servers_log(tmp_path):
    """Task and payloads with digest and size, the other side's head with what came; nothing twice by asking again."""
    grid = Fallible(echo_app(), lambda site, kind, n: 8 if (kind, n) == ("train.echo", 1) else None)
    log = audit.Log(tmp_path / "audit.jsonl", keys.new_signing(), audit.SERVER)
    exchange = deployed(grid, witness=Witness(log, "small"))
    exchange.roll_call(NAMES[:1], {}, 0.0)
    before = len(audit.read(log.path))
    exchange.converse(asking([], "north"))
    lines = audit.read(log.path)[before:]
    facts = {"peer": "north", "purpose": "train.echo", "campaign": "small"}
    one = f"sha256:{hashlib.sha256(b'1').hexdigest()}"
    assert [(line.way, line.what, line.size) for line in lines] == [
        ("out", "task", 8), ("out", "x", 1), ("in", "answer", 23), ("in", "x", 1)
    ]  # fmt: skip
    assert all(facts.items() <= asdict(line).items() for line in lines)
    assert lines[1].digest == lines[3].digest == one
