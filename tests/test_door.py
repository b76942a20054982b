"""The front door: a short list of calls, one refusal, bodies in pieces, and no word of the SuperLink's errors."""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import threading
import time

import httpx
import pytest
import uvicorn
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree
from made_consortium import DAY, Consortium, signed
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from fedmerge import parts, transport
from fedmerge.surroundings import free_port
from fedmerge.trust import certificates, keys, roster
from fedmerge.trust.audit import read
from server import door, guests, passage

PULL = "/v1/fleet/pull-messages"


class SuperLink:
    """What stands behind the door: it answers as it is told and remembers what it was asked."""

    def __init__(self):
        self.asked, self.status, self.body, self.headers = [], 200, b"a message", {}
        self.app = Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST"])])

    async def answer(self, request):
        """What was asked is kept, whatever it is."""
        self.asked.append((request.url.path, dict(request.headers), await request.body()))
        return Response(self.body, self.status, self.headers)


@contextlib.contextmanager
def serving(config):
    """A server in a thread of its own."""
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def consortium(tmp_path_factory):
    """A consortium of this module."""
    made = Consortium(tmp_path_factory.mktemp("server"))
    made.behind = free_port()
    return made


@pytest.fixture(scope="module")
def behind(consortium):
    """The SuperLink behind the door, with TLS, on loopback."""
    superlink, home = SuperLink(), consortium.home
    config = uvicorn.Config(
        superlink.app, port=consortium.behind, ssl_certfile=home.server_certificate, ssl_keyfile=home.server_key,
        log_config=None,
    )  # fmt: skip
    with serving(config):
        yield superlink


@pytest.fixture(scope="module")
def front(consortium, behind):
    """A client that trusts the consortium's authority only, in front of the open door."""
    home = consortium.home
    trusted = ssl.create_default_context(cafile=home.authority)
    with (
        serving(door.listening(home, f"127.0.0.1:{consortium.behind}")),
        httpx.Client(base_url=f"https://127.0.0.1:{home.port}", verify=trusted, trust_env=False) as client,
    ):
        yield client


@pytest.fixture
def node(consortium, behind):
    """The key of a SuperNode that is on the roster, and a SuperLink that has forgotten what was before."""
    behind.asked.clear()
    behind.status, behind.body, behind.headers = 200, b"a message", {}
    key = keys.new_node()
    consortium.publish(consortium.entry("hospital-a", key))
    return key


