"""Seconds of a training step: the official code beside ours in several forms, in turns.

    pip install --no-deps --no-build-isolation yolox==0.3.0 loguru thop tabulate
    python benchmarks/training_step.py yolox-nano --imgsz 416 --batch 8 --official
    python benchmarks/training_step.py yolox-s --imgsz 640 --batch 4 --official --profile
    python benchmarks/training_step.py yolox-nano --forms channels-last --objects 10 100 1000

Random images and boxes; forward, loss, backward, optimizer and moving average, no loader. All
forms are built once and take turns for a few steps, in several rounds, so that other work of the
machine slows all of them equally. A ratio is the median over rounds of the seconds of the
reference over those of a form in the same round. The reference is the first one: the official step
with ``--official``, else our own in the first form. The official package imports torchvision for
NMS, which no training step calls: an empty module stands in for it where it is absent.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from oculox.config import Config, load_config
from oculox.distributed.devices import describe_machine
from oculox.losses.criterion import build_criterion
from oculox.models import build_model
from oculox.training.build import Parts
from oculox.training.optim import Ema, build_optimizer
from oculox.training.step import train_step
from oculox.types import Batch, RawPredictions, Targets

OFFICIAL = "official"
Step = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to run our step."""

    channels_last: bool = False
    precision: torch.dtype | None = None
    compiled: bool = False


FORMS = {
    "contiguous": Form(),
    "channels-last": Form(channels_last=True),
    "bf16": Form(precision=torch.bfloat16),
    "bf16 channels-last": Form(channels_last=True, precision=torch.bfloat16),
    "channels-last compiled": Form(channels_last=True, compiled=True),
    "bf16 channels-last compiled": Form(
        channels_last=True, precision=torch.bfloat16, compiled=True
    ),
}


class Autocast(nn.Module):
    """A network under autocast, its outputs in float32, as accelerate wraps it."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, images: Tensor) -> RawPredictions:
        """(B, 3, H, W) -> raw predictions."""
        with torch.autocast(images.device.type, dtype=self.dtype):
            raw = self.network(images)
        return RawPredictions(*(t.float() for t in raw[:3]), raw.level_sizes)


def random_batch(batch: int, side: int, objects: int) -> Batch:
    """Noise with boxes of 16 pixels to half the image, of 80 classes."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.rand(batch, objects, 2, generator=generator) * (side / 2 - 16) + 16
    corners = torch.rand(batch, objects, 2, generator=generator) * (side - sizes)
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)
    boxes = torch.cat((corners, corners + sizes), dim=-1)
    labels = torch.randint(0, 80, (batch, objects), generator=generator)
    return Batch(
        # As loaders hand them over.
        images=pinned(pixels.contiguous(memory_format=torch.channels_last)),
        targets=Targets(
            pinned(boxes), pinned(labels), pinned(torch.ones(batch, objects, dtype=torch.bool))
        ),
        image_ids=tuple(range(batch)),
        source_hw=((side, side),) * batch,
    )


def pinned(tensor: Tensor) -> Tensor:
    """In memory that a GPU reads from, where there is one."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def our_step(config: Config, batch: Batch, form: Form) -> Step:
    """Our whole step in one form."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    network = build_model(config.model, num_classes=80).train().to(accelerator.device)
    if form.channels_last:
        network.to(memory_format=torch.channels_last)
    model: nn.Module = torch.compile(network) if form.compiled else network
    parts = Parts(
        accelerator=accelerator,
        network=network,
        model=Autocast(model, form.precision) if form.precision else model,
        criterion=build_criterion(config.loss, num_classes=80, strides=network.strides),
        optimizer=build_optimizer(network, config.optimizer),
        ema=Ema(network, decay=0.9998, ramp=2000),
        input_config=config.input,
        accumulate=1,
        clip_grad_norm=0.0,
    )
    height, width = batch.images.shape[-2:]
    return lambda: ignore(
        train_step(parts, batch, rate=1e-4, size_hw=(height, width), use_l1=False, step=1)
    )


