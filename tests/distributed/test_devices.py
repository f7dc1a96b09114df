"""Devices and precision."""

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from oculox.distributed import devices
from oculox.distributed.devices import (
    Processes,
    describe_machine,
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


def test_a_gpu_is_described_with_what_is_below_it(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "version")
    expected = {"gpu": "NVIDIA H200", "cuda": "13.0", "cudnn": "91002"}
    assert "hip" not in describe_machine()
    assert expected.items() <= describe_machine().items()
    assert "driver" not in describe_machine()
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build\n"
    (tmp_path / "version").write_text(f"{line}GCC version:  gcc version 12.3.0 (Ubuntu)\n")
    assert describe_machine()["driver"] == "570.133.20"
    monkeypatch.undo()
    assert torch.cuda.is_available() or not {"gpu", "cudnn", "driver"} & set(describe_machine())


def test_a_process_alone():
    assert own_device("auto") == "auto"
    with open_processes("cpu") as processes:
        assert processes == Processes(rank=0, world_size=1, device="cpu")
        assert processes.gather([1, "two"]) == [1, "two"]
