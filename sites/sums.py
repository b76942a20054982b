"""What the target alone may read of a group: the sum of its members' models, opened once and kept as one model.

It lies in `received` under its digest, as a contribution of the group's name. From there on a row mixes it like any
other; it has the parameters that all sites share, and no head.
"""

import hashlib
import secrets
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedmerge import nets, params, seals, sums, tasks, whole, wire
from fedmerge.contribution import Contribution
from fedmerge.errors import ConfigError, Refused
from fedmerge.privacy import ledger, masking
from fedmerge.privacy.hello import Agreed
from fedmerge.trust import keys
from sites import masks, outbound, vouched
from sites.inbound import Declined
from sites.parts import received
from sites.records import Site

Payload = dict[str, bytes | Path]


def open_sum(site: Site, task: dict[str, Any], payload: Payload) -> dict[str, Any]:
    """Open a group's sum; opened again, the same bytes lie under the same digest.

    Raises:
        Declined: the hellos are not those of the group that was agreed on, the sum is not of all its members, or the
            masks do not cancel.
    """
    asked = tasks.from_table(sums.Sum, task, "server")
    agreed, net = masks.agree(site, asked.group), tasks.from_table(tasks.Net, asked.net, "server")
    came = payload.get("sum", b"")
    path = came if isinstance(came, Path) else site.work / "opened" / f"{secrets.token_hex(12)}.sum"
    try:
        if isinstance(came, bytes):
            whole.write(path, came)
        together = masks.gathered(site, agreed, asked.hellos, asked.keys, asked.epoch)
        ancestor = wire.open_params(payload.get("ancestor", b""), site="server")
        key = _key(site, agreed)
        weights, fisher = masking.merged(masking.open_sum(path, together, key, ancestor), ancestor)
        digest = params.digest(ancestor)
        made = Contribution(
            site=agreed.group,
            net=nets.canonical(net.settings, in_channels=net.in_channels, out_channels=net.out_channels),
            labels=(),
            channels=(),
            cases=asked.cases,
            ancestor=digest,
            parent=digest,
            weights=weights,
            fisher=fisher,
            fisher_labels=asked.fisher,
            settings=agreed.schema,
        )
        data = wire.to_bytes(made)
    except Refused as error:
        words = str(error).replace(str(path), "the sum").removeprefix(f"{site.name}: ")
        raise Declined(f"{site.name}: {words}") from None
    finally:
        if isinstance(came, bytes):
            path.unlink(missing_ok=True)
    name = f"sha256:{hashlib.sha256(data).hexdigest()}"
    vouched.keep(site, name, agreed.group)
    whole.write(received(site, name), data)
    return tasks.to_table(seals.Opened(name))


def _key(site: Site, agreed: Agreed) -> X25519PrivateKey:
    try:
        return keys.read_exchange(ledger.key_file(outbound.masked_ledger(site), agreed.run, agreed.group))
    except ConfigError:
        raise Declined(f"{site.name}: this site has no key of its hello to {agreed.group} any more") from None
