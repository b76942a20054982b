"""Intruders at the front door: what somebody with only the consortium's certificate, or a member that turned, gets."""

import contextlib
import os
import socket
import ssl
import statistics
import subprocess
import time

import consortia
import pytest
import tomli_w
import uvicorn
from flwr.superlink import main as flowers
from made_consortium import signed
from test_door import SuperLink, serving

from fedmerge import bundle, surroundings
from fedmerge.surroundings import free_port
from fedmerge.trust import audit, keys
from server import consortium, door, passage, threshold
from sites import home as homes
from sites import joining

PULL = "/v1/fleet/pull-messages"
OPEN = {("POST", f"/v1/fleet/{call}") for call in passage.CALLS}


def routes(router):
    """(method, path) of each route of a router, and of those inside it."""
    for route in router.routes:
        if inside := getattr(route, "original_router", None):
            yield from routes(inside)
        else:
            yield from ((method, route.path) for method in route.methods)


ROUTES = sorted({*routes(flowers.create_app())} - OPEN)
"""Every way into a SuperLink of this Flower, but for those that SuperNodes take."""


class Place:
    """A consortium whose door is open, what stands behind it, and a hospital that may pass."""

    def __init__(self, folder):
        self.folder, self.now = folder, time.time() - 10 * consortia.DAY
        self.server = consortia.found(folder, now=self.now, port=free_port())
        self.north = consortia.hospital(folder, self.server, now=self.now)
        consortia.approved(self.server, self.north, now=self.now)
        self.node = keys.read_node(self.north.home.node_key)
        self.trusted = ssl.create_default_context(cafile=self.server.authority)
        self.superlink, self.behind = SuperLink(), free_port()

    @contextlib.contextmanager
    def line(self):
        """A connection to the door, byte by byte."""
        with (
            socket.create_connection(("127.0.0.1", self.server.port), 10) as plain,
            self.trusted.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            yield secure

    def say(self, *lines, body=b"", headers=None):
        """What the door answers to a call that is written by hand; the connection is to end with it."""
        told = [*lines, *(f"{name}: {value}" for name, value in (headers or {}).items()), "connection: close"]
        with self.line() as secure:
            with contextlib.suppress(OSError):
                secure.sendall("\r\n".join(told).encode() + b"\r\n\r\n" + body)
            return hear(secure)

    def heard(self):
        """The paths that the SuperLink was asked for; forgotten with that."""
        asked = [path for path, _, _ in self.superlink.asked]
        self.superlink.asked.clear()
        return asked


def hear(line):
    """All that comes until the door hangs up."""
    found = b""
    with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
        while piece := line.recv(2**16):
            found += piece
    return found


def status(answer):
    """The status of an answer; 0 where there was none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The consortium of this module, with its door open."""
    made = Place(tmp_path_factory.mktemp("intruders"))
    home = made.server
    superlink = uvicorn.Config(
        made.superlink.app, port=made.behind, ssl_certfile=home.server_certificate, ssl_keyfile=home.server_key,
        log_config=None,
    )  # fmt: skip
    with serving(superlink), serving(door.listening(home, f"127.0.0.1:{made.behind}")):
        yield made


@pytest.fixture(autouse=True)
def _forget(request):
    if "place" in request.fixturenames:
        request.getfixturevalue("place").superlink.asked.clear()


def test_flowers_own_list_of_routes_is_not_empty():
    """The routes of the next tests are those that Flower has today: orders, registration, runs, tasks, health."""
    assert len(ROUTES) > 50
    wanted = {"control/start-run", "control/register-node", "control/list-nodes", "fleet/register-node"}
    assert {f"/v1/{path}" for path in wanted} <= {path for _, path in ROUTES}
    assert any(path.startswith("/v1/runtime/") for _, path in ROUTES)
    assert {*routes(flowers.create_app())} > OPEN


@pytest.mark.parametrize("who", ["a stranger", "a member"])
def test_no_other_route_of_flower_is_behind_the_door(place, who):
    """Each of them is 404 without a word, for somebody with the certificate only and for a registered SuperNode."""
    for method, path in ROUTES:
        for asked in {method, "GET", "POST"} - {method for method in ("GET", "POST") if (method, path) in OPEN}:
            headers = signed(place.node) if who == "a member" else {}
            answer = place.say(f"{asked} {path} HTTP/1.1", "host: a", "content-length: 0", headers=headers)
            assert status(answer) == 404, (asked, path)
            assert answer.endswith(b"\r\n\r\n")
    assert place.heard() == []


def flwr(place, *words):
    """Flower's own command, told that the door is a SuperLink."""
    home = place.folder / "flower"
    home.mkdir(exist_ok=True)
    there = {"address": f"127.0.0.1:{place.server.port}", "root-certificates": str(place.server.authority)}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": "door", "door": there}}))
    command = [surroundings.program("flwr"), *words]
    environment = {**os.environ, **surroundings.settings(home), "NO_COLOR": "1"}
    return subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=60)


