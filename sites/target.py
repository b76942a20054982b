"""What a site does as the target: take in weights, adapt (near or far), fine-tune, score on its own test cases."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from fedmerge import devices, params, parts, tasks, training, whole, wire
from fedmerge.errors import Refused
from fedmerge.fusion import fitting
from fedmerge.params import Params
from sites import curves, finishing, keeping, leaving, near, outbound, vouched
from sites.bench import Bench, card
from sites.config import Site
from sites.inbound import Declined
from sites.parts import received
from sites.progress import report
from sites.source import Payload

Answer = tuple[dict[str, Any], Payload]

MOST_RECEIVED = 64 * 2**30  # bytes of weights that are kept for later tasks


def receive(site: Site, task: dict[str, Any], payload: Payload) -> dict[str, Any]:
    """Keep weights by their digest; what they hold is checked when a task opens them.

    Raises:
        Declined: the bytes are not those that the digest names.
    """
    asked = tasks.from_table(tasks.Receive, task, "server")
    for name in asked.digests:
        if name in payload:
            data = payload[name]
            if name not in (f"sha256:{parts.digest(data)}", _digest(data)):
                raise Declined(f"{site.name}: the weights {name[:15]} are not what their digest names")
            if isinstance(data, Path):
                received(site, name).parent.mkdir(parents=True, exist_ok=True)
                data.replace(received(site, name))
            else:
                whole.write(received(site, name), data)
    _make_room(site, asked.digests)
    there = [n for n in asked.digests if (vouched.of(site, n) if asked.vouched else received(site, n).exists())]
    return tasks.to_table(tasks.Receive(tuple(there)))


def _make_room(site: Site, wanted: tuple[str, ...]) -> None:
    """Throw away the weights that nobody has asked for longest, where there are more than a site keeps."""
    paths = {received(site, name) for name in wanted}
    for path in paths:
        if path.exists():
            path.touch()
    states = sorted((p.stat().st_mtime, p.stat().st_size, p) for p in site.work.glob("received/*.safetensors"))
    total = sum(size for _, size, _ in states)
    for _, size, path in states:
        if total > MOST_RECEIVED and path not in paths:
            path.unlink()
            total -= size


def _digest(data: bytes | Path) -> str:
    """The digest of bare parameters; an empty text where the bytes are something else."""
    try:
        return params.digest(wire.open_params(data))
    except Refused:
        return ""


def adaptation(
    bench: Bench, *, fits: bool = True, told: Callable[[training.Record], None] | None = None
) -> training.Run:
    """The target's own parameters S train; where ratios are fitted, the merged weights have gradients too."""
    assert bench.row.adapt is not None  # noqa: S101 - the server sends this task to rows with an adaptation only
    settings = training.Settings(**bench.row.adapt)
    fixed = set(bench.row.net.fusable)
    return training.Run(
        bench.net,
        bench.batches(settings),
        settings,
        seed=bench.row.seed,
        precision=bench.row.precision,
        rates={n: settings.lr for n, _ in bench.net.named_parameters() if n not in fixed},
        loss=bench.row.net.task.loss(),
        watch=bench.row.net.fusable if fits and bench.method.fits else (),
        progress=told,
    )


def _due(settings: dict[str, Any], step: int) -> bool:
    """Every curve begins at step 0; the end is validated by whoever loads the last weights."""
    every = settings["validate_every"]
    return step == 0 or (bool(every) and step % every == 0)


def _gradient(net: nn.Module, names: tuple[str, ...]) -> Params:
    own = dict(net.named_parameters())
    return {n: own[n].grad.detach() for n in names}  # type: ignore[union-attr]  # watched: the step made them


def run_name(row: tasks.Row) -> str:
    """What the curves of a row's adaptation are called."""
    return f"adaptation/{row.campaign}/{row.label}"


def adapt(site: Site, task: dict[str, Any]) -> Answer:
    """Near: fit the logits and S (or S alone) on the target's cases, from the last checkpoint where there is one."""
    row = tasks.from_table(tasks.Row, task, "server")
    folder = site.work / "rows" / row.key
    if (done := folder / "adapted.json").exists():  # the answer was lost on its way: give it again
        told = tasks.from_table(tasks.Adapted, json.loads(done.read_text()), site.name)
        return outbound.answer(site, told), _logits(row, folder)
    bench = Bench(site, row)
    start = bench.score()
    settings: dict[str, Any] = row.adapt or {}
    seen: dict[int, float] = {}

    def keep_record(record: training.Record) -> None:
        curves.keep(site, f"{row.key}-adapt", run_name(row), replace(record, validation=seen.get(record.step)))

    def validate(step: int) -> tasks.Curve:
        found = bench.point(step)
        seen.update(found)
        for at in found:
            curves.point(site, f"{row.key}-adapt", run_name(row), run.settings, at)
        return found

    run = adaptation(bench, told=keep_record)
    state, curve, before = near.restore(folder, run)
    began = time.monotonic() - before

    def respond(step: int, fused: Params) -> Params:
        params.load(bench.net, fused)
        if _due(settings, step):
            curve.extend(validate(step))
        run.advance(step + 1)
        report(site.name, f"adapting {row.label}", step + 1, settings["steps"])
        return _gradient(bench.net, row.net.fusable) if bench.method.fits else {}

    def keep_state(state: Params) -> None:
        if run.step % near.every(settings["steps"]) == 0:
            near.save(folder, run, state, curve, time.monotonic() - began)

    if bench.mix is not None and bench.method.fits:
        bench.logits = fitting.fit(
            bench.mix,
            respond,
            steps=settings["steps"],
            lr=row.logits_lr,
            kind=row.ratios,  # type: ignore[arg-type]
            state=state or None,
            device=run.device,
            keep=keep_state,
        )
    else:
        for step in range(run.step, settings["steps"]):
            respond(step, {})
            keep_state({})
    if bench.method.fits:  # the last step moved the logits once more
        bench.merge(bench.logits)
    bench.settle()
    curve += validate(settings["steps"])
    answer = tasks.Adapted(
        curve=curve,
        fused=params.digest(bench.fused),
        steps=settings["steps"],
        seconds=time.monotonic() - began,
        start=start,
        adapted=bench.score(),
        leave_one_out=leaving.measure(bench, row.net.fusable),
    )
    whole.write(folder / "adapted.safetensors", wire.params_to_bytes(params.of(bench.net)))
    if bench.logits:
        whole.write(folder / "logits.safetensors", wire.params_to_bytes(bench.logits))
    whole.write(folder / "adapted.json", json.dumps(tasks.to_table(answer)).encode())
    near.forget(folder)
    return outbound.answer(site, answer), _logits(row, folder)


