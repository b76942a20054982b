"""A hello: what a member of a masked group says before it masks. `docs/mask.md` is the spec.

It says who the member is, with which fresh key, with which weight, and about which tensors; its signing key vouches.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from torch import Tensor

from fedmerge import params
from fedmerge.container import canonical, parse
from fedmerge.errors import Refused
from fedmerge.trust import keys

FORMAT = "fedmerge-masked/1"
PURPOSE = "mask hello"
MOST = 64  # members of a group
UNIT = 2**20  # a hello's weight of so much is w = 1
LIGHTEST = 2**10
TEXT = re.compile(r"[!-~]{1,128}")  # printable ASCII without spaces: it sorts alike everywhere
PRIME = 2**255 - 19


@dataclass(frozen=True)
class Hello:
    """What a member, or the target, says before anything is masked.

    Attributes:
        run: the campaign's run.
        group: the group's name.
        name: who says it.
        role: "member" or "target".
        key: X25519, base64: a fresh public key for this run and group alone.
        weight: w in units of 2^-20, from 2^10 to 2^20; 0 of a target.
        schema: digest of what is summed (`schema`).
        signature: by the signing key that the roster has, over all the others.
    """

    run: str
    group: str
    name: str
    role: str
    key: str
    weight: int
    schema: str
    signature: str = ""

    def encode(self) -> bytes:
        """The hello in its one canonical form."""
        return canonical(asdict(self)).encode()

    def signed(self) -> bytes:
        """What the signature is over."""
        return canonical({key: value for key, value in asdict(self).items() if key != "signature"}).encode()

    @property
    def public(self) -> X25519PublicKey:
        """The key, as a key."""
        return keys.exchange_of(self.key, self.name)


@dataclass(frozen=True)
class Agreed:
    """What the plan says about a group.

    Attributes:
        run: the campaign's run.
        group: the group's name.
        schema: digest of what is summed.
        weights: member -> weight, in units of 2^-20; its keys are the members.
        target: the site that opens the sum.
    """

    run: str
    group: str
    schema: str
    weights: Mapping[str, int]
    target: str


def schema(ancestor: Mapping[str, Tensor]) -> str:
    """The digest of what is summed: names, shapes, and the weights that differences are taken from.

    Args:
        ancestor: the common starting weights, of exactly the names that enter the sum.
    """
    shapes = {name: list(value.shape) for name, value in ancestor.items()}
    facts = {"format": FORMAT, "ancestor": params.digest(ancestor), "shapes": shapes}
    return "sha256:" + hashlib.sha256(canonical(facts).encode()).hexdigest()


def scaled(amounts: Mapping[str, float]) -> dict[str, int]:
    """Weights in a hello's unit: the largest is 1, the others in proportion, none below 2^-10.

    Args:
        amounts: member -> a positive number, such as its cases.
    """
    most = max(amounts.values())
    return {name: max(LIGHTEST, round(UNIT * amount / most)) for name, amount in amounts.items()}


def greet(agreed: Agreed, name: str, key: X25519PublicKey, signing: Ed25519PrivateKey) -> Hello:
    """The signed hello of a member, or of the target.

    Args:
        agreed: what the plan says.
        name: who says it.
        key: the public half of its fresh key (`ledger.begin`).
        signing: its signing key.
    """
    weight, role = (0, "target") if name == agreed.target else (agreed.weights[name], "member")
    hello = Hello(agreed.run, agreed.group, name, role, keys.public_text(key), weight, agreed.schema)
    return replace(hello, signature=keys.sign(signing, PURPOSE, hello.signed()))


def read_hello(raw: bytes, who: str) -> Hello:
    """The hello of these bytes, which must be its one canonical form.

    Raises:
        Refused: they are not; the sentence begins with `who`.
    """
    table = parse(raw, who)
    kinds = {field.name: field.type for field in fields(Hello)}
    if not isinstance(table, dict) or table.keys() != kinds.keys():
        raise Refused(f"{who}: this is no hello of a masked group")
    for name, kind in kinds.items():
        if type(table[name]) is not kind:
            raise Refused(f"{who}: '{name}' of the hello is of another kind")
    hello = Hello(**table)
    if hello.encode() != raw:
        raise Refused(f"{who}: the hello is not in canonical form")
    return hello


def check(hello: Hello, role: str) -> None:
    """Refuse a hello that could stand in no transcript.

    Args:
        hello: the hello; its signature is for `transcript.gather` to check.
        role: "member" or "target", as which it stands there.

    Raises:
        Refused: a text, the role, the weight, or a key that is none, not in its one form or of low order.
    """
    for name in ("run", "group", "name", "schema"):
        if not TEXT.fullmatch(getattr(hello, name)):
            raise Refused(
                f"'{name}' of a hello expected 1 to 128 printable characters, got {getattr(hello, name)!r:.80}"
            )
    if hello.role != role:
        raise Refused(f"{hello.name}: role of the hello expected {role}, got {hello.role!r:.40}")
    low, high = (0, 0) if role == "target" else (LIGHTEST, UNIT)
    if type(hello.weight) is not int or not low <= hello.weight <= high:
        raise Refused(f"{hello.name}: weight expected {low} to {high} (units of 2^-20), got {hello.weight!r:.40}")
    public = hello.public
    if int.from_bytes(public.public_bytes_raw(), "little") >= PRIME:
        raise Refused(f"{hello.name}: the key of the hello is not in its one form")
    try:
        X25519PrivateKey.generate().exchange(public)
    except ValueError:
        raise Refused(f"{hello.name}: the key of the hello is of low order") from None
