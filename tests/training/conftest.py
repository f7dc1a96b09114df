"""A tiny data set and quick settings for whole runs."""

import pytest

from oculox.data.demo import write_demo

QUICK = (
    "input.size=64",
    "augment.multiscale=[64, 96]",
    "augment.multiscale_interval=2",
    "train.batch=4",
    "train.aug_epochs=2",
    "train.no_aug_epochs=1",
    "train.eval_interval=2",
    "train.log_interval=1",
    "train.device=cpu",
    "data.workers=0",
)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Twelve training and four validation pictures."""
    folder = tmp_path_factory.mktemp("tiny") / "data"
    write_demo(folder, train=12, val=4, size=(96, 72))
    return folder


@pytest.fixture(scope="session")
def quick(tiny_data):
    """Overrides of a run that takes seconds."""
    return (f"data.root={tiny_data}", *QUICK)
