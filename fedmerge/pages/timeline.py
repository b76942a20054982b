"""The campaign as a drawing: a lane a site, a bar for what it was asked, and what moved at the bar's ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fedmerge.pages import colours, markup

if TYPE_CHECKING:
    from fedmerge.results import Results

LEFT, RIGHT, LANE, TOP = 96, 18, 46, 26
WIDTH = 1040
PAUSE = 0.08  # of the working time: a longer time in which no site works is cut
GAP = 26  # pixels of a cut
SIZES = 115  # pixels that the sizes of a line take
LONG = 10**12  # seconds; no campaign lasts so long
NAMES = {"contribution": "training and sending", "far step": "adaptation, step by step"}


@dataclass(frozen=True)
class Stretch:
    """A time in which somebody works, and where it lies on the drawing."""

    begin: float
    end: float
    x: float
    scale: float


def draw(results: "Results", clock: str = "the server") -> str:
    """The drawing and its key; a sentence where no times were recorded.

    Args:
        results: of a run, or of its part so far.
        clock: whose clock told the times.
    """
    lines = [line for line in results.get("timeline", []) if line["end"] >= line["begin"]]
    if not lines:
        return "<p>This run recorded no times: it was made by an older version, or these results lack them.</p>"
    stretches = stretch(lines)
    sites = list(dict.fromkeys(site["name"] for site in results.get("sites", [])))
    sites += [name for name in dict.fromkeys(line["site"] for line in lines) if name not in sites]
    height = TOP + LANE * len(sites) + 26
    body = [_axis(stretches, height)]
    roles = {site["name"]: site["role"] for site in results.get("sites", [])}
    for i, name in enumerate(sites):
        own = sorted((line for line in lines if line["site"] == name), key=lambda line: float(line["begin"]))
        body.append(_lane(name, roles.get(name, ""), own, stretches, TOP + LANE * i))
    title = "Timeline of the campaign: what each site was asked, and when"
    svg = f'<svg class="timeline" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">{"".join(body)}</svg>'
    return markup.wide(svg, "timeline", " figure") + _key(lines, clock)


def stretch(lines: Sequence[dict[str, Any]]) -> list[Stretch]:
    """The times in which anybody works, laid side by side; long pauses between them are cut.

    Args:
        lines: of `timeline`.
    """
    busy: list[list[float]] = []
    for line in sorted(lines, key=lambda line: line["begin"]):
        if busy and line["begin"] <= busy[-1][1]:
            busy[-1][1] = max(busy[-1][1], line["end"])
        else:
            busy.append([line["begin"], line["end"]])
    total = sum(end - begin for begin, end in busy) or 1.0
    joined = [busy[0]]
    for begin, end in busy[1:]:
        if begin - joined[-1][1] <= PAUSE * total:
            joined[-1][1] = end
        else:
            joined.append([begin, end])
    room = WIDTH - LEFT - RIGHT - GAP * (len(joined) - 1)
    scale = room / (sum(end - begin for begin, end in joined) or 1.0)
    found, x = [], float(LEFT)
    for begin, end in joined:
        found.append(Stretch(begin, end, x, scale))
        x += (end - begin) * scale + GAP
    return found


def place(stretches: Sequence[Stretch], moment: float) -> float:
    """Where a moment lies, in pixels from the left."""
    for one in stretches:
        if moment <= one.end:
            return one.x + max(0.0, moment - one.begin) * one.scale
    last = stretches[-1]
    return last.x + (last.end - last.begin) * last.scale


def _axis(stretches: Sequence[Stretch], height: int) -> str:
    """Hours or minutes since the start, and how long a cut is."""
    start = stretches[0].begin
    parts = []
    step = _round(sum(one.end - one.begin for one in stretches) / 8)
    for one in stretches:
        first = -(-(one.begin - start) // step)
        while (at := first * step) <= one.end - start:
            x = place(stretches, start + at)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 22}"/>')
            parts.append(f'<text class="axis" x="{x:.1f}" y="{height - 8}" text-anchor="middle">{lasting(at)}</text>')
            first += 1
    for before, after in pairwise(stretches):
        x = after.x - GAP / 2
        parts.append(f'<line class="cut" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 22}"/>')
        pause = lasting(after.begin - before.end)
        parts.append(f'<text class="axis" x="{x:.1f}" y="{TOP - 12}" text-anchor="middle">pause of {pause}</text>')
    return "".join(parts)


def _lane(name: str, role: str, lines: Sequence[dict[str, Any]], stretches: Sequence[Stretch], y: int) -> str:
    parts = [
        f'<text class="lane" x="{LEFT - 10}" y="{y + 20}" text-anchor="end">{escape(_short(name))}</text>',
        f'<text class="axis" x="{LEFT - 10}" y="{y + 34}" text-anchor="end">{escape(role)}</text>',
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y + 26}" y2="{y + 26}"/>',
    ]
    ends = [*(place(stretches, line["begin"]) for line in lines[1:]), WIDTH]
    for line, after in zip(lines, ends):
        a, b = place(stretches, line["begin"]), place(stretches, line["end"])
        wide = max(b - a, 1.5)
        words = f"{name}: {told(line)}"
        failed = ' class="failed"' if line["failed"] == line["asks"] else ' class="open"' if "open" in line else ""
        parts.append(
            f'<g{failed}><title>{escape(words)}</title><rect x="{a:.1f}" y="{y + 14}" width="{wide:.1f}" height="24" '
            f'rx="2" fill="{colours.phase(line["what"])}"/>'
        )
        inside = NAMES.get(line["what"], line["what"])
        if wide > 7.2 * len(inside):
            parts.append(f'<text class="inside" x="{a + wide / 2:.1f}" y="{y + 30}">{escape(inside)}</text>')
        sizes = f"↓ {size(line['down'])}  ↑ {size(line['up'])}"
        if wide > SIZES:
            parts.append(f'<text class="axis" x="{a + wide / 2:.1f}" y="{y + 10}" text-anchor="middle">{sizes}</text>')
        elif after - b > SIZES:
            parts.append(f'<text class="axis" x="{b + 6:.1f}" y="{y + 30}">{sizes}</text>')
        parts.append("</g>")
    return "".join(parts)


def _key(lines: Sequence[dict[str, Any]], clock: str) -> str:
    kinds: dict[str, str] = {}
    for line in lines:
        kinds.setdefault(colours.phase(line["what"]), NAMES.get(line["what"], line["what"]))
    kinds[colours.OTHER] = "roll call, handing out models"
    whole = max(line["end"] for line in lines) - min(line["begin"] for line in lines)
    marks = "".join(
        f'<li><span class="mark" style="background:{colour}"></span>{escape(name)}</li>'
        for colour, name in kinds.items()
    )
    return (
        f'<ul class="key">{marks}</ul><p class="quiet">In all {lasting(whole)}. ↓ is what went to the site, ↑ what '
        f"came back. A bar runs from the first message to the answer, by {escape(clock)}'s clock; transfer is part of "
        "it.</p>"
    )


def table(results: "Results") -> str:
    """The lines of the timeline in words and figures, for those who do not see the drawing."""
    lines = results.get("timeline", [])
    if not lines:
        return ""
    start = min(line["begin"] for line in lines)
    rows = [
        [line["site"], line["what"], line["about"], lasting(line["begin"] - start),
         lasting(line["end"] - line["begin"]), str(line["asks"]), size(line["down"]), size(line["up"])]
        for line in lines
    ]  # fmt: skip
    return markup.table(
        ["site", "what", "about", "began after", "took", "asks", "to the site", "from it"], rows, left=3, name="times"
    )


def told(line: dict[str, Any]) -> str:
    """A line in a sentence."""
    about = f" ({line['about']})" if line["about"] else ""
    asks = f", {line['asks']} messages" if line["asks"] > 1 else ", not over yet" if "open" in line else ""
    bad = f", {line['failed']} without a usable answer" if line["failed"] else ""
    return (
        f"{NAMES.get(line['what'], line['what'])}{about}, {lasting(line['end'] - line['begin'])}{asks}{bad}; "
        f"{size(line['down'])} to it, {size(line['up'])} from it"
    )


def size(number: int) -> str:
    """Bytes for readers.

    Example:
        >>> size(81), size(578_164), size(2_308_046)
        ('81 B', '578 kB', '2.3 MB')
    """
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if number >= 10**power:
            value = number / 10**power
            return f"{value:.1f} {unit}" if value < 10 and power > 3 else f"{value:.0f} {unit}"
    return f"{number} B"


def lasting(seconds: float) -> str:
    """A time for readers.

    Example:
        >>> lasting(0.4), lasting(75), lasting(7260), lasting(200_000)
        ('0.4 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, small, large, part in (("min", "s", 3600, 60), ("h", "min", 86_400, 3600), ("d", "h", LONG, 86_400)):
        if 60 <= whole < large:
            rest = whole % part // (part // (24 if unit == "d" else 60))
            return f"{whole // part} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def _round(seconds: float) -> float:
    """The next step of an axis that reads well."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
    return next((step for step in steps if step >= seconds), 86_400 * -(-seconds // 86_400))


def _short(name: str) -> str:
    """A name that has room beside its lane; names that begin alike often end otherwise."""
    return name if len(name) <= 12 else f"{name[:5]}…{name[-6:]}"
