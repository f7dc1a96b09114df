"""Exports made once for all tests of this folder; conversions take seconds each."""

import hashlib
import pickle
from pathlib import Path

import pytest
import torch

from oculox.config import load_config
from oculox.exporting.job import ExportOptions
from oculox.exporting.run import ExportReport, export_model
from oculox.exporting.targets import TARGETS
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
    """Makes each export at its first use, once for all workers."""

    def __init__(self, weights, make_once) -> None:
        self._weights = weights
        self._make_once = make_once

    def __call__(self, **options) -> ExportReport:
        wanted = ExportOptions(**options)

        def export(folder: Path) -> None:
            path = folder / "model" / f"model{TARGETS[wanted.format].suffix}"
            report = export_model(self._weights, wanted, path)
            (folder / "report").write_bytes(pickle.dumps(report))

        digest = hashlib.sha256(repr(wanted).encode()).hexdigest()
        folder = self._make_once(f"export-{digest[:16]}", export)
        return pickle.loads((folder / "report").read_bytes())  # noqa: S301 - written above


@pytest.fixture(scope="session")
def exports(lively_weights, make_once) -> Exports:
    return Exports(lively_weights, make_once)
