"""The folder of a run: who may write there, with which configuration, and how the run ended.

``config.yaml`` is the whole configuration, ``summary.json`` how the run ended.
`oculox.training.checkpoints`, `oculox.training.log` and `oculox.training.run_report` write the
rest.
"""

import dataclasses
import json
import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import to_jsonable_python

from oculox.addresses import AbsentError, Location, as_text, on_disk
from oculox.config import Config, config_to_yaml, known_keys, load_config
from oculox.distributed.devices import processes_of
from oculox.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    OculoxError,
    TrainingError,
    UsageError,
)
from oculox.files import free_path, make_folder, try_lock, write_json, write_text
from oculox.training.build import Run
from oculox.training.checkpoints import (
    BEST,
    LAST,
    PREVIOUS,
    TrainProgress,
    has_state,
    is_state,
    save_last,
    state_file,
)
from oculox.training.log import LOG_JSONL, LOG_TEXT
from oculox.training.run_report import BATCHES, CURVES, PREDICTIONS, REPORT, TAIL_BATCHES
from oculox.training.schedule import plan_epochs
from oculox.training.trackers import check_trackers
from oculox.weights.checkpoint import load_training_state
from oculox.weights.download import locate_weights

CONFIG = "config.yaml"
SUMMARY = "summary.json"
LOCK = ".lock"

# What a run writes besides its configuration and states.
_WRITTEN = (
    *(BEST, SUMMARY, LOG_JSONL, LOG_TEXT),
    *(BATCHES, TAIL_BATCHES, PREDICTIONS, CURVES, REPORT),
)
_OF_A_DATASET = ("annotations", "data.yaml", "data.yml", "Annotations", "labels")

# What may differ in a resumed run: where and how it runs and what it writes, not what it is.
_FREE = {
    "data": ("root", "cache", "workers", "max_bad_images"),
    "data.train": ("images", "annotations"),
    "data.val": ("images", "annotations"),
    "train": (
        *("device", "max_steps", "early_stop", "log_interval", "trackers", "profile", "report"),
        "timeout",
        *("checkpoint_interval", "keep_checkpoints", "save_on_main_only"),
    ),
    "eval": ("batch", "max_bad_images"),
}
FREE_KEYS = frozenset(f"{section}.{key}" for section, keys in _FREE.items() for key in keys)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """How a run ended.

    Attributes:
        output: its folder.
        metrics: the 12 COCO metrics of the last evaluation by name; empty before the first.
        best_ap: best AP of all evaluations, -1 where the validation split has no objects.
        best_epoch: its epoch, from 1.
        epochs: how many it trained in; the last may be unfinished, as `steps` tells.
        steps: steps done.
        seconds: time of the last call, a resumed run's earlier calls not counted.
        stopped_early: whether early stopping or the program ended it before its last step.
    """

    output: Location
    metrics: Mapping[str, float]
    best_ap: float
    best_epoch: int
    epochs: int
    steps: int
    seconds: float
    stopped_early: bool

    @property
    def best(self) -> Location:
        """The best checkpoint; there is none before the first evaluation."""
        return self.output / BEST

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = {**dataclasses.asdict(self), "output": str(self.output), "best": str(self.best)}
        return dict(to_jsonable_python(values))

    def write(self, folder: Path) -> None:
        """Write ``summary.json`` into the run's folder.

        Raises:
            OculoxError: when it cannot be written.
        """
        write_json(folder / SUMMARY, self.as_dict())


def read_summary(folder: Location) -> TrainSummary:
    """The summary that a run left in its folder.

    Raises:
        TrainingError: when there is none.
    """
    try:
        values = json.loads((folder / SUMMARY).read_text("utf-8"))
        values.pop("best")
        return TrainSummary(**{**values, "output": folder})
    except (OSError, ValueError, KeyError, TypeError, AbsentError) as error:
        raise TrainingError(f"{folder / SUMMARY}: no readable summary ({error})") from None


def finished_run(config: Config, folder: Path) -> TrainSummary | None:
    """The summary of a run that has nothing left to do; None where there is something.

    Args:
        config: with which it would go on.
        folder: of the run; a checkpoint in there has something left to do.
    """
    try:
        summary = read_summary(folder)
        progress = TrainProgress(**load_training_state(folder / LAST)[1]["progress"])
    except (TrainingError, CheckpointError, KeyError, TypeError):
        # Going on says what is wrong with last.pt, and writes a new summary.
        return None
    # Killed between its last checkpoint and its summary, a run evaluates once more.
    return summary if has_ended(config, progress) and summary.steps == progress.step else None


