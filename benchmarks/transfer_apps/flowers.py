"""Both sides of the rival in `benchmarks/transfer.py`: Flower's own way for the same bytes, one message each way."""

import json
import time
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

app = ServerApp()
client = ClientApp()


def records(*paths: str) -> RecordDict:
    """Files as arrays of plain bytes: no conversion on either side, so the cheapest that Flower has."""
    arrays = {}
    for number, path in enumerate(filter(None, paths)):
        data = Path(path).read_bytes()
        arrays[str(number)] = Array(dtype="uint8", shape=(len(data),), stype="bytes", data=data)
    return RecordDict({"arrays": ArrayRecord(arrays)}) if arrays else RecordDict({"none": ConfigRecord({})})


@client.query("hello")
def hello(message: Message, context: Context) -> Message:
    """The site is there."""
    return Message(records(), reply_to=message)


@client.train("contribute")
def contribute(message: Message, context: Context) -> Message:
    """What the site has trained already."""
    return Message(records(str(context.node_config["contribution"])), reply_to=message)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask every site for what it has trained already; seconds and bytes go to the file `out` of the run config."""
    told = Path(str(context.run_config["out"]))
    asked = json.loads(told.with_suffix(".ask").read_text())
    while len(nodes := {node.name: node.node_id for node in grid.get_nodes()}) < len(asked["tasks"]):
        time.sleep(0.5)
    grid.send_and_receive([Message(records(), node, "query.hello") for node in nodes.values()])
    began = time.monotonic()
    content = [(records(asked["start"]), node) for node in nodes.values()]
    replies = list(grid.send_and_receive([Message(one, node, "train.contribute") for one, node in content]))
    seconds = time.monotonic() - began
    names = {node: name for name, node in nodes.items()}
    sizes = {
        names[reply.metadata.src_node_id]: sum(
            len(a.data) for r in reply.content.array_records.values() for a in r.values()
        )
        for reply in replies
    }
    told.write_text(json.dumps({"seconds": seconds, "whole": {}, "sizes": sizes}))
