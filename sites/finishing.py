"""How the target's fine-tuning ends: one model, a soup of several, and perhaps a step back towards its start.

    greedy   the best epochs of several learning rates, as a greedy soup                        Wortsman et al. 2022
    gou      snapshots of a cyclical rate, for several rates: a greedy soup of uniform ones     Sanjeev et al. 2024
    gog      likewise, a greedy soup of greedy ones
    share    the model ends at start + share * (end - start)                                    WiSE-FT, Wortsman 2022

Every choice is made by the target's validation cases. What was trained is kept on disk until the row is done.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmerge import averaging, params, schedules, tasks, training, whole, wire
from fedmerge.fusion import soup
from fedmerge.params import Params
from sites import curves
from sites.bench import Bench
from sites.inbound import Declined
from sites.progress import report

Train = Callable[..., training.History]


def finetune(bench: Bench, folder: Path, offset: int) -> tuple[tasks.Curve, int, int]:
    """Fine-tune the bench's net as its row says, from the last checkpoint where there is one.

    Args:
        bench: its net holds the fine-tuning's start, and its end afterwards.
        folder: of the row, for checkpoints.
        offset: steps that were made before.

    Returns:
        the learning curve, the step of the weights that were kept, and the number of steps made.

    Raises:
        Declined: a soup is asked for, and there are no validation cases to choose by.
    """
    settings = training.Settings(**bench.row.finetune)
    start = params.of(bench.net)
    if bench.method.soup:
        curve, best, steps = _soup(bench, folder, offset, settings, start)
    else:
        history = _run(bench, folder / "checkpoint.safetensors", offset, settings, 0)
        curve, best, steps = _curve(history, offset), offset + history.best_step, history.steps
    if "share" in bench.row.finish:
        params.load(bench.net, averaging.interpolate(start, params.of(bench.net), bench.row.finish["share"]))
    return curve, best, steps


def _run(bench: Bench, checkpoint: Path, offset: int, settings: training.Settings, done: int) -> training.History:
    """One fine-tuning; the net is left with the best weights of its validations."""
    return training.train(
        bench.net, bench.batches(settings, offset), settings,
        **_options(bench, checkpoint, offset, settings, done),
    )  # fmt: skip


def _options(bench: Bench, checkpoint: Path, offset: int, settings: training.Settings, done: int) -> dict[str, Any]:
    row, total = bench.row, settings.steps * len(bench.row.finish.get("rates", [1]))

    def told(record: training.Record) -> None:
        report(bench.site.name, f"fine-tuning {row.label}", done + record.step, total)
        later = replace(record, step=offset + done + record.step)
        curves.keep(bench.site, row.key, f"fine-tuning/{row.campaign}/{row.label}", later)

    return {
        "seed": row.seed + offset,
        "precision": row.precision,
        "rates": bench.rates(settings),
        "loss": row.net.task.loss(),
        "validate": bench.validate,
        "checkpoint": checkpoint,
        "checkpoint_every": max(100, settings.steps // 4),
        "progress": told,
    }


def _curve(history: training.History, offset: int) -> tasks.Curve:
    return [(offset + r.step, r.validation) for r in history.records if r.validation is not None]


def _soup(
    bench: Bench, folder: Path, offset: int, settings: training.Settings, start: Params
) -> tuple[tasks.Curve, int, int]:
    """Fine-tunings of several learning rates from one start, and the soup of what they came to."""
    if bench.validate is None:
        raise Declined(f"{bench.site.name}: {bench.method.name} chooses by validation cases, and there are none")
    curve: tasks.Curve = []
    groups: list[list[Params]] = []
    done = 0
    for number, factor in enumerate(bench.row.finish["rates"]):
        params.load(bench.net, start)
        own = replace(
            settings, lr=settings.lr * factor, specific_lr=settings.specific_lr and settings.specific_lr * factor
        )
        cycles = bench.row.finish["cycles"] if bench.method.soup != "greedy" else 0
        models, history = _group(bench, folder / f"soup-{number}", offset, own, done, cycles)
        groups.append(models)
        curve += _curve(history, offset + done)
        done += history.steps

    def score(model: Params) -> float:
        params.load(bench.net, model)
        bench.settle()
        return bench.validate(bench.net) if bench.validate else 0.0

    kinds = {
        "greedy": lambda: soup.greedy([model for group in groups for model in group], score),
        "gou": lambda: soup.greedy_of_uniform(groups, score),
        "gog": lambda: soup.greedy_of_greedy(groups, score),
    }
    chosen = kinds[bench.method.soup]()
    params.load(bench.net, chosen.model)
    return curve, offset + done, done


def _group(
    bench: Bench, folder: Path, offset: int, settings: training.Settings, done: int, cycles: int
) -> tuple[list[Params], training.History]:
    """The models of one learning rate: the best epoch, or snapshots where a cyclical rate is lowest."""
    checkpoint = folder / "checkpoint.safetensors"
    if not cycles:
        history = _run(bench, checkpoint, offset, settings, done)
        return [params.of(bench.net)], history
    lowest = schedules.FGG.low / schedules.FGG.high
    settings = replace(settings, schedule="fgg", cycles=cycles, final=lowest, patience=0)
    run = training.Run(
        bench.net, bench.batches(settings, offset), settings,
        **_options(bench, checkpoint, offset, settings, done),
    )  # fmt: skip
    if checkpoint.exists():
        run.restore(checkpoint)
    models = []
    for number, step in enumerate(schedules.fgg_steps(settings.steps, cycles)):
        path = folder / f"snapshot-{number}.safetensors"
        if not path.exists():
            run.advance(step)
            whole.write(path, wire.params_to_bytes(params.of(bench.net)))
        models.append(wire.params_from_bytes(path.read_bytes()))
    return models, run.finish()
