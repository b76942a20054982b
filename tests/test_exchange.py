"""The in-process Grid, and conversations over it: copies, order, failures by name, late replies, traffic."""

import hashlib
import json
import threading
import time
from pathlib import Path

import pytest
from flwr.app import Error, Message
from flwr.clientapp import ClientApp

from fedmerge import transport
from fedmerge.errors import Absent, CampaignStopped, ConfigError, Refused
from server.exchange import Ask, Exchange
from server.inprocess import InProcessGrid
from server.parts import Way
from server.presence import LOOK_S, NAMED_AFTER_S, Presence
from server.progress import Progress
from server.record import Witness

NAMES = ("north", "south", "harbour")
WAY = Way(Path("/nowhere"))  # nothing in these tests is large enough to come in parts


def echo_app(behave=None):
    """A ClientApp whose sites say their name and send back what they got, after `behave(site, task)`."""
    app = ClientApp()

    def site(message):
        return transport.addressee(message.content)

    @app.query("describe")
    def describe(message, context):
        node = context.node_config["partition-id"]
        return Message(transport.pack({"site": site(message), "node": node}), reply_to=message)

    @app.train("echo")
    def echo(message, context):
        task, payload = transport.unpack(message.content, "server")
        error = behave(site(message), task) if behave else None
        if error:
            return Message(Error(code=2, reason=error), reply_to=message)
        payload.get("x", bytearray())
        return Message(transport.pack({**task, "by": site(message)}, payload), reply_to=message)

    return app


def exchange_with(app, workers=1, timeout_s=30.0):
    """An exchange that has called the roll of three sites."""
    exchange = Exchange(InProcessGrid(app, {}, len(NAMES), workers), timeout_s, WAY)
    exchange.roll_call(NAMES, {}, patience_s=1.0)
    return exchange


def test_a_task_reaches_the_site_that_it_is_for():
    """After the roll call a task for a name is answered by the site of this name."""
    heard = {}

    def ask(site):
        answer = yield Ask(site, "train.echo", {})
        heard[site] = answer.task["by"]

    exchange_with(echo_app()).converse([ask(name) for name in NAMES])
    assert heard == {name: name for name in NAMES}


def test_a_conversation_goes_on_with_the_answer_to_its_own_question():
    """Three conversations of four questions each, two at a time, keep their order and their answers apart."""
    heard = {name: [] for name in NAMES}

    def talk(site):
        for k in range(4):
            answer = yield Ask(site, "train.echo", {"k": k}, {"x": bytes([k])})
            heard[site].append((answer.task["k"], answer.payload["x"]))

    exchange_with(echo_app(), workers=2).converse([talk(name) for name in NAMES], at_once=2)
    assert all(heard[name] == [(k, bytes([k])) for k in range(4)] for name in NAMES)


def test_a_failing_site_is_named_and_the_others_are_heard_out():
    """What is under way when a site fails still arrives; what has not begun is not begun."""
    heard = []
    begun = threading.Event()

    def behave(site, task):
        if site == "north":
            begun.wait(5)
            return "its own log has the reason [0]"
        begun.set()
        time.sleep(0.05)
        return None

    def ask(site):
        yield Ask(site, "train.echo", {})
        heard.append(site)

    exchange = exchange_with(echo_app(behave), workers=2)
    with pytest.raises(CampaignStopped, match=r"north failed in train\.echo: its own log"):
        exchange.converse([ask("north"), ask("south"), ask("harbour")], at_once=2)
    assert heard == ["south"]


def test_a_silent_site_is_named_after_the_campaigns_patience():
    """A site that does not answer in time stops the campaign with its name."""
    stop = threading.Event()

    def behave(site, task):
        stop.wait(5)

    def ask():
        yield Ask("south", "train.echo", {})

    exchange = exchange_with(echo_app(behave), timeout_s=0.1)
    with pytest.raises(CampaignStopped, match=r"south did not answer train\.echo"):
        exchange.converse([ask()])
    stop.set()


def test_an_answer_that_is_no_task_is_refused_with_the_sites_name():
    """A reply of another form names its sender."""
    app = ClientApp()

    @app.query("describe")
    def describe(message, context):
        return Message(message.content, reply_to=message)

    grid = InProcessGrid(app, {}, 1)
    with pytest.raises(Refused, match="north: expected a description"):
        Exchange(grid, 5.0, WAY).roll_call(["north"], {}, patience_s=0.1)


def test_fewer_nodes_than_sites_play_the_sites_in_turn():
    """Flower's default of two nodes is enough for three sites: the third is played by the first node."""
    told, _ = Exchange(InProcessGrid(echo_app(), {}, 2), 5.0, WAY).roll_call(NAMES, {}, patience_s=0.1)
    assert {name: told[name]["node"] for name in NAMES} == {"north": 0, "south": 1, "harbour": 0}


def test_a_registered_node_is_its_own_site_whatever_the_order():
    """Names that Flower's registry knows decide; a site that has none is told before anything is asked."""
    named = InProcessGrid(echo_app(), {}, 3, names=("harbour", "south", "north"))
    told, _ = Exchange(named, 5.0, WAY).roll_call(NAMES, {}, patience_s=0.1)
    assert [told[name]["node"] for name in NAMES] == [2, 1, 0]
    partly = InProcessGrid(echo_app(), {}, 2, names=("harbour", "south"))
    with pytest.raises(ConfigError, match="site 'north' is not there; Flower knows harbour, south"):
        Exchange(partly, 5.0, WAY).roll_call(NAMES, {}, patience_s=0.1)


