"""Weights that training moved much farther than at the other sources (`fedmerge.distance`): held for a word.

A single number a site: it finds weights that were scaled, replaced or trained with another rate, not a patient
attacker. With two sources each is the other's median, and nothing tells which of them is odd; so it is reported only.
"""

import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedmerge import distance, whole
from fedmerge.errors import CampaignStopped, ConfigError
from server.ground import Ground
from server.made import Made

log = logging.getLogger("fedmerge")

WORDS, CHANGES = "words.json", "changes.json"


@dataclass(frozen=True)
class Change:
    """One source's change in one chain, and what follows of it.

    Attributes:
        site: the source.
        chain: which independent training of the sources.
        way: how it was trained (`Ground.named`): `"lwf"`, say; `"plain"` where it is the plan's schedule.
        name: digest of the contribution's bytes.
        change: ||theta - start||; None where the start is not known.
        times: change over the median of the other sources'; None where there is none.
        verdict: `"within"`, `"reported"`, `"held"`, `"released"`, or `"unknown"`.
    """

    site: str
    chain: int
    way: str
    name: str
    change: float | None
    times: float | None
    verdict: str


def changes(ground: Ground, way: str | None = None) -> list[Change]:
    """The change of every source in every chain, with its verdict; of one way only where it is named."""
    released = words(ground.store.folder)["released"]
    found = []
    for chain in sorted({number for number, _ in ground.made}):
        for trained, made in _by_training(ground, chain, way).items():
            ratios = distance.times({site: one.change for site, one in made.items() if one.change is not None})
            for site, one in made.items():
                ratio = ratios.get(site)
                beyond, known = ratio is not None and ratio > ground.plan.max_change, len(ratios)
                unknown = one.change is None
                if one.stays is not None:  # the target has measured it, and tells no number
                    name = f"{trained}:{site}" if trained else site
                    said, known = ground.judged.get((chain, name), (None, 0))
                    beyond, unknown = bool(said), said is None
                verdict = "unknown" if unknown else "within"
                if beyond:
                    held = "released" if one.name in released else "held"
                    verdict = held if known >= distance.LEAST else "reported"
                found.append(Change(site, chain, trained or "plain", one.name, one.change, ratio, verdict))
    return found


def _by_training(ground: Ground, chain: int, only: str | None) -> dict[str, dict[str, Made]]:
    """What the sources of a chain made, by way and site: those that trained in one way are each other's measure."""
    found: dict[str, dict[str, Made]] = {}
    for (number, name), made in ground.made.items():
        way, _, site = name.rpartition(":")
        if number == chain and site in ground.plan.sources and only in (None, way):
            found.setdefault(way, {})[site] = made
    return found


def judge(ground: Ground, way: str | None = None) -> list[Change]:
    """The changes, written beside the store, or the end of the campaign until the coordinator has spoken.

    Args:
        ground: the campaign.
        way: only what was made in this way (`Ground.named`): one round of several, say.

    Raises:
        CampaignStopped: names the sources that are held, how far they went, and the commands that say the word.
    """
    found = changes(ground, way)
    table = [asdict(one) | {"times": told(one.times)} for one in found]
    whole.write(ground.store.folder / CHANGES, json.dumps(table, indent=1).encode())
    held = [one for one in found if one.verdict == "held"]
    for one in found:
        if one.verdict in ("held", "reported"):
            log.warning("%s", sentence(one, ground.plan.max_change))
            ground.witness.note(one.site, f"weights {one.verdict}", sentence(one, ground.plan.max_change), one.name)
    if held:
        run, site = run_of(ground.store.folder), held[0].site
        raise CampaignStopped(
            f"{'; '.join(sentence(one, ground.plan.max_change) for one in held)}: held for the coordinator's word. "
            f"`fedmerge server release {run} {site}` takes the weights, `fedmerge server leave-out {run} {site}` goes "
            f"on without them; then resume"
        )
    return found


