"""Flower's records: a task as JSON and its payloads as plain bytes. The one module of the library that knows Flower.

Both sides need the same few lines, and neither may import the other. Payloads travel as arrays of bytes whose
content is safetensors; neither pickle nor numpy's formats are involved.
"""

import json
from collections.abc import Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedmerge.errors import Refused

Payload = dict[str, bytes]


def pack(task: Mapping[str, Any], payload: Mapping[str, bytes] | None = None, to: str = "") -> RecordDict:
    """One record of the task, as JSON, with the site that it is for, and one of its payloads, as bytes by name."""
    arrays = {
        name: Array(dtype="uint8", shape=(len(data),), stype="bytes", data=data)
        for name, data in (payload or {}).items()
    }
    records: dict[str, Any] = {"task": ConfigRecord({"json": json.dumps(task), "to": to})}
    if arrays:
        records["payload"] = ArrayRecord(arrays)
    return RecordDict(records)


def unpack(content: RecordDict, who: str) -> tuple[dict[str, Any], Payload]:
    """What `pack` packed.

    Args:
        content: the records of a message.
        who: the sender, for the sentence of a refusal.

    Raises:
        Refused: the records are not of this form.
    """
    try:
        task = json.loads(str(content.config_records["task"]["json"]))
    except (KeyError, ValueError):
        raise Refused(f"{who}: expected a message with a task in JSON, got another one") from None
    if not isinstance(task, dict):
        raise Refused(f"{who}: expected a JSON object as the task, got {type(task).__name__}")
    payload: Payload = {}
    for record in content.array_records.values():
        for name, array in record.items():
            if array.stype != "bytes" or array.shape != (len(array.data),):
                raise Refused(f"{who}: payload '{name}' expected plain bytes, got {array.stype}")
            payload[name] = array.data
    return task, payload


def addressee(content: RecordDict) -> str:
    """The site that a message is for: several may share one node of a simulation; "" where the message names none."""
    record = content.config_records.get("task")
    return str(record.get("to", "")) if record is not None else ""


def size(content: RecordDict) -> int:
    """Bytes of the task and its payloads, without Flower's own envelope."""
    tasks = sum(len(str(record.get("json", ""))) for record in content.config_records.values())
    return tasks + sum(len(a.data) for record in content.array_records.values() for a in record.values())
