"""The front door: the one port of the consortium's server that the network can reach.

It ends TLS, lets a short list of calls through and speaks TLS again to the SuperLink, which listens on loopback and
would take anybody's orders there.

    POST /v1/fleet/...   the calls of a SuperNode that is on the current roster; no other
    GET /v1/roster       the signed roster and the certificate that its signature leads to, for everybody

Everything else is not there. Who is not on the roster, was revoked, has expired or has a wrong clock gets one and the
same answer; what the SuperLink says of its errors stays here.

    python -m server.door HOME --superlink 127.0.0.1:PORT
"""

import argparse
import asyncio
import contextlib
import logging
import ssl
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedmerge.errors import FedmergeError
from fedmerge.trust.refusals import Refusals
from server import consortium, record, registry
from server import home as homes
from server.guests import Book, Guests
from server.home import Home
from server.passage import Door, missing
from server.threshold import Threshold

log = logging.getLogger("fedmerge.door")

CONNECTIONS = 500
KEEP_S = 2.0  # between two writes of the book
FIRST, STRANGERS = 1, 20  # refusals of a reason and key that are written by themselves; how many are told apart
SUPERLINK_S = 30.0  # for the SuperLink's answer to begin; a SuperNode waits no longer


def application(door: Door) -> Starlette:
    """The door as an ASGI application."""

    async def nowhere(request: Request, error: Exception) -> Response:
        return missing()

    @contextlib.asynccontextmanager
    async def open_hours(app: Starlette) -> AsyncIterator[None]:
        keeper = asyncio.create_task(_keep(door))
        try:
            yield
        finally:
            keeper.cancel()
            door.settle(end=True)
            door.book.keep(door.book.text(door.turnings.total))
            await door.client.aclose()

    app = Starlette(
        routes=[Route("/v1/fleet/{call}", door.fleet, methods=["POST"]), Route("/v1/roster", door.show_roster)],
        exception_handlers={404: nowhere, 405: nowhere},
        lifespan=open_hours,
    )
    app.router.redirect_slashes = False
    return app


async def _keep(door: Door) -> None:
    while True:
        await asyncio.sleep(KEEP_S)
        await asyncio.to_thread(door.book.keep, door.book.text(door.turnings.total))
        await asyncio.to_thread(door.settle)


def to_superlink(address: str, authority: Path) -> httpx.AsyncClient:
    """Connections to the SuperLink, a few of which are kept; its certificate must be the consortium's."""
    trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusted.load_verify_locations(authority)
    return httpx.AsyncClient(
        base_url=f"https://{address}",
        verify=trusted,
        trust_env=False,
        timeout=httpx.Timeout(SUPERLINK_S, connect=5.0),
        limits=httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=3.0),
    )


def open_door(home: Home, superlink: str) -> Door:
    """The door of a server's home.

    Args:
        home: whose certificates, roster and audit log are used.
        superlink: the SuperLink's address, as `127.0.0.1:PORT`.
    """
    witness = record.of(home)

    def write(call: str, address: str, reason: str) -> None:
        witness.refused(address, call, reason)

    return Door(
        Guests(home.roster, consortium.authority(home)), partial(consortium.public_bytes, home),
        to_superlink(superlink, home.authority), Book(home.run / "door.json"),
        Refusals(FIRST, STRANGERS), write,
        lambda: {site: int(number) for number, site in registry.nodes(home).items()},
    )  # fmt: skip


def listening(home: Home, superlink: str) -> uvicorn.Config:
    """How the door is served: TLS with the consortium's certificate, on every address, and no word about the program.

    Args:
        home: of the server.
        superlink: as in `open_door`.
    """
    config = uvicorn.Config(
        application(open_door(home, superlink)),
        host="0.0.0.0",  # noqa: S104 - the one port that the network may reach
        port=home.port,
        ssl_certfile=home.server_certificate,
        ssl_keyfile=home.server_key,
        http=Threshold,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,  # a site measures its clock by it
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        config.ssl.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    return config


def main() -> int:
    """Open the door of a server's home."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("home", type=Path, help="the server's home")
    parser.add_argument("--superlink", required=True, help="address of the SuperLink on loopback")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        uvicorn.Server(listening(homes.open(given.home), given.superlink)).run()
    except FedmergeError as error:
        print(f"fedmerge: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
