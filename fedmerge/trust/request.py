"""A request to join: a hospital's name, the roles that it offers, its public keys, and the proof that it has them.

The request names the authority whose certificate the hospital has pinned: where somebody in the middle handed it
another one, the coordinator sees it. The body is signed with the signing key and with the node's key, so both private
halves were there when it was made. A sealing key cannot sign: the signing key vouches for the sealing key, and whoever
claims another's sealing key gains nothing but messages that it cannot open.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmerge.container import canonical, parse
from fedmerge.errors import Refused
from fedmerge.trust import dates, keys
from fedmerge.trust.roster import ROLES

PURPOSE = "join request"
LARGEST = 64 * 2**10  # bytes of a request


@dataclass(frozen=True)
class JoinRequest:
    """What a hospital asks for.

    Attributes:
        consortium: the consortium's name.
        authority: fingerprint of the authority's certificate, as the hospital pinned it.
        site: the hospital's name.
        roles: "source", "target", or both.
        node_key: the SuperNode's public key, OpenSSH's line.
        signing_key: Ed25519, base64.
        sealing_key: as `keys.public_text` writes it: ML-KEM-768 and X25519, or X25519 alone, base64.
        made: when, seconds since 1970.
    """

    consortium: str
    authority: str
    site: str
    roles: tuple[str, ...]
    node_key: str
    signing_key: str
    sealing_key: str
    made: int

    @property
    def fingerprint(self) -> str:
        """What hospital and coordinator compare by telephone: of the canonical body, every field included."""
        return keys.fingerprint(_body(self))

    @property
    def digest(self) -> str:
        """`sha256:` and the hex digest of the canonical body."""
        return "sha256:" + hashlib.sha256(_body(self)).hexdigest()


def to_text(request: JoinRequest, signing: Ed25519PrivateKey, node: ec.EllipticCurvePrivateKey) -> str:
    """The request with its proofs, as JSON.

    Args:
        request: what is asked for.
        signing: the private half of `request.signing_key`.
        node: the private half of `request.node_key`.
    """
    body = _body(request)
    proofs = {"signing_key": keys.sign(signing, PURPOSE, body), "node_key": keys.sign(node, PURPOSE, body)}
    envelope = {"fedmerge": PURPOSE, "version": 1, "body": json.loads(body), "proofs": proofs}
    return json.dumps(envelope, indent=1) + "\n"


def from_text(text: str | bytes) -> JoinRequest:
    """The request of a file, with its form and its proofs checked.

    Raises:
        Refused: it is no request, or one of the private keys was not there when it was made.
    """
    if len(text) > LARGEST:
        raise Refused(f"the request expected at most {LARGEST} bytes, got {len(text)}")
    envelope = parse(text, "the request")
    if not isinstance(envelope, dict) or envelope.keys() != {"fedmerge", "version", "body", "proofs"}:
        raise Refused("the request expected fedmerge, version, body and proofs, got something else")
    if envelope["fedmerge"] != PURPOSE or envelope["version"] != 1:
        raise Refused(f"the request expected version 1, got {envelope['fedmerge']!r:.40} {envelope['version']!r:.40}")
    body, proofs = envelope["body"], envelope["proofs"]
    known = [field.name for field in fields(JoinRequest)]
    if not isinstance(body, dict) or body.keys() != set(known):
        raise Refused(f"the request's body expected {', '.join(known)}, got something else")
    for name in known:
        if name != "roles" and not isinstance(body[name], str):
            raise Refused(f"the request's '{name}' expected a text, got {type(body[name]).__name__}")
    who, roles = f"the request of {body['site']:.80}", body["roles"]
    if not isinstance(roles, list) or not roles or len(set(map(str, roles))) != len(roles):
        raise Refused(f"{who}: roles expected some of {', '.join(ROLES)}, got {roles!r:.60}")
    if any(role not in ROLES for role in roles):
        raise Refused(f"{who}: roles expected some of {', '.join(ROLES)}, got {roles!r:.60}")
    made = dates.seconds(body["made"], f"{who}: 'made'")
    request = JoinRequest(**{**body, "roles": tuple(roles), "made": made})
    keys.sealing_of(request.sealing_key, who)
    signing, node = keys.signing_of(request.signing_key, who), keys.node_of(request.node_key, who)
    publics: dict[str, keys.Verifying] = {"signing_key": signing, "node_key": node}
    if not isinstance(proofs, dict) or proofs.keys() != publics.keys():
        raise Refused(f"{who}: proofs expected signing_key and node_key, got something else")
    for name, public in publics.items():
        try:
            keys.verify(public, PURPOSE, canonical(body).encode(), str(proofs[name]))
        except Refused:
            raise Refused(f"{who}: the proof that it has the private {name.replace('_', ' ')} does not hold") from None
    return request


def _body(request: JoinRequest) -> bytes:
    return canonical({**asdict(request), "made": dates.text(request.made)}).encode()
