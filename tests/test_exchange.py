"""The in-process Grid, and conversations over it: copies, order, failures by name, late replies, traffic."""

import threading
import time

import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp
from grids import NAMES, WAY, echo_app, exchange_with

from fedmerge import transport
from fedmerge.errors import CampaignStopped, ConfigError, Refused
from server.exchange import Ask, Exchange
from server.inprocess import InProcessGrid


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


def test_the_timeline_has_a_line_for_what_follows_each_other_about_the_same():
    """Three steps of one row are one line with the sum of their bytes, another row is another line; times are there."""
    exchange = exchange_with(echo_app())

    def talk():
        for label, k in (("a", 0), ("a", 1), ("a", 2), ("b", 0)):
            yield Ask("north", "train.echo", {"label": label, "k": k}, {"x": bytes(1000)}, "far step")

    before = time.time()
    exchange.converse([talk()])
    lines = [line for line in exchange.timeline if line["what"] == "far step"]
    assert [(line["site"], line["about"], line["asks"], line["failed"]) for line in lines] == [
        ("north", "a", 3, 0),
        ("north", "b", 1, 0),
    ]
    assert [line["down"] // 1000 for line in lines] == [3, 1]
    assert lines[0]["up"] > 3000
    assert before <= lines[0]["begin"] <= lines[0]["end"] <= lines[1]["end"] <= time.time()


def test_a_site_that_fails_has_its_line_too():
    """What was sent in vain is on the timeline, and the campaign's end with it."""
    exchange = exchange_with(echo_app(lambda site, task: "broken"))

    def talk():
        yield Ask("north", "train.echo", {"chain": 1}, {"x": bytes(1000)}, "contribution")

    with pytest.raises(CampaignStopped):
        exchange.converse([talk()])
    (line,) = [line for line in exchange.timeline if line["what"] == "contribution"]
    assert (line["about"], line["asks"], line["failed"], line["up"]) == ("chain 1", 1, 1, 0)
    assert line["down"] > 1000
