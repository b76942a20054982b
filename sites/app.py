"""The ClientApp: each handler unpacks a task, calls the function that does it, and packs the answer.

What goes wrong in a site is written to the site's own log. What leaves is a reference to that line, and the sentence
only where it is a refusal: those name tensors, settings and policy lines, never a patient's file.
"""

import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedmerge import campaign, transport
from fedmerge.errors import FedmergeError
from sites import config, inbound, source, target
from sites.config import Site

app = ClientApp()
LOCK = threading.Lock()
Answer = tuple[dict[str, Any], transport.Payload]
Work = Callable[["Here", dict[str, Any], transport.Payload], Answer]


@dataclass(frozen=True)
class Here:
    """The site that this process is, and in a simulation the campaign file that it came from."""

    site: Site
    pooled: Callable[[str], list[Site]] | None


def here(context: Context, to: str) -> Here:
    """The site of a node: its own site.toml in a deployment, in a simulation the site that the message is for.

    Raises:
        Declined: this node is not that site.
    """
    if own := context.node_config.get("site-config"):
        site = config.from_file(Path(str(own)))
        if to != site.name:
            raise inbound.Declined(f"{site.name}: expected a message for this site, got one for {to[:80]!r}")
        return Here(site, None)
    run = context.run_config
    out = campaign.folder(str(run.get("out", "")))
    path, base = campaign.locate(str(run.get("campaign", "")), out)
    names = campaign.residents(campaign.read(path))
    if to not in names:
        raise inbound.Declined(f"expected a message for one of {', '.join(names)}, got one for {to[:80]!r}")
    data = Path(str(run["data"])).absolute() if run.get("data") else None
    work = out / "sites"
    site = config.from_campaign(path, to, work=work / to, data=data, base=base)
    return Here(site, lambda target: config.pooled(path, work=work, data=data, base=base, target=target))


def site_log(site: Site) -> logging.Logger:
    """The site's own log, a file in its working folder that nobody else reads."""
    log = logging.getLogger(f"fedmerge.site.{site.work}")
    with LOCK:
        if log.handlers:
            return log
        site.work.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(site.work / "site.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    return log


def guarded(work: Work) -> Callable[[Message, Context], Message]:
    """A Flower handler around `work`, through which no exception's text gets out by accident."""

    def handle(message: Message, context: Context) -> Message:
        reference, who = secrets.token_hex(4), "the site"
        log = logging.getLogger("fedmerge.site")
        try:
            place = here(context, transport.addressee(message.content))
            who, log = place.site.name, site_log(place.site)
            task, payload = transport.unpack(message.content, "server")
            inbound.check(place.site, message.metadata.message_type.partition(".")[2], task)
            torch.set_num_threads(int(task.get("threads") or task.get("row", {}).get("threads") or 1))
            answer, out = work(place, task, payload)
            return Message(transport.pack(answer, out), reply_to=message)
        except inbound.Declined as error:
            log.warning("[%s] refused: %s", reference, error)
            return Message(Error(code=2, reason=f"{error} [{reference}]"), reply_to=message)
        except FedmergeError as error:
            log.error("[%s] %s", reference, error)  # noqa: TRY400 - the sentence says it all
        except Exception:
            log.exception("[%s] unexpected", reference)
        return Message(Error(code=2, reason=f"the log of {who} has the reason [{reference}]"), reply_to=message)

    return handle


@app.query("describe")
@guarded
def describe(place: Here, task: dict[str, Any], payload: transport.Payload) -> Answer:
    """Who is here, with what; reads the cases, so that bad files are found before anything is trained."""
    return source.describe(place.site, task), {}


@app.query("receive")
@guarded
def receive(place: Here, task: dict[str, Any], payload: transport.Payload) -> Answer:
    """Weights that later tasks refer to."""
    return target.receive(place.site, task, payload), {}


@app.train("contribute")
@guarded
def contribute(place: Here, task: dict[str, Any], payload: transport.Payload) -> Answer:
    """Train at home, take the Fisher, send both through the one door."""
    return source.contribute(place.site, task, payload)


@app.train("pooled")
@guarded
def pooled(place: Here, task: dict[str, Any], payload: transport.Payload) -> Answer:
    """The reference of a simulation: one model trained on all sources' cases."""
    if place.pooled is None:
        raise inbound.Declined(
            f"{place.site.name}: 'pooled' needs all patients in one place, which only a simulation has"
        )
    return source.pooled(place.site, place.pooled(place.site.name), task, payload)


@app.train("adapt")
@guarded
def adapt(place: Here, task: dict[str, Any], payload: transport.Payload) -> Answer:
    """Near adaptation: the whole fit beside the target's data."""
    return target.adapt(place.site, task)


@app.train("pull")
@guarded
def pull(place: Here, task: dict[str, Any], payload: transport.Payload) -> Answer:
    """One step of a far adaptation: weights in, gradient out."""
    return target.pull(place.site, task, payload)


@app.train("finetune")
@guarded
def finetune(place: Here, task: dict[str, Any], payload: transport.Payload) -> Answer:
    """Fine-tuning at the target."""
    return target.finetune(place.site, task, payload)


@app.evaluate("score")
@guarded
def score(place: Here, task: dict[str, Any], payload: transport.Payload) -> Answer:
    """Somebody's weights on this site's test cases."""
    return source.score(place.site, task, payload), {}
