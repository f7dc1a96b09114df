"""`train.batch=auto`, on memory that is simulated and, marked `gpu`, on a real device."""

import copy

import pytest
import torch

from oculox import train
from oculox.config import load_config
from oculox.distributed.devices import Processes, open_accelerator
from oculox.errors import ConfigError, TrainingError
from oculox.models import build_model
from oculox.training import build, loop
from oculox.training.fit_batch import (
    _SHARE,
    CudaMemory,
    largest_fit,
    open_memory,
    settle_batch,
)
from oculox.training.schedule import input_size_at, largest_input


class SimulatedMemory:
    """Counts what autograd keeps for the backward pass, and fails like a GPU above its size."""

    def __init__(self, size):
        self.size, self.peaks = size, []

    def available(self):
        return self.size

    def peak(self, step):
        held = 0

        def keep(tensor):
            nonlocal held
            held += tensor.nbytes
            if held > self.size:
                raise torch.cuda.OutOfMemoryError("simulated")
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            step()
        self.peaks.append(held)
        return held


@pytest.mark.parametrize(
    ("cost", "budget", "most", "expected", "tried"),
    [
        (lambda n: 100 + 10 * n, 1000, 64, 64, [1, 2, 64]),
        (lambda n: 100 + 10 * n, 500, 64, 40, [1, 2, 40]),
        (lambda n: 100 + 10 * n, 115, 64, 1, [1, 2]),
        (lambda n: 100 + 10 * n, 109, 64, 0, [1]),
        (lambda n: 100 + 10 * n, 500, 1, 1, [1]),
        # More than small steps tell: halved, once.
        (lambda n: 100 + 10 * n + (n > 30) * 200, 500, 64, 20, [1, 2, 40]),
        # Large steps fail although small ones promise room.
        (lambda n: 100 + 10 * n if n < 30 else None, 500, 64, 20, [1, 2, 40]),
        (lambda n: 100 + 10 * n if n < 2 else None, 500, 64, 1, [1]),
        (lambda n: None, 500, 64, 0, []),
        # A second image that costs nothing, as far as the device tells.
        (lambda n: 100, 500, 64, 64, [1, 2, 64]),
    ],
)
def test_the_largest_number_that_fits(cost, budget, most, expected, tried):
    calls = []

    def peak(images):
        if cost(images) is None:
            raise torch.cuda.OutOfMemoryError("simulated")
        calls.append(images)
        return cost(images)

    assert largest_fit(peak, budget=budget, most=most) == expected
    assert [n for n in tried if cost(n) is not None] == calls


NO_ENGINE = "FIND was unable to find an engine to execute this computation"


@pytest.fixture
def cuda(monkeypatch):
    """What `CudaMemory` asks PyTorch, without a GPU: its figures, to be set."""
    figures = {"most": 0, "num_ooms": 0}
    answers = {
        "reset_peak_memory_stats": lambda device: figures.update(most=0),
        "synchronize": lambda device: None,
        "max_memory_reserved": lambda device: figures["most"],
        "memory_stats": lambda device: figures,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    return figures


def test_what_the_search_for_algorithms_takes_does_not_count(cuda):
    taken = iter((900, 100))
    peak = CudaMemory(torch.device("cuda")).peak(lambda: cuda.update(most=next(taken)))
    assert peak == 100


@pytest.mark.parametrize(
    ("error", "missed", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), 1, torch.cuda.OutOfMemoryError),
        (RuntimeError(NO_ENGINE), 1, torch.cuda.OutOfMemoryError),
        (RuntimeError(NO_ENGINE.replace("FIND", "GET")), 3, torch.cuda.OutOfMemoryError),
        (RuntimeError(NO_ENGINE), 0, RuntimeError),  # of a GPU that cuDNN does not know
        (RuntimeError("CUDA error: an illegal memory access"), 1, RuntimeError),
    ],
)
def test_memory_that_no_algorithm_gets_is_too_little(cuda, error, missed, expected):
    def step():
        cuda["num_ooms"] = missed
        raise error

    with pytest.raises(RuntimeError, match=str(error)) as caught:
        CudaMemory(torch.device("cuda")).peak(step)
    assert caught.type is expected


def test_a_run_names_the_setting_then(cuda, quick, monkeypatch, tmp_path):
    def step(*values, **options):
        cuda["num_ooms"] = 1
        raise RuntimeError(NO_ENGINE)

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(TrainingError, match=r"out of memory .* at step 1 .*; lower train\.batch"):
        train("yolox-nano", *quick, output=tmp_path / "run")


@pytest.fixture
def accelerator():
    with open_accelerator("cpu") as accelerator:
        yield accelerator


