"""The privacy budget of a site: what its noisy trainings may tell of a patient, over all campaigns together.

The policy's `epsilon` and `delta` are the budget. A training is written into the ledger `budget.json` of the site's
working folder, down to the disk, before its first step: a crash may count a training that never ended, and never
forgets one. The same training that goes on, or whose contribution is sent again, is counted once, under its key. Where
a contribution that was sent is no longer there and has to be trained again, that is another release, and counts again.

    policy          training without noise    training with noise
    epsilon = 0     as `weights` says         refused: there is no budget
    0 < epsilon     refused                   while all of them together stay within epsilon at delta
    epsilon = inf   as `weights` says         always; it is written down all the same
"""

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fedmerge import whole
from fedmerge.errors import DataError
from fedmerge.privacy import accountant
from fedmerge.privacy.accountant import Training, round_up
from fedmerge.trust import dates
from sites.inbound import Declined
from sites.records import Site

FORMAT = "fedmerge-budget/1"


@dataclass(frozen=True)
class Entry:
    """One training in the ledger.

    Attributes:
        key: the task's.
        campaign: whose training it was.
        began: when it was written down.
        rate: of `accountant.Training`, likewise `noise_multiplier` and `steps`.
        sent: whether its contribution may have left.
    """

    key: str
    campaign: str
    began: str
    rate: float
    noise_multiplier: float
    steps: int
    sent: bool = False

    @property
    def training(self) -> Training:
        """What the accountant needs of it."""
        return Training(self.rate, self.noise_multiplier, self.steps)


def limited(site: Site) -> bool:
    """Whether the policy sets a budget, so that nothing may leave that was trained without noise."""
    return 0 < site.policy.epsilon < math.inf


def entries(site: Site) -> list[Entry]:
    """The ledger, oldest first; empty where nothing was trained with noise.

    Raises:
        DataError: the file cannot be read as a ledger: then nothing is known of what was spent.
    """
    path = _path(site)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        kinds: dict[str, Any] = {f.name: (int, float) if f.type is float else f.type for f in fields(Entry)}
        found = [Entry(**entry) for entry in told["entries"]]
        sound = told["format"] == FORMAT and all(isinstance(getattr(e, n), k) for e in found for n, k in kinds.items())
        [entry.training for entry in found]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} cannot be read as the ledger of the privacy budget: {error}") from None
    if not sound:
        raise DataError(f"{path} is not a ledger of the privacy budget in the form {FORMAT}")
    return found


def spent(site: Site, delta: float) -> float:
    """The epsilon of all trainings in the ledger together."""
    return accountant.epsilon([entry.training for entry in entries(site)], delta)


def check_plain(site: Site) -> None:
    """Refuse a training without noise where the policy sets a budget.

    Raises:
        Declined: names the line.
    """
    if limited(site):
        raise Declined(
            f"{site.name}: policy line 'epsilon = {site.policy.epsilon:g}': only what was trained with differential "
            "privacy may leave, and this training asks for none"
        )


def spend(site: Site, key: str, campaign: str, training: Training) -> None:
    """Write a training into the ledger, before it begins; what is there under this key and was not sent goes on.

    Args:
        site: whose budget it is.
        key: the task's.
        campaign: its name.
        training: as it will be.

    Raises:
        Declined: it does not fit into the budget; names the line, what was spent, what is asked for and what is left.
        DataError: the ledger cannot be read.
    """
    with _locked(site):
        there = entries(site)
        under_way = any(e.key == key and not e.sent and e.training == training for e in there)
        _check(site, there, None if under_way else training)
        if not under_way:
            new = Entry(
                key, campaign, dates.text(time.time()), training.rate, training.noise_multiplier, training.steps
            )
            _write(site, [*there, new])


def sending(site: Site, key: str) -> Entry | None:
    """Whether a contribution may leave; after this, training under its key again is another release.

    Returns:
        its entry; None where it was trained without noise and the policy lets it go.

    Raises:
        Declined: it was trained without noise and the policy sets a budget, or it no longer fits into the budget.
        DataError: the ledger cannot be read.
    """
    if not _path(site).exists():
        check_plain(site)
        return None
    with _locked(site):
        there = entries(site)
        own = [k for k, entry in enumerate(there) if entry.key == key]
        if not own:
            check_plain(site)
            return None
        _check(site, there, None)
        entry = there[own[-1]]
        if not entry.sent:
            there[own[-1]] = replace(entry, sent=True)
            _write(site, there)
        return entry


def _check(site: Site, there: Sequence[Entry], more: Training | None) -> None:
    """Refuse where the trainings in the ledger and one more are beyond the budget."""
    budget, delta = site.policy.epsilon, site.policy.delta
    if budget == math.inf:
        return
    if budget == 0:
        raise Declined(f"{site.name}: policy line 'epsilon = 0': there is no budget for differential privacy")
    if not 0 < delta < 1:
        raise Declined(f"{site.name}: policy line 'delta = {delta:g}': a budget needs a delta between 0 and 1")
    before = [entry.training for entry in there]
    together = accountant.epsilon([*before, more] if more else before, delta)
    if together <= budget:
        return
    so_far, asked = accountant.epsilon(before, delta), accountant.epsilon([more] if more else [], delta)
    raise Declined(
        f"{site.name}: policy line 'epsilon = {budget:g}' at delta {delta:g}: {round_up(so_far):g} is spent, "
        f"{round_up(asked):g} is asked for, together that is {round_up(together):g}; "
        f"{max(0.0, budget - round_up(so_far)):g} is left"
    )


def _path(site: Site) -> Path:
    return site.work / "budget.json"


def _write(site: Site, there: Sequence[Entry]) -> None:
    """Replace the ledger, and wait until file and folder are on the disk."""
    path = _path(site)
    told = {"format": FORMAT, "entries": [asdict(entry) for entry in there]}
    whole.write(path, json.dumps(told, indent=1) + "\n")
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _locked(site: Site) -> Iterator[None]:
    """One at a time, whatever processes the site has."""
    site.work.mkdir(parents=True, exist_ok=True)
    with whole.locked(site.work / "budget.lock"):
        yield
