"""What a connection may do before its call is known: say who it is and what it wants, in little time and few bytes.

Anybody can connect to the front door, and uvicorn lets whoever has not yet asked for anything stay, and talk of headers
for ever. Here a connection whose next call has not begun in time, or has too many bytes of headers, is cut; and so is
one that was answered for good and goes on sending. A close by the rules of TLS would wait half a minute for the other
side, and take in whatever it says.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 20.0  # until the headers of a call are complete
MOST_HEAD = 64 * 2**10  # bytes of them
LAST_S = 2.0  # for the other side to read an answer and hang up


class Threshold(HttpToolsProtocol):
    """Uvicorn's connection, with an end to its beginnings."""

    _late: asyncio.TimerHandle | None = None
    _unfinished = 0
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """The clock runs from the first moment."""
        super().connection_made(transport)
        self._await()

    def data_received(self, data: bytes) -> None:
        """Look whether a call has begun by now; else the clock runs on, and the bytes count."""
        super().data_received(data)
        if self._in_body or (self.cycle is not None and not self.cycle.response_complete):
            self._settle()
            return
        self._unfinished += len(data)
        self._await()
        if self._unfinished > MOST_HEAD:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        """A call has begun; what follows is its body, whether or not it was answered already."""
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The call is said; the next bytes are another one's headers."""
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Where this was the last answer, the rest of the body is not waited for."""
        super().on_response_complete()
        if self.transport.is_closing():
            self.loop.call_later(LAST_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """No clock outlives its connection."""
        self._settle()
        super().connection_lost(exc)

    def _await(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_S, self.transport.abort)

    def _settle(self) -> None:
        self._unfinished = 0
        if self._late is not None:
            self._late.cancel()
            self._late = None
