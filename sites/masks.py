"""What a source puts into a masked sum: its hello, and its model under the masks of its group (`docs/mask.md`).

The server names the group; who is in it, with which keys and weights, the site checks for itself before it masks. The
ledger lets each model into one sum, and gives out the key of a hello to nobody else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmerge import params, sums, tasks, whole, wire
from fedmerge.errors import Refused
from fedmerge.params import Params
from fedmerge.privacy import hello, ledger, masking, message, transcript
from fedmerge.privacy.hello import Agreed, Hello
from fedmerge.privacy.transcript import LEAST, Transcript
from sites import correspondence, outbound, sealing
from sites.inbound import Declined
from sites.records import Site

Payload = dict[str, bytes | Path]


def greet(site: Site, task: dict[str, Any]) -> dict[str, Any]:
    """The site's hello to a group, as a member or as its target; the same one whenever it is asked for.

    Raises:
        Declined: the policy takes no part, the group is too small or without this site, or another hello was said.
    """
    asked = tasks.from_table(sums.Greet, task, "server")
    agreed = agree(site, asked.group)
    try:
        key = ledger.begin(outbound.masked_ledger(site), agreed.run, agreed.group)
        made = hello.greet(agreed, site.name, key, correspondence.own(site).signing)
        hello.check(made, made.role)
        if (said := _said(site, agreed)) is not None and said.signed() != made.signed():
            raise Declined(f"{site.name}: this site has said another hello to {agreed.group} of run {agreed.run}")
        whole.write(_beside_key(site, agreed, ".hello"), made.encode())  # a renewed signing key signs it anew
    except Refused as error:
        raise _declined(site, error) from None
    return tasks.to_table(sums.Greeted(made.encode().decode()))


def mask(site: Site, task: dict[str, Any], payload: Payload) -> tuple[dict[str, Any], Payload]:
    """What a task made, under the masks of its group; asked again, the same bytes.

    Raises:
        Declined: the policy does not let it go, nothing was made, the hellos are not those of the group that was agreed
            on, or the ledger has the model in another sum.
    """
    asked = tasks.from_table(sums.Mask, task, "server")
    agreed = agree(site, asked.group)
    kept = sealing.kept(site, asked.key)
    if not kept.exists():
        raise Declined(f"{site.name}: there is nothing that the task {asked.key} made")
    try:
        together = gathered(site, agreed, asked.hellos, asked.keys, asked.epoch)
        target = correspondence.peer(site, agreed.target, asked.keys.get(agreed.target, {}), asked.epoch)
        outbound.check_receiver(site, agreed.target, target.fingerprint)
        said = _said(site, agreed)
        if said is None or together.of(site.name).signed() != said.signed():
            raise Declined(f"{site.name}: the hello in this site's name is not the one that it has said")
        ancestor = wire.open_params(payload.get("ancestor", b""), site="server")
        _check_start(site, kept, ancestor)
        size = message.length({name: tuple(value.shape) for name, value in ancestor.items()}, [site.name])
        made = outbound.masked(site, kept, asked.key, size)
        home = outbound.masked_ledger(site)
        pieces = masking.mask(made.weights, made.fisher, ancestor, together, site.name, home)
        out = _beside_key(site, agreed, ".masked")
        whole.write(out, pieces)
    except Refused as error:
        raise _declined(site, error) from None
    return tasks.to_table(sums.Masked(together.digest)), {"message": out}


def forget(site: Site, task: dict[str, Any]) -> dict[str, Any]:
    """Forget the key of a sum that was opened; a target keeps its own, which shows it no more than it has."""
    agreed = tasks.from_table(sums.Forget, task, "server").group.agreed
    if site.name != agreed.target:
        _beside_key(site, agreed, ".masked").unlink(missing_ok=True)
        ledger.forget(outbound.masked_ledger(site), agreed.run, agreed.group)
    return tasks.to_table(sums.Forgotten(agreed.run))


def agree(site: Site, group: sums.Group) -> Agreed:
    """What the plan says of a group, where this site takes part in such a one.

    Raises:
        Declined: names the line of the policy, or what is wrong with the group.
    """
    agreed = group.agreed
    if site.name not in {*agreed.weights, agreed.target}:
        raise Declined(f"{site.name}: this site is neither a member of {agreed.group} nor its target")
    if (site.role == "target") != (site.name == agreed.target):
        raise Declined(f"{site.name}: this site is a {site.role}, and {agreed.group} has it as something else")
    if len(agreed.weights) < LEAST:
        raise Declined(f"{site.name}: a masked group expected at least {LEAST} members, got {len(agreed.weights)}")
    if site.name != agreed.target:
        outbound.check_trust(site, "group")
    return agreed


def gathered(site: Site, agreed: Agreed, hellos: Sequence[str], told: Mapping[str, Any], epoch: int = 0) -> Transcript:
    """The transcript of the group, checked against the keys that this site knows for itself.

    Args:
        site: who asks.
        agreed: from `agree`.
        hellos: as the server brought them.
        told: in a simulation, name -> public keys.
        epoch: of the roster that the server goes by.

    Raises:
        Refused: as `privacy.transcript.gather` does, or a hello that is none, or a site whose keys are unknown.
    """
    signing = {site.name: correspondence.own(site).signing.public_key()}
    for name in {*agreed.weights, agreed.target} - {site.name}:
        its = told.get(name, {})
        signing[name] = correspondence.peer(site, name, its if isinstance(its, dict) else {}, epoch).signing
    found = [hello.read_hello(text.encode(), f"hello {k}") for k, text in enumerate(hellos, 1)]
    return transcript.gather(found, agreed, signing)


def _check_start(site: Site, kept: Path, ancestor: Params) -> None:
    """Differences are summed: a model enters that was trained from this ancestor and from no other site's weights."""
    facts, digest = wire.facts(kept, site=site.name), params.digest(ancestor)
    if facts["ancestor"] != digest or facts["parent"] != digest:
        raise Refused("the model that was trained here did not start from this ancestor")


def _said(site: Site, agreed: Agreed) -> Hello | None:
    """The hello that this site has said to a group already."""
    path = _beside_key(site, agreed, ".hello")
    return hello.read_hello(path.read_bytes(), site.name) if path.exists() else None


def _beside_key(site: Site, agreed: Agreed, ending: str) -> Path:
    return ledger.key_file(outbound.masked_ledger(site), agreed.run, agreed.group).with_suffix(ending)


def _declined(site: Site, error: Refused) -> Declined:
    return Declined(f"{site.name}: {str(error).removeprefix(f'{site.name}: ')}")