def has_ended(config: Config, progress: TrainProgress) -> bool:
    """Whether a run has no step left to do."""
    train = config.train
    return (
        progress.epoch >= count_epochs(config)
        or progress.step >= (train.max_steps or math.inf)
        or 0 < train.early_stop <= progress.evals_without_gain
    )


def count_epochs(config: Config) -> int:
    """How many epochs a configuration asks for."""
    return plan_epochs(config.train, warmup_epochs=config.schedule.warmup_epochs).total


def settle_config(
    recipe: str | Path | Config | None,
    overrides: Sequence[str] = (),
    *,
    weights: Location | None = None,
    output: Path | None = None,
    resume: Path | None = None,
) -> Config:
    """The configuration of a run, once everything is refused that can be refused at once.

    Args:
        recipe: a recipe's name, a YAML file or a configuration; none for a resumed run.
        overrides: ``section.key=value``.
        weights: file to start a new run from.
        output: folder of a new run.
        resume: folder of a run to go on with, or a checkpoint in it.

    Raises:
        UsageError: the arguments or settings make no sense, or `output` holds a run.
        DataError: there is no such dataset.
        TrainingError: there is nothing to resume.
        OculoxError: published weights cannot be fetched.
    """
    if resume is not None:
        words = [*([] if recipe is None else [recipe]), *overrides]
        changes = [word for word in words if isinstance(word, str) and "=" in word]
        if weights or output or changes != words:
            raise UsageError(
                "a resumed run has its own recipe, weights and folder: leave them out; only "
                "key=value goes with `resume`"
            )
        config = resumed_config(resume, changes)
    elif recipe is None:
        raise UsageError("name a recipe (`oculox models` lists them) or a run to `resume`")
    elif isinstance(recipe, Config):
        config = recipe.with_overrides(*overrides)
    else:
        config = load_config(recipe, overrides, from_weights=weights is not None)
    if output is not None:
        check_free(output)
    check_trackers(config)
    if weights is not None:
        root = config.data.root
        if isinstance(root, Path) and not root.exists():  # said before a download
            raise DataError(f"data.root: {root} is not a folder")
        locate_weights(weights)  # published ones are fetched once, before processes start
    return config


def check_free(folder: Location) -> None:
    """Refuse the folder of another run or of a dataset, or one with files that a run would replace.

    One that holds other things is fine, and so is a run that ended before its first checkpoint:
    there is nothing of it to lose.

    Raises:
        UsageError: it is one of those.
    """
    if _holds_run(folder) or (isinstance(folder, Path) and is_held(folder)):
        raise UsageError(
            f"{folder}: holds another run; choose another `output`, or resume it: "
            f"`resume` {shlex.quote(str(folder))}"
        )
    if isinstance(folder, Path) and not (folder / CONFIG).exists():
        found = [name for name in (*_WRITTEN, *_OF_A_DATASET) if (folder / name).exists()]
        if found:
            whose = "which a run would replace" if found[0] in _WRITTEN else "of a dataset"
            raise UsageError(f"{folder}: holds {found[0]}, {whose}; choose another `output`")


def _holds_run(folder: Location) -> bool:
    begun = (folder / LAST).exists() or (folder / CONFIG).exists()
    return begun and not _is_without_steps(folder)


