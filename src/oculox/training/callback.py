"""What a program may do while a run trains."""

from __future__ import annotations

from oculox.evaluation.metrics import CocoMetrics
from oculox.training.log import StepLoss


class TrainCallback:
    """Is told of the progress of a run, and may stop it. Derive from it and write what you need.

    A method that returns True stops the run: ``last.pt`` holds its state, and
    ``train(resume=folder)`` continues exactly from there. An exception ends the run and reaches the
    caller of `train`; what was saved before stays. The methods are called in the thread that
    trains, and the run waits for them.
    """

    def on_step(self, step: int, total: int, loss: StepLoss) -> bool | None:
        """After a step, counted from 1.

        Args:
            step: the step that is done.
            total: steps of the run.
            loss: of the step; `loss.total` is what is minimised.
        """

    def on_evaluation(self, epoch: int, metrics: CocoMetrics) -> bool | None:
        """After an evaluation, before the epoch is saved.

        Args:
            epoch: the epoch that is done, counted from 1.
            metrics: on the validation split, such as `metrics.ap`.
        """

    def on_epoch(self, epoch: int, total: int) -> bool | None:
        """After an epoch, counted from 1, and the evaluation that was due.

        Args:
            epoch: the epoch that is done.
            total: epochs of the run.
        """
