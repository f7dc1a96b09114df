"""`train`: a run in this process, or in several."""

import tempfile
from pathlib import Path

from oculox.addresses import Location, as_text, to_location
from oculox.config import Config, config_to_yaml
from oculox.distributed.launch import is_launched, launch
from oculox.errors import TrainingError, UsageError
from oculox.training.callback import TrainCallback
from oculox.training.checkpoints import state_file
from oculox.training.loop import run_training
from oculox.training.remote import run_place
from oculox.training.run_folder import TrainSummary, default_folder, read_summary, settle_config


def train(
    recipe: str | Path | Config | None = None,
    *overrides: str,
    weights: str | Location | None = None,
    output: str | Location | None = None,
    resume: str | Location | None = None,
    devices: int = 1,
    callback: TrainCallback | None = None,
) -> TrainSummary:
    """Train a network.

    Args:
        recipe: a recipe's name, a YAML file or a configuration; none for a resumed run.
        overrides: ``section.key=value``.
        weights: start from this file; any class count.
        output: folder of the run; a new one under ``runs/`` by default.
        resume: folder of a run to continue exactly, with its own configuration; or a
            checkpoint in there, such as ``previous.pt``.
        devices: processes on this machine, one for each device; they print what
            ``oculox train`` prints.
        callback: is told of every step, epoch and evaluation, and may stop the run; it needs
            `devices` 1 and no launcher, as it lives in this process.

    Raises:
        OculoxError: anything wrong with configuration, data, weights or output, or the loss was
            not finite.
    """
    if callback is not None and (devices > 1 or is_launched()):
        raise UsageError(
            "a callback lives in this process and cannot follow several: train with `devices` 1 "
            "and without torchrun, or read log.jsonl in the run's folder"
        )
    start, folder, run = (None if p is None else to_location(p) for p in (weights, output, resume))
    place = run_place(folder, run)
    with place.naming_address():
        config = settle_config(
            recipe, overrides, weights=start, output=place.output, resume=place.resume
        )
    if devices == 1 or is_launched():
        return run_training(config, place=place, weights=start, callback=callback)
    target: Location = folder or default_folder(config)
    if place.resume is not None:
        target = place.shown(state_file(place.resume).parent)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "config.yaml"
        path.write_text(config_to_yaml(config), "utf-8")
        words = ["--resume", as_text(run)] if run else [str(path), "--output", as_text(target)]
        words += ["--weights", as_text(start)] if start else []
        words += [str(recipe), *overrides] if run and recipe else []
        code = launch(["train", *words], processes=devices)
    if code:
        raise TrainingError(f"training on {devices} processes failed (exit code {code})")
    return read_summary(target)
