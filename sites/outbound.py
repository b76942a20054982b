"""The one door out: whatever leaves a site passes here, and the site's own policy decides.

A refusal says which line of the policy stands against it; it never says anything about a patient.
"""

import dataclasses
import hmac
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fedmerge import measures, parts, tasks, wire
from fedmerge.contribution import Contribution
from fedmerge.params import Params
from fedmerge.privacy import ledger
from fedmerge.tasks import CaseScore
from fedmerge.trust import keys
from sites import budget
from sites.config import Site
from sites.inbound import Declined


def check_trust(site: Site, mode: str) -> None:
    """Refuse a campaign in which others read the weights than the policy allows.

    Args:
        site: whose policy decides.
        mode: who can read what leaves: `"server"`, `"target"` or `"group"`.

    Raises:
        Declined: names the line of the policy.
    """
    policy = site.policy
    if policy.trust is not None and mode not in policy.trust:
        raise Declined(f"{site.name}: policy line 'trust' does not list '{mode}'")


def check_receiver(site: Site, receiver: str, fingerprint: str) -> None:
    """Refuse a receiver that the policy does not name, or whose keys are not those that it names.

    Args:
        site: whose policy decides.
        receiver: the name of who can open what leaves.
        fingerprint: of its keys (`correspondence.Peer.fingerprint`).

    Raises:
        Declined: names the line of the policy.
    """
    if site.policy.receivers is None:
        return
    pinned = [pin for name, _, pin in (line.partition(" ") for line in site.policy.receivers) if name == receiver]
    if not pinned:
        raise Declined(f"{site.name}: policy line 'receivers' does not list '{receiver:.80}'")
    if not any(not pin or keys.same_fingerprint(pin, fingerprint) for pin in pinned):
        raise Declined(f"{site.name}: policy line 'receivers' names other keys of {receiver} than {fingerprint}")


def contribution(site: Site, kept: Path, name: str) -> bytes | Path:
    """A contribution, reduced to what the policy lets go; asked again at every sending.

    Args:
        site: whose policy decides.
        kept: the file of the contribution in full.
        name: its name in the site's ledger; sending the same one again is not another contribution.

    Returns:
        the file, where all of it may go; else what is left of it, as bytes.

    Raises:
        Declined: the policy lets no weights go, wants more cases, fewer bytes, no further contribution, or privacy; or
            the model has entered a masked sum.
    """
    facts = _willing(site, kept, name)
    if masked_ledger(site).exists() and ledger.holds(masked_ledger(site), wire.read(kept, site=site.name).weights):
        raise Declined(f"{site.name}: this model has entered a masked sum, and leaves in no other way")
    data: bytes | Path = kept
    if site.policy.fisher != "full" and facts["fisher_labels"] != "none":
        data = wire.to_bytes(reduced(site, wire.read(kept, site=site.name)))
    _leaves(site, name, parts.length(data))
    return data


def masked(site: Site, kept: Path, name: str, size: int) -> Contribution:
    """A contribution as the policy lets it enter a masked sum; asked again at every sending.

    Args:
        site: whose policy decides.
        kept: the file of the contribution in full.
        name: its name in the site's ledger of what has left.
        size: of the masked message, in bytes.

    Raises:
        Declined: as for `contribution`.
    """
    _willing(site, kept, name)
    _leaves(site, name, size)
    return reduced(site, wire.read(kept, site=site.name))


def masked_ledger(site: Site) -> Path:
    """The folder of the site's ledger of masked sums (`fedmerge.privacy.ledger`)."""
    return site.work / "masked"


def _willing(site: Site, kept: Path, name: str) -> dict[str, Any]:
    """What a contribution says of itself, where the policy lets it go, in whatever form."""
    policy = site.policy
    if not policy.weights:
        raise Declined(f"{site.name}: policy line 'weights = false': no weights leave this site")
    facts = wire.facts(kept, site=site.name)
    if (cases := facts["cases"]) < policy.min_cases:
        raise Declined(f"{site.name}: policy line 'min_cases = {policy.min_cases}': expected as many, got {cases}")
    others = [entry for entry in (site.work / "sent").glob("*") if entry.name != name]
    if policy.max_contributions is not None and len(others) >= policy.max_contributions:
        raise Declined(
            f"{site.name}: policy line 'max_contributions = {policy.max_contributions}': {len(others)} have left"
        )
    return facts


