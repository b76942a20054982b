"""The server's side of `benchmarks/transfer.py`: a roll call, then one contribution of each site, timed.

It stands in a bundle in the place of `server.app`, on the exchange that a campaign uses.
"""

import json
import os
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmerge import tasks
from server import home as homes
from server import record
from server.asks import Ask, Conversation
from server.exchange import Exchange
from server.parts import HOLD_S, Way
from server.store import Store

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask every site for what it has trained already; seconds and bytes go to the file `out` of the run config."""
    told = Path(str(context.run_config["out"]))
    asked = json.loads(told.with_suffix(".ask").read_text())
    store = Store(told.with_suffix(".store"))
    exchange = Exchange(
        grid, 1800.0, Way(store.folder / "incoming", "transfer", hold_s=HOLD_S), deployed=True,
        witness=record.of(homes.open(Path(os.environ["FEDMERGE_SERVER"])), "transfer"),
    )  # fmt: skip
    names = sorted(asked["tasks"])
    exchange.roll_call(names, tasks.to_table(tasks.Describe("transfer", (8, 8, 8), 1)), 60.0)
    whole: dict[str, float] = {}
    began = time.monotonic()

    def contribute(site: str) -> Conversation:
        payload = {"start": Path(asked["start"])} if asked["start"] else {}
        answer = yield Ask(site, "train.contribute", asked["tasks"][site], payload, "contribution", asked["most"])
        store.keep_contribution(site, answer.came("contribution", site))
        whole[site] = time.monotonic() - began

    exchange.converse([contribute(site) for site in names])
    sizes = {path.stem: path.stat().st_size for path in (store.folder / "contributions").iterdir()}
    told.write_text(json.dumps({"seconds": time.monotonic() - began, "whole": whole, "sizes": sizes}))
