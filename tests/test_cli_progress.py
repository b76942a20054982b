"""Progress as the command shows it: lines for a log, bars for a terminal, and nothing on stdout."""

import logging

from fedmerge.cli import progress


def record(who, what, done, total):
    """A record of progress as sites and server log it."""
    facts = {"who": who, "what": what, "done": done, "total": total}
    return logging.makeLogRecord({"name": progress.LOGGER, "levelno": logging.INFO, **facts})


def test_a_line_a_task_now_and_then():
    """A step a second for twelve seconds: a line at 5 s, at 10 s, and when it ends; a fast task, one line."""
    lines, now = [], [0.0]
    handler = progress.Lines(lines.append, clock=lambda: now[0])
    for step in range(1, 13):
        handler.emit(record("north", "training", step, 12))
        now[0] += 1.0
    handler.emit(record("south", "reading", 1, 1))
    handler.emit(record("south", "reading", 1, 1))
    assert lines == ["north: training 6/12", "north: training 11/12", "north: training 12/12", "south: reading 1/1"]


def test_finished_bars_make_room():
    """After ten tasks, only the last few are still shown; a task that begins anew has one bar."""
    from rich.progress import Progress

    bars = Progress(disable=True)
    handler = progress.Bars(bars)
    for task in range(10):
        for done in (1, 2):
            handler.emit(record("north", f"task {task}", done, 2))
    assert [task.description for task in bars.tasks] == [f"task {i}" for i in (6, 7, 8, 9)]
    handler.emit(record("north", "task 9", 1, 2))
    assert [(t.description, t.completed) for t in bars.tasks][-1] == ("task 9", 1)
    assert len(bars.tasks) == 4


def test_records_are_shown_on_stderr_while_the_block_runs(capsys):
    """Progress and words go to stderr; afterwards the loggers are as they were."""
    logger = logging.getLogger("fedmerge")
    before = (logger.level, list(logger.handlers))
    with progress.shown():
        facts = {"who": "north", "what": "training", "done": 3, "total": 3}
        logging.getLogger(progress.LOGGER).info("north: training 3/3", extra=facts)
        logger.info("harbour: 4 cases")
        logger.error("told by the command itself")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "north: training 3/3\nharbour: 4 cases\n"
    assert (logger.level, list(logger.handlers)) == before
