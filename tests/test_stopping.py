"""Ctrl-C ends a simulation in the middle of a training, which goes on from there when it is asked for again."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from small import campaign, hospitals
from test_training import batches, net

from fedmerge import stopping
from fedmerge.training import Run, Settings

COMMAND = """
import signal
from fedmerge import cli

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
cli.main()
"""
SETTINGS = Settings(steps=12, lr=1e-3, validate_every=0)


def test_a_training_that_is_asked_to_end_keeps_what_it_has_and_goes_on_bit_for_bit(tmp_path):
    """The key is pressed in the main thread while another one trains."""
    file, ended = tmp_path / "checkpoint", []

    def seen(step):
        if step == 5:
            with pytest.raises(KeyboardInterrupt), stopping.threads_too():
                raise KeyboardInterrupt
        return batches(step)

    def work():
        run = Run(net(), seen, SETTINGS, seed=0, checkpoint=file)
        try:
            run.advance(12)
        except KeyboardInterrupt:
            ended.append(run.step)

    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        stopping.over()
    assert ended == [6]
    resumed, whole = (Run(net(), batches, SETTINGS, seed=0) for _ in range(2))
    resumed.restore(file)
    assert resumed.step == 6
    for run in (resumed, whole):
        run.advance(12)
    assert all((p == q).all() for p, q in zip(resumed.net.parameters(), whole.net.parameters()))


def test_only_ctrl_c_is_told_to_the_threads():
    """Another error ends its own thread alone, and an end is not remembered."""
    with pytest.raises(ValueError, match="bad"), stopping.threads_too():
        raise ValueError("bad")
    assert not stopping.asked()
    stopping.look()
    with pytest.raises(KeyboardInterrupt), stopping.threads_too():
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        stopping.look()
    stopping.over()
    stopping.look()


def test_ctrl_c_ends_a_simulation_in_the_middle_of_a_training(tmp_path):
    """It does not wait for the training's end; the command says how to go on."""
    plan, out = campaign(hospitals(tmp_path / "data")), tmp_path / "run"
    plan.write_text(plan.read_text().replace("steps = 6\n", "steps = 5000\n"))
    command = [sys.executable, "-c", COMMAND, "simulate", plan, "--out", out]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 120
        while not list(out.glob("sites/north/checkpoints/*.safetensors")):  # after a tenth
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2
    assert "stopped by hand; what was finished is in" in said
    assert "--resume continues" in said
    assert not list(out.glob("sites/north/contributions/*.safetensors"))
