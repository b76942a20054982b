"""The dashboard's server, on loopback.

Loopback is open to every user of the machine, and to web pages: they may send a browser there, and with a name of their
own that leads to 127.0.0.1 (DNS rebinding) read what it answers. So a call passes only

* with the Host header of this very port, so that a name of somebody else's leads nowhere;
* as a GET, and not where the browser says that a page from elsewhere makes it;
* below a path that is drawn at the start, because a browser sends a cookie to every port of a host, and whoever listens
  on another one would get it too;
* with a secret: in the address that is printed, and from then on in a cookie that no script reads and that goes with no
  call from another site.

All others get one and the same answer. Nothing can be changed here, and nothing is kept by the browser.
"""

import json
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fedmerge.dashboard import page
from fedmerge.dashboard.board import Boards
from fedmerge.errors import ConfigError

HOST = "127.0.0.1"
COOKIE = "fedmerge-dashboard"
CONNECTIONS = 50
OWN = ("same-origin", "none")  # of Sec-Fetch-Site: the page itself, and who types the address
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True)
class Secrets:
    """What only whoever started the dashboard knows.

    Attributes:
        place: the first part of every path.
        token: 256 bits.
    """

    place: str = field(default_factory=lambda: secrets.token_hex(8))
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))


class Application:
    """The server as an ASGI application.

    Args:
        boards: what is shown.
        port: the one that it is reached at.
        known: place and token.

    Attributes:
        address: of the page, with the secret.
    """

    def __init__(self, boards: Boards, port: int, known: Secrets) -> None:
        self.boards, self.known = boards, known
        self.address = f"http://{HOST}:{port}/{known.place}/?token={known.token}"
        self._hosts = (f"{HOST}:{port}", f"localhost:{port}")
        self._answers: dict[str, Callable[[Request], Any]] = {"": self._page, "state": self._state}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        answer = self._answer_of(request)
        response = nothing() if answer is None else await answer(request)
        await response(scope, receive, send)

    def _answer_of(self, request: Request) -> Callable[[Request], Any] | None:
        """Who answers; None: nobody, and why is not told."""
        hosts = request.headers.getlist("host")
        if request.method != "GET" or len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return None
        before, slash, name = request.url.path.removeprefix("/").partition("/")
        answer = self._answers.get(name) if slash else None
        if answer is None or not _same(before, self.known.place):
            return None
        if name and request.headers.get("sec-fetch-site", "none") not in OWN:
            return None
        given = "" if name else request.query_params.get("token", "")
        known = _same(request.cookies.get(COOKIE, ""), self.known.token) | _same(given, self.known.token)
        return answer if known else None

    async def _page(self, request: Request) -> Response:
        response = _response(page.html(), "text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = page.policy()
        response.set_cookie(COOKIE, self.known.token, path=f"/{self.known.place}/", httponly=True, samesite="strict")
        return response

    async def _state(self, request: Request) -> Response:
        name, seen = request.query_params.get("run", ""), request.query_params.get("since", "0")
        version = int(seen) if seen.isdecimal() and len(seen) < 16 else 0
        told = await run_in_threadpool(self._told, name, version)
        return nothing() if told is None else _response(json.dumps(told, allow_nan=False), "application/json")

    def _told(self, name: str, version: int) -> dict[str, Any] | None:
        found = self.boards.of(name)
        if found is None:
            return None
        chosen, board = found
        return {"run": chosen, "runs": self.boards.runs(), **board.since(version)}


def _same(given: str, known: str) -> bool:
    return secrets.compare_digest(given.encode(), known.encode())


def _response(content: str, kind: str, status: int = 200) -> Response:
    return Response(content, status, HEADERS, kind)


def nothing() -> Response:
    """The answer to everybody who may not look, and to questions that there are not."""
    return _response("There is nothing here.\n", "text/plain; charset=utf-8", 404)


def listen(port: int) -> socket.socket:
    """A socket on loopback, and nowhere else.

    Args:
        port: 0: any free one.

    Raises:
        ConfigError: the port is taken.
    """
    line = socket.socket(socket.AF_INET)
    try:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        line.bind((HOST, port))
        line.listen(64)
    except OSError as error:
        line.close()
        raise ConfigError(f"--port {port} on {HOST}: {error.strerror}; without it, a free one is taken") from None
    return line


def server(application: Application) -> uvicorn.Server:
    """What answers on the socket; it says nothing of itself, and writes no addresses into logs."""
    config = uvicorn.Config(
        application,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
