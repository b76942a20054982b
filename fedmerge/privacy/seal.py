"""Sealing a file from one site to another: who carries it cannot read, change, replay or redirect it unnoticed.

A random key for this file alone is sealed to the receiver with HPKE (RFC 9180); the file is cut into chunks, each
encrypted with AES-256-GCM under that key (STREAM, see `header.Header.chunks`); the sender signs header, sealed key and
the digest of all chunks. `docs/seal.md` has every byte.

Opening reads a sealed file twice. First the signature is checked over the sealed bytes: until then nothing is done with
the receiver's private key and nothing is decrypted, so that a forger learns nothing from it, and plaintext of his
making never touches the disk. Then the chunks are decrypted beside the destination, and the file takes its place after
the last of them.
"""

import base64
import hashlib
import os
import secrets
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedmerge import whole
from fedmerge.container import canonical
from fedmerge.errors import ConfigError, DataError, Refused, SealError
from fedmerge.privacy import header as headers
from fedmerge.privacy.header import KEY, SIGNATURE, TAG, Facts, Header
from fedmerge.trust import keys

PURPOSE = "sealed file"
CLOSED = (Refused, ConfigError, InvalidTag, UnsupportedAlgorithm, ValueError)  # all of them are one SealError


def seal_file(
    path: Path, out: Path, facts: Facts, audit_head: str, signing: Ed25519PrivateKey, receiver: keys.Sealing
) -> Header:
    """Seal a file.

    Args:
        path: the plaintext.
        out: the sealed file; one that is there is replaced when the new one is whole.
        facts: what the receiver will expect.
        audit_head: head of the sender's audit log, 64 hex digits.
        signing: the sender's.
        receiver: the receiver's public key.

    Returns:
        the header, as it stands in the sealed file.

    Raises:
        ConfigError: a fact that no header can hold, or `cryptography` was built without what the key needs.
        Refused: nothing can be sealed to the receiver's key.
        DataError: the plaintext changed its length meanwhile.
    """
    with path.open("rb") as source:
        header = headers.header_of(facts, audit_head, os.fstat(source.fileno()).st_size, receiver)
        with whole.writing(out) as sink:
            seal(source, sink, header, signing, receiver)
    return header


def seal(
    source: BufferedIOBase, sink: BinaryIO, header: Header, signing: Ed25519PrivateKey, receiver: keys.Sealing
) -> None:
    """Seal a stream in the memory of two chunks; arguments and errors as in `seal_file`.

    Args:
        source: the plaintext, of `header.size` bytes to its end.
        sink: where the sealed file goes.
        header: its header.
        signing: the sender's.
        receiver: the receiver's public key, of the kind that the header's suite says.
    """
    if header.suite != headers.suite_of(receiver):
        raise ConfigError(f"a seal to this key expected the suite {headers.suite_of(receiver)}, got {header.suite}")
    key = secrets.token_bytes(KEY)
    try:
        public = receiver if isinstance(receiver, X25519PublicKey) else receiver.for_hpke()
        sealed_key = header.hpke.encrypt(key, public, info=header.encode())
    except UnsupportedAlgorithm:
        raise ConfigError(f"{header.receiver}: its key needs ML-KEM-768, which `cryptography` has not here") from None
    except ValueError:
        raise Refused(f"{header.receiver}: nothing can be sealed to its key") from None
    seal_with(source, sink, header, signing, key, sealed_key)


def seal_with(
    source: BufferedIOBase, sink: BinaryIO, header: Header, signing: Ed25519PrivateKey, key: bytes, sealed_key: bytes
) -> None:
    """All that is not random of sealing; a file key must never be used for a second file.

    Args:
        source: the plaintext.
        sink: where the sealed file goes.
        header: its header.
        signing: the sender's.
        key: the file key, 32 bytes.
        sealed_key: the file key as HPKE sealed it: encapsulated key and ciphertext.
    """
    headers.write(sink, header)
    sink.write(sealed_key)
    cipher, bound, digest = AESGCM(key), header.encode(), hashlib.sha256()
    plain, closed = memoryview(bytearray(header.buffer_bytes)), memoryview(bytearray(header.buffer_bytes + TAG))
    for nonce, length in header.chunks():
        if _fill(source, plain[:length]) != length:
            raise DataError(f"a plaintext to seal expected {header.size} bytes, got fewer")
        piece = closed[: length + TAG]
        cipher.encrypt_into(nonce, plain[:length], bound, piece)
        digest.update(piece)
        sink.write(piece)
    if source.read(1):
        raise DataError(f"a plaintext to seal expected {header.size} bytes, got more")
    signature = keys.sign(signing, PURPOSE, signed(header, sealed_key, digest.hexdigest()))
    sink.write(base64.b64decode(signature))