def test_with_the_certificate_alone_flowers_command_gives_no_order(place):
    """A run is not started, a key is not registered, nodes and runs are not listed; the SuperLink hears nothing."""
    app = bundle.folder(place.folder / "app")
    public = place.folder / "stranger.pub"
    public.write_text(keys.public_text(keys.new_node()) + "\n")
    orders = [("run", str(app), "door"), ("supernode", "register", str(public), "door"), ("supernode", "list", "door"),
              ("ls", "door"), ("stop", "1", "door"), ("log", "1", "door")]  # fmt: skip
    for words in orders:
        done = flwr(place, *words)
        assert done.returncode != 0, (words, done.stdout)
        assert "404" in done.stdout + done.stderr or "not found" in (done.stdout + done.stderr).lower(), words
    assert place.heard() == []


TRICKS = [
    "//v1/control/start-run",
    "/v1//control/start-run",
    "/v1/fleet//pull-messages",
    "/v1/fleet/../control/start-run",
    "/v1/fleet/pull-messages/../../control/start-run",
    "/v1/fleet/pull-messages/..%2f..%2fcontrol%2fstart-run",
    "/v1/fleet/%2e%2e/control/start-run",
    "/v1/fleet/..%2fcontrol%2fstart-run",
    "/v1/fleet/..%252fcontrol%252fstart-run",
    "/v1/fleet/..\\control\\start-run",
    "/v1/fleet/..%5ccontrol%5cstart-run",
    "/V1/FLEET/PULL-MESSAGES",
    "/v1/fleet/Pull-Messages",
    "/v1/fleet/pull-messages/",
    "/v1/fleet/pull-messages%00",
    "/v1/fleet/pull-messages%0d%0ax: y",
    "/v1/fleet/pull-messages%20",
    "/v1/fleet/pull-messages;x=/v1/control/start-run",
    "/v1/fleet/pull-messages%3fx",
    "/v1/fleet/pull-messages%23",
    "/v1/fleet/pull_messages",
    "/v1/fleet/*",
    "/v1/fleet/register-node",
    "/v1/control/start-run?/v1/fleet/pull-messages",
    "/v1/control/start-run#/v1/fleet/pull-messages",
    "/v1/roster/../control/start-run",
    "/./v1/control/start-run",
    "https://127.0.0.1/v1/control/start-run",
    "http://127.0.0.1:1/v1/control/start-run",
    "*",
    "127.0.0.1:9092",
    "/%76%31/control/start-run",
]


@pytest.mark.parametrize("path", TRICKS)
def test_no_way_of_writing_a_path_leads_past_the_list(place, path):
    """Doubled, dotted, encoded, in capitals, absolute: nothing passes, although a member asks."""
    told = signed(place.node)
    answer = place.say(f"POST {path} HTTP/1.1", "host: a", "content-length: 0", headers=told)
    assert status(answer) in (400, 404), answer
    assert place.heard() == []


def test_a_path_in_other_words_is_passed_on_in_the_lists_own(place):
    """Where a path means one of the list's, the SuperLink is asked for that one, whatever else was written."""
    for path in (f"{PULL}?x=../control/start-run", "/v1/fleet/%70ull-messages", f"https://elsewhere{PULL}"):
        place.say(f"POST {path} HTTP/1.1", "host: elsewhere", "content-length: 0", headers=signed(place.node))
    assert {(path, headers["host"]) for path, headers, _ in place.superlink.asked} == {
        (PULL, f"127.0.0.1:{place.behind}")
    }


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "PRI", "post", "X"]
)
@pytest.mark.parametrize("path", [PULL, "/v1/control/start-run"])
def test_no_other_method_passes(place, method, path):
    """Not even for a member, nor where another header names the right one."""
    told = signed(place.node) | {"x-http-method-override": "POST"}
    answer = place.say(f"{method} {path} HTTP/1.1", "host: a", "content-length: 0", headers=told)
    assert status(answer) in (400, 404), answer
    assert place.heard() == []


