"""Exports made once for all tests of this folder; conversions take seconds each."""

from pathlib import Path

import pytest
import torch

from oculox.config import load_config
from oculox.export.job import ExportOptions
from oculox.export.run import ExportReport, export_model
from oculox.export.targets import TARGETS
from oculox.models import build_model
from oculox.weights import Weights
from oculox.weights.checkpoint import save_checkpoint
from specs import make_weights


@pytest.fixture(scope="session")
def lively_weights() -> Weights:
    """An untrained yolox-nano that sees objects everywhere, scored differently in each cell.

    Its batch norms are fresh, so that no layer amplifies: float32's own rounding stays small.
    """
    names = ("ball", "car", "cup", "fish", "house", "leaf")
    config = load_config("yolox-nano", ["input.size=64"])
    torch.manual_seed(0)
    state = build_model(config.model, num_classes=len(names)).state_dict()
    for level in range(3):
        state[f"head.obj_preds.{level}.bias"].fill_(3.0)
        state[f"head.cls_preds.{level}.bias"].copy_(torch.tensor([2.0, -9, -9, 1.9, -9, 1.0]))
    for key, value in state.items():
        if "_preds." in key and key.endswith("weight"):
            value += 0.5 * torch.randn(value.shape)
    return make_weights(config, state, names=names, category_ids=(1, 2, 3, 4, 5, 6))


@pytest.fixture(scope="session")
def lively_pt(lively_weights, tmp_path_factory) -> Path:
    """`lively_weights` as a checkpoint."""
    path = tmp_path_factory.mktemp("lively") / "lively.pt"
    save_checkpoint(path, lively_weights)
    return path


class Exports:
    """Makes each export at its first use and keeps it."""

    def __init__(self, folder: Path, weights) -> None:
        self.folder = folder
        self.weights = weights
        self._made: dict[ExportOptions, ExportReport] = {}

    def __call__(self, **options) -> ExportReport:
        wanted = ExportOptions(**options)
        if wanted not in self._made:
            suffix = TARGETS[wanted.format].suffix
            path = self.folder / f"model{len(self._made)}{suffix}"
            self._made[wanted] = export_model(self.weights, wanted, path)
        return self._made[wanted]


@pytest.fixture(scope="session")
def exports(tmp_path_factory, lively_weights) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"), lively_weights)
