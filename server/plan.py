"""The campaign as data: one frozen record, read from the campaign file and checked before anything runs.

The tables `[site.data]`, `[site.policy]` and `[site.scanner]` belong to the sites; they are passed over here, and
refused in a deployment, where a coordinator's file holds no hospital's paths.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedmerge import answers, campaign, devices, fusion, nets, partition
from fedmerge.errors import ConfigError, FedmergeError
from fedmerge.measures import Measure
from server import feasible, stages, values
from server.stages import Adapt, Check, Evaluate, Finetune, Stage, Train

__all__ = ["CHOICES", "FIELDS", "Adapt", "Evaluate", "Finetune", "Member", "Plan", "Stage", "Train", "read"]


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
    evaluate: Evaluate = dataclasses.field(default_factory=Evaluate)
    task: str = "segmentation"
    method: str = "auto"
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
    absent: str = "wait"
    wait_s: float = 0.0
    max_change: float = 10.0
    groups: tuple[tuple[str, ...], ...] = ()
    weights: Path | None = None
    specific: tuple[str, ...] = ()
    fusable: tuple[str, ...] = ()
    field: str = "centre"
    foreground: float = 0.33
    raw: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources' names, in the order of the chain."""
        return tuple(m.name for m in self.members if m.role == "source")

    @property
    def grouped(self) -> dict[str, tuple[str, ...]]:
        """The groups by name, `group-1`, `group-2`, ...: the sources whose models are opened as a sum only."""
        return {f"group-{number}": group for number, group in enumerate(self.groups, 1)}

    @property
    def mixed(self) -> tuple[str, ...]:
        """Whose models the rows begin with: the sources', or the groups' where nobody sees a source's own."""
        return tuple(self.grouped) if self.trust == "group" else self.sources

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets' names."""
        return tuple(m.name for m in self.members if m.role == "target")

    @property
    def measure(self) -> Measure:
        """What models are scored by."""
        return answers.TASKS[self.task].measure

    @property
    def residents(self) -> tuple[str, ...]:
        """The sites that take part themselves."""
        return tuple(m.name for m in self.members if m.resident)

    def rows(self, asked: str = "") -> list[fusion.Method]:
        """The methods to run: those asked for, else the campaign's `methods`, else its `method`.

        Raises:
            ConfigError: a method is unknown, or a transfer has no source.
        """
        names = [n.strip() for n in asked.split(",") if n.strip()] or list(self.methods) or [self.method]
        rows = fusion.expand(names, self.mixed)
        if not rows:
            raise ConfigError(f'{names[0]} needs at least one site with role = "source", got none')
        return rows


CHOICES = {
    "task": tuple(answers.TASKS),
    "fit": ("near", "far"),
    "schedule": ("chain", "parallel"),
    "trust": ("server", "target", "group"),
    "buffers": ("refuse", "re-estimate"),
    "precision": devices.PRECISIONS,
    "ratios": ("sigmoid", "softmax"),
    "absent": ("wait", "stop", "without"),
}
HEAD: dict[str, Check] = {
    "name": values.text,
    "method": values.text,
    "methods": values.texts,
    "seed": values.whole,
    "threads": partial(values.whole, least=1, most=1024),
    "timeout_s": partial(values.number, positive=True),
    "wait_s": values.number,
    "max_change": partial(values.number, positive=True),
    "groups": values.groups,
    **{key: partial(values.choice, options=options) for key, options in CHOICES.items()},
}
FIELDS = ("centre", "whole")
NET: dict[str, Check] = {
    "patch": values.sides,
    "field": partial(values.choice, options=FIELDS),
    "foreground": partial(values.number, most=1),
    "weights": values.text,
    "specific": values.texts,
    "fusable": values.texts,
}
TABLES = ("campaign", "net", "train", "adapt", "finetune", "evaluate", "site")
OWN_TABLES = ("data", "policy", "scanner", "hardware")


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
    values.only(table, f"{where}: the file", TABLES)
    head = values.table(table, "campaign", f"{where}: [campaign]")
    values.only(head, f"{where}: [campaign]", HEAD)
    head = {key: HEAD[key](value, f"{where}: [campaign] {key}") for key, value in head.items()}
    head.setdefault("name", path.stem)
    start = (base or path.parent).absolute()
    plan = Plan(
        **head,
        **_net(table, where, start, head.get("task", Plan.task), reestimate=head.get("buffers") == "re-estimate"),
        train=stages.read(Train, table, "train", where),
        adapt=stages.read(Adapt, table, "adapt", where),
        finetune=stages.read(Finetune, table, "finetune", where),
        evaluate=stages.evaluation(table, where),
        members=tuple(_member(site, where, start, deployed) for site in table["site"]),
        raw=table,
    )
    return _checked(plan, where)


