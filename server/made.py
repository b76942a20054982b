"""What a source has made, as the server knows it: a file, or only its digests where nobody here may read it."""

from dataclasses import dataclass
from pathlib import Path

from fedmerge import params, tasks, wire
from fedmerge.contribution import Contribution
from fedmerge.params import Params

SEALED = "sealed"  # folder of a store: what is known of contributions that stayed at their sources, and sealed of them


@dataclass(frozen=True)
class Stays:
    """A contribution that stayed at its source, until somebody is named whom it is for.

    Attributes:
        task: what made it.
        body: digest of P and the norm parameters, as the source says.
        heads: shapes of the heads that it carries for other sites.
        after: name of the contribution whose body its training started from; none: the ancestor.
    """

    task: tasks.Contribute
    body: str
    heads: dict[str, tuple[int, ...]]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """A contribution that is there. Its numbers stay on disk, and are mapped anew by whoever looks at them.

    Attributes:
        site: whose it is.
        path: where it lies; of one that stayed at its source, the folder of what is sealed of it.
        name: the name by which a target knows its bytes.
        change: how far its training moved P and the norm parameters; None where the start is not known here.
        stays: of one that nobody here may read, what is known of it.
    """

    site: str
    path: Path
    name: str
    change: float | None = None
    stays: Stays | None = None

    def open(self) -> Contribution:
        """The contribution, memory-mapped; what was mapped goes with the record."""
        return wire.read(self.path, site=self.site)

    def start(self, net: tasks.Net) -> "Start":
        """What the next site of a chain starts from: P and the norm parameters of the net."""
        if self.stays is not None:
            return Start(self.stays.body, made=self)
        return Start.of(params.split(self.open().weights, {*net.fusable, *net.norms})[0])


@dataclass(frozen=True, eq=False)
class Start:
    """What a training starts from.

    Attributes:
        digest: of the weights.
        weights: where they may be read here.
        made: else whose body they are.
    """

    digest: str
    weights: Params | None = None
    made: Made | None = None

    def need(self) -> Params:
        """The weights, which may be read here."""
        assert self.weights is not None  # noqa: S101 - a sealed body is asked for in sealed campaigns only
        return self.weights

    @staticmethod
    def of(weights: Params) -> "Start":
        """A start from these weights."""
        return Start(params.digest(weights), weights)
