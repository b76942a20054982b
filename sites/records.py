"""What a site is, as frozen records: `config` reads them from TOML, the rest of the site takes them."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fedmerge.devices import ANY, Hardware
from fedmerge.regions import table_of

Labels = dict[str, tuple[Any, ...]]  # values of label maps; in the layout "classes" names of folders
Part = int | tuple[str, ...]  # how many cases, or which
Layout = Literal["msd", "folders", "brats", "freesurfer", "bids", "phantom", "classes"]
Outputs = Literal["labels", "regions"]
LAYOUTS = ("msd", "folders", "brats", "freesurfer", "bids", "phantom", "classes")
ROLES = ("source", "target")
FISHER = ("none", "channel", "full")
TRUST = ("server", "target", "group")
REUSE = ("never", "campaign", "consortium")
GRIDS = ("refuse", "resample")
FOREGROUNDS = ("nonzero", "otsu")
CROPS = (*FOREGROUNDS, "mask")
CLIP = (1.0, 99.0)  # percentiles that a modality is clipped at
BIAS_MASKS = (*FOREGROUNDS, "none")
OUTPUTS = ("labels", "regions")
CONTROLS = ("shuffled-labels", "other-start", "random-giant", "random-flat", "change-x30")


@dataclass(frozen=True)
class Selection:
    """Which of a folder's cases are the site's: slices of the sorted ids, or of shuffled ones, or a list.

    `shuffle` is the seed of the order; `more` are further slices; `ids` is a text file with one id a line, in the order
    wanted.
    """

    start: int | None = None
    stop: int | None = None
    shuffle: int | None = None
    ids: Path | None = None
    more: tuple[tuple[int | None, int | None], ...] = ()


@dataclass(frozen=True)
class BiasField:
    """How N4 corrects a bias field.

    Attributes:
        shrink: the field is estimated on every so-manieth voxel along each axis.
        iterations: the most iterations of each level; a level has half the distance of spline knots of the one before.
        mask: where it is estimated: in the foreground, as "nonzero" or "otsu" find it, or everywhere ("none").
    """

    shrink: int = 4
    iterations: tuple[int, ...] = (50, 50, 50, 50)
    mask: str = "otsu"


@dataclass(frozen=True)
class Landmarks:
    """Statistics of a site's training images: where the percentiles of a standardised image lie.

    Attributes:
        percentiles: 0 to 100, growing.
        foreground: how the voxels that percentiles are taken of are found.
        cases: how many cases they were learnt from.
        channels: (modality, landmarks), as many landmarks as percentiles, growing.
    """

    percentiles: tuple[float, ...]
    foreground: str
    cases: int
    channels: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Data:
    """Where the cases lie and what they mean; labels are numbered 1..K in the order of `labels`, classes from 0.

    `validate` and `test` are numbers of cases, or the ids of exactly those cases. `regions` are unions of labels that
    scores are taken of, in place of the labels; they may overlap. `outputs` says whether nets answer these regions, or
    labels that exclude each other. `files` is the name of a modality's file, where it is not the modality's own. What a
    layout makes of `label_file`, `mask_file` and `derivative`, its reader says.
    """

    folder: Path
    layout: Layout
    labels: Labels
    modalities: tuple[str, ...] = ()
    background: tuple[Any, ...] = ()
    cases: Selection = field(default_factory=Selection)
    train: int | None = None
    validate: Part = 0
    test: Part = 0
    spacing_mm: tuple[float, float, float] | None = None
    pooled_labels: Labels | None = None
    regions: dict[str, tuple[str, ...]] | None = None
    outputs: Outputs = "labels"
    control: Literal["shuffled-labels", "other-start", "random-giant", "random-flat", "change-x30"] | None = None
    meaningless: int | None = None
    phantom: dict[str, Any] | None = None
    patient: str | None = None
    label_file: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    derivative: str | None = None
    grids: Literal["refuse", "resample"] = "refuse"
    crop: Literal["nonzero", "otsu", "mask"] | None = None
    mask_file: str | None = None
    bias_field: BiasField | None = None
    landmarks: Landmarks | None = None
    clip: tuple[float, float] = CLIP
    cache_gb: float = 0.0
    workers: int = 1

    @property
    def answered(self) -> dict[str, list[str]]:
        """The regions that nets answer in place of the labels, in the order of the channels; none of labels."""
        return table_of(tuple(self.labels), self.regions or {}) if self.outputs == "regions" else {}


@dataclass(frozen=True)
class Policy:
    """What may leave the site; the defaults are the strict ones, which hold for every key that is not set.

    A list that is None sets no limit (in the file: `["*"]`).

    Attributes:
        roles: the roles that the site takes ("source", "target").
        campaigns: names of the campaigns that it takes part in.
        nets: names of the nets that it trains.
        labels: names of the labels that it shares a model of.
        min_cases: with fewer training cases than this nothing is contributed, nor what fewer of them were used for.
        weights: a trained model's weights may leave.
        trust: the kinds of campaign that they may leave in, by who can read them (`docs/privacy.md`).
        receivers: names of the sites to which they may be sealed, or which may open a sum with them; a fingerprint
            behind a name (`"harbour SHA256:..."`) wants these very keys of the site, whatever the roster says.
        fisher: how much of the diagonal Fisher may leave: all, its mean over each output channel, or nothing.
        metrics: mean scores may leave.
        per_case_metrics: scores of single cases may leave, under pseudonyms.
        receive_fused: the site measures fused models on its own task.
        release_finetuned: the fine-tuned model may leave.
        landmarks: landmarks of the images' intensities may leave, in a file or in a model's card.
        reuse: where a stored contribution may be used: in its own campaign, in any of the consortium's, or nowhere
            beyond the run that asked for it.
        max_contributions: how many contributions may leave in the site's life; None: any number.
        max_bytes: the largest message that may leave; None: any size.
        epsilon: the privacy loss that contributions may spend in the site's life (`sites.budget`); above 0 no other
            contribution leaves; `inf` asks for no differential privacy; 0 leaves no budget for it.
        delta: the delta that goes with it.
        max_attack_auc: with a larger area under an attack's ROC curve an audit of a contribution fails; 0.5 is chance.
    """

    roles: tuple[str, ...] | None = ()
    campaigns: tuple[str, ...] | None = ()
    nets: tuple[str, ...] | None = ()
    labels: tuple[str, ...] | None = ()
    min_cases: int = 20
    weights: bool = False
    trust: tuple[str, ...] | None = ()
    receivers: tuple[str, ...] | None = ()
    fisher: Literal["none", "channel", "full"] = "none"
    metrics: bool = False
    per_case_metrics: bool = False
    receive_fused: bool = False
    release_finetuned: bool = False
    landmarks: bool = False
    reuse: Literal["never", "campaign", "consortium"] = "never"
    max_contributions: int | None = 0
    max_bytes: int | None = 0
    epsilon: float = 0.0
    delta: float = 0.0
    max_attack_auc: float = 0.5


OPEN = Policy(
    roles=None,
    campaigns=None,
    nets=None,
    labels=None,
    min_cases=1,
    weights=True,
    trust=None,
    receivers=None,
    fisher="full",
    metrics=True,
    per_case_metrics=True,
    receive_fused=True,
    release_finetuned=True,
    landmarks=True,
    reuse="consortium",
    max_contributions=None,
    max_bytes=None,
    epsilon=math.inf,
    delta=1.0,
    max_attack_auc=1.0,
)
"""What a simulation allows where the campaign says nothing."""


@dataclass(frozen=True)
class Scanner:
    """A simulated scanner's shift, on intensities scaled to 0..1 by percentiles; the defaults change nothing.

    `y = gain * x**gamma * exp(bias field) + offset + noise`, after a blur of `blur` mm (standard deviation) and, with
    `invert`, with 1 - x in place of x.
    """

    gain: float = 1.0
    offset: float = 0.0
    gamma: float = 1.0
    bias: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    invert: bool = False


@dataclass(frozen=True)
class Site:
    """One hospital: everything that its own process needs to know about it."""

    name: str
    role: str
    data: Data
    policy: Policy
    scanner: Scanner | None
    work: Path
    simulation: bool
    home: Path | None = None
    hardware: Hardware = ANY
