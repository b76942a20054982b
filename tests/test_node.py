"""The SuperNode of a site: a link that drops packets is no wrong certificate, and what is of no use any more ends."""

import os
import socket
import ssl
import subprocess
import sys
import threading
import time

import httpx
import pytest
from doors import authority, door
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.nodestate import NodeStateFactory

from sites import node


class Invoker:
    """What Flower gives up on today."""

    def __init__(self):
        self.should_giveup = lambda error: any(word in str(error).lower() for word in ("certificate", "ssl", "tls"))


def test_flower_still_makes_its_retries_where_they_are_made_patient():
    """The two names that `main` uses are there, and give up on a handshake as they did."""
    invoker = fleet_http_connection.make_simple_http_retry_invoker()
    dropped = httpx.ConnectTimeout("_ssl.c:989: The handshake operation timed out")
    assert invoker.should_giveup(dropped)
    assert not node.patient(invoker).should_giveup(dropped)


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (httpx.ConnectTimeout("_ssl.c:989: The handshake operation timed out"), False),
        (httpx.ConnectError("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol"), False),
        (httpx.ReadError("ssl"), False),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed"), True),
        (ValueError("tls"), True),
    ],
)
def test_what_a_node_gives_up_on(error, final):
    """Every failure of the connection may pass but a certificate that is another one; the rest is Flower's to judge."""
    assert node.patient(Invoker()).should_giveup(error) is final


def test_the_errors_are_those_that_a_connection_raises(tmp_path):
    """A server that never answers a handshake, one that hangs up in it, one with another authority."""
    ca, server = authority(tmp_path)
    other, _ = authority(tmp_path, "other")
    trusted = ssl.create_default_context(cafile=ca)

    def failure(address, context=trusted):
        with pytest.raises(httpx.TransportError) as raised:
            httpx.post(f"https://{address}/", verify=context, timeout=0.5, trust_env=False)
        return raised.value

    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not node.patient(Invoker()).should_giveup(failure(f"127.0.0.1:{silent.getsockname()[1]}"))
    with socket.create_server(("127.0.0.1", 0)) as rude:
        threading.Thread(target=lambda: rude.accept()[0].close(), daemon=True).start()
        assert not node.patient(Invoker()).should_giveup(failure(f"127.0.0.1:{rude.getsockname()[1]}"))
    with door(server, lambda: 0.0) as address:
        assert node.patient(Invoker()).should_giveup(failure(address, ssl.create_default_context(cafile=other)))


@pytest.mark.parametrize("what", ["pass", "1 / 0", "threading.Thread(target=lambda: 1 / 0).start(); time.sleep(60)"])
def test_what_ends_the_work_ends_the_process(what):
    """It returns, it fails, or one of its threads does; another thread that never ends keeps nothing alive."""
    program = f"""
import threading, time
from flwr.supernode import cli
def work():
    threading.Thread(target=time.sleep, args=(60,)).start()
    {what}
cli.flower_supernode = work
from sites import node
node.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, env={**os.environ, "COLUMNS": "80"}
    )
    assert done.returncode == 1
    assert ("ZeroDivisionError" in done.stderr) is ("1 / 0" in what)


@pytest.mark.parametrize("whole", [True, False])
def test_a_reply_whose_rest_never_comes_is_given_up(whole, monkeypatch):
    """Flower's own function, state and store: what is whole is sent, what is not keeps nobody."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(node.Arriving.__init__, "__defaults__", (1.0,))
    stores = ObjectStoreFactory()
    state, store = NodeStateFactory(stores).state(), stores.store()
    message = Message(RecordDict({"a": ConfigRecord({"b": b"x" * 1000})}), dst_node_id=1, message_type="query")
    message.metadata.__dict__["_message_id"] = "asked"
    reply = Message(RecordDict({"a": ConfigRecord({"b": b"y" * 1000})}), reply_to=message)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    state.store_message(message)
    state.store_message(reply)
    store.preregister(1, get_object_tree(reply))
    if whole:
        for name, part in get_all_nested_objects(reply).items():
            store.put(name, part.deflate())
    sent = []
    push = node.push_whole(start_client_internal._push_messages)
    push(
        state=state,
        object_store=store,
        send=lambda message, tree, _: ({leaf.object_id for leaf in iterate_object_tree(tree)}, "session"),
        push_object=lambda run, session, name, content: sent.append(name),
    )
    assert (reply.object_id in sent) is whole
    assert not state.get_messages_legacy(is_reply=True)


def test_a_message_that_nobody_is_at_work_on_ends_the_wait():
    """As long as there is a task, however long it takes, a reply may come; once it has ended without one, none will."""
    state = NodeStateFactory(ObjectStoreFactory()).state()
    awaited = node.Answering(state, patience_s=0.2)
    task = state.create_task(task_type=TaskType.CLIENT_APP, run_id=1, fab_hash="a")
    assert task is not None
    for _ in range(2):
        assert not awaited.get_messages_legacy(is_reply=True)
        time.sleep(0.3)
    state.claim_task(task)
    state.activate_task(task)
    assert not awaited.get_messages_legacy(is_reply=True)
    assert state.finish_task(task, "failed", "killed")
    assert not awaited.get_messages_legacy(is_reply=True)
    time.sleep(0.3)
    with pytest.raises(RuntimeError, match="has died before it took it"):
        awaited.get_messages_legacy(is_reply=True)