def signed(header: Header, sealed_key: bytes, chunks: str) -> bytes:
    """What the sender signs, with the purpose in front of it.

    Args:
        header: the header.
        sealed_key: as it stands in the file.
        chunks: SHA-256 of all sealed chunks, one after another, in hex.
    """
    body = {"chunks": chunks, "header": vars(header), "sealed_key": base64.b64encode(sealed_key).decode()}
    return canonical(body).encode()


def check(path: Path, expected: Facts, sender: Ed25519PublicKey) -> Header:
    """What everybody can check of a sealed file, its carrier too: that this sender sealed it, with these facts.

    Args:
        path: the sealed file.
        expected: the facts it must have.
        sender: the sender's public key.

    Raises:
        SealError: it is not that.
    """
    try:
        with path.open("rb") as file:
            return _checked(file, expected, sender)[0]
    except CLOSED:
        pass
    raise SealError  # out of the handler, so that it carries no trace of why


def open_sealed(path: Path, out: Path, expected: Facts, sender: Ed25519PublicKey, receiver: keys.Opening) -> Header:
    """Open a sealed file.

    Args:
        path: the sealed file.
        out: the plaintext, 0600; a file that is there is replaced when all of it has been checked.
        expected: the facts it must have.
        sender: the sender's public key.
        receiver: the receiver's private key.

    Returns:
        the header; its `audit_head` is for the receiver's own log.

    Raises:
        SealError: it cannot be opened, for whatever reason; nothing of it is on the disk.
        OSError: a file cannot be read or written; nothing of it is on the disk.
    """
    try:
        with path.open("rb") as file:
            header, sealed_key = _checked(file, expected, sender)
            private = receiver if isinstance(receiver, X25519PrivateKey) else receiver.for_hpke()
            if header.suite != headers.suite_of(receiver.public_key()):
                raise SealError
            key = header.hpke.decrypt(sealed_key, private, info=header.encode())
            file.seek(-header.chunks_bytes - SIGNATURE, os.SEEK_END)
            with whole.writing(out, 0o600) as sink:
                _decrypt(file, sink, header, key)
    except CLOSED:
        pass
    else:
        return header
    raise SealError


def _checked(file: BufferedIOBase, expected: Facts, sender: Ed25519PublicKey) -> tuple[Header, bytes]:
    """The header and the sealed key of a file, signed by the sender."""
    header = headers.read(file)
    sealed_key = file.read(header.key_bytes)
    rest = os.fstat(file.fileno()).st_size - file.tell()
    if not header.has(expected) or rest != header.chunks_bytes + SIGNATURE:
        raise SealError
    digest, left = hashlib.sha256(), header.chunks_bytes
    buffer = memoryview(bytearray(min(left, headers.CHUNK)))  # whatever the header says of chunks
    while left:
        piece = buffer[: min(left, len(buffer))]
        if _fill(file, piece) != len(piece):
            raise SealError
        digest.update(piece)
        left -= len(piece)
    signature = base64.b64encode(file.read(SIGNATURE)).decode()
    keys.verify(sender, PURPOSE, signed(header, sealed_key, digest.hexdigest()), signature)
    return header, sealed_key


def _decrypt(file: BufferedIOBase, sink: BinaryIO, header: Header, key: bytes) -> None:
    """The chunks' plaintext."""
    cipher, bound = AESGCM(key), header.encode()
    plain, closed = memoryview(bytearray(header.buffer_bytes)), memoryview(bytearray(header.buffer_bytes + TAG))
    for nonce, length in header.chunks():
        piece = closed[: length + TAG]
        if _fill(file, piece) != len(piece):
            raise SealError
        cipher.decrypt_into(nonce, piece, bound, plain[:length])
        sink.write(plain[:length])


def _fill(file: BufferedIOBase, buffer: memoryview) -> int:
    """Read until the buffer is full or the file ends; bytes read. A pipe gives less than it is asked for."""
    there = 0
    while there < len(buffer) and (got := file.readinto(buffer[there:])):
        there += got
    return there
