"""Devices and precision."""

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from oculox.config.schema import TrainConfig
from oculox.distributed.devices import check_device, device_kind, gather_lists, open_accelerator
from oculox.errors import ConfigError

PRESENT = {
    "cuda": torch.cuda.is_available(),
    "mps": torch.backends.mps.is_available(),
    "npu": hasattr(torch, "npu"),
}


@pytest.mark.parametrize("device", ["auto", "cpu", *(d for d, here in PRESENT.items() if here)])
def test_devices_that_are_here(device):
    check_device(device)


@pytest.mark.parametrize("device", [d for d, here in PRESENT.items() if not here])
def test_devices_that_are_absent(device):
    with pytest.raises(ConfigError, match=f"train.device={device}: no such device here"):
        check_device(device)
    with pytest.raises(ConfigError), open_accelerator(TrainConfig(device=device)):
        pass


@pytest.mark.parametrize(
    ("name", "kind"), [("auto", "auto"), ("cuda:1", "cuda"), ("cpu", "cpu"), ("npu:0", "npu")]
)
def test_kinds(name, kind):
    assert device_kind(name) == kind


@pytest.mark.parametrize("name", ["", "gpu", "cudax", ":0"])
def test_unknown_kinds(name):
    with pytest.raises(ConfigError, match="unknown device"):
        device_kind(name)


def test_half_precision_needs_an_accelerator():
    config = TrainConfig(device="cpu", precision="fp16")
    with pytest.raises(ConfigError, match="fp16 needs an accelerator"), open_accelerator(config):
        pass


@pytest.mark.parametrize(("precision", "mixed"), [("fp32", "no"), ("bf16", "bf16")])
def test_nothing_of_a_run_is_left_over(precision, mixed):
    for fails in (True, False):
        config = TrainConfig(device="cpu", precision=precision)
        try:
            with open_accelerator(config) as accelerator:
                assert accelerator.mixed_precision == mixed
                assert accelerator.device.type == "cpu"
                assert gather_lists([1, "two"]) == [1, "two"]
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            assert fails
        assert not AcceleratorState._shared_state
        assert not PartialState._shared_state
