"""The audit log as one page for a data-protection officer: what left, when, to whom, why, and whether the log is whole.

The page is one HTML file without scripts, pictures or links, so that it can be archived and printed as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fedmerge.trust import audit, dates
from fedmerge.trust.audit import Line, Report

WHAT = {
    "task": "settings of a training or of a measurement",
    "answer": "figures: case counts, losses, ratios, and scores where the policy lets them go",
    "contribution": "a trained model: its weights, and how much each of them matters",
    "model": "a fine-tuned model: its weights",
    "weights": "a model's weights",
    "gradient": "how a model's weights should change",
}
WHY = {
    "query.describe": "who is there, with how many cases and which labels",
    "query.receive": "a later task needs it",
    "train.contribute": "training on this site's cases, for the consortium",
    "train.admit": "trying which sources' models to merge, on the target's cases",
    "train.adapt": "fitting the mixing ratios on the target's cases",
    "train.pull": "one step of fitting the mixing ratios",
    "train.finetune": "training the merged model on at the target",
    "evaluate.score": "measuring a model on this site's test cases",
    "roster": "who takes part in the consortium",
    "rotation": "this party has new keys",
    "front door": "a call that the server turned away",
}
HEADINGS = {
    "out": ("What left", "left"),
    "in": ("What came in", "came in"),
    "refused": ("What was refused", "was refused"),
    "note": ("Events at home", "happened"),
}
STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, "Segoe UI", Arial, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1.5rem }
h1 { font-size: 1.7rem; margin: 0 0 .2rem } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem }
p { margin: .4rem 0; max-width: 46rem } .quiet { color: #555 }
.verdict { border-left: .5rem solid; padding: .6rem 1rem; margin: 1.2rem 0; background: #f4f6f4 }
.sound { border-color: #2e7d32 } .bad { border-color: #b71c1c; background: #fbf1f0 }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0 }
.figures div { border: 1px solid #ccc; border-radius: .4rem; padding: .4rem .9rem; min-width: 6rem }
.figures b { display: block; font-size: 1.5rem; line-height: 1.3 }
table { border-collapse: collapse; width: 100%; margin: .6rem 0; font-size: .9rem }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #888; background: #fff; font-weight: 600 }
td.n, th.n { text-align: right; white-space: nowrap }
td small { color: #555; display: block } td.when { white-space: nowrap; font-variant-numeric: tabular-nums }
code { font: .85em ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere }
@page { margin: 14mm 12mm }
@media print { body { margin: 0; padding: 0; max-width: none; font-size: 9.5pt } thead { display: table-header-group }
  table { font-size: 8pt } th, td { padding: .2rem .4rem } tr { break-inside: avoid } h2 { break-after: avoid } }
"""


@dataclass(frozen=True)
class Cover:
    """What the page says besides the log.

    Attributes:
        owner: a site's name, or `audit.SERVER`.
        consortium: its name.
        key: fingerprint of the key that signs the log.
        made: when the page is made, seconds since 1970.
        policy: the site's policy in sentences; empty: the page has no such part.
        witness: a sentence on the other side's record of this log's heads; empty: nobody was asked.
        gone: how many heads the other side saw that the log does not have.
    """

    owner: str
    consortium: str
    key: str
    made: float
    policy: tuple[str, ...] = ()
    witness: str = ""
    gone: int = 0


def page(report: Report, cover: Cover) -> str:
    """The whole page.

    Args:
        report: of `audit.verify`; the lines up to the first bad one are shown.
        cover: the rest.
    """
    ours = cover.owner == audit.SERVER
    who = f"the server of {cover.consortium}" if ours else f"the site {cover.owner}"
    title = f"Audit log of {who}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">{escape(_period(report.lines))} Consortium: {escape(cover.consortium)}. '
        f"Page made {escape(_when(dates.text(cover.made)))}.</p>",
        _verdict(report, cover),
        _figures(report.lines),
        _meaning(who, ours=ours),
    ]
    for way in ("out", "in", "refused", "note"):
        body.append(_summary(way, [line for line in report.lines if line.way == way]))
    if cover.policy:
        body.append("<h2>What the site's policy says today</h2><ul>")
        body += [f"<li>{escape(sentence)}</li>" for sentence in cover.policy]
        body.append("</ul>")
    body += [_every(report.lines), _check(report, cover)]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _verdict(report: Report, cover: Cover) -> str:
    if not report.sound:
        text = (
            f"<b>The log was changed or damaged: line {report.bad} is bad.</b> {escape(report.reason.capitalize())}. "
            f"The {report.bad - 1} lines before it are good, and shown below; nothing after them can be relied on."
        )
    elif cover.gone:
        text = (
            "<b>Lines of the log are gone.</b> Those that are there follow from each other, but the other side has "
            "seen the log with lines that it does not have any more."
        )
    elif not report.lines:
        text = "<b>The log is empty.</b> Nothing has come, left or been refused."
    else:
        text = (
            f"<b>The log is whole.</b> Each of its {len(report.lines)} lines follows from the line before, "
            "and is signed by its owner."
        )
    if cover.witness:
        text += f" {escape(cover.witness)}"
    good = report.sound and not cover.gone
    return f'<div class="verdict {"sound" if good else "bad"}">{text}</div>'


