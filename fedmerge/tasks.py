"""What server and sites ask of each other: frozen records that cross the boundary as JSON (some in `seals` and `sums`).

query.describe       Describe   -> Description          who is there, with what
train.contribute     Contribute -> Trained              + the contribution's bytes
train.pooled         Contribute -> Trained              simulation only: trained on the sources' own cases
query.receive        Receive    -> Receive              weights that later tasks refer to by digest
query.seal           Seal       -> Sealed               what a source has made, sealed to another site
query.open           Open       -> Opened               a sealed contribution, for the target
query.judge          Judge      -> Judged               whose weights moved much farther than the others'
train.admit          Row        -> Admission            which sources' models the row is to merge
train.adapt          Row        -> Adapted              near: the whole fit beside the target's data
train.pull           Pull       -> Pulled               far: one step, weights in, gradient out
train.finetune       Row        -> Finetuned
evaluate.score       Score      -> Scored               a model on the site's test cases
query.hello          Greet      -> Greeted              a masked group: a fresh key, signed
query.mask           Mask       -> Masked               what a source has made, under the masks of its group
query.sum            Sum        -> Opened               the sum of a group, for the target
query.forget         Forget     -> Forgotten            the key of a sum that is over
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fedmerge import answers, forms
from fedmerge.answers import Task
from fedmerge.errors import Refused
from fedmerge.sums import Group

Curve = list[tuple[int, float]]
CaseScore = dict[str, Any]  # {"case": id or pseudonym, "dice": {label: number or None}}, or as `measures` has it


@dataclass(frozen=True)
class Net:
    """A net as one site builds it: settings of `fedmerge.nets`, channels in and out, patch in voxels.

    With `regions`, name -> labels, it answers these in place of the labels (`fedmerge.regions`).
    With `field = "whole"` its cases are whole volumes: `foreground` is the share of training patches around a labelled
    voxel, `overlap` that of neighbouring windows when it answers (docs/patches.md).
    """

    settings: dict[str, Any]
    in_channels: int
    labels: tuple[str, ...]
    patch: tuple[int, ...]
    fusable: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    regions: dict[str, Any] = field(default_factory=dict)
    field: str = "centre"
    foreground: float = 0.33
    overlap: float = 0.5

    @property
    def out_channels(self) -> int:
        """One channel a label and the background where there is one, or one a region."""
        return self.task.channels(self.labels)

    @property
    def task(self) -> Task:
        """What the net answers."""
        return answers.of(self.settings, self.labels, self.regions)

    @property
    def rows(self) -> tuple[str, ...]:
        """What the rows of its heads stand for."""
        return self.task.rows(self.labels)


@dataclass(frozen=True)
class Describe:
    """Ask a site who it is. Reading its cases for the answer finds bad files before anything is trained."""

    campaign: str
    patch: tuple[int, ...]
    threads: int
    precision: str = "auto"
    field: str = "centre"


@dataclass(frozen=True)
class Description:
    """What a site says of itself; `data` is a hash over its files and settings, not a word of them.

    `train` cases are what its settings ask for, `pool` is how many there would be. `keys` are its public keys in a
    simulation; a real site's are on the roster, and nobody believes a message about them. `regions`: where it trains on
    them, name -> labels, in the order of its channels.
    """

    site: str
    role: str
    labels: tuple[str, ...]
    channels: tuple[str, ...]
    train: int
    pool: int
    validate: int
    test: int
    by_patient: bool
    data: str
    device: str
    simulation: bool
    receive_fused: bool
    reuse: str
    keys: dict[str, Any] = field(default_factory=dict)
    regions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contribute:
    """Train at home from the weights in payload `start`, take the Fisher, send a contribution.

    `way` says how (`fusion.Method.training`), with its `strength`; the contributions of the sources before, of which
    some ways make use, are in the payloads `before-0`, `before-1`, ..., their digests in `before`. Of the heads that
    they bring, those of the sites in `regional` answer regions.

    With `epsilon` or `dp_noise` the site trains with differential privacy (`fedmerge.privacy.dpsgd`), and ones stand
    in place of the Fisher.

    With another `trust` than `"server"` the contribution stays at the site until it is asked for (`Seal`, `Mask`).
    Payloads that `sealed` names are sealed to the site: {"sender": who sealed it, "round": the key of the task that
    made it, "net": the sender's}.
    """

    key: str
    campaign: str
    chain: int
    net: Net
    settings: dict[str, Any]
    seed: int
    fisher: str
    fisher_cases: int
    ancestor: str
    parent: str
    threads: int
    buffers: str = "refuse"
    precision: str = "auto"
    way: str = "plain"
    strength: float = 0.0
    before: tuple[str, ...] = ()
    epsilon: float = 0.0
    delta: float = 0.0
    dp_clip: float = 0.0
    dp_noise: float = 0.0
    trust: str = "server"
    run: str = ""
    sealed: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    regional: tuple[str, ...] = ()

    @property
    def private(self) -> bool:
        """Whether each patient is to be protected by noise."""
        return self.epsilon > 0 or self.dp_noise > 0


@dataclass(frozen=True)
class Trained:
    """Training is over; the contribution is in payload `contribution`.

    After a training with differential privacy `noise_multiplier`, the sampling `rate` and `steps` are its mechanism,
    and there is no loss. Otherwise these four are 0. Where the contribution stays at the site, `digest` is that of its
    bytes as the policy lets them go, and `body` that of P and the norm parameters, from which a chain goes on.
    """

    cases: int
    steps: int
    seconds: float
    loss: float | None
    epsilon: float = 0.0
    delta: float = 0.0
    noise_multiplier: float = 0.0
    rate: float = 0.0
    digest: str = ""
    body: str = ""


@dataclass(frozen=True)
class Receive:
    """Weights for later tasks, in the payload by digest; the answer lists what is there now.

    With `vouched` it lists of these only what the site has unsealed, summed up or trained itself.
    """

    digests: tuple[str, ...]
    campaign: str = ""
    vouched: bool = False


@dataclass(frozen=True)
class Row:
    """One row of the table at one target: what it starts from, and the settings of its phases.

    `kept`: rows of the sites whose heads the last source of a chain kept. `finish`: the settings of how the
    fine-tuning ends (`share`, `rates`, `cycles`). With `folds`, the labelled cases are divided into so many parts: part
    `fold` stands for the test cases, and there are no validation cases. `fisher = "target"`: the target makes the
    Fishers of what it mixes. With another `trust` than `"server"` the ratios stay at the target. Test cases are scored
    by all `measures`, with the mean over mirrored images where `flips`.
    """

    key: str
    label: str
    campaign: str
    method: dict[str, Any]
    net: Net
    channels: tuple[str, ...]
    sources: tuple[str, ...]
    digests: tuple[str, ...]
    ancestor: str
    seed: int
    net_seed: int
    target_cases: int
    ratios: str
    adapt: dict[str, Any] | None
    logits_lr: float
    finetune: dict[str, Any]
    threads: int
    buffers: str = "refuse"
    precision: str = "auto"
    kept: dict[str, Any] = field(default_factory=dict)
    scales: dict[str, Any] = field(default_factory=dict)
    finish: dict[str, Any] = field(default_factory=dict)
    folds: int = 0
    fold: int = 0
    fisher: str = "sources"
    trust: str = "server"
    measures: tuple[str, ...] = ("dice",)
    flips: bool = False


@dataclass(frozen=True)
class Pull:
    """Step `step` of a far adaptation: payload `fused` holds the weights, the answer's `gradient` dL/dfused."""

    row: Row
    step: int


@dataclass(frozen=True)
class Pulled:
    """The answer to `Pull`; at the last step with the adapted model's scores."""

    curve: Curve
    seconds: float
    start: list[CaseScore] | None = None
    adapted: list[CaseScore] | None = None


@dataclass(frozen=True)
class Admission:
    """The sources of a row whose models the target's validation cases admit.

    `scores`: of the merges that were tried, named like `"north/south"`; None: that one cannot be made. `steps`: what
    trying them took.
    """

    admitted: tuple[str, ...]
    scores: dict[str, Any]
    steps: int
    seconds: float


@dataclass(frozen=True)
class Adapted:
    """A near adaptation is over: payload `logits` holds what was fitted, `fused` the digest of what it makes.

    `leave_one_out`: the validation `score` of the merged model, and `without` each source; empty where that is not
    measured.
    """

    curve: Curve
    fused: str
    steps: int
    seconds: float
    start: list[CaseScore] | None
    adapted: list[CaseScore] | None
    leave_one_out: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finetuned:
    """Fine-tuning is over; payload `model` holds the model where the site's policy lets it go.

    `leave_one_out`: as in `Adapted`, of the model that the fine-tuning began with.
    """

    curve: Curve
    fused: str
    best_step: int
    steps: int
    seconds: float
    start: list[CaseScore] | None
    finetuned: list[CaseScore] | None
    leave_one_out: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """Score the full set of parameters in payload `weights` on the site's test cases, as a `Row` has it."""

    net: Net
    channels: tuple[str, ...]
    campaign: str
    threads: int
    buffers: str = "refuse"
    precision: str = "auto"
    measures: tuple[str, ...] = ("dice",)
    flips: bool = False


@dataclass(frozen=True)
class Scored:
    """The score of each test case."""

    cases: list[CaseScore] | None = field(default=None)


Record = TypeVar("Record")
LATER: dict[str, Any] = {  # fields that came later: with these values they are left out, and old names of tasks stay
    "field": "centre",
    "foreground": 0.33,
    "overlap": 0.5,
    "measures": ("dice",),
    "flips": False,
    "regions": {},
    "regional": (),
}
KINDS: dict[str, Any] = {
    "str": str, "int": int, "float": (int, float), "bool": bool, "dict": dict, "tuple": (list, tuple), "Net": dict,
    "Row": dict, "Group": dict, "list": list,
}  # fmt: skip


def to_table(record: Any) -> dict[str, Any]:  # noqa: ANN401 - any of the records above
    """The record as plain dictionaries and lists, as JSON has them."""

    def written(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in pairs if name not in LATER or value != LATER[name]}

    table: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(record, dict_factory=written)))
    return table