@pytest.mark.parametrize("path", [PULL, "/v1/control/stream-logs", "/"])
@pytest.mark.parametrize("to", ["websocket", "h2c", "TLS/1.3"])
def test_no_connection_becomes_another_protocol(place, path, to):
    """A wish for websockets or HTTP/2 is not granted, and what follows is not passed on."""
    told = {
        "upgrade": to, "connection": "Upgrade, HTTP2-Settings", "http2-settings": "AAMAAABkAARAAAAAAAIAAAAA",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version": "13",
    }  # fmt: skip
    smuggled = b"POST /v1/control/start-run HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
    answer = place.say(f"GET {path} HTTP/1.1", "host: a", headers=signed(place.node) | told, body=smuggled)
    assert status(answer) in (400, 404), answer
    assert b" 101 " not in answer
    assert place.heard() == []


INNER = b"POST /v1/control/start-run HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
SMUGGLING = {
    "length and pieces": (["content-length: 4", "transfer-encoding: chunked"], b"0\r\n\r\n" + INNER),
    "pieces and length": (["transfer-encoding: chunked", f"content-length: {5 + len(INNER)}"], b"0\r\n\r\n" + INNER),
    "two lengths": (["content-length: 0", f"content-length: {len(INNER)}"], INNER),
    "two lengths in one": ([f"content-length: 0, {len(INNER)}"], INNER),
    "a signed length": (["content-length: +0"], INNER),
    "a length in hexadecimal": (["content-length: 0x0"], INNER),
    "a negative length": (["content-length: -1"], INNER),
    "a length with a space": (["content-length : 0"], INNER),
    "pieces of another kind": (["transfer-encoding: xchunked"], INNER),
    "pieces twice": (["transfer-encoding: chunked, identity"], b"0\r\n\r\n" + INNER),
    "pieces with a tab": (["transfer-encoding:\tchunked", "content-length: 0"], b"0\r\n\r\n" + INNER),
    "a folded header": (["x: y", " transfer-encoding: chunked", "content-length: 0"], INNER),
    "a bare end of line": (["x: y\ncontent-length: 0", "content-length: 3"], b"abc" + INNER),
    "a piece with a lying size": (["transfer-encoding: chunked"], b"5\r\nab\r\n0\r\n\r\n" + INNER),
    "a piece with an extension": (["transfer-encoding: chunked"], b"1;a=b\r\nx\r\n0\r\nx: y\r\n\r\n" + INNER),
    "a size that overflows": (["transfer-encoding: chunked"], b"10000000000000001\r\nx\r\n0\r\n\r\n" + INNER),
    "one call after the other": (["content-length: 0"], INNER),
}


@pytest.mark.parametrize("how", SMUGGLING)
@pytest.mark.parametrize("who", ["a stranger", "a member"])
def test_no_second_call_is_smuggled_behind_a_first_one(place, how, who):
    """Two opinions on where a body ends: the SuperLink is asked for the call of the list at most, never the other."""
    lines, body = SMUGGLING[how]
    headers = signed(place.node) if who == "a member" else {}
    told = [f"POST {PULL} HTTP/1.1", "host: a", *(f"{name}: {value}" for name, value in headers.items()), *lines]
    with place.line() as secure:
        secure.sendall("\r\n".join(told).encode() + b"\r\n\r\n" + body)
        secure.settimeout(1.0)
        with contextlib.suppress(TimeoutError):
            hear(secure)
    heard = place.superlink.asked
    assert {path for path, _, _ in heard} <= ({PULL} if who == "a member" else set())
    assert all(b"start-run" not in body for _, _, body in heard) or how in ("length and pieces", "pieces twice")


def test_of_a_header_that_comes_twice_the_checked_one_is_passed_on(place):
    """A member cannot show its own key to the door and another one to the SuperLink behind it."""
    mine, other = signed(place.node), signed(keys.new_node())
    lines = [f"{name}: {value}" for name, value in other.items()]
    place.say(f"POST {PULL} HTTP/1.1", "host: a", "content-length: 0",
              *(f"{name}: {value}" for name, value in mine.items()), *lines)  # fmt: skip
    ((_, passed, _),) = place.superlink.asked
    assert {name: passed[name] for name in mine} == mine
    place.superlink.asked.clear()
    answer = place.say(f"POST {PULL} HTTP/1.1", "host: a", "content-length: 0", *lines, headers=mine)
    assert status(answer) == 401
    assert place.heard() == []


