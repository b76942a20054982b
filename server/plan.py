"""The campaign as data: one frozen record, read from the campaign file and checked before anything runs.

The tables `[site.data]`, `[site.policy]` and `[site.scanner]` belong to the sites; they are passed over here, and
refused in a deployment, where a coordinator's file holds no hospital's paths.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fedmerge import campaign, devices, fusion, nets, partition, schedules
from fedmerge.errors import ConfigError


@dataclass(frozen=True)
class Stage:
    """How one phase trains: its length in steps or epochs, and the optimiser's settings."""

    lr: float
    steps: int = 0
    epochs: int = 0
    batch_size: int = 2
    schedule: str = "constant"
    final: float = 0.1
    cycles: int = 1
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    validate_every: int = 0
    patience: int = 0
    specific_lr: float = 0.0

    def length(self, cases: int) -> int:
        """Steps of this phase on so many cases."""
        return self.steps or self.epochs * math.ceil(cases / self.batch_size)

    def settings(self, cases: int, steps: int | None = None) -> dict[str, Any]:
        """The fields of `fedmerge.training.Settings`, the length resolved to steps."""
        table: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(Stage) if f.name != "epochs"}
        table["steps"] = self.length(cases) if steps is None else steps
        table["clip_norm"] = self.clip_norm or None
        table["specific_lr"] = self.specific_lr or None
        return table


@dataclass(frozen=True)
class Train(Stage):
    """`[train]`: a source at home, and the Fisher it takes afterwards."""

    lr: float = 3e-3
    fisher: str = "sampled"
    fisher_cases: int = 20


@dataclass(frozen=True)
class Adapt(Stage):
    """`[adapt]`: `lr` is for the target's own parameters S, `logits_lr` for the mixing logits."""

    lr: float = 1e-2
    logits_lr: float = 0.05


@dataclass(frozen=True)
class Finetune(Stage):
    """`[finetune]`: everything trains at the target."""

    lr: float = 3e-3


@dataclass(frozen=True)
class Member:
    """One `[[site]]`: `resident` sites run in a simulation, others only gave a contribution."""

    name: str
    role: str
    contribution: Path | None = None
    resident: bool = True


@dataclass(frozen=True)
class Plan:
    """The whole campaign."""

    name: str
    net: dict[str, Any]
    patch: tuple[int, ...]
    train: Train
    adapt: Adapt
    finetune: Finetune
    members: tuple[Member, ...]
    method: str = "t-imm"
    methods: tuple[str, ...] = ()
    fit: str = "near"
    schedule: str = "chain"
    seed: int = 0
    trust: str = "server"
    threads: int = 1
    buffers: str = "refuse"
    precision: str = "auto"
    ratios: str = "sigmoid"
    timeout_s: float = 12 * 3600
    weights: Path | None = None
    specific: tuple[str, ...] = ()
    fusable: tuple[str, ...] = ()
    raw: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources' names, in the order of the chain."""
        return tuple(m.name for m in self.members if m.role == "source")

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets' names."""
        return tuple(m.name for m in self.members if m.role == "target")

    @property
    def residents(self) -> tuple[str, ...]:
        """The sites that take part themselves."""
        return tuple(m.name for m in self.members if m.resident)

    def rows(self, asked: str = "") -> list[fusion.Method]:
        """The methods to run: those asked for, else the campaign's `methods`, else its `method`."""
        names = [n.strip() for n in asked.split(",") if n.strip()] or list(self.methods) or [self.method]
        return fusion.expand(names, self.sources)


S = TypeVar("S", bound=Stage)

CHOICES = {
    "fit": ("near", "far"),
    "schedule": ("chain", "parallel"),
    "trust": ("server",),
    "buffers": ("refuse", "re-estimate"),
    "precision": devices.PRECISIONS,
    "ratios": ("sigmoid", "softmax"),
}
OWN_TABLES = ("data", "policy", "scanner")


