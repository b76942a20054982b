"""One knock at the consortium's front door, as a SuperNode would do it: name, connection, TLS, clock, answer.

The same HTTP client with the same environment as Flower's node: where `HTTPS_PROXY` sends the node, it sends this.
"""

import email.utils
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from fedmerge.errors import FedmergeError


class Unreachable(FedmergeError):
    """The door did not answer; the sentence says how far the knock came, `remedy` what to do about it."""

    def __init__(self, sentence: str, remedy: str) -> None:
        super().__init__(sentence)
        self.remedy = remedy


@dataclass(frozen=True)
class Knock:
    """What a knock found.

    Attributes:
        status: of the answer.
        body: of the answer.
        took_s: from the first byte asked to the last one answered.
        offset_s: this machine's clock minus the door's; None where the answer has no date.
        unsure_s: by how much the offset may be wrong.
    """

    status: int
    body: bytes
    took_s: float
    offset_s: float | None
    unsure_s: float


def knock(
    address: str,
    authority: Path,
    *,
    path: str = "/v1/roster",
    now: Callable[[], float] = time.time,
    timeout_s: float = 10,
) -> Knock:
    """Ask the front door for something that everybody may have.

    Args:
        address: `HOST:PORT`.
        authority: the consortium's own CA certificate (PEM); no other is trusted.
        path: what is asked for.
        now: this machine's clock, seconds since 1970.
        timeout_s: for each step.

    Raises:
        Unreachable: no such name, no connection, no TLS, another authority, or no answer in time.
    """
    try:
        trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusted.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise Unreachable(f"{authority.name} is no certificate: {error}", "join again: fedmerge site join") from None
    began, ticked = now(), time.monotonic()
    try:
        with httpx.Client(verify=trusted, timeout=timeout_s, follow_redirects=False) as client:
            answer = client.get(f"https://{address}{path}")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise _explained(address, error, timeout_s) from None
    took = time.monotonic() - ticked
    told = answer.headers.get("date")
    offset = None
    if told is not None:
        try:  # a date has whole seconds, so the door's clock was half a second later in the mean
            offset = began + took / 2 - (email.utils.parsedate_to_datetime(told).timestamp() + 0.5)
        except ValueError:
            offset = None
    return Knock(answer.status_code, answer.content, took, offset, 0.5 + took / 2)


def _explained(address: str, error: Exception, timeout_s: float) -> Unreachable:
    """The reason in words that a hospital's network people use."""
    host, _, port = address.rpartition(":")
    proxy = urllib.request.getproxies().get("https", "")
    open_it = f"let this machine open TCP connections to {host}, port {port} (outbound only)"
    if proxy and not urllib.request.proxy_bypass(host):
        open_it = f"have the proxy {proxy} (HTTPS_PROXY) pass CONNECT {address} through, or put {host} into NO_PROXY"
    text = str(error)
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in causes):
        return Unreachable(
            f"{address} answers with a certificate that the consortium's authority did not make: {text}",
            "ask whether a proxy opens TLS on the way, and have it pass this address through unopened; "
            "else ask the coordinator whether the server has a new name or a new authority",
        )
    if any(isinstance(one, ssl.SSLError) for one in causes):
        return Unreachable(f"{address} does not speak TLS: {text}", "ask the coordinator for the right port")
    if isinstance(error, httpx.ProxyError):
        return Unreachable(f"the proxy on the way refuses {address}: {text}", open_it)
    if isinstance(error, httpx.TimeoutException):
        return Unreachable(f"{address} did not answer within {timeout_s:g} s (a firewall drops silently)", open_it)
    if any(word in text for word in ("Name or service", "nodename nor", "name resolution", "No address")):
        return Unreachable(f"{host} has no address here: {text}", f"ask for a DNS entry of {host}, or /etc/hosts")
    return Unreachable(f"{address} could not be reached: {text}", open_it + "; is the server up?")
