"""Flower's SuperNode, which outlives a link that is down, and ends when it is of no use any more.

    python -m sites.node --superlink ...        as `flower-supernode`

Flower takes a handshake that came to no end, because packets were dropped, for a wrong certificate, and gives up. What
asks the server for work has ended then, and the process stays, with its own API that looks healthy. Here only a
certificate that is wrong is a wrong certificate; and whatever ends the work ends the process, so that it is started
anew.
"""

import os
import sys
import threading
import traceback
from importlib import import_module
from typing import Any

import httpx


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
