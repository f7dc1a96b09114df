"""Devices and precision."""

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from oculox.distributed.devices import (
    Processes,
    open_accelerator,
    open_processes,
    own_device,
    usable_device,
)
from oculox.errors import ConfigError, UsageError

PRESENT = {
    "cuda": torch.cuda.is_available(),
    "mps": torch.backends.mps.is_available(),
    "npu": hasattr(torch, "npu"),
}


ABSENT = [d for d, here in PRESENT.items() if not here]


@pytest.mark.parametrize("device", ["auto", "cpu", *(d for d, here in PRESENT.items() if here)])
def test_devices_that_are_here(device):
    assert torch.ones(2, device=usable_device(device)).sum().item() == 2


@pytest.mark.parametrize("device", [*ABSENT, *(f"{d}:0" for d in ABSENT)])
def test_devices_that_are_absent(device):
    message = f"device '{device}' cannot be used: no such device here"
    with pytest.raises(UsageError, match=message):
        usable_device(device)
    with pytest.raises(UsageError, match="no such device here"), open_accelerator(device):
        pass


@pytest.mark.parametrize(
    ("device", "hint"),
    [
        ("", ""),
        ("gpu", "; did you mean cuda?"),
        ("0", "; did you mean cuda?"),
        ("warp", ""),
        (":0", ""),
    ],
)
def test_devices_that_do_not_exist(device, hint):
    with pytest.raises(UsageError) as caught:
        usable_device(device)
    expected = "expected auto, cpu, cuda, cuda:1, mps or npu"
    assert str(caught.value) == f"device '{device}' cannot be used: {expected}{hint}"


def test_half_precision_needs_an_accelerator():
    with (
        pytest.raises(ConfigError, match="fp16 needs an accelerator"),
        open_accelerator("cpu", precision="fp16"),
    ):
        pass


def test_a_process_that_does_not_find_the_others(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2, but"), open_accelerator("cpu"):
        pass


@pytest.mark.parametrize(("precision", "mixed"), [("fp32", "no"), ("bf16", "bf16")])
@pytest.mark.parametrize("fails", [True, False])
def test_nothing_of_a_run_is_left_over(precision, mixed, fails):
    try:
        with open_accelerator("cpu", precision=precision) as accelerator:
            assert accelerator.mixed_precision == mixed
            assert accelerator.device.type == "cpu"
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert not AcceleratorState._shared_state
    assert not PartialState._shared_state


def test_a_process_alone():
    assert own_device("auto") == "auto"
    with open_processes("cpu") as processes:
        assert processes == Processes(rank=0, world_size=1, device="cpu")
        assert processes.gather([1, "two"]) == [1, "two"]
