"""What a campaign stands on once the sites have answered: their nets, the partition, the common ancestor."""

import logging
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmerge import answers, nets, params, partition, tasks, whole, wire
from fedmerge.errors import ConfigError, Refused
from fedmerge.params import Params
from fedmerge.privacy.accountant import Training
from fedmerge.regions import Table
from fedmerge.trust.roster import Roster
from server import given as given_files
from server.made import Made
from server.plan import Plan
from server.record import Witness
from server.store import Store

log = logging.getLogger("fedmerge")

STARTS, BODIES = "starts", "bodies"


@dataclass(frozen=True)
class Ground:
    """The plan, the store and the sites of one campaign; `made` and `left` fill up while the sources train.

    Attributes:
        plan: the campaign.
        store: where its contributions and finished phases lie.
        sites: what each site said of itself.
        nets: the net of each site.
        given: the files that stand for a source's training.
        made: (chain, name) -> the contribution; see `named`.
        unshown: (chain, name) -> what a source made that nobody sees, and that enters the sum of its group.
        left: (chain, site) -> why the campaign goes on without this source; chain None: in all chains.
        fetched: sealed files that this start of the server has asked for.
        gone: (chain, way) -> why a chain that `auto` asked for cannot be had.
        judged: (chain, name) -> whether a contribution that nobody here can read moved too far, as the target measured,
            and beside how many others; None where that is not known.
        noisy: (chain, name) -> how what a source made was trained, where that was with differential privacy.
        ancestors: chain -> what its sites start from.
        keys: site -> its public keys "signing" and "sealing", from the roster or a simulated site's description.
        epoch: of that roster; 0 in a simulation.
        witness: writes into the server's audit log.
    """

    plan: Plan
    store: Store
    sites: dict[str, tasks.Description]
    nets: dict[str, tasks.Net]
    given: dict[str, Path]
    made: dict[tuple[int, str], Made] = field(default_factory=dict)
    unshown: dict[tuple[int, str], Made] = field(default_factory=dict)
    left: dict[tuple[int | None, str], str] = field(default_factory=dict)
    fetched: set[Path] = field(default_factory=set)
    gone: dict[tuple[int, str], str] = field(default_factory=dict)
    judged: dict[tuple[int, str], tuple[bool | None, int]] = field(default_factory=dict)
    noisy: dict[tuple[int, str], Training] = field(default_factory=dict)
    ancestors: dict[int, Params] = field(default_factory=dict)
    keys: dict[str, dict[str, str]] = field(default_factory=dict)
    epoch: int = 0
    witness: Witness = field(default_factory=Witness)

    @property
    def run(self) -> str:
        """What no other run has, however often this one is resumed: 32 hexadecimal digits."""
        if (found := self.store.phase("run")) is None:
            self.store.keep_phase("run", found := {"run": secrets.token_hex(16)})
        return str(found["run"])

    def named(self, site: str, training: str = "plain") -> str:
        """The name of what a source made: its own, after the way in which it trained where that is not the plan's."""
        plain = training == "plain" or (training == "parallel" and self.plan.schedule == "parallel")
        return site if plain else f"{training}:{site}"

    def sources(self, chain: int, training: str = "plain") -> tuple[str, ...]:
        """The sources, or groups, whose contribution is there, in the order of the plan."""
        return tuple(name for name in self.plan.mixed if (chain, self.named(name, training)) in self.made)

    def models(self, chain: int, training: str = "plain") -> list[Made]:
        """The contributions of `sources`."""
        return [self.made[chain, self.named(name, training)] for name in self.sources(chain, training)]

    def why(self, chain: int, site: str) -> str:
        """Why the campaign goes on without a source; an empty text where it takes part."""
        return self.left.get((chain, site)) or self.left.get((None, site), "")

    def leave(self, site: str, reason: str, chain: int | None = None) -> None:
        """Go on without a source, in one chain or in all."""
        self.left[chain, site] = reason = reason.removeprefix(f"{site}: ")
        log.warning("%s is left out: %s", site, reason)
        self.witness.note(site, "left out", reason)

    def ancestor(self, chain: int) -> Params:
        """What every site of a chain starts from: P and the norm parameters, of the plan's file or fresh."""
        if chain not in self.ancestors:
            start = self.fresh(self.plan.seed + chain)
            self.ancestors[chain] = start if self.plan.weights is None else _from_file(self.plan.weights, start)
        return self.ancestors[chain]

    def fresh(self, seed: int) -> Params:
        """P and the norm parameters of a net that nobody has trained."""
        net = self.nets[self.plan.targets[0]]
        made = nets.build(net.settings, in_channels=net.in_channels, out_channels=net.out_channels, seed=seed)
        return params.split(params.of(made), {*net.fusable, *net.norms})[0]

    def on_disk(self, weights: Params) -> Path:
        """Weights that several messages refer to, as a file under their digest: nobody holds them in memory meanwhile.

        The files are there while sources train and targets are served; `sweep` throws them away.
        """
        path = self.store.folder / STARTS / f"{params.digest(weights).removeprefix('sha256:')}.safetensors"
        if not path.exists():
            whole.write(path, wire.params_to_bytes(weights))
        return path

    def keep(self, body: Params) -> Path:
        """A model that the server itself has made of several, as a file under its digest; it stays."""
        path = self.store.folder / BODIES / f"{params.digest(body).removeprefix('sha256:')}.safetensors"
        if not path.exists():
            whole.write(path, wire.params_to_bytes(body))
        return path

    def sweep(self) -> None:
        """Throw away the files of `on_disk`."""
        shutil.rmtree(self.store.folder / STARTS, ignore_errors=True)

    def axes(self, site: str) -> dict[str, int]:
        """The axis of the output kernels of each parameter."""
        net = self.nets[site]
        like = nets.on_meta(net.settings, in_channels=net.in_channels, out_channels=net.out_channels)
        return partition.kernel_axes(like)