def _leaves(site: Site, name: str, size: int) -> None:
    """The last of the door: so many bytes of a contribution leave, and are written down."""
    most = site.policy.max_bytes
    if most is not None and size > most:
        raise Declined(f"{site.name}: policy line 'max_bytes = {most}': the contribution has {size}")
    budget.sending(site, name)
    (site.work / "sent").mkdir(parents=True, exist_ok=True)
    (site.work / "sent" / name).touch()


def reduced(site: Site, made: Contribution) -> Contribution:
    """A contribution as the policy lets it go, with as much of the Fisher as may leave."""
    allowed = site.policy.fisher
    if allowed == "full" or made.fisher_labels == "none":
        return made
    kind = "flat" if allowed == "none" else made.fisher_labels
    return dataclasses.replace(made, fisher=coarse(allowed, made.fisher), fisher_labels=kind)


def coarse(allowed: str, fisher: Params) -> Params:
    """A Fisher in full, as its mean over each output channel, or as ones."""
    if allowed == "full":
        return fisher
    if allowed == "none":
        return {name: torch.ones_like(value) for name, value in fisher.items()}
    return {
        name: value.flatten(1).mean(1).view(-1, *[1] * (value.dim() - 1)).expand_as(value).contiguous()
        if value.dim() > 1
        else value
        for name, value in fisher.items()
    }


def scores(site: Site, cases: list[CaseScore]) -> list[CaseScore] | None:
    """Test scores as the policy lets them go: by case (by pseudonym in a deployment), their mean, or none."""
    if not site.policy.metrics:
        return None
    if not site.policy.per_case_metrics:
        return [measures.within(cases[0]).together(cases)] if cases else []
    if site.simulation:
        return cases
    return [{**case, "case": pseudonym(site, case["case"])} for case in cases]


def answer(site: Site, record: Any) -> dict[str, Any]:  # noqa: ANN401 - any record of `tasks`
    """An answer as it may leave: scores, learning curve and loss as the policy says today, whenever they were made."""
    table = tasks.to_table(record)
    for field in ("start", "adapted", "finetuned", "cases"):
        if isinstance(table.get(field), list):
            table[field] = scores(site, table[field])
    if not site.policy.metrics:
        withheld: dict[str, Any] = {"curve": [], "loss": None, "scores": {}, "leave_one_out": {}}
        table |= {field: empty for field, empty in withheld.items() if field in table}
    return table


def pseudonym(site: Site, case: str) -> str:
    """A name for a case that only this site can trace back: an HMAC under a key that never leaves it."""
    return "case-" + hmac.new(_secret(site), case.encode(), "sha256").hexdigest()[:10]


def fingerprint(site: Site, digest: str) -> str:
    """A digest of patients' files as it may leave where they are protected: nobody can test a guess against it."""
    return "sha256:" + hmac.new(_secret(site), digest.encode(), "sha256").hexdigest()


def _secret(site: Site) -> bytes:
    """The key that never leaves."""
    path = site.work / "pseudonyms.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{secrets.token_hex(8)}.key")
        fresh.touch(0o600)
        fresh.write_bytes(secrets.token_bytes(32))
        with suppress(FileExistsError):  # whoever comes second takes the first one's key
            path.hardlink_to(fresh)
        fresh.unlink()
    return path.read_bytes()


def model(site: Site, path: Path) -> dict[str, bytes | Path]:
    """The fine-tuned model as a payload, where the policy releases it, and the landmarks in its card; else none."""
    released = site.policy.release_finetuned and (site.data.landmarks is None or site.policy.landmarks)
    return {"model": path} if released else {}
