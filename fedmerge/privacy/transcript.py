"""The transcript of a masked group: the hellos of all its members and of the target. `docs/mask.md` is the spec.

Every mask is derived from the digest of all hellos together, so members who were shown different hellos make masks that
do not cancel, and nobody reads anything.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedmerge.container import canonical
from fedmerge.errors import Refused
from fedmerge.privacy import hello
from fedmerge.privacy.hello import MOST, PURPOSE, Agreed, Hello
from fedmerge.trust import keys

LEAST = 3  # members of a group: with two, each knows the other by taking itself away


@dataclass(frozen=True)
class Transcript:
    """All hellos of one group; one that exists keeps every rule that can be checked without plan and roster.

    Attributes:
        members: their hellos, sorted by name.
        target: the target's.

    Raises:
        Refused: too few or too many members; a name or a key twice; a key that is none; hellos of two runs, groups or
            schemas; a weight out of bounds, or one of more than half of the sum.
    """

    members: tuple[Hello, ...]
    target: Hello

    def __post_init__(self) -> None:
        if not LEAST <= len(self.members) <= MOST:
            raise Refused(f"a masked group expected {LEAST} to {MOST} members, got {len(self.members)}")
        _once(self.hellos)
        first = self.members[0]
        for i, one in enumerate(self.hellos):
            hello.check(one, "member" if i < len(self.members) else "target")
            for key in ("run", "group", "schema"):
                if getattr(one, key) != getattr(first, key):
                    raise Refused(
                        f"{one.name}: {key} of the hello expected {getattr(first, key)}, got {getattr(one, key)}"
                    )
        if list(self.names) != sorted(self.names):
            raise Refused(f"the members' hellos expected in the order of their names, got {list(self.names)}")
        total = sum(one.weight for one in self.members)
        for one in self.members:
            if 2 * one.weight > total:
                raise Refused(f"{one.name} weighs {one.weight} of {total}: more than all other members together")

    @property
    def hellos(self) -> tuple[Hello, ...]:
        """The members' and then the target's."""
        return (*self.members, self.target)

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, sorted."""
        return tuple(one.name for one in self.members)

    @property
    def digest(self) -> str:
        """`sha256:` and the hex digest of `encode`."""
        return "sha256:" + hashlib.sha256(self.encode()).hexdigest()

    def encode(self) -> bytes:
        """The hellos with their signatures as one canonical JSON list."""
        return canonical([asdict(one) for one in self.hellos]).encode()

    def of(self, member: str) -> Hello:
        """The member's hello; a Refused where it is no member."""
        for one in self.members:
            if one.name == member:
                return one
        raise Refused(f"{member} is no member of group {self.target.group}")


def gather(hellos: Iterable[Hello], agreed: Agreed, signing: Mapping[str, Ed25519PublicKey]) -> Transcript:
    """The transcript of a group, if its hellos are those that the plan asks for.

    Every member calls this before it masks anything, with the plan that it agreed to and a roster that it checked.

    Args:
        hellos: those of all members and of the target, in any order.
        agreed: what the plan says.
        signing: site -> the signing key that the roster has.

    Raises:
        Refused: names the site: a stranger, a missing member, a repeated hello, a second one of the same name, no
            signature or one that does not hold, another run, group, schema, role or weight than agreed, and whatever
            no `Transcript` may have.
    """
    found = tuple(hellos)
    if agreed.target in agreed.weights:
        raise Refused(f"{agreed.target} is the target of group {agreed.group}, and cannot be a member of it")
    for one in found:
        _check(one, agreed, signing)
    _once(found)
    by_name = {one.name: one for one in found}
    for name in sorted({*agreed.weights, agreed.target}):
        if name not in by_name:
            raise Refused(f"{name}: the hello is missing, and a masked group is summed as a whole or not at all")
    return Transcript(tuple(by_name[name] for name in sorted(agreed.weights)), by_name[agreed.target])


def _check(one: Hello, agreed: Agreed, signing: Mapping[str, Ed25519PublicKey]) -> None:
    role, weight = ("target", 0) if one.name == agreed.target else ("member", agreed.weights.get(one.name))
    if weight is None:
        raise Refused(f"{one.name!r:.80} is a stranger to group {agreed.group}")
    if not one.signature or one.name not in signing:
        raise Refused(f"{one.name}: the hello is not signed by a key of the roster")
    try:
        keys.verify(signing[one.name], PURPOSE, one.signed(), one.signature)
    except Refused:
        raise Refused(f"{one.name}: the signature of the hello does not hold") from None
    facts = {"run": agreed.run, "group": agreed.group, "schema": agreed.schema, "role": role, "weight": weight}
    for key, want in facts.items():
        if getattr(one, key) != want:
            raise Refused(f"{one.name}: {key} of the hello expected {want}, got {getattr(one, key)!r:.100}")


def _once(hellos: tuple[Hello, ...]) -> None:
    by_name: dict[str, Hello] = {}
    by_key: dict[str, str] = {}
    for one in hellos:
        if one.name in by_name:
            how = "the hello is repeated" if by_name[one.name] == one else "two hellos that differ"
            raise Refused(f"{one.name}: {how}")
        if one.key in by_key:
            raise Refused(f"{by_key[one.key]} and {one.name} say hello with the same key")
        by_name[one.name], by_key[one.key] = one, one.name