def lay(
    plan: Plan,
    store: Store,
    told: Mapping[str, Any],
    absent: Mapping[str, str] | None = None,
    witness: Witness | None = None,
    roster: Roster | None = None,
) -> Ground:
    """Check the sites' descriptions against the plan and each other, and divide the net.

    Args:
        plan: the campaign.
        store: where it keeps what it makes.
        told: site -> its description.
        absent: sources that the campaign goes on without, with the reason of each.
        witness: writes into the server's audit log.
        roster: what the consortium's says of keys; a simulation has none.

    Raises:
        ConfigError: roles differ, a deployment's plan holds a hospital's tables, labels of two sites disagree in their
            spelling, or there is nothing to train or test on.
        Refused: a stored contribution does not fit.
    """
    sites: dict[str, tasks.Description] = {}
    reasons = dict(absent or {})
    for name, table in told.items():
        try:
            sites[name] = tasks.from_table(tasks.Description, table, name)
        except Refused as error:
            if plan.absent != "without" or name not in plan.sources:
                raise
            reasons[name] = str(error)
    given = {m.name: m.contribution for m in plan.members if m.contribution is not None}
    outside: dict[str, tuple[int, tuple[str, ...]]] = {}
    regions: dict[str, Table] = {name: site.regions for name, site in sites.items()}
    for name, path in given.items():
        found = given_files.read(path, name)
        if name not in sites:
            outside[name] = (len(found.channels), found.labels)
            regions[name] = {region: list(own) for region, own in found.regions.items()}
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
    insides = {name: (len(site.channels), site.labels) for name, site in sites.items()}
    ground = Ground(
        plan,
        store,
        sites,
        divide(plan, {**insides, **outside}, regions),
        given,
        epoch=roster.epoch if roster else 0,
        witness=witness or Witness(campaign=plan.name),
    )
    ground.keys.update({name: site.keys for name, site in sites.items() if site.simulation})
    for entry in roster.entries if roster else ():
        ground.keys[entry.name] = {"signing": entry.signing_key, "sealing": entry.sealing_key}
    for name, reason in reasons.items():
        ground.leave(name, reason)
    return ground


def divide(
    plan: Plan, sites: dict[str, tuple[int, tuple[str, ...]]], regions: Mapping[str, Table] | None = None
) -> dict[str, tasks.Net]:
    """The net of each site, with the names of P, norms, heads and the rest.

    Args:
        plan: the campaign.
        sites: of each site (input channels, labels).
        regions: those of the sites whose nets answer regions.

    Raises:
        ConfigError: names the site whose regions no net can answer.
    """
    shapes, outputs = {}, {}
    for name, (channels, labels) in sites.items():
        try:
            outputs[name] = out = answers.of(plan.net, labels, (regions or {}).get(name)).channels(labels)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
        shapes[name] = params.shapes(nets.on_meta(plan.net, in_channels=channels, out_channels=out))
    divided = {}
    for name, (channels, labels) in sites.items():
        out = outputs[name]
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
            field=plan.field,
            foreground=plan.foreground,
            overlap=plan.evaluate.overlap,
            regions=dict((regions or {}).get(name, {})),
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
