"""What happens at the front door: a call is looked at, passed on in pieces, and answered; or it is turned away."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import httpx
from flwr.proto.fleet_pb2 import PushMessagesRequest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from fedmerge.errors import FedmergeError
from fedmerge.trust.refusals import Refusals
from server.guests import Book, Guests, Turned, who

log = logging.getLogger("fedmerge.door")

CALLS = frozenset(
    {
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    }
)
"""What a SuperNode with a registered key calls. `register-node` and `unregister-node` are the coordinator's."""

MOST_BYTES = 64 * 2**20
NARROWER = {"push-messages": 64 * 2**10, "push-object": 6 * 2**20}
"""Bodies of the calls that bring a message: its list of objects, and an object, of which Flower makes 5 MiB at most."""
MOST_OBJECTS = 48
"""Objects of the messages that one call announces; a part of 64 MiB has 13. So no message has more than 288 MiB."""
PIECE_S = 60.0  # for the next piece of a body
STUBBORN = 20  # failures of one call of one site in a row, after which the site is told that it failed
ALIVE_S = 60.0  # a node speaks more often; one that speaks from elsewhere in this time is another one
PASSED_BACK = ("content-type", "content-length")


@dataclass
class Door:
    """What the door knows while it is open.

    Attributes:
        guests: who may pass.
        roster: the answer to `GET /v1/roster`, from the current files.
        client: the connections to the SuperLink.
        book: who was seen when.
        turnings: who did not pass.
        write: takes what was asked for, the caller's address and why it did not pass, for the audit log.
        numbers: Flower's number of each site's node.
        most_bytes: the largest body.
    """

    guests: Guests
    roster: Callable[[], bytes]
    client: httpx.AsyncClient
    book: Book
    turnings: Refusals
    write: Callable[[str, str, str], None]
    numbers: Callable[[], Mapping[str, int]]
    most_bytes: int = MOST_BYTES
    failures: dict[tuple[str, str], int] = field(default_factory=dict)

    async def fleet(self, request: Request) -> Response:
        """A call of a SuperNode."""
        call = request.path_params["call"]
        if call not in CALLS or request.method != "POST":
            return missing()
        address = request.client.host if request.client else ""
        try:
            site = self.guests.admit(request.headers)
        except Turned as error:
            if error.site:
                known = self.book.of(error.site)
                known.turned, known.reason = self.guests.clock(), str(error)
            return await self._turn(request, call, address, str(error))
        visits = self.book.of(site)
        last, silent = visits.address, self.guests.clock() - visits.seen
        visits.seen, visits.address = self.guests.clock(), address
        visits.calls += 1
        if call == "activate-node":
            visits.activated = visits.seen
            if last in ("", address) or silent > ALIVE_S:
                await self._end_last(request, site)
        answer = await self._forward(request, call, site)
        if answer is None:
            return await self._turn(request, call, address, f"Flower does not know {site}, or not by this key")
        return answer

    async def _end_last(self, request: Request, site: str) -> None:
        """End the node's last session before a new one begins: a node that was killed could not do so itself.

        Flower would refuse the new one for a minute. What the node signed is the moment, so the same headers serve.
        """
        if (number := self.numbers().get(site)) is not None:
            headers = _passed_on(request)
            headers.pop("content-length", None)
            with contextlib.suppress(httpx.HTTPError):
                await self.client.post("/v1/fleet/deactivate-node", headers=headers, content=node_message(number))

    async def _turn(self, request: Request, call: str, address: str, reason: str) -> Response:
        """The one refusal, and perhaps a line in the audit log."""
        line = f"{reason}, key {who(request.headers)}"
        if self.turnings.due(line, call):
            log.warning("%s from %s refused: %s", call, address, line)
            with contextlib.suppress(OSError, FedmergeError):  # the disk is full: the call is refused all the same
                await asyncio.to_thread(self.write, call, address, line)
        return refused()

    def settle(self, *, end: bool = False) -> None:
        """Write the lines that count who was turned away; where the disk is full, they stay counted."""
        with contextlib.suppress(OSError, FedmergeError):
            self.turnings.settle(lambda line: self.write("calls", "", line), end=end)

    async def _forward(self, request: Request, call: str, site: str) -> Response | None:
        """The SuperLink's answer, or a short one of our own; None where it refused the node."""
        most = min(self.most_bytes, NARROWER.get(call, self.most_bytes))
        if int(request.headers.get("content-length", 0)) > most:
            return plain(413)
        pieces = self._body(request, site, most)
        content: AsyncIterator[bytes] | bytes = pieces
        try:
            if call == "push-messages":
                content = b"".join([piece async for piece in pieces])
                if not _small_enough(content):
                    return plain(413)
            asked = self.client.build_request("POST", f"/v1/fleet/{call}", headers=_passed_on(request), content=content)
            answer = await self.client.send(asked, stream=True)
        except TooLargeError:
            return plain(413)
        except (TimeoutError, ClientDisconnect):
            return plain(408)
        except httpx.HTTPError as error:
            log.warning("%s of %s: the SuperLink did not answer: %s", call, site, type(error).__name__)
            return plain(503)
        if answer.status_code == 200:
            self.failures.pop((site, call), None)
            headers = {
                name: answer.headers[name] for name in ("content-type", "content-length") if name in answer.headers
            }
            return StreamingResponse(self._answer(answer, site), 200, headers)
        await answer.aclose()
        return self._failed(answer.status_code, call, site)

    def _failed(self, status: int, call: str, site: str) -> Response | None:
        """Our own answer for one of the SuperLink's that is no success.

        403 tells a node that the run has ended. A failure of the SuperLink itself (its database was locked, say) may
        pass, and a node asks again on 503; one that does not pass is told as it is, or the node would ask for ever.
        """
        if status == 401:
            return None
        if status < 500:
            return plain(status)
        count = self.failures[site, call] = self.failures.get((site, call), 0) + 1
        log.warning("%s of %s: the SuperLink failed with %d, %d in a row", call, site, status, count)
        if count <= STUBBORN:
            return plain(503)
        del self.failures[site, call]
        return plain(500)

    async def _body(self, request: Request, site: str, most: int) -> AsyncIterator[bytes]:
        """The pieces of a body as they come, no more than the cap."""
        size, pieces = 0, request.stream()
        while True:
            try:
                piece = await asyncio.wait_for(anext(pieces), PIECE_S)
            except StopAsyncIteration:
                return
            size += len(piece)
            if size > most:
                raise TooLargeError
            self.book.of(site).bytes_in += len(piece)
            yield piece

    async def _answer(self, answer: httpx.Response, site: str) -> AsyncIterator[bytes]:
        """The pieces of an answer as they come."""
        try:
            async for piece in answer.aiter_raw():
                self.book.of(site).bytes_out += len(piece)
                yield piece
        finally:
            await answer.aclose()

    async def show_roster(self, request: Request) -> Response:
        """The signed roster."""
        if request.method != "GET":
            return missing()
        try:
            return Response(await asyncio.to_thread(self.roster), media_type="application/json")
        except OSError:
            return missing()


