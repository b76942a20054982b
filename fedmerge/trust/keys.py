"""Key pairs: how they are made, kept, written down, and compared by telephone.

Three kinds: Ed25519 signs, ML-KEM-768 with X25519 (or X25519 alone) is what others seal messages to, and P-384 (in
OpenSSH's format) is a SuperNode's identity, as Flower wants it. A signature is always made for a stated purpose: what
was signed as a line of an audit log is no signature under a roster.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from fedmerge.errors import ConfigError, Refused
from fedmerge.trust import hybrid
from fedmerge.trust.hybrid import HybridPrivateKey, HybridPublicKey

Opening = HybridPrivateKey | X25519PrivateKey
Sealing = HybridPublicKey | X25519PublicKey
Private = Ed25519PrivateKey | Opening | ec.EllipticCurvePrivateKey
Public = Ed25519PublicKey | Sealing | ec.EllipticCurvePublicKey
Signing = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
Verifying = Ed25519PublicKey | ec.EllipticCurvePublicKey


def new_signing() -> Ed25519PrivateKey:
    """A key that signs."""
    return Ed25519PrivateKey.generate()


def new_sealing() -> Opening:
    """A key whose public half others seal messages to: X25519 alone where `cryptography` was built without ML-KEM."""
    return HybridPrivateKey(secrets.token_bytes(hybrid.SEED)) if hybrid.supported() else X25519PrivateKey.generate()


def new_exchange() -> X25519PrivateKey:
    """A key for one agreement with others, such as the masks of a group."""
    return X25519PrivateKey.generate()


def new_node() -> ec.EllipticCurvePrivateKey:
    """The identity of a SuperNode."""
    return ec.generate_private_key(ec.SECP384R1())


def keep(path: Path, key: Private) -> None:
    """Write a new private key, readable by its owner only; a file that is there is never replaced.

    It is PKCS 8 in PEM, a hybrid key its seed in `hybrid.to_text`'s form.

    Args:
        path: the file; its folder is made, closed to others, where it is missing.
        key: the key.

    Raises:
        ConfigError: there is a file already.
    """
    if isinstance(key, HybridPrivateKey):
        keep_bytes(path, hybrid.to_text(key))
    else:
        keep_bytes(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def keep_node(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a SuperNode's new key in OpenSSH's format, as Flower wants it; else as `keep`."""
    keep_bytes(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def keep_bytes(path: Path, data: bytes) -> None:
    """Write a new secret file (0600), whole or not at all.

    Raises:
        ConfigError: there is a file already.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(fresh)  # unlike a rename, this fails where there is a file
    except FileExistsError:
        raise ConfigError(f"{path} is there already, and a key is never overwritten") from None
    finally:
        fresh.unlink()


def read_signing(path: Path) -> Ed25519PrivateKey:
    """The signing key of a file; a ConfigError where there is none, or others may read it."""
    key = _read(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} expected an Ed25519 key, got {type(key).__name__}")
    return key


def read_sealing(path: Path) -> Opening:
    """The sealing key of a file, of either kind; a ConfigError where there is none, or others may read it."""
    key = _read(path)
    if not isinstance(key, Opening):
        raise ConfigError(f"{path} expected a hybrid or an X25519 key, got {type(key).__name__}")
    if isinstance(key, HybridPrivateKey) and not hybrid.supported():
        raise ConfigError(f"{path} is a key of ML-KEM-768, which the `cryptography` installed here has not")
    return key


def read_exchange(path: Path) -> X25519PrivateKey:
    """The X25519 key of a file; a ConfigError where there is none, or others may read it."""
    key = _read(path)
    if not isinstance(key, X25519PrivateKey):
        raise ConfigError(f"{path} expected an X25519 key, got {type(key).__name__}")
    return key


def read_node(path: Path) -> ec.EllipticCurvePrivateKey:
    """The SuperNode's key of a file; a ConfigError where there is none, or others may read it."""
    key = _read(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} expected a P-384 key, got {type(key).__name__}")
    return key


def _read(path: Path) -> object:
    try:
        mode = path.stat().st_mode & 0o777
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"there is no key {path}") from None
    if mode & 0o077:
        raise ConfigError(f"{path} expected to be closed to others (0600), got {mode:04o}: chmod 600 {path}")
    if (found := hybrid.from_text(data)) is not None:
        return found
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
    try:
        return load(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path} is no private key that can be read") from None


