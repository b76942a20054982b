"""Talking to the site's agent over its socket: frames, and a call. All that the bundle at a hospital needs of a site.

A frame is 4 bytes of length (big-endian), a header of JSON, and the payloads one after the other, each as long as the
header says:

    {"op": "train.contribute", "bundle": "", "to": "north", "head": "", "task": {}, "note": {}, "payload": {"start": 9}}
    {"task": {}, "note": {}, "head": "", "payload": {}}         the answer
    {"failed": "north: policy line 'weights = false'"}          or the reason why there is none

Nothing heavy is imported here: a process begins with this module for every single message.
"""

import contextlib
import json
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedmerge.errors import Refused
from fedmerge.transport import Letter

MAX_HEADER = 4 * 2**20
MAX_PAYLOAD = 512 * 2**20  # bytes of all payloads of a frame
PIECE = 2**20  # bytes that are read at once
LONGEST_PATH = 100  # bytes that the path of a socket may have; the kernel's limit is 107
PATIENCE_S = 30.0  # for an agent that is being started anew
ALIVE_S = 20.0  # how long an agent may take to say its name
READ_S = 120.0  # how long it may take to read what it is asked, or to write an answer that it has begun
SPARE_S = 600.0  # how much longer than it may hold a message an agent may be silent


class Away(Exception):
    """The agent is not there, or cannot work at the moment; the same call may go well later."""


class Failed(Exception):
    """The agent refuses, or the work failed; its sentence may leave the site."""


def call(path: Path, op: str, letter: Letter, *, bundle: str = "", patience_s: float = PATIENCE_S) -> Letter:
    """Ask the agent, again while it is being started anew: what is asked twice is done once.

    Args:
        path: its socket.
        op: the operation.
        letter: what the server wrote.
        bundle: digest of the bundle that asks.
        patience_s: how long an agent that does not answer is tried.

    Raises:
        Away: it does not answer.
        Failed: it answers with a sentence.
    """
    header = {
        "op": op, "bundle": bundle, "to": letter.to, "head": letter.head, "task": letter.task, "note": letter.note,
    }  # fmt: skip
    silent_s = SPARE_S + float(letter.note.get("hold_s", 0.0))
    end = time.monotonic() + patience_s
    while True:
        try:
            with connected(path) as line:
                line.settimeout(ALIVE_S)
                if letter.payload:
                    alive(path)
                    line.settimeout(READ_S)
                send(line, header, letter.payload)
                wait(line, path, silent_s)
                line.settimeout(READ_S)
                answer = receive_header(line, "the agent")
                payload = receive_payload(line, answer, "the agent")
            break
        except (OSError, EOFError) as error:
            if time.monotonic() > end:
                raise Away(f"its agent does not answer ({type(error).__name__})") from None
            time.sleep(0.2)
    if "away" in answer:
        raise Away(str(answer["away"]))
    if "failed" in answer:
        raise Failed(str(answer["failed"]))
    return Letter(answer.get("task", {}), payload, answer.get("note", {}), str(answer.get("head", "")))


def wait(line: socket.socket, path: Path, silent_s: float) -> None:
    """Wait for the beginning of the agent's answer, for as long as it says its name when it is asked beside that.

    Raises:
        TimeoutError: the agent is there and does nothing, or it has been silent for `silent_s`.
    """
    end = time.monotonic() + silent_s
    while not select.select([line], [], [], ALIVE_S)[0]:
        alive(path)
        if time.monotonic() > end:
            raise TimeoutError


def alive(path: Path) -> None:
    """Ask the agent for its name, which takes it no time.

    Raises:
        OSError: it does not answer.
        EOFError: it hung up.
    """
    with connected(path) as line:
        line.settimeout(ALIVE_S)
        send(line, {"op": "hello"}, {})
        receive_header(line, "the agent")


@contextlib.contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    """A connection to the socket at `path`, however long that path is."""
    with socket.socket(socket.AF_UNIX) as line, short(path) as address:
        line.connect(address)
        yield line


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """A name of at most a hundred bytes for a socket, by way of its folder where the path is longer."""
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def send(line: socket.socket, header: dict[str, Any], payload: dict[str, bytes]) -> None:
    """Write a frame."""
    text = json.dumps(header | {"payload": {name: len(data) for name, data in payload.items()}}).encode()
    line.sendall(struct.pack(">I", len(text)) + text)
    for data in filter(None, payload.values()):  # after its last byte the other side may have answered and hung up
        line.sendall(data)


def receive_header(line: socket.socket, who: str) -> dict[str, Any]:
    """The header of the next frame.

    Raises:
        Refused: it is too long, or no JSON object, or its payloads are too large.
        EOFError: the other side hung up.
    """
    (size,) = struct.unpack(">I", _exactly(line, 4))
    if size > MAX_HEADER:
        raise Refused(f"{who}: a frame's header expected at most {MAX_HEADER} bytes, got {size}")
    try:
        header = json.loads(_exactly(line, size))
    except (ValueError, RecursionError):
        raise Refused(f"{who}: a frame's header expected JSON") from None
    if not isinstance(header, dict):
        raise Refused(f"{who}: a frame's header expected an object")
    sizes = header.get("payload", {})
    if not isinstance(sizes, dict) or not all(type(n) is int and n >= 0 for n in sizes.values()):
        raise Refused(f"{who}: a frame's header expected the sizes of its payloads")
    if sum(sizes.values()) > MAX_PAYLOAD:
        raise Refused(f"{who}: payloads expected at most {MAX_PAYLOAD} bytes, got {sum(sizes.values())}")
    return header


def receive_payload(line: socket.socket, header: dict[str, Any], who: str) -> dict[str, bytes]:
    """The payloads of the frame that began with this header."""
    return {name: _exactly(line, size) for name, size in header.get("payload", {}).items()}


def pass_over(line: socket.socket, header: dict[str, Any]) -> None:
    """Take the payloads off the line and forget them, so that the other side comes to read the answer."""
    left = sum(header.get("payload", {}).values())
    while left:
        left -= len(_exactly(line, min(left, 2**20)))


def _exactly(line: socket.socket, size: int) -> bytes:
    """So many bytes; memory is taken as they come, not as they were announced."""
    data = bytearray()
    while len(data) < size:
        more = line.recv(min(size - len(data), PIECE))
        if not more:
            raise EOFError
        data += more
    return bytes(data)
