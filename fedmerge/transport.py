"""Flower's records: a task as JSON and its payloads as plain bytes. The one module of the library that knows Flower.

Both sides need the same few lines, and neither may import the other. Payloads travel as arrays of bytes whose
content is safetensors; neither pickle nor numpy's formats are involved. Beside the task stand the site that it is for,
the head of the sender's audit log, and a note: what the two sides' machinery tells each other (`docs/protocol.md`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedmerge.errors import Refused

Payload = dict[str, bytes]

MOST_TEXT = 2 * 2**20  # characters of a task: the scores of some ten thousand cases

KINDS = (
    "query.describe", "query.receive", "query.seal", "query.open", "query.judge", "train.contribute", "train.pooled",
    "train.admit", "train.adapt", "train.pull", "train.finetune", "evaluate.score",
    "query.job", "query.have", "query.put", "query.part",
    "query.hello", "query.mask", "query.sum", "query.forget",
)  # fmt: skip
"""Flower's message types: what the plan asks for, what carries large payloads and long work, and masked sums."""


@dataclass(frozen=True)
class Letter:
    """What one side tells the other.

    Attributes:
        task: a record of `fedmerge.tasks` as a table.
        payload: byte strings by name.
        note: what the machinery adds; see `docs/protocol.md`.
        head: digest of the last line of the sender's audit log; an empty text where it keeps none.
        to: the site that it is for.
    """

    task: dict[str, Any]
    payload: Payload = field(default_factory=dict)
    note: dict[str, Any] = field(default_factory=dict)
    head: str = ""
    to: str = ""


def pack(
    task: Mapping[str, Any],
    payload: Mapping[str, bytes] | None = None,
    to: str = "",
    *,
    head: str = "",
    note: Mapping[str, Any] | None = None,
) -> RecordDict:
    """One record of the task, as JSON, with the fields of a `Letter`, and one of its payloads, as bytes by name."""
    arrays = {
        name: Array(dtype="uint8", shape=(len(data),), stype="bytes", data=data)
        for name, data in (payload or {}).items()
    }
    facts: dict[str, Any] = {"json": json.dumps(task), "to": to}
    if head:
        facts["head"] = head
    if note:
        facts["note"] = json.dumps(note)
    records: dict[str, Any] = {"task": ConfigRecord(facts)}
    if arrays:
        records["payload"] = ArrayRecord(arrays)
    return RecordDict(records)


def read(content: RecordDict, who: str) -> Letter:
    """What `pack` packed.

    Args:
        content: the records of a message.
        who: the sender, for the sentence of a refusal.

    Raises:
        Refused: the records are not of this form.
    """
    task, payload = unpack(content, who)
    return Letter(task, payload, note(content, who), head(content), addressee(content))


def unpack(content: RecordDict, who: str) -> tuple[dict[str, Any], Payload]:
    """The task and its payloads; arguments and errors as those of `read`."""
    task = _table(content, "json", who)
    payload: Payload = {}
    for record in content.array_records.values():
        for name, array in record.items():
            if array.stype != "bytes" or array.shape != (len(array.data),):
                raise Refused(f"{who}: payload '{name}' expected plain bytes, got {array.stype}")
            payload[name] = array.data
    return task, payload


def note(content: RecordDict, who: str) -> dict[str, Any]:
    """What the sender's machinery adds; empty where it adds nothing."""
    record = content.config_records.get("task")
    return _table(content, "note", who) if record is not None and "note" in record else {}


def head(content: RecordDict) -> str:
    """The head of the sender's audit log; an empty text where the message names none."""
    record = content.config_records.get("task")
    return str(record.get("head", ""))[:64] if record is not None else ""


def addressee(content: RecordDict) -> str:
    """The site that a message is for: several may share one node of a simulation; "" where the message names none."""
    record = content.config_records.get("task")
    return str(record.get("to", "")) if record is not None else ""


def size(content: RecordDict) -> int:
    """Bytes of the task and its payloads, without Flower's own envelope."""
    tasks = sum(len(str(record.get("json", ""))) for record in content.config_records.values())
    return tasks + sum(len(a.data) for record in content.array_records.values() for a in record.values())


def _table(content: RecordDict, key: str, who: str) -> dict[str, Any]:
    try:
        text = str(content.config_records["task"][key])
        if len(text) > MOST_TEXT:  # parsed, it would take fifty times its length
            raise Refused(f"{who}: a task expected at most {MOST_TEXT} characters, got {len(text)}")
        table = json.loads(text, parse_constant=_no_constant)
    except (KeyError, ValueError, RecursionError):
        raise Refused(f"{who}: expected a message with a task in JSON, got another one") from None
    if not isinstance(table, dict):
        raise Refused(f"{who}: expected a JSON object as the task, got {type(table).__name__}")
    return table


def _no_constant(name: str) -> Any:  # noqa: ANN401
    raise ValueError(f"{name} is not a number")