def read(path: Path, *, base: Path | None = None, deployed: bool = False) -> Plan:
    """The plan in a campaign file.

    Args:
        path: the file.
        base: what its relative paths start from; the file's folder unless given.
        deployed: whether the sites are elsewhere: then the file may not hold their tables.

    Raises:
        ConfigError: a key is unknown, missing or impossible; the sentence names file, table and key.
    """
    table = campaign.read(path)
    where = str(path)
    known = {"campaign", "net", "train", "adapt", "finetune", "site"}
    _only(where, "the file", table, known)
    head = dict(table.get("campaign", {}))
    allowed = {f.name for f in dataclasses.fields(Plan)} - {
        "net",
        "patch",
        "train",
        "adapt",
        "finetune",
        "members",
        "weights",
        "specific",
        "fusable",
        "raw",
    }
    _only(where, "[campaign]", head, allowed)
    head.setdefault("name", path.stem)
    if "methods" in head:
        head["methods"] = tuple(head["methods"])
    for key, options in CHOICES.items():
        if head.get(key, options[0]) not in options:
            raise ConfigError(f"{where}: [campaign] {key} expected one of {', '.join(options)}, got {head[key]!r}")
    for key, least in (("seed", 0), ("threads", 1)):
        if not isinstance(head.get(key, least), int) or head.get(key, least) < least:
            raise ConfigError(
                f"{where}: [campaign] {key} expected a whole number of at least {least}, got {head[key]!r}"
            )
    net = dict(table.get("net", {}))
    if "patch" not in net:
        raise ConfigError(f"{where}: [net] patch is missing: the size in voxels that every site crops to")
    patch = tuple(net.pop("patch"))
    weights = net.pop("weights", None)
    specific, fusable = tuple(net.pop("specific", ())), tuple(net.pop("fusable", ()))
    nets.canonical(net, in_channels=1, out_channels=2)  # unknown keys and impossible values are told here
    if net.get("dims", 3) != 3:
        raise ConfigError(f"{where}: [net] dims expected 3: campaigns read volumes, got {net['dims']}")
    nets.check_patch(net, patch)
    like = nets.on_meta(net, in_channels=1, out_channels=2)
    partition.check_buffers(like, reestimate=head.get("buffers") == "re-estimate")
    start = (base or path.parent).absolute()
    plan = Plan(
        **head,
        net=net,
        patch=patch,
        weights=start / weights if weights else None,
        specific=specific,
        fusable=fusable,
        train=_stage(Train, table, "train", where),
        adapt=_stage(Adapt, table, "adapt", where),
        finetune=_stage(Finetune, table, "finetune", where),
        members=tuple(_member(site, where, start, deployed) for site in table["site"]),
        raw=table,
    )
    return _checked(plan, where)


def _checked(plan: Plan, where: str) -> Plan:
    """What can be wrong between the tables."""
    if not plan.targets:
        raise ConfigError(f'{where}: expected at least one site with role = "target", got none')
    if plan.train.fisher not in ("sampled", "observed"):
        raise ConfigError(f"{where}: [train] fisher expected sampled or observed, got {plan.train.fisher!r}")
    for row in plan.rows():
        check_method(plan, row)
    return plan


def check_method(plan: Plan, method: fusion.Method) -> None:
    """Refuse what this plan cannot run.

    Raises:
        ConfigError: the method would show the target a single source's model although the fit is far, or needs sources
            where there are none.
    """
    if plan.fit == "far" and method.sources == "one":
        raise ConfigError(
            f"{method.name} shows the target one hospital's own model, which fit = 'far' promises not to do"
        )
    if method.sources == "pooled":
        for site in plan.raw.get("site", []):
            if site.get("role") == "source" and "data" in site and "pooled_labels" not in site["data"]:
                raise ConfigError(f"{site['name']}: the method 'pooled' needs pooled_labels in [site.data], got none")
    if method.sources == "all" and not plan.sources:
        raise ConfigError(f'{method.name} needs at least one site with role = "source", got none')


def _only(where: str, what: str, table: Mapping[str, Any], known: set[str]) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(f"{where}: {what} has no key '{key}'; known are {', '.join(sorted(known))}")


def _stage(kind: type[S], table: Mapping[str, Any], name: str, where: str) -> S:
    values = dict(table.get(name, {}))
    _only(where, f"[{name}]", values, {f.name for f in dataclasses.fields(kind)})
    if bool(values.get("steps")) == bool(values.get("epochs")):
        raise ConfigError(f"{where}: [{name}] expected either steps or epochs, got {values or 'nothing'}")
    for key, value in values.items():
        if not isinstance(value, str) and (isinstance(value, bool) or value < 0):
            raise ConfigError(f"{where}: [{name}] {key} expected a number of at least 0, got {value!r}")
    if values.get("schedule", "constant") not in schedules.SCHEDULES:
        raise ConfigError(
            f"{where}: [{name}] schedule expected one of {', '.join(schedules.SCHEDULES)}, got {values['schedule']!r}"
        )
    return kind(**values)


def _member(site: Mapping[str, Any], where: str, base: Path, deployed: bool) -> Member:
    name = site["name"]
    _only(where, f"site '{name}'", site, {"name", "role", "contribution", *OWN_TABLES})
    if site.get("role") not in ("source", "target"):
        raise ConfigError(f"{where}: site '{name}': role expected source or target, got {site.get('role')!r}")
    own = [key for key in OWN_TABLES if key in site]
    if deployed and own:
        raise ConfigError(
            f"{where}: site '{name}': [site.{own[0]}] belongs into that hospital's own site.toml, not into a plan"
        )
    given = site.get("contribution")
    if given and site["role"] != "source":
        raise ConfigError(f"{where}: site '{name}': a contribution stands for a source, not for a target")
    if not deployed and "data" not in site and not given:
        raise ConfigError(f"{where}: site '{name}': expected [site.data] or contribution = FILE, got neither")
    return Member(name, site["role"], base / given if given else None, deployed or "data" in site)