def _checked(plan: Plan, where: str) -> Plan:
    """What can be wrong between the tables."""
    if not plan.targets:
        raise ConfigError(f'{where}: expected at least one site with role = "target", got none')
    try:
        feasible.check_trust(plan)
        fusion.expand([plan.method], plan.mixed)  # also where `methods` is what will run
        for row in plan.rows():
            feasible.check_method(plan, row)
    except ConfigError as error:
        raise ConfigError(f"{where}: [campaign] {error}") from None
    feasible.check_sources(plan, f"{where}: [train]")
    feasible.check_volumes(plan, where)
    return plan


def _net(table: Mapping[str, Any], where: str, start: Path, task: str, *, reestimate: bool) -> dict[str, Any]:
    """The fields of `Plan` that `[net]` holds; the net is built without storage to see that it can be."""
    place = f"{where}: [net]"
    net = values.table(table, "net", place)
    own = {key: check(net.pop(key), f"{place} {key}") for key, check in NET.items() if key in net}
    if "patch" not in own:
        raise ConfigError(f"{place} patch is missing: the size in voxels of what the net sees at once")
    kind = answers.TASKS[task]
    try:
        other = answers.of(net)
    except ConfigError as error:
        raise ConfigError(f"{place} {error}") from None
    if net.get("name") in nets.names() and other != kind:
        raise ConfigError(
            f'{place} {net["name"]} is a net for {other.name}, and [campaign] task is "{task}"; built-in '
            f"nets for it are {', '.join(name for name in nets.NETS if answers.of({'name': name}) == kind)}"
        )
    if net.get("dims", kind.dims) != kind.dims:
        raise ConfigError(
            f"{place} dims expected {kind.dims}: campaigns of {task} read {kind.images}, got {net['dims']!r}"
        )
    try:
        like = nets.on_meta(net, in_channels=1, out_channels=2)
        nets.check_patch(net, own["patch"])
        heads = nets.heads(net, in_channels=1, out_channels=2)
        partition.of(like, heads, specific=own.get("specific", ()), fusable=own.get("fusable", ()))
    except FedmergeError as error:
        raise ConfigError(f"{place} {str(error).removeprefix('net: ')}") from None
    partition.check_buffers(like, reestimate=reestimate)
    if "weights" in own:
        own["weights"] = start / own["weights"]
    return {"net": net, **own}


def _member(site: Mapping[str, Any], where: str, base: Path, deployed: bool) -> Member:
    name = site["name"]
    place = f"{where}: site '{name}'"
    values.only(site, place, {"name", "role", "contribution", *OWN_TABLES})
    role = values.choice(site.get("role"), f"{place}: role", options=("source", "target"))
    own = [key for key in OWN_TABLES if key in site]
    if deployed and own:
        raise ConfigError(f"{place}: [site.{own[0]}] belongs into that hospital's own site.toml, not into a plan")
    for key in own:
        values.table(site, key, f"{place}: [site.{key}]")
    given = None
    if "contribution" in site:
        given = base / values.text(site["contribution"], f"{place}: contribution")
        if role != "source":
            raise ConfigError(f"{place}: a contribution stands for a source, not for a target")
    if not deployed and "data" not in site and given is None:
        raise ConfigError(f"{place}: expected [site.data] or contribution = FILE, got neither")
    return Member(name, role, given, deployed or "data" in site)
