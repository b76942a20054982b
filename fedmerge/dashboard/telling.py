"""What the files of a campaign say, as the page shows it: sentences, cards, the timeline so far, tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedmerge.pages import markup, timeline
from fedmerge.pages.timeline import lasting, size

TASKS = {
    "query.describe": "reads its cases and describes itself",
    "query.receive": "takes in weights",
    "query.seal": "seals its contribution",
    "query.open": "opens a sealed file",
    "query.judge": "judges what the sources sent",
    "query.hello": "makes keys for a masked sum",
    "query.mask": "masks its contribution",
    "query.sum": "opens a masked sum",
    "query.forget": "forgets the keys of a masked sum",
    "train.contribute": "trains for the consortium",
    "train.pooled": "trains on all cases together",
    "train.admit": "tries whose models to merge",
    "train.adapt": "adapts the merged model",
    "train.pull": "adapts the merged model, step by step",
    "train.finetune": "fine-tunes",
    "evaluate.score": "measures a model on its own cases",
}
MOST_LINES = 600  # of the timeline
MOST_TIMES = 100  # of its table
MOST_NAMED = 3  # sites at work of which the head says what they do
PIXELS = 900  # a drawing is made anew when its end has moved by one
SOONEST_S = 5.0  # of work, before the time left is guessed

Facts = Mapping[str, Any]


def doing(kind: str) -> str:
    """What a site does, from the kind of its task."""
    return TASKS.get(kind, kind)


def bar(progress: Facts | None, now: float) -> dict[str, Any] | None:
    """How far a work is, with a guess of the seconds left; None where that is not known.

    Args:
        progress: `what`, `done`, `total`, and perhaps `began` and `from`: when it was first told of, and how far it
            was then; and `at`: when it was last told of.
        now: seconds since 1970.
    """
    if not progress or not progress.get("total"):
        return None
    done, total = progress["done"], progress["total"]
    told: dict[str, Any] = {"what": str(progress["what"]), "done": done, "total": total, "left_s": None}
    heard = progress.get("at", now)
    passed, made = heard - progress.get("began", heard), done - progress.get("from", done)
    if passed >= SOONEST_S and made > 0:
        told["left_s"] = max(0, round((total - done) * passed / made - (now - heard)))
    return told


def card(name: str, role: str, state: str, words: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - as JSON has it
    """A site's card.

    Args:
        name: the site's.
        role: "source" or "target".
        state: "idle", "asked", "working", "away" or "off".
        words: what it does, or why it does not.
        more: `since`, `progress`, `sent`, `received`, `notes`.
    """
    empty: dict[str, Any] = {"since": None, "progress": None, "sent": None, "received": None, "notes": []}
    return {"name": name, "role": role, "state": state, "words": words, **empty, **more}


def cards(told: Facts, now: float, at_home: Mapping[str, Facts] | None = None) -> list[dict[str, Any]]:
    """The cards of a campaign's sites.

    Args:
        told: `progress.json` of the server's app.
        now: seconds since 1970.
        at_home: site -> its `doing.json`, in a simulation.
    """
    roles, found = told.get("roles", {}), []
    for name, facts in told.get("sites", {}).items():
        state, progress, own = facts["state"], facts["progress"], (at_home or {}).get(name, {})
        if state == "asked" and own.get("kind"):
            state, progress = "working", own.get("progress")
        words = doing(facts["what"]) if facts["what"] else "waits for its turn"
        if state == "away":
            words = f"is not there: {facts['reason']}"
        traffic = {key: facts[key] for key in ("sent", "received")}
        found.append(
            card(name, roles.get(name, ""), state, words, since=facts["since"], progress=bar(progress, now), **traffic)
        )
    return found


def waits(sites: Iterable[Facts]) -> str:
    """For whom a campaign waits, in a sentence; empty where for nobody.

    Args:
        sites: cards.
    """
    cards = [site for site in sites if site["state"] in ("away", "working", "asked")]
    away = [f"{site['name']}, which {site['words']}" for site in cards if site["state"] == "away"]
    there = [site for site in cards if site["state"] != "away"]
    parts = [f"{site['name']}, which {site['words']}{far(site)}" for site in there]
    if len(parts) > MOST_NAMED:
        parts = [f"{len(there)} sites at work: {', '.join(site['name'] for site in there)}"]
    return f"Waits for {'; '.join([*parts, *away])}." if cards else ""


def far(site: Facts) -> str:
    """How far a site is, in brackets; empty where that is not known.

    Args:
        site: its card.
    """
    at = site["progress"] if site["state"] == "working" else None
    left = f", about {lasting(at['left_s'])} left" if at and at["left_s"] else ""
    return f" ({at['what']} {at['done']} of {at['total']}{left})" if at else ""


class Drawing:
    """The timeline so far; drawn anew when there is something to be seen.

    Args:
        clock: whose clock told the times.
    """

    def __init__(self, clock: str = "the server") -> None:
        self._clock = clock
        self._key: tuple[Any, ...] = ()
        self._at = 0.0
        self._drawn: dict[str, str] = {}

    def now(
        self, lines: Sequence[dict[str, Any]], under: Sequence[Facts], now: float, roles: Mapping[str, str]
    ) -> dict[str, str]:
        """`drawing` and `table`, both HTML; empty texts where there is nothing yet.

        Args:
            lines: asks that are over, as in `timeline` of results.json.
            under: asks under way.
            now: seconds since 1970, where those end for the time being.
            roles: site -> role, in the order of the lanes.
        """
        first = min([*(line["begin"] for line in lines[:1]), *(line["begin"] for line in under)], default=now)
        pixel = max(1.0, (now - first) / PIXELS)
        last = max((line["end"] for line in lines), default=0.0)
        key = (len(lines), last, *((u["site"], u["begin"]) for u in under), *roles)
        if key != self._key or not self._drawn or (under and not 0 <= now - self._at < pixel):
            self._key, self._at, self._drawn = key, now, _drawn(lines, under, now, roles, self._clock)
        return self._drawn


def _drawn(
    lines: Sequence[dict[str, Any]], under: Sequence[Facts], now: float, roles: Mapping[str, str], clock: str
) -> dict[str, str]:
    begun = [{"asks": 1, "up": 0, "failed": 0, **u, "end": max(now, u["begin"]), "open": True} for u in under]
    shown = [*lines[-MOST_LINES:], *begun]
    if not shown:
        return {"drawing": "", "table": "", "left_out": ""}
    told: Any = {"timeline": shown, "sites": [{"name": name, "role": role} for name, role in roles.items()]}
    recent = {**told, "timeline": shown[-MOST_TIMES:]}
    left_out = f"The first {len(lines) - MOST_LINES} tasks are not drawn." if len(lines) > MOST_LINES else ""
    return {"drawing": timeline.draw(told, clock), "table": timeline.table(recent), "left_out": left_out}


def traffic(lines: Iterable[Facts]) -> str:
    """Bytes and messages by their kind, as a table in HTML.

    Args:
        lines: of the table `traffic` of results.json; from and to "server".
    """
    kinds: dict[str, list[int]] = {}
    for line in lines:
        numbers = kinds.setdefault(str(line["what"]), [0, 0, 0])
        numbers[0 if line["from"] == "server" else 1] += line["bytes"]
        numbers[2] += line.get("messages", 1)
    order = sorted(kinds.items(), key=lambda item: -item[1][0] - item[1][1])
    if not order:
        return ""
    total = [sum(numbers[i] for numbers in kinds.values()) for i in range(3)]
    rows = [[kind, *_numbers(numbers)] for kind, numbers in [*order, ("together", total)]]
    return markup.table(["kind", "to the sites", "from the sites", "messages"], rows, name="traffic")


def _numbers(numbers: Sequence[int]) -> list[str]:
    return [size(numbers[0]), size(numbers[1]), f"{numbers[2]}"]


def scores(lines: Iterable[Facts], measure: str, total: int) -> str:
    """The mean score of each method over its rows so far, as HTML.

    Args:
        lines: of `rows.jsonl`.
        measure: its name.
        total: how many rows there will be; 0: not known.
    """
    rows: dict[tuple[str, str], dict[tuple[int, ...], dict[str, Facts]]] = {}
    for line in lines:
        place = (line["seed"], line["chain"], line["target_cases"])
        rows.setdefault((line["method"], line["target"]), {}).setdefault(place, {})[line["stage"]] = line
    if not rows:
        return ""
    table, over = [], 0
    for (method, target), places in rows.items():
        ended = [stages["fine-tuned"] for stages in places.values() if "fine-tuned" in stages]
        failed = sum(line["status"] != "ok" for line in ended)
        over += len(ended)
        means = [
            _mean([s[stage]["score"] for s in places.values() if stage in s])
            for stage in ("start", "adapted", "fine-tuned")
        ]
        table.append([method, target, *means, f"{len(ended)}" + (f", {failed} failed" if failed else "")])
    heading = ["method", "target", "at the start", "adapted", "fine-tuned", "rows"]
    of = f" of {total}" if total else ""
    note = f"{over}{of} rows are over. Mean {measure} on the test cases of the rows so far; what may be concluded "
    return (
        markup.table(heading, table, left=2, name="scores so far")
        + f'<p class="quiet">{markup.cell_of(note)}from it, and what not, the page of <code>fedmerge report</code> '
        "says when the run is over.</p>"
    )


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.3f}" if known else "withheld" if values else "–"
