"""A run from top to bottom: parts, epochs, steps, evaluation, saving."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator

from oculox.addresses import Location
from oculox.config import Config
from oculox.distributed.devices import (
    is_out_of_memory,
    open_accelerator,
    processes_of,
    settled_precision,
)
from oculox.distributed.launch import is_launched, note_report
from oculox.distributed.sync_bn import share_buffers
from oculox.errors import DeviceMemoryError, TrainingError, UsageError, plural
from oculox.evaluation.evaluate import evaluate_loader
from oculox.evaluation.metrics import CocoMetrics
from oculox.postprocess import DetectSettings
from oculox.runtime.torch_backend import TorchBackend
from oculox.training.build import Run, build_run, watch_run
from oculox.training.callback import TrainCallback
from oculox.training.checkpoints import TrainProgress, restore_run, save_last, save_run
from oculox.training.log import (
    RunLog,
    StepMeter,
    format_seconds,
    step_profiler,
)
from oculox.training.optim import set_train_mode
from oculox.training.remote import RunPlace
from oculox.training.run_folder import (
    TrainSummary,
    finished_run,
    has_ended,
    open_folder,
)
from oculox.training.run_report import RunReport
from oculox.training.schedule import input_size_at, l1_is_on
from oculox.training.step import train_step
from oculox.training.stop import RunStopped, StopRequest, raise_again
from oculox.training.trackers import open_trackers

_MOST_SKIPPED = 50
"""Steps in a row that fp16 may skip; its scaler halves its factor after each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Tools:
    """What is open while a run trains: its folder, the log, and what each step calls."""

    folder: Path
    shown: Location
    log: RunLog
    meter: StepMeter
    count_step: Callable[[], None]
    report_bad_images: Callable[[Iterable[str]], None]
    stop: StopRequest
    report: RunReport
    callback: TrainCallback


def run_training(
    config: Config,
    *,
    place: RunPlace,
    weights: Location | None = None,
    callback: TrainCallback | None = None,
) -> TrainSummary:
    """Train in this process (one of several, when launched so).

    SIGTERM, SIGINT and SIGUSR1 end the run after a step, with ``last.pt`` saved, and then do what
    they would have done; a second one does so at once. During an evaluation the state before it is
    saved already.

    Args:
        config: from `settle_config`.
        place: where the run works. A resumed one goes on exactly, from its ``last.pt`` or the older
            state that is named; a finished one stays as it is.
        weights: file to start a new run from.
        callback: is told how the run goes on; only with one process.

    Raises:
        OculoxError: for anything wrong with configuration, data, weights or output, and when
            the loss is not finite; what was saved before stays.
    """
    resume = place.resume
    if resume is not None and (summary := finished_run(config, resume)) is not None:
        if place.remote is not None and not is_launched():  # others would be reading it
            shutil.rmtree(resume, ignore_errors=True)
        return dataclasses.replace(summary, output=place.shown(resume))
    train = config.train
    precision = settled_precision(train.precision, train.device)
    # Settled once: a run that goes on elsewhere keeps it, and its configuration says what it was.
    config = config.model_copy(update={"train": train.model_copy(update={"precision": precision})})
    try:
        with open_accelerator(
            train.device, precision=precision, timeout=train.timeout
        ) as accelerator:
            callback = callback or TrainCallback()
            try:
                return _run(config, accelerator, place=place, weights=weights, callback=callback)
            except RunStopped:
                if place.remote is not None:
                    # A process that ends makes the launcher end the others, which may be sending.
                    accelerator.wait_for_everyone()
                raise
    except RunStopped as stopped:
        note_report()
        raise_again(stopped.number)
        raise


