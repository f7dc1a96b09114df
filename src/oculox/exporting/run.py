"""Weights -> a checked file: convert, compare with PyTorch, measure, and only then publish."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from oculox.addresses import Location
from oculox.data.coco import CocoIndex
from oculox.data.image import ImageFile
from oculox.errors import ExportError
from oculox.evaluation.evaluate import OFFICIAL_SETTINGS, evaluate
from oculox.exporting.calibration import find_calibration
from oculox.exporting.job import ExportOptions, make_job
from oculox.exporting.parity import ParityRow, check_parity
from oculox.exporting.targets import find_target
from oculox.files import move_entries, scratch_beside
from oculox.runtime.backend import Backend
from oculox.runtime.exported import ExportedBackend, ExportMetadata
from oculox.runtime.open_model import open_model
from oculox.runtime.torch_backend import TorchBackend
from oculox.weights import Weights

MAX_AP_LOSS = 0.01
"""Most AP that an export may lose against its checkpoint, absolute."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApLoss:
    """COCO AP of the checkpoint and of the file, on the same images at the same size."""

    checkpoint: float
    exported: float
    allowed: float

    @property
    def loss(self) -> float:
        """What the export lost; negative where it gained."""
        return self.checkpoint - self.exported

    @property
    def ok(self) -> bool:
        """Whether the loss is allowed."""
        return self.loss <= self.allowed


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export made.

    Attributes:
        path: the file or folder; its companions lie beside it.
        files: everything that was written.
        metadata: as it is in the file.
        parity: comparisons with PyTorch; empty where the file cannot be run here.
        ap: where data was given.
    """

    path: Location
    files: tuple[Location, ...]
    metadata: ExportMetadata
    parity: tuple[ParityRow, ...]
    ap: ApLoss | None = None


class ParityError(ExportError):
    """An export did not agree with its network, or lost too much AP; nothing was published.

    Attributes:
        parity: all comparisons.
    """

    def __init__(self, message: str, parity: Sequence[ParityRow]) -> None:
        super().__init__(message)
        self.parity = tuple(parity)


def export_model(
    weights: Weights,
    options: ExportOptions,
    output: Path,
    *,
    data: CocoIndex | None = None,
    max_ap_loss: float = MAX_AP_LOSS,
    progress: Callable[[str], None] | None = None,
) -> ExportReport:
    """Export, compare with PyTorch and publish.

    The file is made in a temporary folder beside `output`; an older `output` stays until the new
    one has passed.

    Args:
        weights: to export.
        options: how.
        output: final name, with the suffix of the format.
        data: images to measure AP on.
        max_ap_loss: most AP the file may lose on them.
        progress: called with a line on what is being done.

    Raises:
        UsageError: when the format is unknown or cannot do that, or an extra is missing.
        DataError: when calibration images are missing, or the target cannot be written.
        ExportError: when the converter fails.
        ParityError: when the file does not agree with the network.
    """
    target = find_target(options)
    target.require_packages()
    say = progress or (lambda _: None)
    with scratch_beside(output) as scratch:
        calibration: tuple[ImageFile, ...] = ()
        if options.calibration is not None:
            calibration = find_calibration(options.calibration, limit=options.calibration_images)
        job = make_job(weights, options, calibration=calibration)
        say(f"converting to {target.title}")
        draft = scratch / output.name
        target.convert(job, draft)
        parity: list[ParityRow] = []
        ap = None
        if target.runs:
            say("comparing with PyTorch")
            backend = open_model(draft, device=target.device)
            assert isinstance(backend, ExportedBackend)
            parity = check_parity(backend, job.network)
            if not all(row.ok for row in parity):
                worst = max(parity, key=lambda row: row.error / max(row.tolerance, 1e-12))
                raise ParityError(
                    f"the {target.title} file does not agree with PyTorch ({worst.case}: "
                    f"{worst.quantity} {worst.error:.2g}, allowed {worst.tolerance:.2g}); "
                    f"nothing was written to {output}",
                    parity,
                )
            if data is not None:
                say("measuring AP")
                ap = _measure_ap(weights, backend, data, max_ap_loss)
                if not ap.ok:
                    raise ParityError(
                        f"AP fell from {ap.checkpoint:.4f} to {ap.exported:.4f}, by more than "
                        f"{max_ap_loss}; nothing was written to {output}",
                        parity,
                    )
        files = move_entries(scratch, output.parent, last=output.name)
    return ExportReport(
        path=output, files=files, metadata=job.metadata, parity=tuple(parity), ap=ap
    )


def _measure_ap(weights: Weights, backend: Backend, data: CocoIndex, allowed: float) -> ApLoss:
    checkpoint, exported = (
        evaluate(
            candidate, data, settings=OFFICIAL_SETTINGS, size_hw=backend.spec.input.size
        ).metrics.ap
        for candidate in (TorchBackend.from_weights(weights), backend)
    )
    return ApLoss(checkpoint=checkpoint, exported=exported, allowed=allowed)
