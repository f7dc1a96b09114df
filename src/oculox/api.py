"""What most programs need: `Detector`, `train` and `list_models`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch.utils.flop_counter import FlopCounterMode

from oculox.config import Config, config_from_dict, config_to_yaml, load_config, recipe_names
from oculox.config.schema import DataConfig, Precision
from oculox.data.coco import CocoIndex, load_coco, load_split
from oculox.data.image import read_image
from oculox.distributed.launch import is_launched, launch
from oculox.errors import TrainingError, UsageError
from oculox.evaluation.evaluate import Evaluation, Gather
from oculox.evaluation.evaluate import evaluate as evaluate_backend
from oculox.export.open_with import open_with
from oculox.models import build_model
from oculox.postprocess import DetectSettings
from oculox.predict.inputs import ColorOrder, as_bgr
from oculox.predict.pipeline import Pipeline
from oculox.runtime.backend import Backend
from oculox.training.loop import run_training
from oculox.training.run_folder import (
    TrainSummary,
    default_folder,
    read_summary,
    settle_config,
)
from oculox.types import Detections
from oculox.weights.catalogue import find_published
from oculox.weights.checkpoint import training_config

Split = Literal["train", "val"]


class Detector:
    """A trained network, ready to use on images.

    >>> detector = Detector("best.pt")              # doctest: +SKIP
    >>> detector("street.jpg").to_dicts()           # doctest: +SKIP

    Args:
        model: a weights file (Oculox's or another project's), an exported model, or a backend.
        conf: lowest score kept.
        iou: IoU above which the weaker of two boxes of a class goes.
        classes: keep only these, by name or number.
        imgsz: input size; the model's own by default.
        device: ``auto`` takes the best present.
        precision: of the network, for PyTorch weights.
        backend: the runtime for a checkpoint: ``torch``, ``onnx``, ``openvino``, or ``auto`` for
            the fastest one installed (`self.backend.kind` tells which); exported files tell
            their own.
        batch: most images at once.

    Raises:
        CheckpointError: the file is missing, damaged or no such model.
        UsageError: an option does not fit the model.
    """

    def __init__(
        self,
        model: str | Path | Backend,
        *,
        conf: float = 0.3,
        iou: float = 0.45,
        classes: Sequence[str | int] | None = None,
        imgsz: int | tuple[int, int] | None = None,
        device: str = "auto",
        precision: Precision = "fp32",
        backend: str | None = None,
        batch: int = 8,
    ) -> None:
        self.path: Path | None = None
        self.backend: Backend
        if isinstance(model, str | Path):
            self.path = Path(model)
            self.backend = open_with(
                self.path,
                backend=backend,
                device=device,
                precision=precision,
                size_hw=(imgsz, imgsz) if isinstance(imgsz, int) else imgsz,
            )
        else:
            self.backend = model
        spec = self.backend.spec
        settings = DetectSettings(
            conf=conf,
            iou=iou,
            class_ids=None if classes is None else spec.class_ids(classes),
        )
        self.size_hw = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
        self.pipeline = Pipeline(self.backend, settings, size_hw=self.size_hw, batch=batch)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by index."""
        return self.backend.spec.names

    @overload
    def __call__(self, images: list[Any], *, color: ColorOrder = ...) -> list[Detections]: ...
    @overload
    def __call__(self, images: Any, *, color: ColorOrder = ...) -> Detections: ...
    def __call__(self, images: Any, *, color: ColorOrder = "bgr") -> Detections | list[Detections]:
        """Find objects.

        Args:
            images: a path, a uint8 array (H, W, 3) or a Pillow image; or a list of those.
            color: channel order of arrays: BGR, as OpenCV reads, unless said otherwise.

        Returns:
            Detections in the image's own pixels; a list for a list.

        Raises:
            DataError: a file is no readable image.
            UsageError: an array is no image.
        """
        if isinstance(images, list):
            return self.pipeline([_loaded(image, color) for image in images], color="bgr")
        return self.pipeline([_loaded(images, color)], color="bgr")[0]

    def evaluate(
        self,
        data: str | Path | None = None,
        *,
        images: str | Path | None = None,
        split: str = "val",
        conf: float = 0.01,
        iou: float = 0.65,
        batch: int = 8,
        workers: int = 1,
        rank: int = 0,
        world_size: int = 1,
        gather: Gather | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """COCO metrics on a data set, with the thresholds of the official evaluation.

        Args:
            data: a data set folder or COCO JSON; by default what the model was trained on.
            images: folder of the images when `data` is a JSON file.
            split: ``val`` or ``train``.
            conf: lowest score kept.
            iou: IoU above which the weaker of two boxes of a class goes.
            batch: images at once.
            workers: loader processes.
            rank: number of this process, where several share the images.
            world_size: how many processes do.
            gather: collects lists over processes.
            progress: called with the numbers of batches done and in all.

        Raises:
            DataError: the data is missing or faulty, or has other classes than the model.
            UsageError: no data was named and the model does not know its own.
        """
        return evaluate_backend(
            self.backend,
            self._index(data, images, split),
            settings=DetectSettings(conf=conf, iou=iou),
            size_hw=self.size_hw,
            batch=batch,
            workers=workers,
            rank=rank,
            world_size=world_size,
            gather=gather,
            progress=progress,
        )

    def train(
        self,
        recipe: str | Path | Config,
        *overrides: str,
        output: str | Path | None = None,
        devices: int = 1,
    ) -> TrainSummary:
        """Fine-tune from these weights; see `train`.

        Raises:
            UsageError: the model is not a weights file.
        """
        if self.path is None:
            raise UsageError("training starts from a weights file; this Detector has none")
        return train(recipe, *overrides, weights=self.path, output=output, devices=devices)

    def _index(self, data: str | Path | None, images: str | Path | None, split: str) -> CocoIndex:
        if split not in ("train", "val"):
            raise UsageError(f"split must be train or val, got {split!r}")
        wanted: Split = "train" if split == "train" else "val"
        if data is None:
            return load_split(self._own_data(), wanted)
        path = Path(data)
        if path.is_file():
            return load_coco(path, path.parent if images is None else Path(images))
        return load_split(DataConfig(root=path), wanted)

    def _own_data(self) -> DataConfig:
        config = None
        if self.path is not None and self.path.suffix == ".pt":
            config = training_config(self.path)
        if config is None:
            raise UsageError("name the data to evaluate on (--data); the model does not know it")
        return config_from_dict(config, where=str(self.path)).data


def train(
    recipe: str | Path | Config | None = None,
    *overrides: str,
    weights: str | Path | None = None,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    devices: int = 1,
) -> TrainSummary:
    """Train a network.

    Args:
        recipe: a recipe's name, a YAML file or a configuration; none for a resumed run.
        overrides: ``section.key=value``.
        weights: start from this file; any class count.
        output: folder of the run; a new one under ``runs/`` by default.
        resume: folder of a run to go on with, exactly, with its own configuration.
        devices: processes on this machine, one for each device; they print what
            ``oculox train`` prints.

    Raises:
        OculoxError: anything wrong with configuration, data, weights or output, or the loss was
            not finite.
    """
    start, folder, run = (None if p is None else Path(p) for p in (weights, output, resume))
    config = settle_config(recipe, overrides, weights=start, output=folder, resume=run)
    if devices == 1 or is_launched():
        return run_training(config, output=folder, weights=start, resume=run)
    target = run or folder or default_folder(config)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "config.yaml"
        path.write_text(config_to_yaml(config), "utf-8")
        words = ["--resume", str(run)] if run else [str(path), "--output", str(target)]
        words += ["--weights", str(start)] if start else []
        words += [str(recipe), *overrides] if run and recipe else []
        code = launch(["train", *words], processes=devices)
    if code:
        raise TrainingError(f"training on {devices} processes failed (exit code {code})")
    return read_summary(target)


def list_models() -> list[dict[str, Any]]:
    """The seven networks: size, cost and what their official weights reach.

    A multiplication and its addition count as two operations, as in the published tables.

    Returns:
        One row a network: `name`, `parameters` and `gflops` at 80 classes, `input` (height and
        width), and of the official weights `published_ap` (COCO val2017, percent) and `source`,
        their address.
    """
    rows = []
    for name in recipe_names():
        config = load_config(name)
        height, width = config.input.size
        published = find_published(name)
        with torch.device("meta"):
            network = build_model(config.model, num_classes=80).eval()
            counter = FlopCounterMode(display=False)
            with counter, torch.no_grad():
                network(torch.empty(1, 3, height, width))
        rows.append(
            {
                "name": name,
                "parameters": sum(p.numel() for p in network.parameters()),
                "gflops": counter.get_total_flops() / 1e9,
                "input": [height, width],
                "published_ap": published.ap,
                "source": published.url,
            }
        )
    return rows


def _loaded(image: Any, color: ColorOrder) -> Any:
    """An image that the pipeline takes as BGR: files are read, arrays put into that order."""
    if isinstance(image, str | Path):
        return read_image(Path(image))
    return as_bgr(image, color=color)
