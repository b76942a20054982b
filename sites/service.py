"""One site's operations: a letter in, a letter out. The agent of a hospital and a simulation both answer with it.

Every letter passes the door in (`inbound`), every answer the door out (`outbound`), and each thing that came, left or
was refused is a line of the site's audit log, where it keeps one. No exception's text gets out by accident: what
leaves is a reference to the site's own log, and a sentence only where it is a refusal. Those name tensors, settings and
lines of the policy, never a patient's file.
"""

import errno
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fedmerge import devices, parts
from fedmerge.errors import FedmergeError
from fedmerge.privacy.header import Header
from fedmerge.transport import KINDS, Letter
from fedmerge.trust import audit
from fedmerge.trust.refusals import Refusals
from sites import admission, doing, inbound, jobs, masks, opening, room, sealing, source, sums, target
from sites import parts as files
from sites.client import Away, Failed
from sites.inbound import Declined
from sites.jobs import Jobs, Later
from sites.records import Policy, Site

MOST_ASKED = 64  # jobs whose ask is remembered
MOST_PAYLOADS = 256  # of one message; each is a line of the audit log
MOST_INLINE = 4 * parts.PART_BYTES  # whatever length of parts a server asks for
FULL = (errno.ENOSPC, errno.EDQUOT)
LOCK = threading.Lock()

Payload = dict[str, bytes | Path]
Answer = tuple[dict[str, Any], Payload]


class Done(NamedTuple):
    """What a task came to, and the policy that let it leave."""

    policy: Policy
    task: dict[str, Any]
    payload: Payload