def ignore(value: object) -> None:
    """Drop a result."""


def import_official(name: str) -> Any:
    """A module of the official package, with the stand-in for torchvision where it is absent."""
    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        sys.modules["torchvision"] = types.ModuleType("torchvision")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"the official code: {error}; see the top of this file") from error


def official_step(name: str, batch: Batch) -> Step:
    """What ``train_one_iter`` of the official ``core/trainer.py`` does, in float32."""
    average = import_official("yolox.utils").ModelEMA
    experiment = import_official("yolox.exp").get_exp(exp_name=name)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = experiment.get_model().train().to(device)
    optimizer = experiment.get_optimizer(len(batch.images))
    ema = average(model, 0.9998)
    boxes = batch.targets.boxes
    centres, sizes = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    labels = pinned(torch.cat((batch.targets.labels[..., None].float(), centres, sizes), dim=-1))

    def step() -> None:
        images = batch.images.to(device, non_blocking=True).float().contiguous()
        loss = model(images, labels.to(device, non_blocking=True))["total_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model)
        loss.item()

    return step


def take_turns(steps: dict[str, Step], *, rounds: int, turns: int) -> dict[str, list[float]]:
    """Seconds of a step of each form in each round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            step()  # the caches hold what the form before left
            wait_for_device()
            start = time.perf_counter()
            for _ in range(turns):
                step()
            wait_for_device()
            if turn:
                seconds[name].append((time.perf_counter() - start) / turns)
    return seconds


def wait_for_device() -> None:
    """Until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def print_profile(step: Step) -> None:
    """Where the time of a step goes."""
    with torch.profiler.profile() as profiler:
        for _ in range(3):
            step()
    kind = "device" if torch.cuda.is_available() else "cpu"
    print(profiler.key_averages().table(sort_by=f"self_{kind}_time_total", row_limit=25))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", help="a recipe")
    parser.add_argument("--imgsz", type=int, default=416)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--objects", type=int, nargs="+", default=[10], help="boxes an image")
    parser.add_argument("--official", action="store_true", help="time the official code as well")
    parser.add_argument(
        "--forms", default="contiguous,channels-last", help="of " + ", ".join(FORMS)
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--turns", type=int, default=3, help="steps of a form in a round")
    parser.add_argument("--threads", type=int, help="one per core by default")
    parser.add_argument("--profile", action="store_true", help="print where each form's time goes")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    config = load_config(arguments.name)
    steps: dict[str, Step] = {}
    for objects in arguments.objects:
        batch = random_batch(arguments.batch, arguments.imgsz, objects)
        ending = f", {objects} objects" if len(arguments.objects) > 1 else ""
        if arguments.official:
            steps[OFFICIAL + ending] = official_step(arguments.name, batch)
        for form in arguments.forms.split(","):
            steps[form + ending] = our_step(config, batch, FORMS[form])
    seconds = take_turns(steps, rounds=arguments.rounds, turns=arguments.turns)
    reference = next(iter(seconds.values()))
    rows = {
        name: {
            "seconds": statistics.median(times),
            "times_faster": statistics.median(a / b for a, b in zip(reference, times, strict=True)),
        }
        for name, times in seconds.items()
    }
    settings = {key: getattr(arguments, key) for key in ("name", "imgsz", "batch", "objects")}
    if arguments.json:
        result = {**settings, "machine": describe_machine(arguments.threads), "forms": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(", ".join(f"{key} {value}" for key, value in settings.items()), end="\n\n")
    print("| form | seconds | times faster |\n| --- | ---: | ---: |")
    for name, row in rows.items():
        print(f"| {name} | {row['seconds']:.3f} | {row['times_faster']:.2f} |")
    if arguments.profile:
        for name, step in steps.items():
            print(f"\n{name}")
            print_profile(step)


if __name__ == "__main__":
    main()