@pytest.mark.parametrize("path", [PULL, "/v1/control/start-run", "/v1/roster", "/x"])
def test_a_strangers_body_without_an_end_is_not_listened_to(place, path):
    """The answer comes at once, and the door hangs up; nothing reaches the SuperLink."""
    with place.line() as secure:
        secure.sendall(f"POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        began, piece = time.monotonic(), b"10000\r\n" + bytes(2**16) + b"\r\n"
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 20:
                secure.sendall(piece)
    assert time.monotonic() - began < 10
    assert place.heard() == []


def test_a_members_body_without_an_end_ends_at_the_bound(place):
    """413 at the width of the door, or the line is cut; the next call is answered."""
    lines = [f"POST {PULL} HTTP/1.1", "host: a", "transfer-encoding: chunked"]
    lines += [f"{name}: {value}" for name, value in signed(place.node).items()]
    piece, sent = b"100000\r\n" + bytes(2**20) + b"\r\n", 0
    with place.line() as secure:
        secure.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        secure.settimeout(0.01)
        answer = b""
        while sent < 4 * passage.MOST_BYTES and not answer:
            try:
                secure.settimeout(10)
                secure.sendall(piece)
                sent += 2**20
                secure.settimeout(0.001)
                answer = secure.recv(100)
            except TimeoutError:
                continue
            except OSError:
                break
    assert status(answer) in (0, 413)
    assert passage.MOST_BYTES <= sent < 2 * passage.MOST_BYTES
    assert all(len(body) <= passage.MOST_BYTES for _, _, body in place.superlink.asked)
    place.superlink.asked.clear()
    assert status(place.say(f"POST {PULL} HTTP/1.1", "host: a", "content-length: 0", headers=signed(place.node))) == 200


@pytest.mark.parametrize("begun", [b"", b"POST /v1/fl", b"POST / HTTP/1.1\r\nhost: a\r\nx: y"])
def test_who_connects_and_does_not_say_what_for_is_sent_away(place, begun, monkeypatch):
    """A connection without a call, or with half of one, ends by itself; a slow drip of headers does not keep it."""
    monkeypatch.setattr(threshold, "HEAD_S", 1.0)
    with place.line() as secure:
        secure.sendall(begun)
        began = time.monotonic()
        secure.settimeout(0.2)
        while time.monotonic() - began < 15:
            try:
                if begun:
                    secure.sendall(b"y")
                if secure.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    assert 0.5 < time.monotonic() - began < 5


def test_headers_without_an_end_end_the_connection(place):
    """A stranger cannot fill the door's memory with headers."""
    with place.line() as secure:
        secure.sendall(b"POST / HTTP/1.1\r\nhost: a\r\n")
        sent, line = 0, b"x: " + b"y" * 1000 + b"\r\n"
        with contextlib.suppress(OSError):
            while sent < 2**26:
                secure.sendall(line)
                sent += len(line)
    assert sent < 2**24


def answer_to(place, key):
    """(status, headers but the date, body) of a node's call, and how long it took in seconds."""
    began = time.perf_counter()
    head, _, body = place.say(f"POST {PULL} HTTP/1.1", "host: a", "content-length: 0", headers=signed(key)).partition(
        b"\r\n\r\n"
    )
    took = time.perf_counter() - began
    lines = head.split(b"\r\n")
    return (lines[0], [line for line in lines[1:] if not line.lower().startswith(b"date:")], body), took


def test_unregistered_revoked_and_expired_hear_the_same_and_know_more_at_home(place):
    """One refusal, byte for byte and about as fast; each one's console says which it is, and what to do."""
    now, server = time.time(), place.server
    joined = {name: consortia.hospital(place.folder, server, name, now=now) for name in ("gone", "old", "new")}
    consortia.approved(server, joined["gone"], now=now)
    consortia.approved(server, joined["old"], now=place.now, days=5)
    consortium.revoke(server, "gone", now)
    answers, times = {}, {name: [] for name in joined}
    for _ in range(30):
        for name, one in joined.items():
            answers[name], took = answer_to(place, keys.read_node(one.home.node_key))
            times[name].append(took)
    assert answers["gone"] == answers["old"] == answers["new"]
    assert answers["new"][0].startswith(b"HTTP/1.1 401 ")
    medians = [statistics.median(took) for took in times.values()]
    assert max(medians) - min(medians) < 0.02
    states = {}
    for name, one in joined.items():
        home = homes.remember(one.home, address=f"127.0.0.1:{server.port}")
        fresh = joining.refresh_roster(home, now)
        assert fresh.epoch == consortium.current(server, now).epoch
        states[name] = joining.explain(homes.open(one.home.folder), now)
    assert {name: told.state for name, told in states.items()} == {
        "gone": "revoked", "old": "expired", "new": "unknown",
    }  # fmt: skip
    assert all(told.remedy and not told.member for told in states.values())
    north = homes.remember(place.north.home, address=f"127.0.0.1:{server.port}")
    joining.refresh_roster(north, now)
    assert joining.explain(homes.open(north.folder), now).member
    reasons = {line.reason.split(", key")[0] for line in audit.read(server.audit) if line.way == "refused"}
    assert {"the key is not on the roster", "the certificate of old is not valid now"} <= reasons