def plainly(consortium, method, path, headers):
    """The bytes of the answer to a call that is written by hand and has no body."""
    trusted = ssl.create_default_context(cafile=consortium.home.authority)
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with (
        socket.create_connection(("127.0.0.1", consortium.home.port), 30) as plain,
        trusted.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return b"".join(iter(lambda: secure.recv(4096), b""))


def test_a_call_of_a_registered_node_comes_through_and_back(front, node, behind, consortium):
    """Body, its type and Flower's headers; nothing else that a client or a SuperLink says passes."""
    behind.headers = {"content-type": "application/x-protobuf", "x-secret": "1", "set-cookie": "a=b"}
    headers = {**signed(node), "flwr-package-version": "1", "cookie": "a=b", "flwr-superexec-ts": "1", "x-mine": "1"}
    answer = front.post(PULL, content=b"anything?", headers=headers)
    assert (answer.status_code, answer.content) == (200, b"a message")
    assert answer.headers.keys() == {"date", "content-type", "content-length"}
    ((path, came, body),) = behind.asked
    assert (path, body) == (PULL, b"anything?")
    assert came["flwr-package-version"] == "1"
    assert came["content-length"] == "9"
    assert not {"cookie", "x-mine", "flwr-superexec-ts"} & came.keys()
    assert came["host"] == f"127.0.0.1:{consortium.behind}"


def test_the_list_of_calls_is_what_a_supernode_of_this_flower_makes():
    """Flower's client of the fleet has these calls and the two that register a node, which are not let through."""
    import inspect
    import re

    from flwr.supernode import fleet_http_client

    found = set(re.findall(r'"/v1/fleet/([\w-]+)"', inspect.getsource(fleet_http_client)))
    assert found == passage.CALLS | {"register-node", "unregister-node"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/control/register-node"),
        ("POST", "/v1/control/list-nodes"),
        ("POST", "/v1/runtime/acquire-task"),
        ("POST", "/v1/fleet/register-node"),
        ("POST", "/v1/fleet/unregister-node"),
        ("POST", "/v1/fleet/"),
        ("POST", "/v1/fleet/pull-messages/"),
        ("POST", "/v1/fleet/pull-messages/../../control/start-run"),
        ("POST", "/v1/fleet/%2e%2e%2fcontrol%2fstart-run"),
        ("POST", "//v1/control/start-run"),
        ("GET", PULL),
        ("POST", "/v1/roster"),
        ("HEAD", "/v1/roster"),
        ("GET", "/v1/roster/"),
        ("GET", "/health"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
        ("OPTIONS", "*"),
    ],
)
def test_everything_else_is_not_there(method, path, front, node, behind, consortium):
    """404 with nothing in it, also for a registered node, and the SuperLink hears nothing; sent byte by byte."""
    answer = plainly(consortium, method, path, {**signed(node), "Content-Length": "0"})
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.endswith(b"\r\n\r\n")
    assert behind.asked == []


def test_strangers_revoked_expired_late_and_forged_get_one_answer(front, node, behind, consortium):
    """The same status, headers and body, also where only the SuperLink does not know the node."""
    stranger, revoked, expired, early = (keys.new_node() for _ in range(4))
    a, late = consortium.roster.entries[0], keys.new_node()
    now = consortium.now
    b = consortium.entry("hospital-b", expired, now - 9 * DAY, now - DAY)
    c = consortium.entry("hospital-c", early, now + DAY, now + 9 * DAY)
    d = consortium.entry("hospital-d", late)
    gone = consortium.entry("hospital-e", revoked)
    consortium.publish(a, b, c, d, gone)
    assert front.post(PULL, headers=signed(revoked)).status_code == 200
    consortium.publish(a, b, c, d)
    behind.asked.clear()
    headers = {
        "without a key": {},
        "garbage": {**signed(node), guests.KEY: "?", guests.MOMENT: "yesterday"},
        "an unregistered key": signed(stranger),
        "revoked a moment ago": signed(revoked),
        "expired": signed(expired),
        "not valid yet": signed(early),
        "a clock 10 minutes behind": signed(late, time.time() - 600),
        "a clock 10 minutes ahead": signed(late, time.time() + 600),
        "another's key": signed(stranger, shown=node),
    }
    answers = {why: front.post(PULL, content=b"x", headers=given) for why, given in headers.items()}
    assert behind.asked == []
    behind.status, behind.body = 401, b'{"detail":"Invalid SuperNode authentication"}'
    answers["unknown to Flower"] = front.post(PULL, content=b"x", headers=signed(node))
    told = {
        why: (answer.status_code, sorted((n, v) for n, v in answer.headers.items() if n != "date"), answer.content)
        for why, answer in answers.items()
    }
    for why, one in told.items():
        assert one == told["an unregistered key"], why
    assert told["expired"][0] == 401
    assert told["expired"][2] == b"refused\n"


def test_a_refusal_stops_a_supernode_of_this_flower():
    """On 401 it ends itself, so that its supervisor starts it anew; on 403 it would go on half dead."""
    import inspect

    from flwr.supercore.retry import http_retry
    from flwr.supernode import fleet_http_connection

    assert "UNAUTHORIZED:\n                with shutdown_lock" in inspect.getsource(http_retry)
    assert passage.refused().status_code == 401
    assert "httpx.codes.UNAUTHORIZED:" in inspect.getsource(fleet_http_connection)


def test_why_a_call_was_refused_is_in_the_servers_own_log(front, node, consortium):
    """One line for each reason and key, however often it is tried, without a word to the caller."""
    stranger = keys.new_node()
    before = len(read(consortium.home.audit)) if consortium.home.audit.exists() else 0
    for _ in range(5):
        front.post(PULL, headers=signed(stranger))
    (line,) = read(consortium.home.audit)[before:]
    assert (line.way, line.what, line.peer) == ("refused", "pull-messages", "127.0.0.1")
    assert line.reason.startswith("the key is not on the roster, key ")


def test_whoever_knocks_all_day_is_counted_in_the_servers_log(consortium, monkeypatch):
    """What comes after the first line of a minute is one line at its end; a full disk only puts it off."""
    opened = door.open_door(consortium.home, "127.0.0.1:1")
    assert [opened.turnings.due("a reason, key k", "pull-messages") for _ in range(4)] == [True, False, False, False]

    def full(*_):
        raise OSError(28, "No space left on device")

    before = len(read(consortium.home.audit)) if consortium.home.audit.exists() else 0
    with monkeypatch.context() as patch:
        patch.setattr(opened, "write", full)
        opened.settle(end=True)
    opened.settle(end=True)
    (line,) = read(consortium.home.audit)[before:]
    assert (line.way, line.what) == ("refused", "calls")
    assert line.reason == "a reason, key k: and 3 more within 0 s (pull-messages 3)"


@pytest.mark.parametrize("spoiled", ["edited", "another authority", "missing", "cut"])
def test_a_roster_that_cannot_be_trusted_lets_nobody_in(front, node, behind, consortium, spoiled, tmp_path):
    """The door closes for all, and opens again with the right file."""
    path = consortium.home.roster
    good = path.read_bytes()
    if spoiled == "edited":
        path.write_bytes(good.replace(b"hospital-a", b"hospital-z"))
    elif spoiled == "another authority":
        other = Consortium(tmp_path / "other")
        other.publish(other.entry("hospital-a", node))
        path.write_bytes(other.home.roster.read_bytes())
    elif spoiled == "cut":
        path.write_bytes(good[:100])
    else:
        path.unlink()
    assert front.post(PULL, headers=signed(node)).status_code == 401
    path.write_bytes(good)
    assert front.post(PULL, headers=signed(node)).status_code == 200


def test_everybody_may_have_the_signed_roster(front, node, consortium):
    """With the certificate that it leads to, and the date by which a site measures its clock."""
    answer = front.get("/v1/roster")
    told = answer.json()
    authority = certificates.read(told["authority"].encode(), "the answer")
    assert authority == consortium.authority
    found = roster.open(json.dumps(told["roster"]).encode(), authority, time.time())
    assert [entry.name for entry in found.entries] == ["hospital-a"]
    assert "date" in answer.headers
    assert "server" not in answer.headers


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**63 + 5, 2**64 - 1])
def test_the_numbers_of_nodes_are_written_as_flower_writes_them(number):
    """Byte for byte; the SuperLink reads 0 where there is nothing, too."""
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest

    assert DeactivateNodeRequest.FromString(passage.node_message(number)).node_id == number
    assert not number or DeactivateNodeRequest(node_id=number).SerializeToString() == passage.node_message(number)