def _run(
    config: Config,
    accelerator: Accelerator,
    *,
    place: RunPlace,
    weights: Location | None,
    callback: TrainCallback,
) -> TrainSummary:
    train, resume = config.train, place.resume
    if train.deterministic != torch.are_deterministic_algorithms_enabled():
        # It loads PyTorch's compiler, which takes seconds, so only where something changes.
        torch.use_deterministic_algorithms(train.deterministic, warn_only=True)
    # Input sizes repeat, so that trying convolution algorithms once for each pays.
    torch.backends.cudnn.benchmark = not train.deterministic
    try:
        run = build_run(config, accelerator, weights=weights)
    except RuntimeError as error:
        if not is_out_of_memory(error, accelerator.device):
            raise
        raise TrainingError(
            f"out of memory on {accelerator.device} before the first step: {config.model.name} "
            "does not fit; another program may use the device, or take a smaller network"
        ) from error
    with place.naming_address():
        progress = TrainProgress() if resume is None else restore_run(run, resume)
        done, limit = progress.step, train.max_steps
        if limit and limit < done:
            raise UsageError(
                f"{resume}: this run has done {plural(done, 'step')}, more than "
                f"train.max_steps={limit}; raise that, or leave it out with train.max_steps=null"
            )
    # Last, so that a run that cannot start leaves no folder.
    with (
        open_folder(
            run, output=place.output, resume=resume, from_weights=weights is not None
        ) as folder,
        place.sending(folder, enabled=accelerator.is_main_process),
        open_trackers(accelerator, config, folder=folder, resume_step=done) as trackers,
        RunLog(
            folder,
            total_steps=run.last_step,
            resume_step=done,
            resume_epoch=_first_epoch(run, progress),
            enabled=accelerator.is_main_process,
            track=trackers.log,
        ) as log,
        closing(run.train_loader),
        closing(run.val_loader),
        step_profiler(
            folder,
            enabled=train.profile,
            device=accelerator.device,
            rank=accelerator.process_index,
        ) as count_step,
        watch_run(run, report=log.message) as report_bad_images,
        StopRequest(place.shown(folder), tell=log.message) as stop,
    ):
        meter = StepMeter(run, log)
        tools = _Tools(
            folder=folder,
            shown=place.shown(folder),
            log=log,
            meter=meter,
            count_step=count_step,
            report_bad_images=report_bad_images,
            stop=stop,
            report=RunReport(run, folder, trackers, tell=log.message),
            callback=callback,
        )
        return _train(run, progress, tools)


