"""How many times faster than plain PyTorch each runtime is, from JPEG to detections.

The baseline is what the official code runs on a CPU: batch norms folded, memory contiguous,
space-to-depth by slices, pyramid pooling by three separate pools. Runtimes take turns in several
rounds, one open at a time, so that other work of the machine slows all of them equally; metrics
are lower quartiles over images, which other programs disturb least.

    python benchmarks/speed.py yolox_nano.pth --data coco --calib coco
    python benchmarks/speed.py yolox-s --untrained --imgsz 640
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from oculox.config import load_config
from oculox.config.schema import DataConfig
from oculox.data.coco import load_split
from oculox.data.image import decode_image
from oculox.distributed.devices import describe_machine
from oculox.exporting.benchmark import sample_jpegs
from oculox.exporting.job import ExportOptions
from oculox.exporting.run import export_model
from oculox.exporting.targets import TARGETS
from oculox.models import build_model
from oculox.models.layers import SPP
from oculox.predict.pipeline import Pipeline
from oculox.runtime.backend import Backend
from oculox.runtime.open_model import open_model
from oculox.runtime.timing import Stopwatch
from oculox.runtime.torch_backend import TorchBackend, fuse
from oculox.types import DecodedPredictions, ImageArray, ModelSpec
from oculox.weights import Weights, build_network, load_weights

BASELINE = "plain PyTorch"


class SeparatePools(nn.Module):
    """Pyramid pooling as published: three pools side by side."""

    def __init__(self, spp: SPP) -> None:
        super().__init__()
        self.conv1, self.conv2 = spp.conv1, spp.conv2
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        x = self.conv1(x)
        out: Tensor = self.conv2(torch.cat((x, *(pool(x) for pool in self.pools)), dim=1))
        return out


class ContiguousInput(TorchBackend):
    """Feeds the network channel by channel, as the official code does, not channels last."""

    def predict(self, images: ImageArray | Tensor) -> DecodedPredictions:
        """See `TorchBackend.predict`."""
        return super().predict(torch.from_numpy(np.ascontiguousarray(images, np.float32)))


def plain_backend(weights: Weights) -> TorchBackend:
    """The baseline."""
    network = fuse(build_network(weights))
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, SPP):
                setattr(parent, name, SeparatePools(child))
    return ContiguousInput(network, weights.spec, owned=True)


def read_weights(name: str, *, untrained: bool) -> Weights:
    """A checkpoint, or fresh weights of a recipe, whose speed is that of trained ones."""
    if not untrained:
        return load_weights(name)
    config = load_config(name)
    torch.manual_seed(0)
    network = build_model(config.model, num_classes=80)
    for predictor in network.head.reg_preds:
        predictor.weight.data *= 0.1  # calm boxes, which the int8 gate can compare
    spec = ModelSpec(
        model=config.model.model_copy(update={"num_classes": 80}),
        input=config.input,
        names=tuple(f"class {i}" for i in range(80)),
    )
    return Weights(spec=spec, state=network.state_dict())


def main() -> None:
    """Export, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="a checkpoint, or with --untrained a recipe")
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--formats", default="onnx,openvino,openvino-int8")
    parser.add_argument("--imgsz", type=int)
    parser.add_argument("--data", type=Path, help="data set whose images are timed")
    parser.add_argument("--calib", type=Path, help="images for int8")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--threads", type=int, help="one per core by default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    weights = read_weights(arguments.weights, untrained=arguments.untrained)
    side = arguments.imgsz or weights.spec.input.size[0]
    index = load_split(DataConfig(root=arguments.data), "val") if arguments.data else None
    jpegs = sample_jpegs(index, arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        openers: dict[str, Callable[[], Backend]] = {
            BASELINE: lambda: plain_backend(weights),
            "torch": lambda: TorchBackend.from_weights(weights),
        }
        for name in arguments.formats.split(","):
            kind, _, precision = name.partition("-")
            options = ExportOptions(
                format=kind,
                size_hw=(side, side),
                precision="int8" if precision == "int8" else "fp32",
                calibration=arguments.calib if precision == "int8" else None,
            )
            path = Path(folder) / f"{name}{TARGETS[kind].suffix}"
            export_model(weights, options, path)
            openers[name] = partial(open_model, path, threads=arguments.threads)
        metrics = measure(openers, jpegs, side, rounds=arguments.rounds)
    print(f"{weights.spec.model.name}, {side} x {side}: {describe_machine(arguments.threads)}\n")
    print("| runtime | ms | network ms | times faster | network alone |")
    print("|---|---:|---:|---:|---:|")
    for name, (total, network, ratio, network_ratio) in metrics.items():
        print(f"| {name} | {total:.1f} | {network:.1f} | {ratio:.2f} | {network_ratio:.2f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(metrics, indent=1), "utf-8")


def measure(
    openers: dict[str, Callable[[], Backend]], jpegs: list[bytes], side: int, *, rounds: int
) -> dict[str, tuple[float, ...]]:
    """Milliseconds in all and of the network, and the ratios to the baseline."""
    totals: dict[str, list[float]] = {name: [] for name in openers}
    networks: dict[str, list[float]] = {name: [] for name in openers}
    for _ in range(rounds):
        for name, opener in openers.items():
            # One runtime at a time: the idle threads of some keep their cores busy for a while.
            pipeline = Pipeline(opener(), size_hw=(side, side), batch=1)
            for turn, jpeg in enumerate(jpegs[:3] + jpegs):
                watch = Stopwatch()
                start = time.perf_counter()
                pipeline([decode_image(jpeg, where="benchmark")], watch=watch)
                if turn >= 3:
                    totals[name].append(1000 * (time.perf_counter() - start))
                    networks[name].append(watch.times().milliseconds()["network"])
            del pipeline
            gc.collect()
            time.sleep(0.5)
    total = {name: float(np.percentile(totals[name], 25)) for name in openers}
    network = {name: float(np.percentile(networks[name], 25)) for name in openers}
    return {
        name: (
            total[name],
            network[name],
            total[BASELINE] / total[name],
            network[BASELINE] / network[name],
        )
        for name in openers
    }


if __name__ == "__main__":
    main()
