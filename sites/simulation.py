"""The sites of a simulation: whose message it is, and an answer from here. Not for hospitals, which have an agent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmerge import campaign
from fedmerge.transport import Letter
from sites import config
from sites.client import Failed
from sites.service import Service


def answer(kind: str, letter: Letter, run: Mapping[str, Any]) -> Letter:
    """What the site that the message is for answers.

    Args:
        kind: Flower's message type.
        letter: what the server wrote.
        run: the run config, with the campaign file that all sites are in.

    Raises:
        Failed: the site refuses, or the work failed.
    """
    out = campaign.folder(str(run.get("out", "")))
    path, base = campaign.locate(str(run.get("campaign", "")), out)
    names = campaign.residents(campaign.read(path))
    if letter.to not in names:
        raise Failed(f"expected a message for one of {', '.join(names)}, got one for {letter.to[:80]!r}")
    data = Path(str(run["data"])).absolute() if run.get("data") else None
    work = out / "sites"
    site = config.from_campaign(path, letter.to, work=work / letter.to, data=data, base=base)
    service = Service(lambda: site, lambda: config.pooled(path, work=work, data=data, base=base, target=letter.to))
    return service.answer(kind, letter)