def _logits(row: tasks.Row, folder: Path) -> Payload:
    """The fitted (or drawn) logits as a payload; none of rows that merge nothing, or whose ratios stay here."""
    path = folder / "logits.safetensors"
    return {"logits": path.read_bytes()} if path.exists() and row.trust == "server" else {}


def pull(site: Site, task: dict[str, Any], payload: Payload) -> Answer:
    """Far: one step on merged weights that the server made; the state of S waits on the site's disk."""
    asked = tasks.from_table(tasks.Pull, task, "server")
    row, step, began = asked.row, asked.step, time.monotonic()
    with devices.using(replace(devices.here(), devices=1)):  # a single step: to begin a process for it takes longer
        return _pulled(site, row, step, payload, began)


def _pulled(site: Site, row: tasks.Row, step: int, payload: Payload, began: float) -> Answer:
    settings = row.adapt or {}
    folder = site.work / "rows" / row.key
    done, state = folder / f"pulled-{step}.safetensors", folder / f"far-{step}.safetensors"
    if done.exists():  # the answer was lost on its way: give it again
        told = tasks.from_table(tasks.Pulled, json.loads(done.with_suffix(".json").read_text()), site.name)
        return outbound.answer(site, told), {"gradient": done}
    bench = Bench(site, row, far=True)
    params.load(bench.net, wire.open_params(payload["fused"], site="server"))
    start = bench.score() if step == 0 else None
    run = adaptation(bench)
    if step:
        run.restore(state)
        params.load(bench.net, wire.open_params(payload["fused"], site="server"))
    last = step == settings["steps"]
    curve = bench.point(step) if last or _due(settings, step) else []
    for at in curve:
        curves.point(site, f"{row.key}-adapt", run_name(row), run.settings, at)
    if last:
        bench.settle()
        whole.write(folder / "adapted.safetensors", wire.params_to_bytes(params.of(bench.net)))
        answer = tasks.Pulled(curve, time.monotonic() - began, start, bench.score())
        return outbound.answer(site, answer), {}
    run.advance(step + 1)
    run.save(folder / f"far-{step + 1}.safetensors")
    watched = row.net.fusable if bench.method.fits else ()
    gradient = wire.params_to_bytes(_gradient(bench.net, watched))
    answer = tasks.Pulled(curve, time.monotonic() - began, start)
    whole.write(done.with_suffix(".json"), json.dumps(tasks.to_table(answer)).encode())
    whole.write(done, gradient)
    for old in ("pulled-{}.safetensors", "pulled-{}.json", "far-{}.safetensors"):
        (folder / old.format(step - 1)).unlink(missing_ok=True)  # two steps back nobody can ask any more
    report(site.name, f"adapting {row.label} (far)", step + 1, settings["steps"])
    return outbound.answer(site, answer), {"gradient": done}


def finetune(site: Site, task: dict[str, Any], payload: Payload) -> Answer:
    """Train everything on the target's cases; validation says what is kept (`finishing`)."""
    row = tasks.from_table(tasks.Row, task, "server")
    folder = site.work / "rows" / row.key
    began = time.monotonic()
    if (done := folder / "fine-tuned.json").exists():
        told = tasks.from_table(tasks.Finetuned, json.loads(done.read_text()), site.name)
        return outbound.answer(site, told), outbound.model(site, folder / "fine-tuned.safetensors")
    adapted = folder / "adapted.safetensors"
    bench = Bench(site, row, far=row.adapt is not None or "fused" in payload)
    if row.adapt is not None:
        params.load(bench.net, wire.params_from_bytes(adapted.read_bytes()))
        bench.settle()
    elif "fused" in payload:
        bench.fused = wire.open_params(payload["fused"], site="server")
        params.load(bench.net, bench.fused)
    offset = row.adapt["steps"] if row.adapt else 0
    start = None if row.adapt else bench.score()
    left = leaving.at_start(bench)
    curve, best, steps = finishing.finetune(bench, folder, offset)
    bench.settle()
    answer = tasks.Finetuned(
        curve=curve,
        fused=params.digest(bench.fused),
        best_step=best,
        steps=steps,
        seconds=time.monotonic() - began,
        start=start,
        finetuned=bench.score(keep_in="fine-tuned"),
        leave_one_out=left,
    )
    path = folder / "fine-tuned.safetensors"
    wire.write_model(params.of(bench.net), card(bench), path)
    keeping.keep(site, row, answer)
    whole.write(done, json.dumps(tasks.to_table(answer)).encode())
    return outbound.answer(site, answer), outbound.model(site, path)