WORDS = (
    *("train.batch=auto", "input.size=64", "augment.multiscale=null", "data.max_labels=3"),
    "model.width=0.125",
)


def settle(accelerator, memory, *words, processes=None):
    config = load_config("yolox-nano", [*WORDS, *words])
    torch.manual_seed(0)
    network = build_model(config.model, num_classes=2)
    before = copy.deepcopy(network.state_dict())
    settled, note = settle_batch(config, network, memory, accelerator, processes or Processes())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert settled.with_overrides("train.batch=auto") == config
    return settled.train.batch, note


@pytest.fixture
def room_for(accelerator):
    """Memory for so many images, which take about the same each."""
    memory = SimulatedMemory(1 << 40)
    settle(accelerator, memory, "train.accumulate=16")
    one, two, four = memory.peaks
    assert four - two == pytest.approx(2 * (two - one), rel=0.02)
    return lambda images: SimulatedMemory(int((one + (images - 1) * (two - one)) / _SHARE))


def test_a_real_step_stays_within_the_share(accelerator, room_for):
    memory = room_for(9.5)
    batch, note = settle(accelerator, memory)
    assert batch == 9
    assert note == "train.batch=auto: 9 images a step, 9 at once on each device, the most that fits"
    assert memory.peaks[-1] <= _SHARE * memory.size < memory.peaks[-1] + memory.peaks[0]


def test_a_recipe_whose_batch_fits_keeps_it(accelerator):
    batch, note = settle(accelerator, SimulatedMemory(1 << 40), "train.accumulate=16")
    assert batch == 64
    assert note.endswith("64 images a step, 4 at once on each device, as the recipe has it")
    adamw = ("recipe=adamw", "train.accumulate=128")
    assert settle(accelerator, SimulatedMemory(1 << 40), *adamw)[0] == 256


class TwoDevices(Processes):
    """Another device, which can take three images at once."""

    def gather(self, items):
        return [*items, 3]


def test_the_smallest_device_decides(accelerator, room_for):
    memory = room_for(5.5)
    processes = TwoDevices(world_size=2)
    batch, note = settle(accelerator, memory, "train.accumulate=4", processes=processes)
    assert batch == 3 * 2 * 4
    assert "24 images a step, 3 at once on each device" in note


def test_not_even_one_image(accelerator):
    with pytest.raises(TrainingError, match=r"one image of 64 x 64 does not fit into 0\.0 GB"):
        settle(accelerator, SimulatedMemory(1000))


def test_a_run_settles_it_before_it_starts_and_keeps_it(quick, monkeypatch, tmp_path, capfd):
    memory = SimulatedMemory(1 << 40)
    words = (*quick, "train.batch=auto", "train.accumulate=32", "augment.multiscale=null")
    with pytest.raises(ConfigError, match=r"on a CUDA GPU .* is on cpu; give a number"):
        train("yolox-nano", *words, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(build, "open_memory", lambda device: memory)
    first = train("yolox-nano", *words, "train.max_steps=1", output=tmp_path / "run")
    assert len(memory.peaks) == 3
    assert load_config(tmp_path / "run/config.yaml").train.batch == 64
    assert "train.batch=auto: 64 images a step" in capfd.readouterr().err
    monkeypatch.undo()
    resumed = train("train.max_steps=2", resume=tmp_path / "run")
    assert (first.steps, resumed.steps) == (1, 2)


@pytest.mark.parametrize("multiscale", ["null", "[0.75, 1.25]", "[0.5, 0.9]", "[1, 1.5]"])
@pytest.mark.parametrize("size", ["64", "[416, 640]"])
def test_no_step_is_larger_than_the_one_that_is_tried(size, multiscale):
    words = [f"augment.multiscale={multiscale}", f"input.size={size}"]
    config = load_config("yolox-s", words)
    native, interval = config.input.size, config.augment.multiscale_interval
    steps = range(0, 300 * interval, interval)
    sizes = {input_size_at(i, seed=0, augment=config.augment, native=native) for i in steps}
    assert max(sizes) == largest_input(config.augment, native=native)


@pytest.mark.gpu
def test_on_a_real_device(quick):
    with open_accelerator("cuda") as accelerator:
        memory = open_memory(accelerator.device)
        config = load_config("yolox-s", [*quick, "train.batch=auto", "input.size=640"])
        network = build_model(config.model, num_classes=80).to(accelerator.device)
        # The first product of matrices brings a workspace that stays.
        ones = torch.ones(1, 2, 2, device="cuda")
        ones = ones @ ones
        held = torch.cuda.memory_allocated()
        settled, _ = settle_batch(config, network, memory, accelerator, Processes())
        assert 1 <= settled.train.images_per_step <= 64
        assert torch.cuda.memory_allocated() == held
