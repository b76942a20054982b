"""What server and sites ask of each other for masked sums (`trust = "group"`): records that `tasks` takes apart."""

from dataclasses import dataclass, field
from typing import Any

from fedmerge.privacy.hello import Agreed


@dataclass(frozen=True)
class Group:
    """What the plan says of a group, for one sum of its members' models: `privacy.hello.Agreed` as it travels.

    `run` is another one for each sum; `weights` has the members, in units of 2^-20.
    """

    run: str
    name: str
    schema: str
    weights: dict[str, Any]
    target: str

    @property
    def agreed(self) -> Agreed:
        """The same, for the library."""
        return Agreed(self.run, self.name, self.schema, self.weights, self.target)


@dataclass(frozen=True)
class Greet:
    """Say hello to a group, as a member of it or as its target."""

    campaign: str
    group: Group


@dataclass(frozen=True)
class Greeted:
    """The signed hello, in its one canonical form."""

    hello: str


@dataclass(frozen=True)
class Mask:
    """Mask what the task `key` made, for the group that these hellos make up; the ancestor is in payload `ancestor`.

    `keys` has the public keys of all of them in a simulation; elsewhere the roster has them, of which
    the server's is of `epoch`.
    """

    campaign: str
    key: str
    group: Group
    hellos: tuple[str, ...]
    keys: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0


@dataclass(frozen=True)
class Masked:
    """The masked message is in payload `message`; `transcript` is the digest of the hellos behind its masks."""

    transcript: str


@dataclass(frozen=True)
class Sum:
    """Open the sum in payload `sum`, and keep the group's model as a contribution; payload `ancestor` as in `Mask`.

    `net` is the target's (`tasks.Net`); of it, of `fisher` and of `cases` the contribution says that it is.
    """

    campaign: str
    group: Group
    hellos: tuple[str, ...]
    net: dict[str, Any]
    fisher: str
    cases: int
    keys: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0


@dataclass(frozen=True)
class Forget:
    """Forget the private key of a hello: the sum was opened, and nothing is sent again."""

    campaign: str
    group: Group


@dataclass(frozen=True)
class Forgotten:
    """It is forgotten."""

    run: str
