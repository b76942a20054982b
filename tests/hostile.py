"""One hostile site among honest ones: the sites' own app, except that what one site sends is altered on its way."""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import torch

from fedmerge import transport, wire
from sites.app import app as client_app

Alter = Callable[[bytes], bytes]


def app(site: str, alter: Alter, asked: list[str] | None = None):
    """What answers a message: the real app, and `alter` on each contribution of `site`; `asked` counts its tasks."""

    def answer(message, context):
        reply = client_app(message, context)
        if transport.addressee(message.content) == site and message.metadata.message_type == "train.contribute":
            if asked is not None:
                asked.append(site)
            assert not reply.has_error(), reply.error.reason
            task, payload = transport.unpack(reply.content, site)
            reply.content = transport.pack(task, payload | {"contribution": alter(payload["contribution"])})
        return reply

    return answer


def parts(data: bytes) -> tuple[dict, bytes]:
    """The header of a safetensors document, and its numbers."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def document(header: dict | bytes, numbers: bytes) -> bytes:
    """A document of any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def with_header(change: Callable[[dict], None]) -> Alter:
    """The document with another header over the same numbers."""

    def alter(data):
        header, numbers = parts(data)
        change(header)
        return document(header, numbers)

    return alter


def with_facts(**changes) -> Alter:
    """The document with other facts."""

    def change(header):
        facts = json.loads(header["__metadata__"]["fedmerge"]) | changes
        header["__metadata__"]["fedmerge"] = json.dumps(facts)

    return with_header(change)


def with_tensors(part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Alter:
    """The document with other numbers, written without asking whether they may be."""

    def alter(data):
        header, numbers = parts(data)
        changed = bytearray(numbers)
        for name, facts in header.items():
            if name.startswith(part) and name != "__metadata__":
                begin, end = facts["data_offsets"]
                value = torch.frombuffer(bytearray(numbers[begin:end]), dtype=torch.float32)
                changed[begin:end] = change(value).numpy().astype("<f4").tobytes()
        return document(header, bytes(changed))

    return alter


def first(number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """The tensor with one number put in the place of its first."""
    return lambda value: torch.cat([torch.tensor([number]), value[1:]])


def another_shape(header):
    """The first tensor with one more dimension."""
    name = next(name for name in header if name.startswith("weights/"))
    header[name]["shape"] = [1, *header[name]["shape"]]


def another_type(header):
    """The first tensor of an even size as half as many doubles."""
    name = next(n for n in header if n.startswith("weights/") and header[n]["shape"][0] % 2 == 0)
    header[name] |= {"dtype": "F64", "shape": [header[name]["shape"][0] // 2, *header[name]["shape"][1:]]}


def declares_more(header):
    """The last tensor with a thousand times its bytes."""
    name = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    begin, end = header[name]["data_offsets"]
    header[name] |= {"shape": [1000, *header[name]["shape"]], "data_offsets": [begin, begin + 1000 * (end - begin)]}


def as_pickle(data: bytes) -> bytes:
    """The weights as Python would keep them."""
    return pickle.dumps({name: value.numpy() for name, value in wire.from_bytes(data).weights.items()})


def as_npz(data: bytes) -> bytes:
    """The weights as numpy would keep them."""
    file = io.BytesIO()
    np.savez(file, **{name: value.numpy() for name, value in wire.from_bytes(data).weights.items()})
    return file.getvalue()


def as_zip_bomb(data: bytes) -> bytes:
    """A zip of 64 MiB of zeros in as many bytes as a small net has."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("weights", bytes(64 << 20))
    return file.getvalue()


def as_deflated(data: bytes) -> bytes:
    """The document itself, compressed."""
    return zlib.compress(data)


def big_endian(data: bytes) -> bytes:
    """The numbers with their bytes turned round."""
    header, numbers = parts(data)
    return document(header, np.frombuffer(numbers, "<f4").astype(">f4").tobytes())
