"""The benchmark programs start, and compare what they should."""

import dataclasses
import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from oculox.config.schema import DataConfig
from oculox.data.coco import load_split
from oculox.datasets.pack import pack_data
from oculox.errors import TrainingError
from oculox.predict.pipeline import Pipeline
from oculox.runtime.torch_backend import TorchBackend

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_a_benchmark_explains_itself(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.fixture
def finetune():
    yield from program("finetune")


@pytest.fixture
def scale():
    yield from program("scale")


@pytest.fixture
def shards():
    yield from program("shards")


def program(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look themselves up
    yield spec.loader.exec_module(module) or module
    del sys.modules[name]


def test_gains_are_averaged_over_datasets_with_their_standard_error(finetune):
    assert finetune.combined([[0.1, 0.3], [0.4]]) == (pytest.approx(0.3), pytest.approx(0.05))
    assert finetune.combined([[0.0, 0.0, 0.0]]) == (0, 0)


def test_a_subset_of_coco_has_each_image_once(finetune, shared, tmp_path):
    animals = finetune.SUBSETS["animals"]
    finetune.write_subset(shared / "coco_mini", tmp_path / "animals", animals, rename=False)
    index = {
        split: load_split(DataConfig(root=tmp_path / "animals"), split)
        for split in ("train", "val")
    }
    assert set(index["train"].class_names) == set(finetune.SUBSETS["animals"])
    images = [
        (tmp_path / "animals" / f"{split}2017" / path.name).read_bytes()
        for split in index
        for path in (tmp_path / "animals" / f"{split}2017").iterdir()
    ]
    assert len(images) == len(set(images)) == sum(map(len, index.values()))
    assert len(index["train"]) > len(index["val"]) > 10
    finetune.write_subset(shared / "coco_mini", tmp_path / "renamed", animals, rename=True)
    renamed = load_split(DataConfig(root=tmp_path / "renamed"), "val")
    assert len(renamed.class_names) == len(animals)
    assert not set(renamed.class_names) & set(animals)


@pytest.mark.slow
def test_settings_are_compared_and_results_kept(eager_pt, tmp_path):
    table = tmp_path / "table.yaml"
    table.write_text("official: [recipe=official]\nquick: [optimizer.lr=0.001]\n")
    words = ["--work", tmp_path / "work", "--table", table, "--datasets", "demo", "--imgsz", "64"]
    command = [sys.executable, FOLDER / "finetune.py", eager_pt, *words]
    command += ["--steps", "25", "50", "--seeds", "0", "1", "--plot", tmp_path / "curves.png"]
    tables = []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        tables.append(done.stdout)
    # Nothing was run again.
    assert len((tmp_path / "work/results.jsonl").read_text().splitlines()) == 8
    assert tables[0] == tables[1]
    assert tables[0].count("| official |") == 2
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "+0.000 ± 0.000 (no)" in tables[0]


def test_what_grows_is_measured(scale):
    counted = list(scale.metrics([10, 20]))
    text = scale.table(counted)
    assert "| 20 images, 1,600 detections |" in text
    assert "2 times: " in text


@pytest.fixture
def gpu():
    yield from program("gpu")


def test_the_program_for_gpus_measures_what_it_can_and_says_the_rest(gpu, tmp_path):
    device, saved = torch.device("cpu"), []

    def save(rows, left_out):
        saved[:] = [rows, left_out]

    extent = dataclasses.replace(gpu.QUICK, warm_up=2, steps=1)
    jobs = list(gpu.list_jobs(gpu.PARTS, tmp_path, device=device, extent=extent))
    wanted = ("100 boxes", "PyTorch fp32", "PyTorch fp16", "TensorRT fp16")
    quick = [job for job in jobs if job.part == "training" or job.what.endswith(wanted)]
    gpu.measure(iter(quick), budget=100, save=save)
    rows = {row.what.split(", ")[-1]: row for row in saved[0]}
    assert rows["yolox-nano"].values.keys() == {"batch", "images/s", "waiting %"}
    assert rows["loader alone"].values.keys() == {"batch", "images/s"}
    assert all(0 < value < 1e9 for row in saved[0] for value in row.values.values())
    assert "needs an accelerator" in rows["PyTorch fp16"].note
    assert "needs the package 'tensorrt'" in rows["TensorRT fp16"].note
    text = gpu.tables(*saved)
    assert "| yolox-nano, PyTorch fp32 |" in text
    assert "Left out" not in text

    gpu.measure(iter(quick), budget=-1, save=save)
    assert saved[0] == []
    assert (
        "Left out, for lack of time: training: yolox-nano, loader alone; training: yolox-nano;"
        in gpu.tables(*saved)
    )
    assert {job.part for job in jobs} == set(gpu.PARTS)


def test_weights_and_data_of_the_gpu_program_are_no_easier_than_real_ones(gpu, tmp_path):
    pipeline = Pipeline(TorchBackend.from_weights(gpu.fresh_weights(gpu.QUICK)))
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    assert len(pipeline([image])[0]) == 4
    data = gpu.write_data(tmp_path / "data", gpu.QUICK)
    index = load_split(DataConfig(root=data), "train")
    assert {index.num_objects(i) for i in range(len(index))} == {gpu.LISTED_OBJECTS}


def test_a_network_that_does_not_compile_is_no_compiled_one(gpu, tmp_path, monkeypatch):
    # As where there is no compiler, which training passes over.
    monkeypatch.setattr(torch, "compile", lambda model: model)
    extent = dataclasses.replace(gpu.QUICK, warm_up=2, steps=1)
    data = gpu.write_data(tmp_path / "data", extent)
    options = {"device": torch.device("cpu"), "extent": extent, "compiled": True}
    with pytest.raises(TrainingError, match="not compiled"):
        gpu.train_steps("yolox-nano", data, **options)


def test_a_row_may_fail_with_any_error_of_a_library(gpu):
    def fail():
        raise Exception("of ONNX Runtime")

    saved = []
    job = gpu.Job("inference", "a row", fail)
    gpu.measure(iter([job]), budget=100, save=lambda rows, left_out: saved.extend(rows))
    assert [row.note for row in saved] == ["of ONNX Runtime"]


def test_files_and_shards_take_turns(shards, tiny_data, tmp_path):
    pack_data(tiny_data, tmp_path / "shards")
    indexes = {
        name: load_split(DataConfig(root=root), "val")
        for name, root in (("files", tiny_data), ("shards", tmp_path / "shards"))
    }
    forgotten = []
    rows = list(shards.measure(indexes, forgotten.append, rounds=1))
    assert [(row.source, row.state) for row in rows[:4]] == [
        (source, state) for source in indexes for state in ("cold", "warm")
    ]
    assert forgotten == [*indexes.values()] * 2
    assert [row.what for row in rows] == ["read"] * 4 + ["train"] * 4
    assert all(row.median > 0 for row in rows)
