"""A run from top to bottom."""

from __future__ import annotations

import dataclasses
import time
from contextlib import closing
from pathlib import Path

import torch
from accelerate import Accelerator

from oculox.config import Config, config_to_yaml
from oculox.distributed.devices import gather_lists, open_accelerator
from oculox.errors import TrainingError
from oculox.evaluation.evaluate import evaluate_loader
from oculox.evaluation.metrics import CocoMetrics
from oculox.files import write_text
from oculox.postprocess import DetectSettings
from oculox.runtime.torch_backend import TorchBackend
from oculox.training.assemble import Run, build_run
from oculox.training.curves import write_curves
from oculox.training.log import RunLog, format_seconds
from oculox.training.meter import StepMeter
from oculox.training.optim import set_train_mode
from oculox.training.output import claim_output, settled_config, trim_checkpoints
from oculox.training.profiling import StepProfiler, step_profiler
from oculox.training.schedule import input_size_at, l1_is_on
from oculox.training.state import BEST, LAST, Progress, restore_run, save_run
from oculox.training.summary import TrainSummary, write_summary
from oculox.weights.checkpoint import load_training_state


def run_training(
    config: Config, *, output: Path, weights: Path | None = None, resume: bool = False
) -> TrainSummary:
    """Train in this process (one of several, when launched so).

    Args:
        config: validated configuration.
        output: folder of the run; must not hold another run unless `resume`.
        weights: file to start from.
        resume: go on from ``last.pt`` in `output`, exactly.

    Raises:
        OculoxError: for anything wrong with configuration, data, weights or output, and when
            the loss is not finite; what was saved before stays.
    """
    if resume:
        config = settled_config(output, config)
    with open_accelerator(config.train) as accelerator:
        if accelerator.is_main_process:
            claim_output(output, resume=resume)
        torch.use_deterministic_algorithms(config.train.deterministic, warn_only=True)
        # Input sizes repeat, so that trying convolution algorithms once for each pays.
        torch.backends.cudnn.benchmark = not config.train.deterministic
        run = build_run(config, accelerator, weights=None if resume else weights)
        progress = _resume(run, output) if resume else Progress()
        if accelerator.is_main_process and not resume:
            text = config_to_yaml(run.config)
            write_text(output / "config.yaml", text)
        log = RunLog(
            output,
            total_steps=run.rate.total_steps,
            resume_step=progress.step,
            tensorboard=config.train.tensorboard,
            enabled=accelerator.is_main_process,
        )
        with (
            log,
            closing(run.train_loader),
            closing(run.val_loader),
            step_profiler(output, enabled=config.train.profile) as profile,
        ):
            return _train(run, progress, output=output, log=log, profile=profile)


def _train(
    run: Run, progress: Progress, *, output: Path, log: RunLog, profile: StepProfiler
) -> TrainSummary:
    started = time.perf_counter()
    _greet(run, progress, output, log)
    metrics: CocoMetrics | None = None
    stopped = False
    meter = StepMeter(run, log, done=progress.step)
    for epoch in range(progress.epoch, run.plan.total):
        if epoch == run.plan.aug:
            log.message(f"epoch {epoch + 1}: the tail begins, without mosaic and mixup")
        progress = _train_epoch(run, epoch, progress, meter=meter, profile=profile)
        out_of_steps = progress.step >= (run.config.train.max_steps or run.rate.total_steps)
        last = epoch + 1 == run.plan.total or out_of_steps
        improved = False
        if last or _evaluation_is_due(run, epoch):
            metrics = _evaluate(run, epoch, progress, log)
            improved = metrics.ap > progress.best_ap
            progress = _scored(progress, metrics.ap, epoch=epoch, improved=improved)
            patience = run.config.train.early_stop
            stopped = bool(patience) and progress.evals_without_gain >= patience
        if last or stopped or improved or (epoch + 1) % run.config.train.checkpoint_interval == 0:
            _save(run, progress, output=output, best=improved)
        if stopped:
            log.message(f"stopped early: no better AP in {progress.evals_without_gain} evaluations")
        if stopped or last:
            break
    summary = TrainSummary(
        output=output,
        metrics={} if metrics is None else metrics.as_dict(),
        best_ap=progress.best_ap,
        best_epoch=progress.best_epoch,
        epochs=progress.epoch,
        steps=progress.step,
        seconds=time.perf_counter() - started,
        stopped_early=progress.step < run.rate.total_steps,
    )
    if run.accelerator.is_main_process:
        write_curves(output)
        write_summary(summary)
    return summary


