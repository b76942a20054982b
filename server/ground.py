"""What a campaign stands on once the sites have answered: their nets, the partition, the common ancestor."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmerge import nets, params, partition, tasks, wire
from fedmerge.contribution import Contribution
from fedmerge.errors import ConfigError, Refused
from fedmerge.params import Params
from server import inbound
from server.plan import Plan
from server.store import Store


@dataclass(frozen=True)
class Made:
    """A contribution that is there: the record, and the name by which a target knows its bytes."""

    contribution: Contribution
    path: Path
    name: str

    def body(self, net: tasks.Net) -> Params:
        """P and the norm parameters: what the next site of a chain starts from."""
        return params.split(self.contribution.weights, {*net.fusable, *net.norms})[0]


@dataclass(frozen=True)
class Ground:
    """The plan, the store and the sites of one campaign; `made` fills up while the sources train."""

    plan: Plan
    store: Store
    sites: dict[str, tasks.Description]
    nets: dict[str, tasks.Net]
    given: dict[str, Contribution]
    made: dict[tuple[int, str], Made] = field(default_factory=dict)
    ancestors: dict[int, Params] = field(default_factory=dict)

    def ancestor(self, chain: int) -> Params:
        """What every site of a chain starts from: P and the norm parameters, of the plan's file or fresh."""
        if chain in self.ancestors:
            return self.ancestors[chain]
        net = self.nets[self.plan.targets[0]]
        fresh = nets.build(
            net.settings,
            in_channels=net.in_channels,
            out_channels=net.out_channels,
            seed=self.plan.seed + chain,
        )
        start = params.split(params.of(fresh), {*net.fusable, *net.norms})[0]
        self.ancestors[chain] = start if self.plan.weights is None else _from_file(self.plan.weights, start)
        return self.ancestors[chain]

    def axes(self, site: str) -> dict[str, int]:
        """The axis of the output kernels of each parameter."""
        net = self.nets[site]
        like = nets.on_meta(net.settings, in_channels=net.in_channels, out_channels=net.out_channels)
        return partition.kernel_axes(like)


def lay(plan: Plan, store: Store, told: dict[str, Any]) -> Ground:
    """Check the sites' descriptions against the plan and each other, and divide the net.

    Raises:
        ConfigError: roles differ, a deployment's plan holds a hospital's tables, labels of two sites disagree in their
            spelling, or there is nothing to train or test on.
        Refused: a stored contribution does not fit.
    """
    sites = {name: tasks.from_table(tasks.Description, table, name) for name, table in told.items()}
    given = {m.name: inbound.read_given(m.contribution, m.name) for m in plan.members if m.contribution is not None}
    for member in plan.members:
        site = sites.get(member.name)
        if site is None:
            continue
        if site.role != member.role:
            raise ConfigError(f"{site.site}: the plan says {member.role}, the site says {site.role}")
        if not site.simulation and any(key in s for s in plan.raw.get("site", []) for key in ("data", "policy")):
            raise ConfigError(f"{plan.name}: a plan with [site.data] is for simulations; {site.site} is a real site")
        if site.role == "target" and not (site.train and site.test):
            raise ConfigError(
                f"{site.site}: expected training and test cases at the target, got {site.train} and {site.test}"
            )
        if site.role == "source" and not site.train:
            raise ConfigError(f"{site.site}: expected training cases, got none")
    outside = {name: (len(c.channels), c.labels) for name, c in given.items() if name not in sites}
    insides = {name: (len(site.channels), site.labels) for name, site in sites.items()}
    return Ground(plan, store, sites, divide(plan, {**insides, **outside}), given)


def divide(plan: Plan, sites: dict[str, tuple[int, tuple[str, ...]]]) -> dict[str, tasks.Net]:
    """The net of each site, given its (input channels, labels), with the names of P, norms, heads and the rest."""
    shapes = {}
    for name, (channels, labels) in sites.items():
        shapes[name] = params.shapes(nets.on_meta(plan.net, in_channels=channels, out_channels=len(labels) + 1))
    divided = {}
    for name, (channels, labels) in sites.items():
        out = len(labels) + 1
        parts = partition.of(
            nets.on_meta(plan.net, in_channels=channels, out_channels=out),
            nets.heads(plan.net, in_channels=channels, out_channels=out),
            others=[other for site, other in shapes.items() if site != name],
            specific=plan.specific,
            fusable=plan.fusable,
        )
        divided[name] = tasks.Net(
            settings=nets.canonical(plan.net, in_channels=channels, out_channels=out),
            in_channels=channels,
            labels=labels,
            patch=plan.patch,
            fusable=parts.fusable,
            norms=parts.norms,
            heads=parts.heads,
            other=parts.other,
        )
    return divided


def _from_file(path: Path, like: Params) -> Params:
    """A given ancestor, checked name by name.

    Raises:
        Refused: the file is of another net.
    """
    weights, _ = wire.read_model(path)
    for name, value in like.items():
        if name not in weights or weights[name].shape != value.shape:
            got = tuple(weights[name].shape) if name in weights else "nothing"
            raise Refused(
                f"{path.name}: a checkpoint of another net: '{name}' expected shape {tuple(value.shape)}, got {got}"
            )
    return {name: weights[name] for name in like}
