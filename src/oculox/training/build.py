"""The parts of a run, built from its configuration in the order they depend on each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import nn

from oculox.addresses import Location
from oculox.config import Config
from oculox.config.schema import InputConfig
from oculox.data.coco import CocoIndex
from oculox.data.faults import bad_evaluation_images, bad_training_images
from oculox.data.image_watch import watch_images
from oculox.data.loader import EvalLoader, TrainLoader, build_eval_loader, build_train_loader
from oculox.datasets.splits import load_splits
from oculox.distributed.devices import processes_of
from oculox.distributed.sync_bn import to_sync_batch_norm
from oculox.errors import ConfigError, DataError, plural
from oculox.losses.criterion import Criterion, build_criterion
from oculox.models import YOLOX, build_model
from oculox.training.fit_batch import open_memory, settle_batch
from oculox.training.optim import Ema, build_optimizer, freeze_parts
from oculox.training.schedule import EpochPlan, LearningRate, build_learning_rate, plan_epochs
from oculox.types import ModelSpec
from oculox.weights.bundle import transfer_state
from oculox.weights.load import load_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What one step needs.

    Attributes:
        accelerator: device, processes, precision.
        network: what is trained.
        model: the network, wrapped where there are several processes; it is called in its place.
        criterion: assignment and loss.
        optimizer: of the network.
        ema: its average, where there is one.
        input_config: the pixels that the network expects.
        accumulate: micro-batches of a step.
        clip_grad_norm: largest gradient norm, 0 for no clipping.
    """

    accelerator: Accelerator
    network: YOLOX
    model: nn.Module
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    ema: Ema | None
    input_config: InputConfig
    accumulate: int
    clip_grad_norm: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Everything a run is made of.

    Attributes:
        config: resolved; preprocessing follows the starting weights.
        parts: network, criterion, optimizer, average.
        train_loader, val_loader: the data, this process's part.
        spec: description of the network for evaluation.
        plan, rate: phases and learning rate.
        notes: what the log should say at the start.
    """

    config: Config
    parts: Parts
    train_loader: TrainLoader
    val_loader: EvalLoader
    spec: ModelSpec
    plan: EpochPlan
    rate: LearningRate
    notes: tuple[str, ...]

    @property
    def last_step(self) -> int:
        """The step (from 1) after which the run ends, unless something stops it earlier."""
        return min(self.rate.total_steps, self.config.train.max_steps or self.rate.total_steps)


def build_run(config: Config, accelerator: Accelerator, *, weights: Location | None) -> Run:
    """Build all parts of a run.

    Args:
        config: validated configuration; ``train.batch=auto`` is a number in that of the run.
        accelerator: device and processes.
        weights: file to start from; None for a fresh network.

    Raises:
        ConfigError: the batch does not fit the number of processes, or the device takes no auto.
        DataError: the data is missing or faulty, or its classes disagree.
        CheckpointError: the weights do not fit.
        TrainingError: not even one image fits into the device's memory.
    """
    rank, world_size = accelerator.process_index, accelerator.num_processes
    pieces = world_size * config.train.accumulate
    memory = open_memory(accelerator.device) if config.train.batch == "auto" else None
    if memory is None and config.train.images_per_step % pieces:
        raise ConfigError(
            f"train.batch={config.train.batch} cannot be split over {world_size} processes "
            f"x train.accumulate={config.train.accumulate}; use a multiple of {pieces}"
        )
    torch.manual_seed(config.train.seed)
    train_index, val_index = load_splits(config.data, "train", "val")
    names = check_classes(config, train_index, val_index)

    network = build_model(config.model, num_classes=len(names))
    notes = [_describe(train_index, val_index)]
    if weights is not None:
        loaded = load_weights(weights)
        wanted = names if config.train.match_classes else None
        kept = transfer_state(network, loaded, names=wanted, where=str(weights))
        # Colour order, range, placement and padding are facts of the weights; the size is not.
        size = config.input.size
        config = config.model_copy(update={"input": loaded.spec.input.at(size)})
        notes.append(_transfer_note(weights, loaded.spec.num_classes, len(names), kept))
        if config.train.match_classes:
            config, lowered = _lower_rate(config, kept / len(names))
            notes += lowered
    freeze_parts(network, config.train.freeze)

    network.to(accelerator.device)
    if config.train.channels_last and accelerator.device.type in ("cpu", "cuda"):
        # The convolutions hand the order of their weights on to all that follows.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = None
    if config.ema.enabled:
        ema = Ema(network, decay=config.ema.decay, ramp=config.ema.ramp)
    if memory is not None:
        processes = processes_of(accelerator)
        config, note = settle_batch(config, network, memory, accelerator, processes)
        notes.append(note)
    model: nn.Module = network
    if config.train.sync_bn and world_size > 1:
        model = to_sync_batch_norm(network, device_type=accelerator.device.type)
    if config.train.compile:
        model = _compiled(model)
    # Built before wrapping: accelerate would hide the parameter groups' order otherwise.
    optimizer = build_optimizer(network, config.optimizer)
    model, prepared = accelerator.prepare(model, optimizer)

    train_loader = build_train_loader(
        config,
        train_index,
        rank=rank,
        world_size=world_size,
        batch_per_process=config.train.images_per_step // world_size,
        report=notes.append,
    )
    plan = plan_epochs(config.train, warmup_epochs=config.schedule.warmup_epochs)
    return Run(
        config=config,
        parts=Parts(
            accelerator=accelerator,
            network=network,
            model=model,
            criterion=build_criterion(
                config.loss, num_classes=len(names), strides=config.model.strides
            ),
            optimizer=prepared,
            ema=ema,
            input_config=config.input,
            accumulate=config.train.accumulate,
            clip_grad_norm=config.optimizer.clip_grad_norm,
        ),
        train_loader=train_loader,
        val_loader=build_eval_loader(config, val_index, rank=rank, world_size=world_size),
        spec=_spec(config, train_index),
        plan=plan,
        rate=build_learning_rate(config, plan, steps_per_epoch=train_loader.steps_per_epoch),
        notes=(*notes, *plan.notes),
    )


def _compiled(model: nn.Module) -> nn.Module:
    """The model, compiled at its first step; the parts that fail to compile run as they are."""
    # A setting of the whole process: PyTorch has none for one model.
    torch._dynamo.config.suppress_errors = True
    return torch.compile(model)  # type: ignore[return-value]


def watch_run(
    run: Run, *, report: Callable[[str], None]
) -> AbstractContextManager[Callable[[Iterable[str]], None]]:
    """`watch_images` for a run; the main process looks at the files."""
    data, index, val = run.config.data, run.train_loader.index, run.val_loader.index
    return watch_images(
        (index, bad_training_images(data.max_bad_images, images=len(index))),
        (val, bad_evaluation_images(run.config.eval.max_bad_images)),
        report=report,
        ahead=run.parts.accelerator.is_main_process,
    )


def check_classes(config: Config, train: CocoIndex, val: CocoIndex) -> tuple[str, ...]:
    """The class names of a run.

    Raises:
        DataError: the configured class count or the validation split says otherwise.
    """
    names = train.class_names
    wanted = config.model.num_classes
    if wanted is not None and wanted != len(names):
        raise DataError(
            f"model.num_classes={wanted}, but {train.annotations} has {len(names)} categories; "
            "leave the key out to take the count from the data"
        )
    if val.class_names != names:
        sides = (("train", names, val.class_names), ("val", val.class_names, names))
        odd = [
            f"only in {split}: {', '.join(found[:3])}{', ...' * (len(found) > 3)}"
            for split, ours, theirs in sides
            if (found := [name for name in ours if name not in theirs])
        ]
        why = "; ".join(odd) or "the order of their ids differs"
        raise DataError(
            f"{val.annotations}: its categories ({len(val.class_names)}) are not those of "
            f"{train.annotations} ({len(names)}): {why}; both files need the same categories in "
            "the same order of ids"
        )
    return names


def _spec(config: Config, index: CocoIndex) -> ModelSpec:
    return ModelSpec(
        model=config.model.model_copy(update={"num_classes": len(index.class_names)}),
        input=config.input,
        names=index.class_names,
        category_ids=index.category_ids,
    )


def _describe(train: CocoIndex, val: CocoIndex) -> str:
    objects = sum(train.num_objects(i) for i in range(len(train)))
    return (
        f"data: {plural(len(train), 'training image')} with {plural(objects, 'object')} of "
        f"{plural(len(train.class_names), 'class')}, {plural(len(val), 'validation image')}"
    )


def _lower_rate(config: Config, known: float) -> tuple[Config, list[str]]:
    """A configuration whose rate fits weights that know this share of the classes, and a note.

    What the weights know is lost at a rate that a new class needs (docs/experiments.md).
    """
    rates = config.optimizer
    if not known or rates.known_lr_ratio == 1:
        return config, []
    rate = rates.lr * (1 - known * (1 - rates.known_lr_ratio))
    # Settled: a saved configuration must not do it again.
    settled = rates.model_copy(update={"lr": rate, "known_lr_ratio": 1.0})
    note = (
        f"the weights know {known:.0%} of the classes: optimizer.lr is {rate:.3g} now, the peak "
        "learning rate at 64 images a step"
    )
    return config.model_copy(update={"optimizer": settled}), [note]


def _transfer_note(weights: Location, theirs: int, ours: int, kept: int) -> str:
    if kept == ours == theirs:
        return f"weights: all tensors from {weights}"
    if not kept:
        return (
            f"weights: from {weights}, all but the class predictors, which start fresh "
            f"({plural(theirs, 'class')} there, {ours} here)"
        )
    return (
        f"weights: from {weights} ({plural(theirs, 'class')} there, {ours} here); "
        f"{kept} keep their class predictor by name, {ours - kept} start fresh"
    )
