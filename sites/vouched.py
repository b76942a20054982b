"""Whose a received model is, by what this site has opened itself, and not by what a server says.

Beside a model lies `DIGEST.json` once it was unsealed, summed up or trained here. A row of a campaign whose server can
read no model takes in no other one: a server could have made it.
"""

import json
from typing import Any

from fedmerge import tasks, whole
from sites.inbound import Declined
from sites.parts import received
from sites.records import Site


def keep(site: Site, digest: str, who: str, change: float | None = None) -> None:
    """Write down whose the model of this digest is, before it is put into its place.

    Args:
        site: the target.
        digest: of the model's bytes.
        who: the source, the group, or `"pooled"`.
        change: how far its training moved it, where that is known.
    """
    whole.write(received(site, digest).with_suffix(".json"), json.dumps({"site": who, "change": change}).encode())


def of(site: Site, digest: str) -> dict[str, Any] | None:
    """What was written down of a model that is there; None where it is not, or came in the clear."""
    path = received(site, digest)
    facts = path.with_suffix(".json")
    if not (path.exists() and facts.exists()):
        return None
    found: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
    return found


def check(site: Site, row: tasks.Row) -> None:
    """Refuse a row with a model that nobody but the server vouches for.

    Raises:
        Declined: names the source.
    """
    if row.trust == "server":
        return
    for who, digest in zip(row.sources, row.digests, strict=True):
        facts = of(site, digest)
        if facts is None or facts["site"] != who:
            got = (
                f"{digest[:15]} came in the clear, or not at all"
                if facts is None
                else f"{digest[:15]} is of {facts['site']}"
            )
            raise Declined(f"{site.name}: expected a model that {who} has sealed or put into a sum, and {got}")