def test_a_node_that_was_killed_may_begin_again_at_once(front, node, behind, consortium):
    """Its last session is ended with what it signed for the new one; another program with its key ends none."""
    home = consortium.home
    registered = {"site": "hospital-a", "node_key": keys.public_text(node), "number": "300"}
    home.nodes.write_text(json.dumps({"nodes": [registered], "pending": None}))
    try:
        front.post("/v1/fleet/activate-node", content=b"new", headers=signed(node))
        (path, headers, body), (then, _, _) = behind.asked
        assert (path, body) == ("/v1/fleet/deactivate-node", passage.node_message(300))
        assert guests.SIGNATURE in headers
        assert then == "/v1/fleet/activate-node"
        behind.asked.clear()
        elsewhere = httpx.HTTPTransport(
            verify=ssl.create_default_context(cafile=home.authority), local_address="127.0.0.2"
        )
        with httpx.Client(base_url=f"https://127.0.0.1:{home.port}", transport=elsewhere) as other:
            other.post("/v1/fleet/activate-node", content=b"new", headers=signed(node))
        assert [path for path, _, _ in behind.asked] == ["/v1/fleet/activate-node"]
    finally:
        home.nodes.unlink()


def test_a_body_larger_than_the_door_is_refused_by_its_length(front, node, behind, consortium):
    """Before a byte of it is read."""
    headers = {**signed(node), "Content-Length": str(passage.MOST_BYTES + 1)}
    answer = plainly(consortium, "POST", "/v1/fleet/push-object", headers)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert behind.asked == []