class TooLargeError(Exception):
    """A body is larger than the door is wide."""


def node_message(number: int) -> bytes:
    """Flower's message that holds nothing but a node's number (field 1, an unsigned integer)."""
    digits = [0x08]
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def plain(status: int) -> Response:
    """An answer of ours: the status says it all."""
    return Response(b"", status)


def missing() -> Response:
    """What everything is that the door does not know; whatever else the caller has to say is not listened to."""
    return Response(b"", 404, {"connection": "close"})


def refused() -> Response:
    """The one refusal. A SuperNode that gets it stops at once; the connection ends with it."""
    return Response(b"refused\n", 401, {"connection": "close", "content-type": "text/plain"})


def _small_enough(body: bytes) -> bool:
    """Whether a list of messages announces so few objects that the server's app can hold them all."""
    try:
        waiting = list(PushMessagesRequest.FromString(body).message_object_trees)
    except DecodeError:
        return False
    count = 0
    while waiting and count <= MOST_OBJECTS:
        count += 1
        waiting.extend(waiting.pop().children)
    return count <= MOST_OBJECTS


def _passed_on(request: Request) -> dict[str, str]:
    """The headers that the SuperLink needs: what the body is, and who sent it.

    Of a header that came twice only the first goes on, which is the one that the door has looked at.
    """
    names = ("content-type", "content-length", "accept")
    kept = {
        name: request.headers[name]
        for name in request.headers
        if name in names or (name.startswith("flwr-") and not name.startswith("flwr-superexec"))
    }
    return kept | {"accept-encoding": "identity"}