def sentence(one: Change, most: float) -> str:
    """What is odd about a source, in words."""
    if one.times is None:
        told = f"weights that moved too far beside those of the other sources in chain {one.chain}"
        return f"{one.site}: {told}, as the target measured: expected at most {most:g} times as far as the median"
    far = "although the others stood still" if one.times == math.inf else f"{one.times:.3g} times as far as the median"
    return f"{one.site}: weights that moved {far} of the other sources in chain {one.chain}, expected at most {most:g}"


def told(ratio: float | None) -> float | None:
    """The ratio as JSON has numbers: the largest one where it is infinite."""
    return ratio if ratio is None or math.isfinite(ratio) else 1e308


def run_of(folder: Path) -> str:
    """How a command names the run of a store: by its name below a server's home, else by its folder."""
    out = folder.parent
    return out.parent.name if out.name == "out" and (out.parent / "run.json").exists() else str(out)


def words(folder: Path) -> dict[str, dict[str, Any]]:
    """What the coordinator has said of this run: `released` digests and `left-out` sites, each with the time."""
    path = folder / WORDS
    said = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"released": said.get("released", {}), "left-out": said.get("left-out", {})}


def release(folder: Path, site: str, now: str) -> list[str]:
    """Take the held weights of a source as they are; other weights of the same source are held again.

    Args:
        folder: the run's store.
        site: the source.
        now: the time that is written down.

    Returns:
        digests of the contributions that were released.

    Raises:
        ConfigError: nothing of this site is held.
    """
    names = [one["name"] for one in _judged(folder) if one["site"] == site and one["verdict"] == "held"]
    if not names:
        held = sorted({one["site"] for one in _judged(folder) if one["verdict"] == "held"})
        raise ConfigError(f"{run_of(folder)}: no weights of {site} are held; held are {', '.join(held) or 'none'}")
    said = words(folder)
    said["released"] |= dict.fromkeys(names, now)
    whole.write(folder / WORDS, json.dumps(said, indent=1).encode())
    return names


def undecided(folder: Path) -> list[str]:
    """The sources whose weights are held and of which the coordinator has not spoken yet."""
    said = words(folder)
    return sorted(
        {
            one["site"]
            for one in _judged(folder)
            if one["verdict"] == "held" and one["name"] not in said["released"] and one["site"] not in said["left-out"]
        }
    )


def leave_out(folder: Path, site: str, now: str) -> None:
    """Go on without a source in this run, from its next start on.

    Args:
        folder: the run's store.
        site: the source.
        now: the time that is written down.

    Raises:
        ConfigError: the run has no contribution of this site, or no other one.
    """
    there = sorted({one["site"] for one in _judged(folder)})
    said = words(folder)
    if site not in there:
        known = ", ".join(there) or "(none yet)"
        raise ConfigError(f"{run_of(folder)}: expected one of the sources {known}, got {site}")
    if not set(there) - {site} - said["left-out"].keys():
        raise ConfigError(f"{run_of(folder)}: {site} is the last source; a campaign needs one")
    said["left-out"][site] = now
    whole.write(folder / WORDS, json.dumps(said, indent=1).encode())


def forget(folder: Path, site: str, now: str) -> None:
    """Go on without a source whose contributions are withdrawn, whoever is left."""
    said = words(folder)
    said["left-out"][site] = f"{now}, withdrawn"
    whole.write(folder / WORDS, json.dumps(said, indent=1).encode())


def store_of(run: str, runs: Path | None) -> Path:
    """The store of the run that a command names: the folder of a run, or its name below a server's home.

    Raises:
        ConfigError: there is no such run.
    """
    places = [Path(run)] if runs is None else [Path(run), runs / run / "out"]
    for out in places:
        if (out / "server").is_dir():
            return out / "server"
    known = ", ".join(sorted(path.name for path in runs.glob("*"))) if runs else ""
    raise ConfigError(f"there is no run {run}" + (f"; the server has {known or 'none'}" if runs else ""))


def _judged(folder: Path) -> list[dict[str, Any]]:
    path = folder / CHANGES
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return found