def _train(run: Run, progress: TrainProgress, tools: _Tools) -> TrainSummary:
    started = time.perf_counter()
    folder, log, stop = tools.folder, tools.log, tools.stop
    _announce(run, progress, tools.shown, log)
    train = run.config.train
    metrics: CocoMetrics | None = None
    for epoch in range(_first_epoch(run, progress), run.plan.total):
        if epoch == run.plan.aug:
            log.message(f"epoch {epoch + 1}: the tail begins, without mosaic and mixup")
        progress = _train_epoch(run, epoch, progress, tools)
        if stop.cancelled:
            save_last(run, progress, folder=folder)
            break
        last = progress.step >= run.last_step
        improved = stopped = False
        if stop.agreed or last or _evaluation_is_due(run, epoch):
            # This epoch counts as finished after its evaluation: a resumed run makes up for it.
            save_last(run, progress, folder=folder)
            if stop.agreed:
                # A process that ends makes the launcher end the others, which may be saving.
                run.parts.accelerator.wait_for_everyone()
            metrics = _evaluate(run, epoch, progress, tools)
            # Not twice, where a run that was killed makes up for its last evaluation.
            if progress.epoch <= epoch or not progress.best_epoch or metrics.ap > progress.best_ap:
                progress = progress.scored(metrics.ap, epoch=epoch + 1)
            improved = progress.best_epoch == epoch + 1
            stopped = 0 < train.early_stop <= progress.evals_without_gain
            stop.cancelled = bool(tools.callback.on_evaluation(epoch + 1, metrics))
        finished = progress.step // run.train_loader.steps_per_epoch
        progress = dataclasses.replace(progress, epoch=finished)
        stop.cancelled |= bool(tools.callback.on_epoch(epoch + 1, run.plan.total))
        due = (epoch + 1) % train.checkpoint_interval == 0
        if last or stopped or improved or stop.cancelled or due:
            save_run(run, progress, folder=folder, best=improved)
        if stopped:
            log.message(f"stopped early: no better AP in {progress.evals_without_gain} evaluations")
        if stopped or last or stop.cancelled:
            break
    if stop.cancelled:
        log.message(f"stopped by the program after step {progress.step}; last.pt is saved")
    summary = TrainSummary(
        output=tools.shown,
        metrics={} if metrics is None else metrics.as_dict(),
        best_ap=progress.best_ap,
        best_epoch=progress.best_epoch,
        epochs=-(-progress.step // run.train_loader.steps_per_epoch),
        steps=progress.step,
        seconds=time.perf_counter() - started,
        stopped_early=progress.step < run.last_step,
    )
    tools.report.finish(best_epoch=progress.best_epoch)
    if run.parts.accelerator.is_main_process:
        summary.write(folder)
    return summary


def _first_epoch(run: Run, progress: TrainProgress) -> int:
    """The epoch (from 0) to begin or go on with.

    A run that was killed before it wrote its summary still has its last evaluation to do.
    """
    if has_ended(run.config, progress):
        return max(progress.step - 1, 0) // run.train_loader.steps_per_epoch
    return progress.epoch


def _train_epoch(run: Run, epoch: int, progress: TrainProgress, tools: _Tools) -> TrainProgress:
    config, parts, stop = run.config, run.parts, tools.stop
    in_tail = run.plan.in_tail(epoch)
    set_train_mode(parts.model, ())
    set_train_mode(parts.network, config.train.freeze)
    tools.meter.start_epoch(epoch, evaluations=_evaluations_left(run, epoch))
    step = progress.step
    steps_per_epoch = run.train_loader.steps_per_epoch
    batches = run.train_loader.iterate(
        epoch, mosaic=not in_tail, start_step=step - epoch * steps_per_epoch
    )
    alone = parts.accelerator.num_processes == 1
    for batch in islice(tools.meter.timed(batches), max(0, run.last_step - step)):
        tools.report_bad_images(fault for faults in batch.faults for fault in faults)
        tools.report.batch(batch, step=step)
        size = input_size_at(
            step, seed=config.train.seed, augment=config.augment, native=config.input.size
        )
        try:
            loss = train_step(
                parts,
                batch,
                rate=run.rate.at(step),
                size_hw=size,
                use_l1=l1_is_on(config.loss, in_tail=in_tail),
                step=step + 1,
                stop=stop.number > 0,
            )
        except RuntimeError as error:
            if not is_out_of_memory(error, parts.accelerator.device):
                raise
            raise _out_of_memory(run, step + 1, size) from error
        step += 1
        tools.meter.step(step, loss, size_hw=size)
        if tools.meter.skipped == _MOST_SKIPPED:
            raise TrainingError(
                f"the gradients of {_MOST_SKIPPED} steps in a row, to step {step}, are not finite "
                "in fp16, and none of them changed the network; saved checkpoints are intact. Try "
                "train.precision=bf16, a lower optimizer.lr or optimizer.clip_grad_norm=10"
            )
        tools.count_step()
        stop.cancelled = bool(tools.callback.on_step(step, run.last_step, loss))
        if loss.stops or (alone and stop.number):
            stop.agree()
            break
        if stop.cancelled:
            break
    return dataclasses.replace(progress, step=step)


def _out_of_memory(run: Run, step: int, size_hw: tuple[int, int]) -> TrainingError:
    train, accelerator = run.config.train, run.parts.accelerator
    each = train.images_per_step // accelerator.num_processes // train.accumulate
    return TrainingError(
        f"out of memory on {accelerator.device} at step {step} with "
        f"{plural(each, 'image')} of "
        f"{size_hw[0]}x{size_hw[1]} at once; lower train.batch, raise train.accumulate "
        f"(now {train.accumulate}) or lower augment.multiscale; saved checkpoints are intact"
    )


def _evaluation_is_due(run: Run, epoch: int) -> bool:
    train = run.config.train
    interval = train.tail_eval_interval if run.plan.in_tail(epoch) else train.eval_interval
    return interval > 0 and (epoch + 1) % interval == 0


def _evaluations_left(run: Run, epoch: int) -> int:
    """How many evaluations there are from an epoch (from 0) on; the last epoch always has one."""
    last = (run.last_step - 1) // run.train_loader.steps_per_epoch
    return 1 + sum(_evaluation_is_due(run, later) for later in range(epoch, last))


def _evaluate(run: Run, epoch: int, progress: TrainProgress, tools: _Tools) -> CocoMetrics:
    """Evaluate after an epoch (from 0); a signal ends it at once, since `progress` is saved."""
    parts, config, log, stop = run.parts, run.config, tools.log, tools.stop
    stop.check(progress.step)
    network = parts.network if parts.ema is None else parts.ema.network
    # With train.sync_bn=false each process has its own statistics; the first one's are saved.
    share_buffers(network)
    try:
        result = evaluate_loader(
            TorchBackend.from_network(network, run.spec, fused=True),
            run.val_loader,
            settings=DetectSettings(
                conf=config.eval.conf, iou=config.eval.iou, max_det=config.eval.max_det
            ),
            processes=processes_of(parts.accelerator),
            progress=lambda done, total: stop.check(progress.step),
        )
    except DeviceMemoryError as error:
        raise TrainingError(
            f"out of memory on {parts.accelerator.device} in an evaluation with "
            f"eval.batch={config.eval.batch}; lower that and resume: last.pt is saved"
        ) from error
    except RuntimeError:
        # The others may have stopped while this process waited for what they found.
        stop.check(progress.step)
        raise
    tools.meter.evaluated(result.seconds)
    metrics = result.metrics
    log.evaluation(epoch=epoch + 1, step=progress.step, metrics=metrics.as_dict())
    log.message(
        f"epoch {epoch + 1} evaluation: AP {metrics.ap:.4f} AP50 {metrics.ap50:.4f} "
        f"AP75 {metrics.ap75:.4f} in {format_seconds(result.seconds)}"
    )
    if metrics.ap < 0:
        log.message("there is no AP, since the validation split has no objects: the newest is best")
    elif metrics.ap == 0 and progress.step * 4 >= run.last_step:
        log.message(_why_zero(metrics))
    tools.report.evaluation(result, epoch=epoch + 1, step=progress.step)
    return metrics


def _why_zero(metrics: CocoMetrics) -> str:
    if metrics.detections == 0:
        return (
            "AP is 0: nothing was detected above eval.conf. Train longer, start from trained "
            "weights, or raise the learning rate if the loss hardly falls"
        )
    return (
        f"AP is 0 with {plural(metrics.detections, 'detection')}: none lies on an object of its "
        "class. Train longer, or check the annotations with: oculox data check"
    )


def _announce(run: Run, progress: TrainProgress, folder: Location, log: RunLog) -> None:
    config, accelerator = run.config, run.parts.accelerator
    count, device = accelerator.num_processes, accelerator.device
    where = f"{count} processes ({device.type})" if count > 1 else str(device)
    steps = config.train.max_steps
    limit = f"stops after {plural(steps, 'step')} (train.max_steps); " if steps else ""
    log.message(
        f"training {config.model.name} (recipe={config.recipe}) on {where} in "
        f"{config.train.precision}: {run.plan.aug} + {plural(run.plan.tail, 'epoch')} of "
        f"{plural(run.train_loader.steps_per_epoch, 'step')} of "
        f"{plural(config.train.images_per_step, 'image')}, "
        f"peak learning rate {run.rate.peak:.3g}; {limit}output in {folder}"
    )
    for note in run.notes:
        log.message(note)
    if progress.step:
        log.message(f"resumed after epoch {progress.epoch}, step {progress.step}")
