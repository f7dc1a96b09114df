"""What a run shows of itself in its folder: images, curves and a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path

import numpy as np

from oculox.config import known_keys
from oculox.draw import contact_sheet
from oculox.errors import first_line
from oculox.evaluation.evaluate import Evaluation
from oculox.files import write_atomically
from oculox.report.diagnosis import diagnose
from oculox.report.drawings import draw_batch, draw_image, write_jpeg
from oculox.report.evaluation_report import write_report
from oculox.report.figures import run_figure
from oculox.training.build import Run
from oculox.training.checkpoints import BEST
from oculox.training.log import read_log
from oculox.training.trackers import Trackers
from oculox.types import Batch

BATCHES = "batches.jpg"
TAIL_BATCHES = "batches-tail.jpg"
PREDICTIONS = "predictions.jpg"
REPORT = "report.html"
CURVES = "curves.png"

_SHOWN = 8


class RunReport:
    """Draws what a run sees and finds; a failure is a line of the log, never the run's end."""

    def __init__(
        self, run: Run, folder: Path, trackers: Trackers, *, tell: Callable[[str], None]
    ) -> None:
        """Write for `run` into its `folder`, and send images and weights to its `trackers`.

        `tell` gets a line on what could not be written.
        """
        self._run = run
        self._folder = folder
        self._trackers = trackers
        self._tell = tell
        self._enabled = run.parts.accelerator.is_main_process and run.config.train.report
        self._last: Evaluation | None = None
        self._when = ""

    def batch(self, batch: Batch, *, step: int) -> None:
        """Draw a batch where it is the first of the run or of the tail.

        Args:
            batch: as the loader gave it, before it is resized.
            step: steps done before it.
        """
        tail = self._run.plan.aug * self._run.train_loader.steps_per_epoch
        if not self._enabled or step not in (0, tail):
            return
        name = TAIL_BATCHES if step else BATCHES
        with self._attempt(name):
            drawn = draw_batch(batch, self._run.parts.input_config, self._run.spec.names)
            write_jpeg(self._folder / name, drawn)
            self._trackers.image(self._folder / name, step=step)

    def evaluation(self, result: Evaluation, *, epoch: int, step: int) -> None:
        """Draw some validation images, and keep the evaluation for the page.

        Args:
            result: of the weights after `step` steps.
            epoch: (from 1) at whose end, or inside which.
            step: steps done.
        """
        if not self._enabled:
            return
        self._last = result
        self._when = f"in epoch {epoch}, after step {step}"
        with self._attempt(PREDICTIONS):
            index = self._run.val_loader.index
            read = [i for i in range(len(index)) if index.image_id(i) not in result.left_out_ids]
            places = np.linspace(0, len(read) - 1, min(_SHOWN, len(read)))
            shown = [read[int(place)] for place in places]
            ids = {index.image_id(i) for i in shown}
            seen = result.found.of_images(shown)
            others = frozenset(index.image_ids) - ids
            found = diagnose(dataclasses.replace(result, found=seen, left_out_ids=others), index)
            drawn = [draw_image([found], i) for i in shown]
            sheet = contact_sheet(drawn, columns=2, cell_hw=(400, 800))
            write_jpeg(self._folder / PREDICTIONS, sheet)
            self._trackers.image(self._folder / PREDICTIONS, step=step)

    def finish(self, *, best_epoch: int) -> None:
        """Send ``best.pt`` to the trackers; write the curves and, after an evaluation, the page.

        Args:
            best_epoch: epoch of ``best.pt``.
        """
        if not self._enabled:
            return
        best = self._folder / BEST
        with self._attempt(f"the copy of {BEST} for trackers"):
            if best.is_file():
                self._trackers.checkpoint(best)
        log = read_log(self._folder)
        with self._attempt(CURVES):
            figure = run_figure(log)
            if figure is not None:
                write_atomically(
                    self._folder / CURVES,
                    lambda temporary: figure.savefig(str(temporary), format="png"),
                )
        if self._last is None:
            return
        config = self._run.config
        with self._attempt(REPORT):
            write_report(
                self._folder / REPORT,
                self._last,
                self._run.val_loader.index,
                title=f"{config.model.name}: {self._folder.name}",
                settings={key: str(attrgetter(key)(config)) for key in known_keys()},
                lines=[f"Last evaluation {self._when}; best.pt is of epoch {best_epoch}."],
                log=log,
            )

    @contextmanager
    def _attempt(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a drawing must not cost a training run
            self._tell(f"{name} could not be written: {first_line(error)}")
