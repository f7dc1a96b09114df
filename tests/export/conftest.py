"""Exports made once for all tests of this folder; conversions take seconds each."""

import dataclasses
from pathlib import Path

import pytest
import torch

from oculox.export.job import ExportOptions
from oculox.export.run import ExportReport, export_model
from oculox.export.targets import TARGETS


@pytest.fixture(scope="session")
def lively_weights(eager_weights):
    """`eager_weights` with scores that differ from cell to cell, so that order is no accident."""
    generator = torch.Generator().manual_seed(3)
    state = {
        key: value + 0.5 * torch.randn(value.shape, generator=generator)
        if "_preds." in key and key.endswith("weight")
        else value
        for key, value in eager_weights.state.items()
    }
    return dataclasses.replace(eager_weights, state=state)


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