def from_table(kind: type[Record], table: dict[str, Any], who: str) -> Record:
    """The record that `to_table` took apart; lists become tuples where the record holds tuples.

    Raises:
        Refused: a field is missing or unknown, or holds what it cannot (`fedmerge.forms`); the sentence names the
            sender.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]  # kind is a dataclass
    unknown = table.keys() - fields.keys()
    missing = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    } - table.keys()
    if unknown or missing:
        raise Refused(
            f"{who}: {kind.__name__} expected the fields {sorted(fields)}, got {sorted(table)}: "
            f"are both sides of the same version?"
        )
    nested = {"Net": Net, "Row": Row, "Group": Group}
    values: dict[str, Any] = {}
    for name, value in table.items():
        hint = str(getattr(fields[name].type, "__name__", fields[name].type))
        if hint in KINDS and (not isinstance(value, KINDS[hint]) or (isinstance(value, bool) and hint != "bool")):
            raise Refused(f"{who}: {kind.__name__}.{name} expected {hint}, got {type(value).__name__}")
        if words := forms.wrong(name, hint, value):
            raise Refused(f"{who}: {kind.__name__}.{name} expected {words}, got {value!r:.80}")
        if hint in nested:
            values[name] = from_table(nested[hint], value, who)
        elif hint.startswith("tuple") and isinstance(value, list):
            values[name] = tuple(value)
        else:
            values[name] = value
    return kind(**values)