def test_every_byte_is_counted_in_both_directions():
    """Traffic is the sum of task and payload bytes, by sender, receiver and purpose."""

    def ask():
        yield Ask("north", "train.echo", {}, {"x": bytes(1000)}, what="contribution")
        yield Ask("north", "train.echo", {}, {"x": bytes(500)}, what="contribution")

    exchange = exchange_with(echo_app())
    exchange.converse([ask()])
    lines = {(t["from"], t["to"]): t for t in exchange.traffic if t["what"] == "contribution"}
    assert lines["server", "north"]["messages"] == 2
    assert lines["server", "north"]["bytes"] == 1500 + 2 * len("{}")
    assert lines["north", "server"]["bytes"] == 1500 + 2 * len('{"by": "north"}')


def test_a_site_gets_a_copy_of_the_message():
    """What a site changes in its message does not change the sender's."""
    app = ClientApp()

    @app.query("describe")
    def describe(message, context):
        message.content.config_records["task"]["json"] = "changed"
        return Message(message.content, reply_to=message)

    grid = InProcessGrid(app, {}, 1)
    sent = Message(transport.pack({"a": 1}), grid.get_node_ids()[0], "query.describe")
    (reply,) = grid.send_and_receive([sent])
    assert reply.content.config_records["task"]["json"] == "changed"
    assert transport.unpack(sent.content, "me") == ({"a": 1}, {})


def test_packing_and_unpacking_undo_each_other():
    """A task and its payloads come out as they went in, empty payloads included."""
    task, payload = {"a": [1, 2.5, None], "b": {"c": "ü"}}, {"x": b"", "y": bytes(range(256))}
    assert transport.unpack(transport.pack(task, payload), "me") == (task, payload)


def test_numpy_and_pickle_serialisations_are_refused():
    """A payload that is not plain bytes is refused by its sender's name and the payload's."""
    import numpy as np
    from flwr.app import Array, ArrayRecord

    content = transport.pack({})
    content["payload"] = ArrayRecord({"weights": Array(np.zeros(3))})
    with pytest.raises(Refused, match=r"south: payload 'weights' expected plain bytes, got numpy\.ndarray"):
        transport.unpack(content, "south")


class Clock:
    """Seconds that go forward by themselves, a hundred times as fast as on the wall."""

    def __init__(self):
        self.began = time.monotonic()

    def __call__(self):
        """Seconds."""
        return 100 * (time.monotonic() - self.began)


class Fallible(InProcessGrid):
    """A Grid of named nodes that may be offline, and whose messages may come to nothing.

    `offline` holds the names of nodes that Flower does not list; `fate(site, kind, n)` says what becomes of the n-th
    message of a kind: None (it is answered), an error code, "lost", or seconds by which the answer is late.
    """

    def __init__(self, app, fate=lambda site, kind, n: None):
        super().__init__(app, {}, len(NAMES), 3, names=NAMES)
        self.offline, self.fate = set(), fate
        self.sent, self._due, self._errors = [], {}, {}

    def get_nodes(self):
        """Those that are not offline."""
        return [node for node in super().get_nodes() if node.name not in self.offline]

    def push_messages(self, messages):
        """As each message's fate has it."""
        ids = []
        for message in messages:
            site, kind = transport.addressee(message.content), message.metadata.message_type
            self.sent.append((site, kind))
            fate = "lost" if site in self.offline else self.fate(site, kind, self.sent.count((site, kind)))
            if fate is None or isinstance(fate, float):
                (name,) = super().push_messages([message])
                self._due[name] = time.monotonic() + (fate or 0.0)
            else:
                name = f"{site}-{len(self.sent)}"
                if fate != "lost":
                    self._errors[name] = self._error(message, name, fate)
            ids.append(name)
        return ids

    def pull_messages(self, message_ids):
        """The replies whose time has come."""
        ids = [name for name in message_ids if self._due.get(name, 0.0) <= time.monotonic()]
        errors = [self._errors.pop(name) for name in ids if name in self._errors]
        return [*errors, *super().pull_messages(ids)]

    @staticmethod
    def _error(message, name, code):
        message.metadata.__dict__["_message_id"] = name
        return Message(Error(code=code, reason="a reason"), reply_to=message)


def deployed(grid, wait_s=600.0, timeout_s=3600.0, **more):
    """An exchange with real sites whose hours are seconds."""
    way = Way(Path("/nowhere"), hold_s=5.0)
    return Exchange(grid, timeout_s, way, wait_s=wait_s, deployed=True, clock=Clock(), **more)


def asking(heard, *sites, kind="train.echo"):
    """A conversation a site, of one question."""

    def ask(site):
        answer = yield Ask(site, kind, {"k": 1}, {"x": b"1"})
        heard.append((site, answer.task["by"]))

    return [ask(site) for site in sites]


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


def test_each_ask_and_answer_is_a_line_of_the_servers_log():
    """Task and payloads with digest and size, the other side's head with what came; nothing twice by asking again."""
    lines = []

    class Log:
        head = "a" * 64

        def append(self, **facts):
            lines.append({k: v for k, v in facts.items() if v})

    grid = Fallible(echo_app(), lambda site, kind, n: 8 if (kind, n) == ("train.echo", 1) else None)
    exchange = deployed(grid, witness=Witness(Log(), "small"))
    exchange.roll_call(NAMES[:1], {}, 0.0)
    lines.clear()
    exchange.converse(asking([], "north"))
    facts = {"peer": "north", "purpose": "train.echo", "campaign": "small"}
    one = f"sha256:{hashlib.sha256(b'1').hexdigest()}"
    assert [(line["way"], line["what"], line["size"]) for line in lines] == [
        ("out", "task", 8), ("out", "x", 1), ("in", "answer", 23), ("in", "x", 1)
    ]  # fmt: skip
    assert all(facts.items() <= line.items() for line in lines)
    assert lines[1]["digest"] == lines[3]["digest"] == one