def _is_without_steps(folder: Location) -> bool:
    """Whether the files are those of a run that has saved no step, and not other files."""
    path = folder / CONFIG
    try:
        if (folder / LAST).exists():
            last = on_disk(folder / LAST)
            return bool(load_training_state(last)[1]["progress"]["step"] == 0)
        if has_state(folder):
            return False
        # A run's own file is complete; one that a person wrote is not, or has other words.
        return path.read_text("utf-8") == config_to_yaml(load_config(as_text(path)))
    except (OSError, UnicodeDecodeError, KeyError, OculoxError):
        return False


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder, where the system has file locks.

    The system lets the folder go when this process ends, however it ends.

    Raises:
        UsageError: another process trains there.
        OculoxError: nothing can be written there.
    """
    # A file of its own: others are replaced, and a lock stays with the file that was replaced.
    try:
        file = (folder / LOCK).open("ab")
    except OSError as error:
        raise OculoxError(f"{folder}: cannot be written ({error.strerror})") from None
    with file:
        # The processes of a run that was killed need a second or two to end.
        patience = time.monotonic() + 3
        while not _lock(file):
            if time.monotonic() > patience:
                raise UsageError(
                    f"{folder}: another process is training this run; wait for its end"
                )
            time.sleep(0.1)
        yield


def is_held(folder: Path) -> bool:
    """Whether a process of this machine trains in a folder."""
    if not (folder / LOCK).exists():
        return False
    with (folder / LOCK).open("rb") as file:
        return not _lock(file)


def _lock(file: BinaryIO) -> bool:
    try:
        return try_lock(file)
    except OSError:
        # A network's file system may have no locks.
        return True


def default_folder(config: Config) -> Path:
    """A folder below ``runs/`` that does not exist yet, named after the network."""
    return free_path(Path("runs") / config.model.name)


@contextmanager
def open_folder(
    run: Run, *, output: Path | None, resume: Path | None, from_weights: bool
) -> Iterator[Path]:
    """Make the folder of a new run, or take that of a resumed one, and hold it.

    Args:
        run: all its parts.
        output: the wanted folder of a new run; None for a new one under ``runs/``.
        resume: folder or checkpoint of a run to go on with.
        from_weights: whether the network is not the fresh one of the configuration.

    Yields:
        The folder, the same in all processes; the main process holds it.

    Raises:
        OculoxError: it holds another run, a process trains there, or it cannot be written.
    """
    folder = None if resume is None else state_file(resume).parent
    with ExitStack() as stack:
        if run.parts.accelerator.is_main_process:
            if folder is None:
                folder = _make_folder(run.config, output)
            stack.enter_context(hold_folder(folder))
            if resume is None:
                _begin(run, folder, from_weights=from_weights)
            else:
                _keep_length(run.config, folder)
        # The main process's: another one may see its folder already, and number one more.
        first: Path = processes_of(run.parts.accelerator).gather([folder])[0]
        yield first


def _make_folder(config: Config, output: Path | None) -> Path:
    if output is not None:
        check_free(output)
        make_folder(output)
        return output
    folder = default_folder(config)
    make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        return _make_folder(config, None)  # another run took the name meanwhile
    except OSError as error:
        raise OculoxError(f"{folder}: the folder cannot be made ({error.strerror})") from None
    return folder


def _begin(run: Run, folder: Path, *, from_weights: bool) -> None:
    """Write the first files of a run into a folder that is held."""
    if _holds_run(folder):  # it was begun, and ended, since it was looked at
        check_free(folder)
    for name in (LAST, PREVIOUS):
        (folder / name).unlink(missing_ok=True)
    if from_weights:
        # First: `config.yaml` does not hold the weights that the run starts from.
        save_last(run, TrainProgress(), folder=folder)
    write_text(folder / CONFIG, config_to_yaml(run.config))


def resumed_config(resume: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a resumed run: its own, and changes to `FREE_KEYS`.

    ``train.epochs`` may be raised. The learning rate and the phases are then those of a run of
    the new length, from the step that was reached.

    Raises:
        UsageError: it is a file.
        TrainingError: there is no run in the folder.
        ConfigError: the changes concern what defines the run; the message names the keys.
    """
    if resume.is_file() and not is_state(resume):
        raise UsageError(
            f"{resume}: `resume` takes the folder of a run, which is resumed from its last.pt, or "
            "one of its older states; to start a new run from this file, pass it as `weights`"
        )
    folder = state_file(resume).parent
    if not (folder / CONFIG).is_file():
        raise TrainingError(f"{folder}: no {CONFIG}, so there is no run to resume")
    saved, config = load_config(folder / CONFIG), load_config(folder / CONFIG, overrides)
    values = {key: (attrgetter(key)(saved), attrgetter(key)(config)) for key in known_keys()}
    longer = {"train.epochs"} if count_epochs(config) > count_epochs(saved) else set()
    changed = [
        f"{key} ({before} then, {now} now)"
        for key, (before, now) in values.items()
        if before != now and key not in FREE_KEYS | longer
    ]
    if changed:
        raise ConfigError(
            f"{folder}: the run was started with other settings: {', '.join(changed[:4])}; "
            "resume with the same, or start a new run from its weights with `weights` "
            "(train.epochs may be raised, and settings of where and how a run works may change, "
            "such as data.root, train.device and train.max_steps)"
        )
    return config


def _keep_length(config: Config, folder: Path) -> None:
    """Write a raised ``train.epochs`` into ``config.yaml``, for the next resume.

    Raises:
        OculoxError: when it cannot be written.
    """
    saved = load_config(folder / CONFIG)
    if saved.train.epochs != config.train.epochs:
        train = saved.train.model_copy(update={"epochs": config.train.epochs})
        longer = saved.model_copy(update={"train": train})
        write_text(folder / CONFIG, config_to_yaml(longer))
