"""How a site stands with its consortium: is the front door reached, do the clocks agree, what does the roster say."""

from collections.abc import Callable

from sites import reach
from sites.findings import Line
from sites.home import Home

BEHIND_S, AHEAD_S = 305.0, 5.0
"""How far a node's clock may be behind and ahead of the server's: Flower's window of node authentication."""


def door(home: Home, now: Callable[[], float]) -> tuple[list[Line], reach.Knock | None]:
    """One knock at the front door, with the pinned authority: (lines, what it answered or None)."""
    try:
        found = reach.knock(home.address, home.authority, now=now)
    except reach.Unreachable as error:
        return [Line("front door", "error", str(error), error.remedy)], None
    if found.status != 200:
        sentence = f"{home.address} answers, but gives no roster (status {found.status})"
        return [Line("front door", "error", sentence, "ask the coordinator whether the server is up")], found
    sentence = f"{home.address} answers in {1000 * found.took_s:.0f} ms, certified by the consortium's authority"
    return [Line("front door", "ok", sentence), clock(found)], found


def clock(found: reach.Knock) -> Line:
    """Whether the clocks of site and server are near enough for the SuperNode to be let in.

    The window is not the same on both sides: Flower takes a signature that is up to 305 s old, and none from more
    than 5 s in the future. So a clock that is ahead is refused much sooner than one that is behind.
    """
    if found.offset_s is None:
        return Line("clock", "warning", "the front door did not tell its time", "compare the clocks by hand")
    ahead, unsure = found.offset_s, found.unsure_s
    sure = max(abs(ahead) - unsure, 0.0)  # seconds that the clocks are apart at least
    where = "ahead of" if ahead > 0 else "behind"
    sentence = f"this machine's clock is {abs(ahead):.1f} s {where} the server's (within {unsure:.1f} s)"
    if sure == 0:
        sentence = f"this machine's clock agrees with the server's (within {unsure:.1f} s)"
    how = "synchronise the clock: timedatectl set-ntp true, or ask your IT for the time server"
    warning, error = (2.0, AHEAD_S) if ahead > 0 else (60.0, 240.0)
    if sure > error:
        return Line("clock", "error", f"{sentence}; the server refuses such a node", how)
    if sure > warning:
        return Line("clock", "warning", f"{sentence}; refused from {AHEAD_S if ahead > 0 else BEHIND_S:.0f} s on", how)
    return Line("clock", "ok", sentence)
