"""Commands whose models, data and outputs are in object storage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from oculox import train
from oculox.addresses import Address, remove
from oculox.cli.main import main
from oculox.config import config_to_yaml, load_config
from oculox.data import coco
from oculox.errors import ConfigError, DataError, OculoxWarning, UsageError
from oculox.training.remote import run_place
from oculox.weights.checkpoint import load_training_state, save_checkpoint
from s3_server import Fault

SHORT = ("train.aug_epochs=1", "train.tail_epochs=0", "train.eval_interval=0")


def same_state(first, second):
    (ours, _), (theirs, _) = load_training_state(first), load_training_state(second)
    raw, other = (load_training_state(path)[1]["raw"] for path in (first, second))
    assert all(torch.equal(ours.state[key], theirs.state[key]) for key in ours.state)
    assert all(torch.equal(raw[key], other[key]) for key in raw)


@pytest.fixture
def stored(s3, tiny_data, eager_pt):
    """The tiny dataset and a model in a bucket of their own; its name."""
    bucket = f"bucket-{os.urandom(4).hex()}"
    s3.put_folder(bucket, tiny_data, below="data/")
    s3.put(bucket, {"models/eager.pt": eager_pt.read_bytes()})
    s3.requests.clear()
    return bucket


def test_predict_from_and_to_storage(s3, stored, tiny_data, eager_pt, tmp_path):
    below = f"s3://{stored}"
    words = [f"{below}/models/eager.pt", f"{below}/data/val2017", "--device", "cpu"]
    assert main(["predict", *words, "--output", f"{below}/found"]) == 0
    here = [str(eager_pt), str(tiny_data / "val2017"), "--device", "cpu"]
    assert main(["predict", *here, "--output", str(tmp_path / "here")]) == 0
    entries = json.loads(s3.get(stored, "found/predictions.json"))
    expected = json.loads((tmp_path / "here" / "predictions.json").read_text())
    assert [e["detections"] for e in entries] == [e["detections"] for e in expected]
    assert entries[0]["source"].startswith(f"{below}/data/val2017/")
    assert f"found/{entries[0]['annotated']}" in s3.keys(stored)


def test_an_occupied_output_is_refused(stored, capsys):
    below = f"s3://{stored}"
    words = ["predict", f"{below}/models/eager.pt", f"{below}/data/val2017", "--device", "cpu"]
    assert main([*words, "--output", f"{below}/data"]) == 2
    assert "already holds files; name another --output" in capsys.readouterr().err


def test_missing_places_are_named(stored, capsys):
    below = f"s3://{stored}"
    assert main(["predict", f"{below}/none.pt", f"{below}/data/val2017"]) == 1
    assert f"{below}/none.pt: there is no such file" in capsys.readouterr().err
    assert main(["eval", f"{below}/models/eager.pt", "--data", f"{below}/models"]) == 1
    assert f"{below}/models: no val split found" in capsys.readouterr().err


def test_datasets_of_other_formats_are_for_a_disk(s3, capsys, tmp_path):
    s3.put("bucket-yolo", {"mine/data.yaml": b"", "mine/labels/train/a.txt": b""})
    data = "s3://bucket-yolo/mine"
    advice = (
        "YOLO and Pascal VOC are not read from URLs: make COCO (`oculox data convert`) or shards"
    )
    for words in (["data", "check", data], ["train", "yolox-nano", f"data.root={data}/data.yaml"]):
        assert main(words) == 1
        assert advice in capsys.readouterr().err
    words = ["data", "convert", "--from", "yolo", "--to", "coco"]
    assert main([*words, data, str(tmp_path / "out")]) == 2
    assert "expected a path on this machine, not a URL" in capsys.readouterr().err


def test_eval_and_check_of_stored_data(s3, stored, capsys):
    data = f"s3://{stored}/data"
    words = ["--device", "cpu", "--json", "--data", data]
    assert main(["eval", f"s3://{stored}/models/eager.pt", *words]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]
    assert main(["data", "check", data, "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)["splits"]["val"]
    assert checked["image_dir"] == f"{data}/val2017"
    # What evaluation and check need of the images is fetched once.
    fetched = [path for method, path in s3.requests if method == "GET" and ".jpg" in path]
    assert len(fetched) == len(set(fetched)) == 16


def test_a_run_from_and_to_storage(s3, stored, quick, tmp_path):
    settings = [*quick, *SHORT, "train.max_steps=1", f"data.root=s3://{stored}/data"]
    config = load_config("yolox-nano", settings)
    s3.put(stored, {"mine.yaml": config_to_yaml(config).encode()})
    run = f"s3://{stored}/runs/mine"
    done = train(f"s3://{stored}/mine.yaml", output=run)
    assert str(done.best) == f"{run}/best.pt"
    keys = [key.removeprefix("runs/mine/") for key in s3.keys(stored) if "runs/mine/" in key]
    assert {"config.yaml", "last.pt", "best.pt", "log.jsonl", "summary.json"} <= set(keys)
    assert f"root: s3://{stored}/data" in s3.get(stored, "runs/mine/config.yaml").decode()
    assert not list((tmp_path / "address-cache" / "runs").rglob("*.pt"))
    with pytest.raises(UsageError, match="holds another run"):
        train("yolox-nano", *quick, output=run)
    assert train(resume=run).steps == done.steps  # finished: nothing is trained again
    train("train.epochs=2", "train.max_steps=2", resume=run)
    assert "epochs: 2\n" in s3.get(stored, "runs/mine/config.yaml").decode()
    assert not list((tmp_path / "address-cache" / "runs").rglob("*.pt"))


def test_a_run_that_ended_before_its_first_checkpoint_is_begun_again(s3):
    bucket = f"bucket-{os.urandom(4).hex()}"
    s3.put(bucket, {"run/config.yaml": config_to_yaml(load_config("yolox-nano")).encode()})
    s3.client().put_object(Bucket=bucket, Key="mine/config.yaml", Body=b"model: {depth: 0.5}")
    run = Address(f"s3://{bucket}/run")
    assert run_place(run, None).remote == run
    with pytest.raises(UsageError, match="holds another run"):
        run_place(Address(f"s3://{bucket}/mine"), None)


def state_after(steps, weights, folder):
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / "last.pt", weights, training={"raw": {}, "progress": {"step": steps}})
    return (folder / "last.pt").read_bytes()


def test_what_a_killed_run_left_here_is_named(s3, eager_weights, tmp_path, monkeypatch, capsys):
    config = config_to_yaml(load_config("yolox-nano")).encode()
    there = state_after(30, eager_weights, tmp_path / "there")
    s3.put("bucket-left", {"mine/last.pt": there, "mine/config.yaml": config})
    run = Address("s3://bucket-left/mine")
    folder = run_place(None, run).resume
    # Killed after all was sent: nothing is lost without this copy.
    (folder / "last.pt").write_bytes(there)
    assert run_place(None, run).resume == folder
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    # Killed before.
    state_after(40, eager_weights, folder)
    with pytest.warns(OculoxWarning) as told:
        assert run_place(None, run).resume == folder
    assert (folder / "last.pt").read_bytes() == there
    left = folder.with_name("mine-2")
    assert f"{left} on this machine (last.pt after step 40; " in str(told[0].message)
    assert f"resume it here: oculox train --resume {left}" in str(told[0].message)
    with monkeypatch.context() as patch:
        patch.setenv("OCULOX_LAUNCHER", "1")  # one of several processes, whose launcher has told
        assert run_place(None, run).resume == folder
    # Each time, until it is gone; also by a new run at the address, and on the command line.
    (left / "last.pt").write_bytes(b"damaged")
    with pytest.warns(OculoxWarning, match=r"no whole last.pt; .* which is not used; remove it$"):
        run_place(None, run)
    assert main(["train", "--resume", str(run), "train.batch=9"]) == 2
    assert capsys.readouterr().err.startswith(
        f"warning: {run}: a run that was killed, or could not"
    )
    for name in ("last.pt", "config.yaml"):
        remove(run / name)
    with pytest.warns(OculoxWarning) as told:
        assert run_place(run, None).output == folder.with_name("mine-3")
    assert len(told) == 2


@pytest.mark.parametrize("option", ["--output", "--resume"])
def test_several_machines_need_a_folder(monkeypatch, capsys, option):
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")  # of torchrun --nnodes 2
    words = ["yolox-nano"] if option == "--output" else []
    assert main(["train", *words, option, "s3://bucket/run"]) == 2
    message = "s3://bucket/run: only one machine can train a run at a URL, and here are 2"
    assert f"error: {message}" in capsys.readouterr().err


def test_a_signed_link_is_not_for_a_configuration():
    with pytest.raises(ConfigError, match=r"a.json\?\.\.\. may give access") as caught:
        load_config("yolox-nano", ["data.train.annotations=https://me:pass@host/a.json?key=secret"])
    assert "secret" not in str(caught.value)
    assert "pass" not in str(caught.value).replace("password", "")


def test_a_signed_link_may_name_a_dataset(monkeypatch):
    monkeypatch.setattr(coco, "list_names", lambda folder: {})
    with pytest.raises(DataError, match=r"^https://host/data\?\.\.\.: no such dataset"):
        coco.find_splits(Address("https://host/data?key=secret"), "val")


def test_a_run_that_cannot_be_sent_stays_here(s3, stored, quick, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("OCULOX_PATIENCE", "0.1")
    s3.faults.append(Fault("denied", path="runs/", methods=("PUT", "POST")))
    words = ["train", "yolox-nano", *quick, *SHORT, "train.max_steps=1"]
    assert main([*words, "--output", f"s3://{stored}/runs/mine"]) == 1
    message = capsys.readouterr().err
    assert "access is denied" in message
    folder = Path(message.rpartition("the files are in ")[2].strip())
    assert (folder / "last.pt").is_file()
    assert train(resume=folder).steps == 1


def test_a_damaged_state_at_an_address_is_named_there(s3, quick, capsys, tmp_path):
    words = (*quick, *SHORT, "train.max_steps=1")
    begun = train("yolox-nano", *words, output=tmp_path / "run").output
    (begun / "last.pt").write_bytes((begun / "last.pt").read_bytes()[:-1000])
    s3.put_folder("bucket-damaged", begun, below="mine/")
    run = "s3://bucket-damaged/mine"
    assert main(["train", "--resume", run, "train.max_steps=2"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {run}/last.pt: damaged")
    assert str(tmp_path) not in error
    command = error.partition("is whole, resume from it with: oculox ")[2].split()
    assert command == ["train", "--resume", f"{run}/previous.pt"]
    assert main([*command, "train.batch=9"]) == 2
    assert f"{run}: the run was started with other settings" in capsys.readouterr().err
    place = run_place(None, Address(command[-1]))
    assert str(place.remote) == run
    assert load_training_state(place.resume)[1]["progress"]["step"] == 1


@pytest.mark.slow
def test_a_run_killed_here_goes_on_elsewhere(s3, stored, quick, tmp_path, monkeypatch):
    """SIGKILL on machine A; machine B has nothing but the address."""
    settings = (*quick, "train.aug_epochs=300", "train.eval_interval=0")
    run = f"s3://{stored}/runs/mine"
    words = ["train", "yolox-nano", *settings, f"data.root=s3://{stored}/data", "--output", run]
    process = subprocess.Popen(
        [sys.executable, "-m", "oculox", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while "runs/mine/last.pt" not in s3.keys(stored) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = tmp_path / "last.pt"
    last.write_bytes(s3.get(stored, "runs/mine/last.pt"))
    steps = load_training_state(last)[1]["progress"]["step"] + 5
    monkeypatch.setenv("OCULOX_CACHE", str(tmp_path / "machine-b"))
    s3.faults.append(Fault("busy", times=3))
    resumed = train(f"train.max_steps={steps}", resume=run)
    assert (resumed.output, resumed.steps) == (Address(run), steps)
    last.write_bytes(s3.get(stored, "runs/mine/last.pt"))
    settings = (*settings, f"train.max_steps={steps}")
    whole = train("yolox-nano", *settings, output=tmp_path / "whole")
    same_state(whole.output / "last.pt", last)
    monkeypatch.setenv("OCULOX_CACHE", str(tmp_path / "address-cache"))  # back on machine A
    with pytest.warns(OculoxWarning, match="a run that was killed, or could not be sent, has left"):
        train(f"train.max_steps={steps + 1}", resume=run)
    assert json.loads(s3.get(stored, "runs/mine/summary.json"))["steps"] == steps + 1
