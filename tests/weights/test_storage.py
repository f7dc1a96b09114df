"""Files that are whole or not there, and never run code."""

import io
import os
import pickle
import random
import warnings
import zipfile

import numpy as np
import pytest
import torch

from oculox.errors import CheckpointError, OculoxError
from oculox.files import write_atomically
from oculox.weights.torch_file import load_torch, save_torch


def test_a_write_replaces_the_whole_file(tmp_path):
    path = tmp_path / "new/folder/file.txt"
    for text in ("a long first version", "short"):
        write_atomically(path, lambda p, text=text: p.write_text(text))
        assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_what_is_flushed_to_disk_was_opened_for_writing(tmp_path, monkeypatch):
    """Windows refuses to flush anything else."""
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.write(file, b"new")))
    write_atomically(tmp_path / "file.txt", lambda p: p.write_text("old"))
    assert flushed == [3]


@pytest.mark.parametrize(
    ("raised", "seen", "message"),
    [
        (OSError(28, "No space left on device"), OculoxError, "No space left on device"),
        (RuntimeError("unexpected pos 1\nmore"), OculoxError, r"\(unexpected pos 1\)"),
        (RuntimeError(), OculoxError, r"\(RuntimeError\)"),
        (ZeroDivisionError("ours"), ZeroDivisionError, "ours"),
        (KeyboardInterrupt("now"), KeyboardInterrupt, "now"),
    ],
)
@pytest.mark.parametrize("existing", [True, False])
def test_a_writer_that_fails_midway_changes_nothing(tmp_path, existing, raised, seen, message):
    path = tmp_path / "file.txt"
    if existing:
        path.write_text("old")

    def write(temporary):
        temporary.write_text("half of the n")
        raise raised

    with pytest.raises(seen, match=message):
        write_atomically(path, write)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == (
        {"file.txt": "old"} if existing else {}
    )


def test_the_systems_reason_is_found_behind_pytorchs(tmp_path):
    def write(temporary):
        del temporary
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("[enforce fail at inline_container.cc]") from error

    with pytest.raises(OculoxError, match=r"file\.txt: could not be written \(No space left"):
        write_atomically(tmp_path / "file.txt", write)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_get_the_usual_permissions(tmp_path, umask):
    before = os.umask(umask)
    try:
        save_torch(tmp_path / "a.pt", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.pt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file/below/a.pt", tmp_path / "folder"):
        with pytest.raises(OculoxError, match="could not be written"):
            save_torch(path, {})
    assert not list(tmp_path.rglob("*.part"))


def test_plain_values_and_tensors_survive(tmp_path):
    content = {
        "values": [1, 2.5, None, True, "täxt", (1, 2)],
        "tensor": torch.randn(3, 4),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.zeros(0),
    }
    save_torch(tmp_path / "a.pt", content)
    loaded = load_torch(tmp_path / "a.pt")
    assert loaded["values"] == content["values"]
    for key in ("tensor", "half", "empty"):
        assert torch.equal(loaded[key], content[key])
        assert loaded[key].dtype == content[key].dtype


class Trap:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (os.mkdir, (str(self.witness),))


@pytest.mark.parametrize("legacy", [True, False])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, legacy):
    path = tmp_path / "trap.pt"
    content = {"state": {"weight": torch.zeros(1)}, "hook": Trap(tmp_path / "ran")}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"trap\.pt: refused: .* values \(\w+\.mkdir\)$"):
        load_torch(path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists(), "the trap was none"


def damaged_files(seed):
    """Checkpoints and pickles with a few bytes changed or cut off."""
    rng = random.Random(seed)
    content = {"meta": {"a": [1, 2.5, None, "x"]}, "state": {"w": torch.zeros(3, 4)}}
    for base in ("zip", "legacy", "pickle"):
        if base == "pickle":
            whole = pickle.dumps({"a": np.float64(1), "b": [1, {2}]})
        else:
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=base == "zip")
            whole = buffer.getvalue()
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(rng.choice((1, 2, 4))):
                data[rng.randrange(min(len(data), 600))] = rng.randrange(256)
            yield bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)


def test_any_damage_is_a_plain_error_and_silent(tmp_path):
    path = tmp_path / "a.pt"
    messages = []
    for data in damaged_files(seed=0):
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                load_torch(path)
            except CheckpointError as error:
                messages.append(str(error))
    assert len(messages) > 300
    assert all(message.startswith(f"{path}: ") for message in messages)
    assert not any("\n" in message for message in messages)


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "file.pt"
    tensor = torch.arange(64.0)
    save_torch(path, {"a": tensor, "b": {"c": 1, "d": "text"}})
    good = path.read_bytes()
    start = good.index(tensor.numpy().tobytes())
    refused = set()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 16]) + good[position + 1 :])
        try:
            content = load_torch(path)
        except CheckpointError:
            refused.add(position)
        else:
            assert torch.equal(content["a"], tensor)
            assert content["b"] == {"c": 1, "d": "text"}
    assert refused >= set(range(start, start + tensor.nbytes))


def test_a_tensor_marked_as_a_folder_is_refused(tmp_path):
    path = tmp_path / "folder.pt"
    save_torch(tmp_path / "plain.pt", {"a": torch.zeros(1000)})
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(path, "w") as marked:
        for part in plain.infolist():
            part.external_attr |= 0x10 * part.filename.endswith("data/0")
            marked.writestr(part, plain.read(part.filename))
    with pytest.raises(CheckpointError, match=r"folder\.pt: damaged.*marked as a folder"):
        load_torch(path)


def test_a_compressed_archive_is_refused(tmp_path):
    save_torch(tmp_path / "plain.pt", {"a": torch.zeros(1000)})
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(CheckpointError, match=r"bomb.pt: damaged.*parts are compressed"):
        load_torch(tmp_path / "bomb.pt")
