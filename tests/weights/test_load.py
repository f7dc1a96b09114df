"""Any weights file, recognised by its content."""

import re
import shutil

import pytest
import torch

from oculox.errors import CheckpointError
from oculox.weights import load_weights
from oculox.weights.checkpoint import describe
from oculox.weights.load import SUFFIXES


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".weights", ""])
def test_the_content_counts_and_not_the_name(eager_pt, eager_weights, tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    shutil.copy(eager_pt, path)
    for given in (path, str(path)):
        assert describe(load_weights(given)) == describe(eager_weights)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_that_are_not_there(tmp_path, suffix):
    with pytest.raises(CheckpointError, match=f"absent{suffix}: no such file"):
        load_weights(tmp_path / f"absent{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "data", [b"", b"\0", b"hello\n" * 50, b"these\n", b"\xff\xd8\xff\xe0", bytes(range(256)) * 8]
)
def test_files_of_anything(tmp_path, suffix, data):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not re.search(r"weights_only|\(\d+\)", str(caught.value)), "PyTorch's own words"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "its first tensors: none"),
        ({"model": {}}, "its first tensors: none"),
        ({"model": {"fc.weight": torch.zeros(1)}}, "its first tensors: fc.weight"),
        ({3: torch.zeros(1)}, "file.pth"),
        ({"a": torch.zeros(1), "b": "text"}, "its first tensors: a"),
    ],
)
def test_weights_of_something_else(tmp_path, content, said):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="not weights of a YOLOX that Oculox knows") as caught:
        load_weights(tmp_path / "file.pth")
    assert said in str(caught.value)