def _figures(lines: Sequence[Line]) -> str:
    boxes = []
    for way in ("out", "in", "refused"):
        of = [line for line in lines if line.way == way]
        size = f"{_size(sum(line.size for line in of))}" if way != "refused" else "see below" if of else "nothing"
        boxes.append(f"<div>{HEADINGS[way][1]}<b>{len(of)}</b>{size}</div>")
    peers = sorted({line.peer for line in lines if line.way == "out" and line.peer})
    boxes.append(f"<div>went to<b>{len(peers)}</b>{escape(', '.join(peers[:5])) or 'nobody'}</div>")
    return f'<div class="figures">{"".join(boxes)}</div>'


def _meaning(who: str, *, ours: bool) -> str:
    other = "a hospital" if ours else "the consortium's server"
    return (
        f"<p>This page lists everything that {escape(who)} sent to {other}, got from it, or refused. It was made from "
        "the log that the program writes before anything leaves. Images, label maps and names of patients are not part "
        "of any message of this program; what leaves are the kinds of data in the first table. A digest identifies the "
        "very bytes that were sent.</p>"
    )


def _summary(way: str, lines: Sequence[Line]) -> str:
    """A table of what came or went, one row for what is alike."""
    heading, _ = HEADINGS[way]
    if not lines:
        return f"<h2>{heading}</h2><p>Nothing.</p>"
    groups: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        reason = line.reason if way in ("refused", "note") else ""
        groups.setdefault((line.what, line.purpose, line.campaign, line.peer, reason), []).append(line)
    rows = []
    for (what, purpose, campaign, peer, reason), of in groups.items():
        times = _cell(of[0].at) + ("" if of[0].at == of[-1].at else f"to {_cell(of[-1].at)}")
        cells = [f'<td class="when">{times}</td>', f"<td>{_plainly(what, WHAT)}</td>"]
        cells.append(f"<td>{_plainly(purpose, WHY)}</td>" if way != "note" else "")
        cells.append(f"<td>{escape(reason)}</td>" if way in ("refused", "note") else "")
        cells += [f"<td>{escape(campaign)}</td>", f"<td>{escape(peer)}</td>", f'<td class="n">{len(of)}</td>']
        cells.append(f'<td class="n">{_size(sum(line.size for line in of))}</td>' if way in ("out", "in") else "")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    whom = {"out": "to", "in": "from", "refused": "from", "note": "about"}[way]
    names = ["when", "what", *(["why"] if way != "note" else []), *(["reason"] if way in ("refused", "note") else [])]
    names += ["campaign", whom]
    head = "".join(f"<th>{name}</th>" for name in names) + '<th class="n">times</th>'
    head += '<th class="n">size</th>' if way in ("out", "in") else ""
    return f"<h2>{heading}</h2><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _every(lines: Sequence[Line]) -> str:
    """All lines, one a row."""
    if not lines:
        return ""
    rows = [
        f'<tr><td class="n">{line.n}</td><td class="when">{_cell(line.at)}</td><td>{line.way}</td>'
        f"<td>{escape(line.what)}{_small(line.reason)}</td><td>{escape(line.purpose)}</td><td>{escape(line.peer)}</td>"
        f'<td class="n">{_size(line.size) if line.size else ""}</td>'
        f"<td><code>{escape(line.digest.removeprefix('sha256:')[:16])}</code></td></tr>"
        for line in lines
    ]
    names = ("when", "way", "what", "why", "with whom")
    head = '<th class="n">line</th>' + "".join(f"<th>{name}</th>" for name in names)
    head += '<th class="n">size</th><th>digest begins</th>'
    return f"<h2>Every line</h2><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _check(report: Report, cover: Cover) -> str:
    facts = (
        ("file", str(report.path)),
        ("lines", str(len(report.lines))),
        ("head after the last good line", report.head),
        ("fingerprint of the key that signs", cover.key),
    )
    rows = "".join(f"<tr><td>{name}</td><td><code>{escape(value)}</code></td></tr>" for name, value in facts)
    return (
        "<h2>How to check this page</h2><p>Run <code>fedmerge audit verify</code> on the folder that the log lies in; "
        "with the other side's folder, or a copy of its log, as a second argument it also finds lines that were cut "
        "off at the end. The head below is the SHA-256 of the last line: as long as it is the same, so is every line "
        f"before it.</p><table><tbody>{rows}</tbody></table>"
    )


def _period(lines: Sequence[Line]) -> str:
    return f"From {_when(lines[0].at)} to {_when(lines[-1].at)}." if lines else "Nothing has happened yet."


def _when(text: str) -> str:
    """A moment as people read it."""
    return text.replace("T", " ").replace("Z", " UTC")


def _cell(text: str) -> str:
    """A moment on two short lines."""
    day, _, time = text.partition("T")
    return f"{day}<small>{time.replace('Z', ' UTC')}</small>"


def _plainly(word: str, known: dict[str, str]) -> str:
    """A word of the log in plain words, with the word itself below."""
    return f"{escape(known[word])}{_small(word)}" if word in known else escape(word)


def _small(text: str) -> str:
    return f"<small>{escape(text)}</small>" if text else ""


def _size(count: int) -> str:
    """Bytes in the unit that people read."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} bytes"
