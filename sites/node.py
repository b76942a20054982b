"""Flower's SuperNode, which outlives a link that is down, and ends when it is of no use any more.

    python -m sites.node --superlink ...        as `flower-supernode`

Flower takes a handshake that came to no end, because packets were dropped, for a wrong certificate, and gives up. What
asks the server for work has ended then, and the process stays, with its own API that looks healthy. Here only a
certificate that is wrong is a wrong certificate; and whatever ends the work ends the process, so that it is started
anew.

A ClientApp that is killed while it hands over its reply leaves a reply that is never whole. Flower's SuperNode waits
for the rest of it for ever, and takes no other message. Here it waits a minute, and gives the reply up. And where one
is killed after it has begun and before it has taken its message, nobody ever answers: then the process ends.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

import httpx

WHOLE_S = 60.0  # for what a ClientApp hands to the SuperNode on the same machine
IDLE_S = 15.0  # without a reply and without a task at work: what has ended has handed its reply over before
FINISHED = "finished"  # Flower's word for the status of a task


def patient(invoker: Any) -> Any:  # noqa: ANN401 - Flower's
    """Flower's `RetryInvoker`, which now tries again after every failure of the connection itself.

    Args:
        invoker: as `make_simple_http_retry_invoker` gives it.
    """
    before = invoker.should_giveup

    def gives_up(error: Exception) -> bool:
        if isinstance(error, httpx.TransportError) and "certificate verify failed" not in str(error).lower():
            return False
        return bool(before(error))

    invoker.should_giveup = gives_up
    return invoker


class Arriving:
    """Flower's store of objects, in which what nobody brings any more is not waited for.

    Args:
        store: Flower's `ObjectStore`.
        patience_s: how long an object may take from when it is first asked for.
    """

    def __init__(self, store: Any, patience_s: float = WHOLE_S) -> None:  # noqa: ANN401 - Flower's
        self._store, self._patience_s = store, patience_s
        self._asked: dict[str, float] = {}

    def get(self, object_id: str) -> bytes | None:
        """An object; empty bytes where it is not there yet.

        Raises:
            TimeoutError: it has not come for too long.
        """
        content: bytes | None = self._store.get(object_id)
        if content == b"":
            since = self._asked.setdefault(object_id, time.monotonic())
            if time.monotonic() - since > self._patience_s:
                raise TimeoutError(f"a part of the reply has not come for {self._patience_s:.0f} s")
        return content

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._store, name)


class Answering:
    """Flower's state of a node, in which a reply is not waited for that nobody is at work on.

    Args:
        state: Flower's `NodeState`.
        patience_s: how long there may be no reply and no task that could bring one.
    """

    def __init__(self, state: Any, patience_s: float = IDLE_S) -> None:  # noqa: ANN401 - Flower's
        self._state, self._patience_s = state, patience_s
        self._idle_since: float | None = None

    def get_messages_legacy(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """The messages that Flower asks for.

        Raises:
            RuntimeError: there is none, and there will be none.
        """
        found = self._state.get_messages_legacy(*args, **options)
        if found or any(task.status.status != FINISHED for task in self._state.get_tasks()):
            self._idle_since = None
            return found
        since = self._idle_since = self._idle_since or time.monotonic()
        if time.monotonic() - since > self._patience_s:
            raise RuntimeError("the program that was to answer a message has died before it took it")
        return found

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._state, name)


def push_whole(push: Callable[..., None]) -> Callable[..., None]:
    """Flower's function that sends replies, which now waits for what can come only."""
    return lambda state, object_store, **others: push(
        state=Answering(state), object_store=Arriving(object_store), **others
    )


def end(*_: object) -> None:
    """End the process, whatever threads it has."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def fatal(args: threading.ExceptHookArgs) -> None:
    """A thread has died, perhaps the one that tells the server that the node is there."""
    if args.exc_type is not SystemExit:
        traceback.print_exception(args.exc_type, args.exc_value, args.exc_traceback)
        end()


def main() -> None:
    """Run the SuperNode of the command line; never returns."""
    from flwr.supernode import cli

    connection: Any = import_module("flwr.supernode.fleet_http_connection")
    plain = connection.make_simple_http_retry_invoker
    connection.make_simple_http_retry_invoker = lambda: patient(plain())
    client: Any = import_module("flwr.supernode.start_client_internal")
    client._push_messages = push_whole(client._push_messages)
    threading.excepthook = fatal
    try:
        cli.flower_supernode()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
    end()


if __name__ == "__main__":
    main()
