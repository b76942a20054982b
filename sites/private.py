"""Training at a source with differential privacy: its patients, the noise that the task asks for, and the budget."""

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from torch import nn

from fedmerge import tasks
from fedmerge.errors import ConfigError
from fedmerge.privacy import accountant, dpsgd
from fedmerge.privacy.accountant import Training
from fedmerge.privacy.mechanism import Mechanism
from fedmerge.records import Settings
from sites import budget, cases, outbound, patches
from sites.cases import Loaded
from sites.draws import generator
from sites.inbound import Declined
from sites.records import Site


def train(
    site: Site,
    asked: tasks.Contribute,
    net: nn.Module,
    train: Sequence[Loaded],
    settings: Settings,
    options: dict[str, Any],
) -> None:
    """Spend what the training costs, then train.

    Args:
        site: whose patients.
        asked: the task.
        net: trained in place.
        train: its training cases.
        settings: of the task; `batch_size` is how many patients a step draws on average.
        options: further arguments of `dpsgd.train`.

    Raises:
        Declined: the site does not know its patients, or its budget does not allow the training.
    """
    if asked.way == "ewc":
        raise Declined(f"{site.name}: the way 'ewc' does not go with differential privacy")
    groups = patients(site, train)
    people = [[(case.image, case.label) for case in own] for own in groups]
    spending = noise(site, asked, settings, len(people))
    mechanism = Mechanism(spending.rate, spending.noise_multiplier, asked.dp_clip, len(people))
    dpsgd.check(net, settings)
    budget.spend(site, asked.key, asked.campaign, spending)
    view = partial(seen, groups, asked.seed, asked.net.foreground, settings.augment)
    dpsgd.train(net, people, settings, mechanism, view=view, **options)


def seen(
    groups: Sequence[Sequence[Loaded]],
    seed: int,
    foreground: float,
    changes: Collection[str],
    step: int,
    number: int,
) -> dpsgd.Patient:
    """What a step sees of a patient: each of its cases, or a patch of it, by dice that know no other patient."""
    return [
        patches.see(case, generator("patch", seed, step, number, place), foreground=foreground, changes=changes)
        for place, case in enumerate(groups[number])
    ]


def patients(site: Site, train: Sequence[Loaded]) -> list[list[Loaded]]:
    """The training cases, patient by patient.

    Raises:
        Declined: a case's id does not tell its patient.
    """
    known = {found.id: found.patient for found in cases.find(site.data)}
    people: dict[str, list[Loaded]] = {}
    for case in train:
        if (who := known.get(case.id)) is None:
            raise Declined(
                f"{site.name}: differential privacy protects patients, and names of cases do not tell the patient; "
                "`patient` of [data] is a pattern that finds it"
            )
        people.setdefault(who, []).append(case)
    return list(people.values())


def noise(site: Site, asked: tasks.Contribute, settings: Settings, people: int) -> Training:
    """The mechanism of a task at a site with so many patients.

    Raises:
        Declined: with these numbers nobody would be protected.
    """
    rate = min(1.0, settings.batch_size / people)
    if not (0 < asked.delta < 1 and asked.dp_clip > 0 and settings.steps > 0):
        raise Declined(f"{site.name}: differential privacy expected a delta below 1, a norm and steps above 0")
    try:
        multiplier = asked.dp_noise or accountant.calibrate(asked.epsilon, asked.delta, rate, settings.steps)
        found = Training(rate, multiplier, settings.steps)
        bounded = math.isfinite(accountant.epsilon([found], asked.delta))
    except ConfigError as error:  # the task's numbers, or a package that is not installed here
        raise Declined(f"{site.name}: {error}") from None
    if not bounded:
        raise Declined(f"{site.name}: the noise {multiplier:g} is too small to bound anything")
    return found


def told(site: Site, asked: tasks.Contribute) -> dict[str, Any]:
    """The fields of `tasks.Trained` on the noise of a contribution; none where there was no noise."""
    own = [entry.training for entry in budget.entries(site) if entry.key == asked.key]
    if not (asked.private and own):
        return {}
    last = own[-1]
    return {
        "epsilon": accountant.epsilon([last], asked.delta),
        "delta": asked.delta,
        "noise_multiplier": last.noise_multiplier,
        "rate": last.rate,
    }


def digest(site: Site, data: str) -> str:
    """The digest of a site's files as it may leave."""
    return outbound.fingerprint(site, data) if budget.limited(site) else data