def _train_epoch(
    run: Run, epoch: int, progress: Progress, *, meter: StepMeter, profile: StepProfiler
) -> Progress:
    config = run.config
    in_tail = run.plan.in_tail(epoch)
    set_train_mode(run.stepper.model, ())
    set_train_mode(run.stepper.network, config.train.freeze)
    meter.start_epoch(epoch, phase="tail" if in_tail else "aug")
    limit = config.train.max_steps or run.rate.total_steps
    step = progress.step
    steps_per_epoch = run.train_loader.steps_per_epoch
    batches = run.train_loader.iterate(
        epoch, mosaic=not in_tail, start_step=step - epoch * steps_per_epoch
    )
    for batch in meter.timed(batches):
        size = input_size_at(
            step,
            seed=config.train.seed,
            augment=config.augment,
            native=config.input.size,
        )
        try:
            loss = run.stepper.run(
                batch,
                rate=run.rate.at(step),
                size_hw=size,
                use_l1=l1_is_on(config.loss, in_tail=in_tail),
                step=step + 1,
            )
        except torch.cuda.OutOfMemoryError as error:
            raise _out_of_memory(run, step + 1, size) from error
        step += 1
        meter.step(step, loss, size_hw=size)
        profile.step()
        if step >= limit:
            break
    return dataclasses.replace(progress, epoch=step // steps_per_epoch, step=step)


def _out_of_memory(run: Run, step: int, size_hw: tuple[int, int]) -> TrainingError:
    train = run.config.train
    return TrainingError(
        f"out of memory on {run.accelerator.device} at step {step} with "
        f"{train.batch // run.accelerator.num_processes // train.accumulate} images of "
        f"{size_hw[0]}x{size_hw[1]} at once; lower train.batch, raise train.accumulate "
        f"(now {train.accumulate}) or lower augment.multiscale; what was saved before is good"
    )


def _evaluation_is_due(run: Run, epoch: int) -> bool:
    train = run.config.train
    interval = train.tail_eval_interval if run.plan.in_tail(epoch) else train.eval_interval
    return interval > 0 and (epoch + 1) % interval == 0


def _evaluate(run: Run, epoch: int, progress: Progress, log: RunLog) -> CocoMetrics:
    stepper, config = run.stepper, run.config
    network = stepper.network if stepper.ema is None else stepper.ema.network
    result = evaluate_loader(
        TorchBackend.from_network(network, run.spec, fused=True),
        run.val_loader,
        settings=DetectSettings(
            conf=config.eval.conf,
            iou=config.eval.iou,
            max_det=config.eval.max_det,
        ),
        gather=gather_lists if run.accelerator.num_processes > 1 else None,
    )
    metrics = result.metrics
    log.evaluation(epoch=epoch + 1, step=progress.step, metrics=metrics.as_dict())
    log.message(
        f"epoch {epoch + 1} evaluation: AP {metrics.ap:.4f} AP50 {metrics.ap50:.4f} "
        f"AP75 {metrics.ap75:.4f} in {format_seconds(result.seconds)}"
    )
    if metrics.ap <= 0 and (epoch + 1) * 4 >= run.plan.total:
        log.message(_why_zero(metrics))
    return metrics


def _why_zero(metrics: CocoMetrics) -> str:
    if metrics.detections == 0:
        return (
            "AP is 0: nothing was detected above eval.conf. Train longer, start from weights "
            "(--weights), or raise the learning rate if the loss hardly falls"
        )
    return (
        f"AP is 0 with {metrics.detections} detections: none lies on an object of its class. "
        "Check the annotations with: oculox data check"
    )


def _scored(progress: Progress, ap: float, *, epoch: int, improved: bool) -> Progress:
    if improved:
        return dataclasses.replace(progress, best_ap=ap, best_epoch=epoch + 1, evals_without_gain=0)
    return dataclasses.replace(progress, evals_without_gain=progress.evals_without_gain + 1)


def _save(run: Run, progress: Progress, *, output: Path, best: bool) -> None:
    train, accelerator = run.config.train, run.accelerator
    paths = []
    if accelerator.is_main_process:
        paths = [output / BEST] if best else []
        if train.keep_checkpoints:
            paths.append(output / f"epoch-{progress.epoch:04}.pt")
        # Last, so that a crash while writing the others leaves a resumable run.
        paths.append(output / LAST)
    elif not train.save_on_main_only:
        paths = [output / f"last-rank{accelerator.process_index}.pt"]
    if not paths:
        return
    save_run(
        paths,
        config=run.config,
        spec=run.spec,
        network=run.stepper.network,
        ema=run.stepper.ema,
        optimizer=run.stepper.optimizer,
        scaler=run.scaler,
        progress=progress,
    )
    if accelerator.is_main_process and train.keep_checkpoints:
        trim_checkpoints(output, keep=train.keep_checkpoints)


def _resume(run: Run, output: Path) -> Progress:
    path = output / LAST
    weights, training = load_training_state(path)
    return restore_run(
        weights,
        training,
        where=str(path),
        network=run.stepper.network,
        ema=run.stepper.ema,
        optimizer=run.stepper.optimizer,
        scaler=run.scaler,
    )


def _greet(run: Run, progress: Progress, output: Path, log: RunLog) -> None:
    config, accelerator = run.config, run.accelerator
    log.message(
        f"training {config.model.name} on {_where(accelerator)} in {config.train.precision}: "
        f"{run.plan.aug} + {run.plan.tail} epochs of {run.train_loader.steps_per_epoch} steps "
        f"of {config.train.batch} images, peak learning rate {run.rate.peak:.3g}; "
        f"output in {output}"
    )
    for note in run.notes:
        log.message(note)
    if progress.step:
        log.message(f"resumed after epoch {progress.epoch}, step {progress.step}")


def _where(accelerator: Accelerator) -> str:
    count, device = accelerator.num_processes, accelerator.device
    return f"{count} processes ({device.type})" if count > 1 else str(device)