def test_a_body_in_pieces_is_refused_as_soon_as_it_is_too_large(front, node, behind):
    """Without a length nobody knows before; the door may close before all is said."""
    piece = bytes(2**20)
    pieces = (piece for _ in range(passage.MOST_BYTES // len(piece) + 2))
    with contextlib.suppress(httpx.TransportError):
        assert front.post("/v1/fleet/push-object", content=pieces, headers=signed(node)).status_code == 413
    assert behind.asked == []
    assert front.post(PULL, headers=signed(node)).status_code == 200


def announcing(objects):
    """A call that announces a message of so many objects, the way Flower nests them."""
    tree = ObjectTree(object_id="m", children=[ObjectTree(object_id=f"{i:064d}") for i in range(objects - 1)])
    return PushMessagesRequest(message_object_trees=[tree]).SerializeToString()


def test_a_message_of_too_many_objects_is_refused_before_any_of_them_comes(front, node, behind):
    """What a site may announce fits into the memory of the server's app; a part of 64 MiB is far less."""
    path = "/v1/fleet/push-messages"
    content = transport.pack({"a": 1}, {"part": bytes(parts.PART_BYTES)})
    ours = sum(1 for _ in iterate_object_tree(get_object_tree(content))) + 1
    assert ours < passage.MOST_OBJECTS / 2
    assert front.post(path, content=announcing(passage.MOST_OBJECTS), headers=signed(node)).status_code == 200
    asked = len(behind.asked)
    for content in (announcing(passage.MOST_OBJECTS + 1), b"\xff" * 100, bytes(2**17)):
        assert front.post(path, content=content, headers=signed(node)).status_code == 413
    assert len(behind.asked) == asked


def test_an_object_of_this_flower_passes_and_a_larger_one_does_not(front, node, behind):
    """The chunks that arrays are cut into are narrower than the door; a whole gigabyte in one object is not."""
    assert passage.NARROWER["push-object"] > FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE + 2**16
    body = bytes(passage.NARROWER["push-object"] + 1)
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):
        assert front.post("/v1/fleet/push-object", content=body, headers=signed(node)).status_code == 413
    assert behind.asked == []


def test_large_bodies_and_answers_pass_in_pieces(front, node, behind, consortium):
    """Byte for byte, and both are counted for `status`."""
    behind.body = os.urandom(5 * 2**20)
    sent = os.urandom(6 * 2**20)
    answer = front.post("/v1/fleet/push-object", content=sent, headers=signed(node))
    assert answer.content == behind.body
    assert behind.asked[0][2] == sent
    path = consortium.home.run / "door.json"
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.1)
        visits = json.loads(path.read_text())["sites"].get("hospital-a", {}) if path.exists() else {}
        if visits.get("bytes_in", 0) >= len(sent) and visits["bytes_out"] >= len(behind.body):
            break
    assert visits["bytes_in"] >= len(sent)
    assert visits["bytes_out"] >= len(behind.body)
    assert visits["address"] == "127.0.0.1"
    assert abs(visits["seen"] - time.time()) < 10


@pytest.mark.parametrize(("status", "becomes"), [(403, 403), (412, 412), (415, 415), (500, 503), (503, 503)])
def test_errors_of_the_superlink_pass_without_their_words(front, node, behind, status, becomes):
    """403 tells a node that the run has ended; its own failures may pass, so that the node asks again."""
    behind.status, behind.body = status, b'{"code": 7, "detail": "sqlite: database is locked, /srv/state.db"}'
    answer = front.post(PULL, headers=signed(node))
    assert (answer.status_code, answer.content) == (becomes, b"")


def test_a_failure_that_does_not_pass_is_told_in_the_end(front, node, behind):
    """After a number of them in a row; any success begins the count anew."""
    call = "/v1/fleet/push-messages"
    behind.status = 500
    assert [front.post(call, headers=signed(node)).status_code for _ in range(3)] == [503] * 3
    behind.status = 200
    front.post(call, headers=signed(node))
    behind.status = 500
    statuses = [front.post(call, headers=signed(node)).status_code for _ in range(passage.STUBBORN + 2)]
    assert statuses == [503] * passage.STUBBORN + [500, 503]


def test_a_superlink_that_is_down_is_asked_again(node, consortium, tmp_path):
    """503, on which a SuperNode tries again; a SuperLink with another certificate is none."""

    async def asked(address, authority):
        open_ = door.open_door(consortium.home, address)
        transport = httpx.ASGITransport(door.application(open_))
        async with (
            door.to_superlink(address, authority) as open_.client,
            httpx.AsyncClient(transport=transport, base_url="https://door") as client,
        ):
            return (await client.post(PULL, headers=signed(node))).status_code

    assert asyncio.run(asked("127.0.0.1:1", consortium.home.authority)) == 503
    other = Consortium(tmp_path / "other")
    config = uvicorn.Config(
        SuperLink().app, port=other.home.port, ssl_certfile=other.home.server_certificate,
        ssl_keyfile=other.home.server_key, log_config=None,
    )  # fmt: skip
    with serving(config):
        assert asyncio.run(asked(f"127.0.0.1:{other.home.port}", consortium.home.authority)) == 503
        assert asyncio.run(asked(f"127.0.0.1:{other.home.port}", other.home.authority)) == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_plain_http_and_old_tls_get_no_answer(front, consortium):
    """The door speaks TLS 1.2 and later only."""
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{consortium.home.port}/v1/roster", trust_env=False)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(consortium.home.authority)
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"https://localhost:{consortium.home.port}/v1/roster", verify=old, trust_env=False)
