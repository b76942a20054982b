"""Devices: what `auto` means, and what is refused."""

import pytest
import torch

from fedmerge import devices
from fedmerge.errors import ConfigError


def test_auto_is_cuda_where_there_is_one():
    """And the CPU elsewhere."""
    assert devices.resolve().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert devices.resolve("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda_is_a_sentence():
    """It says what was asked for and that there is none."""
    with pytest.raises(ConfigError, match=r"device cuda was asked for, but torch .* sees no CUDA"):
        devices.resolve("cuda")


@pytest.mark.parametrize("call", [lambda: devices.resolve("gpu"), lambda: devices.resolve("tpu:a")])
def test_an_unknown_device_is_named(call):
    """The sentence has the known ones and what came."""
    with pytest.raises(ConfigError, match="device expected auto, cpu or cuda, got"):
        call()


def test_precision_is_what_was_asked_for_or_what_pays():
    """bfloat16 on CUDA and on processors with instructions for it, float32 elsewhere."""
    cpu = torch.device("cpu")
    assert devices.precision(cpu, "float32") is None
    assert devices.precision(cpu, "bfloat16") is torch.bfloat16
    assert devices.precision(torch.device("cuda")) is torch.bfloat16
    pays = devices._has_amx() and devices.gradients_are_right()
    assert (devices.precision(cpu) is torch.bfloat16) == pays
    with pytest.raises(ConfigError, match="precision expected one of auto, float32, bfloat16, got 'half'"):
        devices.precision(cpu, "half")


def test_threads_are_given_back():
    """Within the block so many threads, after it as many as before, also after an error."""
    before = torch.get_num_threads()
    within = []

    def work():
        with devices.threads(before + 1):
            within.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert within == [before + 1]
    assert torch.get_num_threads() == before
    with pytest.raises(ConfigError, match="threads expected at least 1, got 0"), devices.threads(0):
        pass


def test_description_says_what_equal_numbers_need():
    """Device, threads and precision."""
    with devices.threads(1):
        assert devices.describe("cpu", "float32") == "cpu, 1 thread, float32"
    with devices.threads(2):
        assert devices.describe("cpu", "bfloat16") == "cpu, 2 threads, bfloat16"
