"""A link that is down for two minutes in the middle of a contribution: it goes on from the bytes that had come."""

import json
import time

import pytest
from deployed import until
from disturbed import PART_BYTES, PATIENCE_S

DOWN_S = 120.0
SLOW = 4_000  # bytes a second, so that a contribution of 21 kB takes some seconds

pytestmark = pytest.mark.slow


def travelled(consortium, site):
    """(bytes of a site's contribution; bytes that came for it; messages to the site; answers that were used)."""
    (path,) = [
        path
        for path in (consortium.out() / "server/contributions").glob("*.safetensors")
        if site.encode() in path.read_bytes()[:4096]
    ]
    lines = json.loads((consortium.out() / "results.json").read_text())["traffic"]
    came = sum(line["bytes"] for line in lines if (line["from"], line["what"]) == (site, "contribution"))
    messages = (sum(line["messages"] for line in lines if line[end] == site) for end in ("to", "from"))
    return path.stat().st_size, came, *messages


@pytest.mark.parametrize("how", ["silent", "reset"])
def test_a_link_that_is_down_for_two_minutes(consortium, undisturbed, table, how):
    """Packets that vanish, or connections that are cut: the site is named, and no part travels a second time."""
    link = consortium.links["north"]
    consortium.submit()
    until(lambda: consortium.steps("north", "Fisher"), PATIENCE_S, consortium)
    link.rate = SLOW
    until(lambda: consortium.arrived() > 0, PATIENCE_S, consortium)
    link.down, link.resets = True, how == "reset"
    if link.resets:
        link.cut()
    began = time.monotonic()
    time.sleep(1.0)
    before = consortium.arrived()
    assert before == PART_BYTES, "the link went down too late"
    until(lambda: "north is not there since" in consortium.log(), DOWN_S, consortium)
    assert "not connected" in consortium.status()
    time.sleep(max(DOWN_S - (time.monotonic() - began), 0.0))
    assert consortium.arrived() >= before
    link.down, link.rate, up = False, 0, time.monotonic()
    until(lambda: consortium.arrived() > before or consortium.kept(), PATIENCE_S, consortium)
    seconds = round(time.monotonic() - up)
    assert consortium.finished() == undisturbed
    size, came, asked, answered = travelled(consortium, "north")
    assert size <= came < size + PART_BYTES, "a part travelled twice"
    print(f"{how}: {asked} messages, {answered} answers")
    table(f"a link down for {DOWN_S:.0f} s, {how}", "transfer", "nothing", seconds)