class Service:
    """A site's operations.

    Args:
        site: gives the site as it is configured now.
        pooled: all sources of a simulation, for the reference that needs them; a hospital has none.
        log: the site's audit log.
        jobs: where long work is done when the server asks to be answered meanwhile.
        refusals: says which of them are written one by one; None: all.
    """

    def __init__(
        self,
        site: Callable[[], Site],
        pooled: Callable[[], list[Site]] | None = None,
        log: audit.Log | None = None,
        jobs: Jobs[Done] | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._site, self._pooled, self._log, self._jobs = site, pooled, log, jobs
        self._refusals = refusals
        self._asked: dict[str, tuple[str, Letter]] = {}  # what each job was asked with, for the log

    def answer(self, kind: str, letter: Letter) -> Letter:
        """What the site answers.

        Raises:
            Failed: the site refuses, or the work failed; the sentence may leave.
            Away: the site cannot work at the moment.
        """
        reference, who = secrets.token_hex(4), "the site"
        log = logging.getLogger("fedmerge.site")
        try:
            site = self._site()
            who, log = site.name, site_log(site)
            return self._answer(site, kind, letter)
        except Away:
            raise
        except Declined as error:
            what, asked = self._asked.get(str(letter.task.get("job")), (kind, letter))
            if self._due("tasks declined", what):
                log.warning("[%s] refused: %s", reference, error)
                self._line("refused", what, asked, reason=str(error))
            raise Failed(f"{error} [{reference}]") from None
        except FedmergeError as error:
            if written := self._due("tasks that failed", kind):
                log.error("[%s] %s", reference, error)  # noqa: TRY400 - the sentence says it all
                self._line("refused", kind, letter, reason=f"the site's own log has the reason [{reference}]")
        except Exception as error:
            if written := self._due("tasks that failed", kind):
                log.exception("[%s] unexpected", reference)
            if self._jobs is not None and isinstance(error, OSError) and error.errno in FULL:
                raise Away(f"its disk is full [{reference}]") from None
        if not written:
            raise Failed(f"{who}: so many tasks failed within a minute that its log has the reasons of the first only")
        raise Failed(f"the log of {who} has the reason [{reference}]")

    def _answer(self, site: Site, kind: str, letter: Letter) -> Letter:
        if letter.to != site.name:
            raise Declined(f"{site.name}: expected a message for this site, got one for {letter.to[:80]!r}")
        if kind not in KINDS:
            raise Declined(f"{site.name}: there is no operation {kind[:40]!r}")
        action = kind.partition(".")[2]
        task, note = letter.task, letter.note
        if self._jobs is not None and action not in ("job", "have", "part"):
            room.leave_some(site.work, sum(map(len, letter.payload.values())))
        if action in ("have", "put", "part"):
            inbound.check(site, action, {"campaign": note.get("campaign")})
            return self._carry(site, action, task, letter.payload)
        if action == "job":
            return self._wait(site, str(task.get("job")), letter)
        inbound.check(site, action, task)
        if len(letter.payload) > MOST_PAYLOADS:
            raise Declined(f"{site.name}: expected at most {MOST_PAYLOADS} payloads, got {len(letter.payload)}")
        listed = parts.manifest(note.get("parts", {}), "server")
        there = files.find(site, listed)
        if there is None:
            return Letter({}, note={"unknown": "parts"})
        payload: Payload = {**letter.payload, **there}
        digests = {name: listed[name][0] if name in listed else parts.digest(payload[name]) for name in payload}
        self._came(kind, letter, payload, digests)

        def work() -> Done:
            torch.set_num_threads(_threads(task))
            with devices.using(site.hardware), doing.told(site.work, kind, _campaign(letter)):
                done = Done(site.policy, *self._do(site, action, letter, payload))
            for path in there.values():
                path.unlink(missing_ok=True)
            return done

        if self._jobs is None:
            return self._reply(site, kind, letter, work())
        job = jobs.name(kind, task, digests)
        if not self._jobs.begin(job, work):
            raise Away(f"it has {jobs.MOST_WAITING} tasks to do already")
        self._asked[job] = kind, Letter(task, {}, note, letter.head)
        for old in list(self._asked)[:-MOST_ASKED]:
            del self._asked[old]
        return self._wait(site, job, letter)

    def _due(self, kind: str, what: str) -> bool:
        """Whether a refusal is written by itself; whoever has many of them in a minute finds their number."""
        return self._refusals is None or self._refusals.due(kind, what[:60])

    def _wait(self, site: Site, job: str, letter: Letter) -> Letter:
        """Wait for a job for as long as the server allows."""
        kind, asked = self._asked.get(job, ("query.job", letter))
        found = self._jobs.wait(job, _seconds(letter.note)) if self._jobs else None
        if isinstance(found, Later):
            return Letter({}, note={"later": job, "progress": found.progress})
        if found is None or found.policy != site.policy:  # it was done under another policy: the door out is asked anew
            return Letter({}, note={"unknown": "job"})
        return self._reply(site, kind, asked, found)

    def _do(self, site: Site, action: str, letter: Letter, payload: Payload) -> Answer:
        """The work itself."""
        task, heard = letter.task, partial(self._heard, letter)
        if action == "pooled":
            if self._pooled is None:
                raise Declined(f"{site.name}: 'pooled' needs all patients in one place, which only a simulation has")
            return source.pooled(site, self._pooled(), task, payload)
        work: dict[str, Callable[[], Answer]] = {
            "describe": lambda: (source.describe(site, task), {}),
            "receive": lambda: (target.receive(site, task, payload), {}),
            "seal": lambda: sealing.seal_to(site, task, self._log.head if self._log is not None else ""),
            "open": lambda: (opening.open_one(site, task, payload, heard), {}),
            "judge": lambda: (opening.judge(site, task), {}),
            "contribute": lambda: source.contribute(site, task, payload, heard),
            "admit": lambda: (admission.admit(site, task), {}),
            "adapt": lambda: target.adapt(site, task),
            "pull": lambda: target.pull(site, task, payload),
            "finetune": lambda: target.finetune(site, task, payload),
            "score": lambda: (source.score(site, task, payload), {}),
            "hello": lambda: (masks.greet(site, task), {}),
            "mask": lambda: masks.mask(site, task, payload),
            "sum": lambda: (sums.open_sum(site, task, payload), {}),
            "forget": lambda: (masks.forget(site, task), {}),
        }
        return work[action]()

    def _carry(self, site: Site, action: str, task: dict[str, Any], payload: dict[str, bytes]) -> Letter:
        """Parts of files, in and out."""
        if action == "have":
            return Letter(files.have(site, task))
        if action == "put":
            return Letter(files.put(site, task, payload.get("part", b"")))
        data = files.part(site, task)
        return Letter({}, note={"unknown": "parts"}) if data is None else Letter({}, {"part": data})

    def _reply(self, site: Site, kind: str, letter: Letter, found: Done) -> Letter:
        """The answer, with what is large laid out to be fetched."""
        asked = letter.note.get("part_bytes")
        most = min(asked, MOST_INLINE) if type(asked) is int and asked > 0 else parts.PART_BYTES
        whole: dict[str, bytes] = {}
        listed: dict[str, tuple[str, int]] = {}
        for name, data in found.payload.items():
            if parts.length(data) > most:
                listed[name] = files.offer(site, data)
            else:
                whole[name] = data.read_bytes() if isinstance(data, Path) else data
        if self._log is not None:
            sizes = {"answer": json.dumps(found.task).encode(), **found.payload}
            for what, data in sizes.items():
                digest, size = listed.get(what) or (parts.digest(data), parts.length(data))
                self._line("out", what, letter, purpose=kind, size=size, digest=digest)
        head = self._log.head if self._log is not None else ""
        return Letter(found.task, whole, {"parts": listed} if listed else {}, head)

    def _came(self, kind: str, letter: Letter, payload: Payload, digests: dict[str, str]) -> None:
        """The lines of what came."""
        if self._log is None:
            return
        task = json.dumps(letter.task).encode()
        self._line("in", "task", letter, purpose=kind, size=len(task), digest=parts.digest(task))
        for what, digest in digests.items():
            self._line("in", what, letter, purpose=kind, size=parts.length(payload[what]), digest=digest)

    def _heard(self, letter: Letter, header: Header) -> None:
        """The line of a sealed file that was opened: another site's, with the head of that site's own log."""
        if self._log is not None:
            self._log.append(
                "in", "sealed file", f"round {header.round}", header.size, header.schema, header.sender,
                peer_head=header.audit_head, campaign=str(letter.task.get("campaign", "")),
            )  # fmt: skip

    def _line(
        self,
        way: audit.Way,
        what: str,
        letter: Letter,
        *,
        purpose: str = "",
        size: int = 0,
        digest: str = "",
        reason: str = "",
    ) -> None:
        if self._log is None:
            return
        self._log.append(
            way, what, purpose, size, f"sha256:{digest}" if digest else "", audit.SERVER,
            peer_head=letter.head, reason=reason, campaign=_campaign(letter),
        )  # fmt: skip


def _campaign(letter: Letter) -> str:
    """The campaign that a letter says that it belongs to."""
    row = letter.task.get("row")
    facts = row if isinstance(row, dict) else letter.task
    return str(facts.get("campaign") or letter.note.get("campaign") or "")


def site_log(site: Site) -> logging.Logger:
    """The site's own log, a file in its working folder that nobody else reads."""
    log = logging.getLogger(f"fedmerge.site.{site.work}")
    with LOCK:
        if log.handlers:
            return log
        site.work.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(site.work / "site.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    return log


def _threads(task: dict[str, Any]) -> int:
    """How many threads a task may have: what it asks for, and no more than there are processors."""
    row = task.get("row")
    asked = task.get("threads") or (row.get("threads") if isinstance(row, dict) else None)
    return max(1, min(asked, os.cpu_count() or 1)) if type(asked) is int else 1


def _seconds(note: dict[str, Any]) -> float:
    """How long the server lets a message be kept; a minute at most."""
    asked = note.get("hold_s", 0.0)
    return min(max(float(asked), 0.0), 60.0) if isinstance(asked, int | float) else 0.0
