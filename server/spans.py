"""When each site was at what: the lines of `timeline` in results.json.

A line is an ask and its answer. Asks of one site that follow each other about the same (the steps of a far fit, the
parts of a roll call) are one line, with their number and their bytes together.
"""

import json
from typing import Any

from fedmerge import parts
from server.asks import Ask, Payload


def add(timeline: list[dict[str, Any]], ask: Ask, times: tuple[float, float], down: int, up: int | None) -> None:
    """Write an ask that is over into the timeline.

    Args:
        timeline: its lines, in the order in which the asks ended.
        ask: it.
        times: when it left for the site and when it was over, in seconds since 1970.
        down: bytes to the site.
        up: bytes of the answer; None where there was none, or one that was refused.
    """
    about, (begin, end) = _about(ask.task), times
    last = next((line for line in reversed(timeline) if line["site"] == ask.site), None)
    if last and (last["what"], last["about"]) == (ask.what, about):
        last.update(
            begin=min(last["begin"], begin), end=max(last["end"], end), asks=last["asks"] + 1,
            down=last["down"] + down, up=last["up"] + (up or 0), failed=last["failed"] + (up is None),
        )  # fmt: skip
        return
    timeline.append({
        "site": ask.site, "what": ask.what, "about": about, "begin": begin, "end": end, "asks": 1,
        "down": down, "up": up or 0, "failed": int(up is None),
    })  # fmt: skip


def begun(ask: Ask, begin: float, down: int) -> dict[str, Any]:
    """What is known of an ask under way.

    Args:
        ask: it.
        begin: when it left for the site, in seconds since 1970.
        down: bytes to the site.
    """
    return {"site": ask.site, "what": ask.what, "about": _about(ask.task), "begin": begin, "down": down}


def size(task: dict[str, Any], payload: Payload) -> int:
    """Bytes of a task or an answer, and of what goes with it."""
    return len(json.dumps(task).encode()) + sum(map(parts.length, payload.values()))


def _about(task: dict[str, Any]) -> str:
    """The row or the chain that a task belongs to; an empty text for what belongs to all."""
    row = task.get("row", task)
    if label := row.get("label"):
        return str(label)
    return f"chain {task['chain']}" if "chain" in task else ""
