"""FedMerge: Flower's strategy whose `start` runs a campaign's plan.

Flower's own loop alternates training and evaluation of all nodes for a number of rounds. A campaign is something else:
sources in a chain, a target that adapts, rows that share the sources' work. So `start` is overridden, and what
Flower's loop would call has nothing to configure.
"""

import logging
import time
from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedmerge import campaign, fusion, parts, tasks
from fedmerge.errors import ConfigError
from fedmerge.trust.roster import Roster
from server import choosing, feasible, forgetting, grouping, holding, rounds, rows, sofar, training
from server.adaptation import Place
from server.exchange import Conversation, Exchange
from server.ground import Ground, lay
from server.merging import Outcome
from server.outcome import assemble
from server.parts import HOLD_S, Way
from server.plan import Plan
from server.progress import Progress
from server.record import Witness
from server.store import Store
from server.wanted import POOLED

log = logging.getLogger("fedmerge")


class FedMerge(Strategy):
    """Runs a plan and collects its results.

    Args:
        plan: the campaign.
        store: where contributions and finished phases are kept; what is there already is not done again.
        methods: the rows to run.
        seeds: draws of the target's cases and their order.
        chains: independent trainings of the sources.
        target_cases: how many cases the target trains on; 0 for as many as its own settings say.
        at_once: how many conversations go on at the same time.
        patience_s: how long to wait for the nodes of a simulation to appear.
        witness: writes into the server's audit log.
        roster: of the consortium; a simulation has none.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        *,
        methods: list[fusion.Method],
        seeds: tuple[int, ...] = (0,),
        chains: tuple[int, ...] = (0,),
        target_cases: int = 0,
        at_once: int = 1,
        patience_s: float = 2.0,
        witness: Witness | None = None,
        roster: Roster | None = None,
    ) -> None:
        self.plan, self.store, self.methods, self.roster = plan, store, methods, roster
        self.seeds, self.chains, self.target_cases = seeds, chains, target_cases
        self.deployed = not campaign.residents(plan.raw)
        self.at_once, self.patience_s = max(at_once, len(plan.residents)) if self.deployed else at_once, patience_s
        self.witness = witness or Witness(campaign=plan.name)
        self.results: dict[str, Any] = {}

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int = 1,
        timeout: float = 0.0,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the plan from the roll call to the results; `self.results` has the form of results.json.

        Only `grid` and `timeout` (seconds a site may take for one task; 0: the plan's) are used.

        Raises:
            FedmergeError: a setting, a site or what a site sent stands against the plan; finished phases are kept.
        """
        began = time.monotonic()
        exchange = self._exchange(grid, timeout or self.plan.timeout_s)
        for kept, name in ((exchange.traffic, "traffic"), (exchange.timeline, "timeline")):
            kept.extend((self.store.phase(name) or {"lines": []})["lines"])
        sofar.begin(self.store)
        try:
            ground = self._roll_call(exchange)
            self.places(ground)  # impossible rows are told before anything is trained
            self._train(ground, exchange)
            outcomes = self._rows(ground, exchange)
            forgotten = self._forgetting(ground, exchange, outcomes)
            exchange.converse(grouping.over(ground, self.chains), self.at_once)
        finally:
            self.store.keep_phase("traffic", {"lines": exchange.traffic})
            self.store.keep_phase("timeline", {"lines": exchange.timeline})
        moved = {"traffic": exchange.traffic, "timeline": exchange.timeline}
        self.results = assemble(ground, outcomes, forgotten, moved, holding.changes(ground))
        log.info("the campaign took %.1f s", time.monotonic() - began)
        return Result()

    def _exchange(self, grid: Grid, timeout_s: float) -> Exchange:
        plan, folder, deployed = self.plan, self.store.folder, self.deployed
        return Exchange(
            grid,
            timeout_s,
            Way(folder / "incoming", plan.name, parts.PART_BYTES, HOLD_S if deployed else None),
            wait_s=0.0 if plan.absent == "stop" else plan.wait_s or timeout_s,
            deployed=deployed,
            witness=self.witness,
            progress=Progress(folder / "progress.json", facts=self._facts()),
        )

    def _facts(self) -> dict[str, Any]:
        """Of the campaign, for those who watch."""
        plan = self.plan
        roles = dict.fromkeys(plan.sources, "source") | dict.fromkeys(plan.targets, "target")
        rows = len(plan.targets) * len(self.chains) * len(self.seeds) * len(self.methods)
        return {"campaign": plan.name, "trust": plan.trust, "measure": plan.measure.name, "roles": roles, "rows": rows}

    def _roll_call(self, exchange: Exchange) -> Ground:
        plan = self.plan
        describe = tasks.to_table(tasks.Describe(plan.name, plan.patch, plan.threads, plan.precision, plan.field))
        dispensable = plan.sources if plan.absent == "without" else ()
        told, absent = exchange.roll_call(plan.residents, describe, self.patience_s, dispensable)
        ground = lay(plan, self.store, told, absent, self.witness, self.roster)
        for name, site in ground.sites.items():
            by = "patients" if site.by_patient else "cases (its names tell no patients)"
            labels = ", ".join(site.labels) + (f" as regions {', '.join(site.regions)}" if site.regions else "")
            log.info(
                "%s: %s, labels %s, %d train, %d validation, %d test cases, disjoint by %s",
                name, site.role, labels, site.train, site.validate, site.test, by,
            )  # fmt: skip
        for method in self.methods:
            feasible.check_method(plan, method)
        if any(m.sources == "pooled" for m in self.methods):
            self._check_pooled(ground)
        return ground

    def _check_pooled(self, ground: Ground) -> None:
        """The reference needs all patients in one place, with images of the target's kind.

        Raises:
            ConfigError: a site is a real hospital, only gave a contribution, or has other image channels.
        """
        for name in (*self.plan.sources, *self.plan.targets):
            if name not in ground.sites or not ground.sites[name].simulation:
                raise ConfigError(f"'pooled' needs all patients in one place, and those of {name} are not here")
        for target in self.plan.targets:
            for source in self.plan.sources:
                want, got = len(ground.sites[target].channels), len(ground.sites[source].channels)
                if want != got:
                    raise ConfigError(f"'pooled' for {target}: expected {want} image channels at {source}, got {got}")

    def _train(self, ground: Ground, exchange: Exchange) -> None:
        """Phase one: the sources, and beside them what `pooled` needs; then the target gets what it starts from.

        What the sources made is judged before a target gets it, or by the target where nobody else can read it.
        """
        ways: list[str] = [m.way for m in self.methods if m.sources in ("one", "last", "all")]
        if any(method.sources == "candidates" for method in self.methods):
            ways += choosing.ways(ground, self.plan.targets)
        ways = list(dict.fromkeys(ways))[: 1 if self.plan.trust == "group" else None]  # there all are one and the same
        conversations: list[Conversation] = []
        for chain in self.chains:
            for way in ways:
                conversations += training.sources(ground, chain, way)
            if any(method.sources == "pooled" for method in self.methods):
                conversations += [training.pooled(ground, chain, t) for t in self.plan.targets]
        exchange.converse(conversations, self.at_once)
        if ways and self.plan.trust == "group":
            for phase in grouping.phases(ground, self.chains):
                exchange.converse(phase, self.at_once)
        if ways:
            training.settle(ground, self.chains, ways)
        for way in dict.fromkeys(m.training for m in self.methods if m.sources == "rounds"):
            for together in zip_longest(*(rounds.rounds(ground, chain, way) for chain in self.chains), fillvalue=()):
                exchange.converse([part for parts in together for part in parts], self.at_once)
        self._judge_and_deliver(ground, exchange)

    def _judge_and_deliver(self, ground: Ground, exchange: Exchange) -> None:
        """Judge first; but where only the target can read what was made, it has to be there before it is judged."""
        if self.plan.trust == "server":
            holding.judge(ground)
        self._deliver(ground, exchange)
        if self.plan.trust != "server":
            holding.judge(ground)

    def _deliver(self, ground: Ground, exchange: Exchange) -> None:
        """Bring to each target what its rows start from, as far as it is not there."""
        near = self.plan.fit == "near"
        exchange.converse(
            [
                rows.deliver(
                    ground,
                    target,
                    chain,
                    [
                        (name, made)
                        for (number, name), made in ground.made.items()
                        if number == chain and (near or name == f"{POOLED}:{target}")
                    ],
                )
                for target in self.plan.targets
                for chain in self.chains
            ],
            self.at_once,
        )
        ground.sweep()

    def places(self, ground: Ground) -> list[Place]:
        """The table's rows, in the order in which they run.

        Raises:
            ConfigError: the target has fewer cases than asked for.
        """
        places = []
        for target in self.plan.targets:
            there = ground.sites[target].train
            cases, pool = self.target_cases or there, ground.sites[target].pool
            if cases > pool:
                raise ConfigError(f"{target}: expected {cases} training cases, got {pool} beside validation and test")
            places += [
                Place(method, seed, chain, target, cases)
                for chain in self.chains
                for seed in self.seeds
                for method in self.methods
            ]
        return places

    def _rows(self, ground: Ground, exchange: Exchange) -> list[Outcome]:
        """The rows; real targets work at the same time, each on one row."""
        outcomes: list[Outcome] = []
        places = self.places(ground)
        turn = {place: [p.target for p in places[:i]].count(place.target) for i, place in enumerate(places)}
        in_turn = sorted(places, key=lambda place: turn[place])
        at_once = len(self.plan.targets) if self.deployed else self.at_once
        while in_turn:
            waiting: dict[Place, str] = {}
            exchange.converse([rows.row(ground, place, outcomes, waiting) for place in in_turn], at_once)
            in_turn = [place for place in in_turn if place in waiting]
            if in_turn:
                self._train_more(ground, exchange, {(place.chain, waiting[place]) for place in in_turn})
        return sorted(outcomes, key=lambda outcome: places.index(outcome.place))

    def _train_more(self, ground: Ground, exchange: Exchange, wanted: set[tuple[int, str]]) -> None:
        """Further chains that rows of `auto` want to try, judged and delivered as the first ones were."""
        exchange.converse([training.another(ground, *one) for one in sorted(wanted)], self.at_once)
        self._judge_and_deliver(ground, exchange)

    def _forgetting(self, ground: Ground, exchange: Exchange, outcomes: list[Outcome]) -> list[dict[str, Any]]:
        """Somebody's P with a source's own S on that source's test cases, where the source takes it in."""
        cases = next((outcome.place.cases for outcome in outcomes if outcome.fused), self.target_cases)
        lines, work = forgetting.conversations(ground, outcomes, self.seeds[0], cases)
        exchange.converse(work, self.at_once)
        return sorted(lines, key=lambda line: (line["chain"], line["seed"], line["task"]))

    def summary(self) -> None:
        """Log the plan in one line."""
        log.info("%s: %s", self.plan.name, ", ".join(m.name for m in self.methods))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: a campaign has phases, not Flower's rounds."""
        return ()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Nothing: the plan fuses where it has all contributions."""
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: targets score their own rows."""
        return ()

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing: scores come with the phases."""
        return None