def public_text(key: Private | Public) -> str:
    """The public half on one line: base64 of its 32 or 1216 bytes, or OpenSSH's line for a SuperNode."""
    public = key.public_key() if isinstance(key, Private) else key
    if isinstance(public, ec.EllipticCurvePublicKey):
        return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return base64.b64encode(public.public_bytes_raw()).decode()


def signing_of(text: str, who: str) -> Ed25519PublicKey:
    """The Ed25519 key of a line.

    Raises:
        Refused: it is none; the sentence begins with `who`.
    """
    return Ed25519PublicKey.from_public_bytes(_raw(text, f"{who}: the signing key", 32))


def sealing_of(text: str, who: str) -> Sealing:
    """The sealing key of a line: 1216 bytes are a hybrid one, 32 bytes X25519 alone.

    Raises:
        Refused: it is none; the sentence begins with `who`.
    """
    who = f"{who}: the sealing key"
    data = _raw(text, who, 32, hybrid.PUBLIC)
    if len(data) == 32:
        return X25519PublicKey.from_public_bytes(data)
    key = HybridPublicKey(data)
    try:
        key.for_hpke()
    except UnsupportedAlgorithm:
        pass  # a roster can be read all the same; sealing to this key is what fails
    except ValueError:
        raise Refused(f"{who} expected a key of ML-KEM-768 and X25519, got {text!r:.60}") from None
    return key


def exchange_of(text: str, who: str) -> X25519PublicKey:
    """The X25519 key of a line; a Refused, beginning with `who`, where it is none."""
    return X25519PublicKey.from_public_bytes(_raw(text, f"{who}: the exchange key", 32))


def node_of(text: str, who: str) -> ec.EllipticCurvePublicKey:
    """The P-384 key of a line in OpenSSH's format, without a comment; a Refused where it is none."""
    try:
        key = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise Refused(f"{who}: the node's key expected a P-384 key in OpenSSH's format, got {text!r:.40}")
    if public_text(key) != text:
        raise Refused(f"{who}: the node's key expected the type and the key, with nothing behind them")
    return key


def _raw(text: str, who: str, *lengths: int) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) not in lengths or base64.b64encode(data).decode() != text:
        raise Refused(f"{who} expected {' or '.join(map(str, lengths))} bytes in base64, got {text!r:.60}")
    return data


def fingerprint(data: bytes) -> str:
    """SHA-256 in base32, in groups of four that can be read out on the telephone: `SHA256:ABCD-...` (13 groups)."""
    letters = base64.b32encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return "SHA256:" + "-".join(letters[i : i + 4] for i in range(0, len(letters), 4))


def pair_fingerprint(signing: str, sealing: str) -> str:
    """The fingerprint of a site's two keys together, each as `public_text` writes it."""
    return fingerprint(f"{signing}\n{sealing}".encode())


def same_fingerprint(one: str, other: str) -> bool:
    """Whether two fingerprints are equal, whatever their case, spaces, dashes and prefix."""
    plain = [re.sub(r"[^A-Z2-7]", "", text.upper().strip().removeprefix("SHA256:")) for text in (one, other)]
    return len(plain[0]) == 52 and hmac.compare_digest(*plain)


def sign(key: Signing, purpose: str, body: bytes) -> str:
    """A signature in base64: Ed25519's, or ECDSA with SHA-384 by a SuperNode's key (ASN.1).

    Args:
        key: who signs.
        purpose: a word that says as what `body` is signed; a signature holds for that purpose only.
        body: what is signed.
    """
    text = _bound(purpose, body)
    made = key.sign(text) if isinstance(key, Ed25519PrivateKey) else key.sign(text, ec.ECDSA(hashes.SHA384()))
    return base64.b64encode(made).decode()


def verify(public: Verifying, purpose: str, body: bytes, signature: str) -> None:
    """Check a signature of `sign`.

    Raises:
        Refused: it is not by this key, for this purpose, of these bytes.
    """
    try:
        made = base64.b64decode(signature, validate=True)
        if isinstance(public, Ed25519PublicKey):
            public.verify(made, _bound(purpose, body))
        else:
            public.verify(made, _bound(purpose, body), ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        raise Refused("the signature does not hold") from None


def _bound(purpose: str, body: bytes) -> bytes:
    """What is really signed: the purpose on a line of its own, then the body."""
    return f"fedmerge {purpose}\n".encode() + body
