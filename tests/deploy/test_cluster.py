"""Launch scripts and manifests for several machines, and the cost plan of docs/cluster.md.

Slurm, ssh and Kubernetes are not here: small programs stand in for `srun`, `scontrol` and `ssh`,
and start on this machine what they are given.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer.main
import yaml

from oculox.cli.main import app
from oculox.config import load_config
from oculox.models.yolox import build_model
from oculox.training.log import read_log

FOLDER = Path(__file__).parents[2] / "deploy" / "cluster"
SCRIPTS = sorted([*FOLDER.glob("*.sh"), *FOLDER.glob("*.sbatch")])
WORDS = ("yolox-x", "data.root=/shared/coco-shards", "data.cache=none")

STUBS = {
    "torchrun": """
        {{ printf '%s\\n' "$@"; echo --; env | grep -E '^(PET|TORCHELASTIC)_' | sort; }} \\
          > "{calls}/$$"
        exit "${{STUB_CODE:-0}}" """,
    "srun": """
        started=()
        for _ in $(seq "$SLURM_NNODES"); do "$@" & started+=("$!"); done
        trap 'kill -USR1 "${{started[@]}}"' USR1
        code=0
        for one in "${{started[@]}}"; do
          while kill -0 "$one" 2>/dev/null; do wait "$one" && one_code=0 || one_code=$?; done
          [ "$one_code" -eq 0 ] || code=$one_code
        done
        exit "$code" """,
    "scontrol": """
        if [ "$1" = show ]; then echo localhost; else echo "$@" >> "{calls}/scontrol"; fi """,
    "ssh": """
        [ "$1" = -tt ] && echo "$2" >> "{calls}/hosts"
        exec bash -c "$3" """,
}


@pytest.fixture
def stand_ins(tmp_path):
    """(folder for PATH, folder of what was called)."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    calls.mkdir()
    for name, text in STUBS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\nset -u{text.format(calls=calls)}\n")
        (folder / name).chmod(0o755)
    return folder, calls


def run(*words, path, **settings):
    return subprocess.run(
        ["bash", *map(str, words)],
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}", **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def calls_of(folder):
    """(words, environment) of each call of torchrun."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.isdigit():
            words, _, lines = path.read_text().partition("--\nPET")
            environment = dict(line.split("=", 1) for line in f"PET{lines}".splitlines())
            found.append((words.splitlines(), environment))
    return found


def assert_trains(words, *, output):
    """torchrun is asked for a command that Oculox understands."""
    assert words[:3] == ["-m", "oculox", "train"]
    command = typer.main.get_command(app).commands["train"]
    values = command.make_context("train", list(words[3:])).params
    assert str(values["output"]) == str(output)
    load_config(values["recipe"], values["overrides"])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_right_for_bash(path):
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    for check in (["bash", "-n"], ["shellcheck"]):
        if shutil.which(check[0]):
            found = subprocess.run(
                [*check, path], capture_output=True, text=True, check=False, timeout=60
            )
            assert found.returncode == 0, found.stdout + found.stderr


def test_a_node_starts_a_run_or_goes_on_with_it(stand_ins, tmp_path):
    path, calls = stand_ins
    output = tmp_path / "run"
    assert run(FOLDER / "node.sh", output, *WORDS, path=path).returncode == 0
    [(words, environment)] = calls_of(calls)
    assert_trains(words, output=output)
    assert environment["PET_RDZV_BACKEND"] == "c10d"
    assert environment["PET_SIGNALS_TO_HANDLE"].endswith(",SIGUSR1")
    assert environment["TORCHELASTIC_SIGNALS_TO_HANDLE"] == environment["PET_SIGNALS_TO_HANDLE"]
    output.mkdir()
    (output / "last.pt").touch()
    next(calls.iterdir()).unlink()
    run(FOLDER / "node.sh", output, *WORDS, path=path)
    [(words, _)] = calls_of(calls)
    assert words == ["-m", "oculox", "train", "--resume", str(output)]


def test_a_node_goes_on_with_a_run_at_an_address(stand_ins, s3):
    path, calls = stand_ins
    s3.put("bucket-node", {"run/last.pt": b""})
    (path / "python").symlink_to(sys.executable)
    for name in ("run", "new"):
        there = f"s3://bucket-node/{name}"
        ended = run(
            FOLDER / "node.sh", there, *WORDS, path=path, PYTHONPATH=os.pathsep.join(sys.path)
        )
        assert ended.returncode == 0, ended.stderr
        [(words, _)] = calls_of(calls)
        if name == "run":
            assert words == ["-m", "oculox", "train", "--resume", there]
        else:
            assert_trains(words, output=there)
        next(calls.iterdir()).unlink()
    ended = run(FOLDER / "node.sh", there, *WORDS, path=path, PET_NNODES="2")
    assert (ended.returncode, next(calls.iterdir(), None)) == (2, None)
    assert "OUTPUT must be a folder that all machines share" in ended.stderr


SLURM = {
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_NNODES": "2",
    "SLURM_GPUS_ON_NODE": "8",
    "SLURM_JOB_ID": "77",
    "SLURM_SUBMIT_DIR": str(FOLDER),
}


@pytest.mark.parametrize("code", [0, 1])
def test_slurm_starts_each_node(stand_ins, tmp_path, code):
    path, calls = stand_ins
    command = (FOLDER / "slurm.sbatch", tmp_path / "run", *WORDS)
    ended = run(*command, path=path, **SLURM, SLURM_RESTART_COUNT="2", STUB_CODE=str(code))
    assert ended.returncode == code, ended.stderr
    assert not (calls / "scontrol").exists()  # a failure is no reason to come again
    found = calls_of(calls)
    assert len(found) == 2
    for words, environment in found:
        assert_trains(words, output=tmp_path / "run")
        assert environment["PET_NNODES"] == "2"
        assert environment["PET_NPROC_PER_NODE"] == "8"
        assert environment["PET_RDZV_ENDPOINT"] == "localhost:29400"
        assert environment["PET_RDZV_ID"] == "77-2"


def test_ssh_starts_each_node(stand_ins, tmp_path):
    path, calls = stand_ins
    output = tmp_path / "a folder"
    ended = run(FOLDER / "ssh.sh", "one two", 4, output, *WORDS, path=path)
    assert ended.returncode == 0, ended.stderr
    assert sorted((calls / "hosts").read_text().split()) == ["one", "two"]
    found = calls_of(calls)
    assert len(found) == 2
    assert found[0][1] == found[1][1]
    assert found[0][1]["PET_RDZV_ENDPOINT"] == "one:29400"
    assert found[0][1]["PET_NPROC_PER_NODE"] == "4"
    for words, _ in found:
        assert_trains(words, output=output)
    assert (
        run(FOLDER / "ssh.sh", "one", 1, output, *WORDS, path=path, STUB_CODE="3").returncode == 3
    )


def test_sagemaker_takes_its_hosts_and_leaves_the_model(stand_ins, tmp_path):
    path, calls = stand_ins
    root = tmp_path / "ml"
    for folder in ("input/config", "model", "checkpoints/run"):
        (root / folder).mkdir(parents=True)
    for name in ("best.pt", "config.yaml"):
        (root / "checkpoints/run" / name).write_text(name)
    hosts = root / "input/config/resourceconfig.json"
    hosts.write_text(json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}))
    command = (FOLDER / "sagemaker.sh", *WORDS)
    ended = run(*command, path=path, SAGEMAKER_ROOT=str(root))
    assert ended.returncode == 0, ended.stderr
    assert (root / "model/best.pt").read_text() == "best.pt"
    [(words, environment)] = calls_of(calls)
    assert_trains(words, output=root / "checkpoints/run")
    assert environment["PET_RDZV_ENDPOINT"] == "algo-1:29400"
    hosts.write_text(json.dumps({"current_host": "algo-2", "hosts": ["algo-2", "algo-1"]}))
    refused = run(*command, path=path, SAGEMAKER_ROOT=str(root))
    assert refused.returncode == 2
    assert "2 instances need a folder in common" in refused.stderr
    refused = run(*command, path=path, SAGEMAKER_ROOT=str(root), OUTPUT="s3://bucket/run")
    assert (refused.returncode, "must be a folder" in refused.stderr) == (2, True)
    shared = tmp_path / "fsx"
    shared.mkdir()
    (shared / "best.pt").touch()
    (shared / "config.yaml").touch()
    assert run(*command, path=path, SAGEMAKER_ROOT=str(root), OUTPUT=str(shared)).returncode == 0
    assert {e["PET_NNODES"]: e["PET_RDZV_ENDPOINT"] for _, e in calls_of(calls)} == {
        "1": "algo-1:29400",
        "2": "algo-1:29400",
    }


# Of the published interfaces: kubeflow.org/v1 (training operator 1.9) and jobset.x-k8s.io/v1alpha2.
FIELDS = {
    "PyTorchJob": {"spec": {"runPolicy", "elasticPolicy", "pytorchReplicaSpecs", "nprocPerNode"}},
    "JobSet": {
        "spec": {
            "replicatedJobs",
            "network",
            "successPolicy",
            "failurePolicy",
            "startupPolicy",
            "suspend",
            "coordinator",
            "managedBy",
            "ttlSecondsAfterFinished",
        }
    },
}


def pods(manifest):
    """(pod specification, how many) of a manifest."""
    spec = manifest["spec"]
    assert set(spec) <= FIELDS[manifest["kind"]]["spec"]
    if manifest["kind"] == "PyTorchJob":
        assert manifest["apiVersion"] == "kubeflow.org/v1"
        assert set(spec["elasticPolicy"]) <= {
            "rdzvBackend",
            "minReplicas",
            "maxReplicas",
            "maxRestarts",
        }
        assert set(spec["pytorchReplicaSpecs"]) <= {"Master", "Worker"}
        assert spec["nprocPerNode"] == "8"  # a text
        for one in spec["pytorchReplicaSpecs"].values():
            assert set(one) <= {"replicas", "restartPolicy", "template"}
            # The operator takes its environment to the container of this name.
            assert [c["name"] for c in one["template"]["spec"]["containers"]] == ["pytorch"]
            yield one["template"]["spec"], one["replicas"]
    else:
        assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
        for one in spec["replicatedJobs"]:
            assert set(one) <= {"name", "replicas", "template"}
            job = one["template"]["spec"]
            assert set(job) <= {"parallelism", "completions", "backoffLimit", "template"}
            assert job["parallelism"] == job["completions"]
            yield job["template"]["spec"], job["completions"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_manifests_run_the_node_script(path, stand_ins, tmp_path):
    folder, calls = stand_ins
    manifest = yaml.safe_load(path.read_text())
    [(pod, count)] = pods(manifest)
    [container] = pod["containers"]
    assert container["command"] == ["bash", "/scripts/node.sh"]
    environment = {one["name"]: one["value"] for one in container.get("env", ())}
    assert run(FOLDER / "node.sh", *container["args"], path=folder, **environment).returncode == 0
    [(words, seen)] = calls_of(calls)
    assert_trains(words, output=container["args"][0])
    assert environment.items() <= seen.items()
    # Every folder that is mounted is one of the pod's, and the data and the run are on one.
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
    assert {"/shared", "/scripts", "/dev/shm"} == set(mounts)  # noqa: S108
    assert container["args"][0].startswith("/shared/")
    if manifest["kind"] == "JobSet":
        name = manifest["metadata"]["name"]
        [job] = manifest["spec"]["replicatedJobs"]
        assert seen["PET_RDZV_ENDPOINT"] == f"{name}-{job['name']}-0-0.{name}:29400"
        assert seen["PET_NNODES"] == str(count)
        assert seen["PET_NPROC_PER_NODE"] == str(container["resources"]["limits"]["nvidia.com/gpu"])


PAGE = (FOLDER.parents[1] / "docs/cluster.md").read_text("utf-8")
MEMORY = (FOLDER.parents[1] / "docs/training.md").read_text("utf-8")
COCO, EPOCHS, OBJECTS365 = 118_287, 300, 1_800_000


def rows(page, columns):
    """The cells of a page's tables with that many columns, heads left out."""
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == columns and re.search(r"\d", cells[-1]):
            yield cells


def test_the_costs_follow_from_the_rates():
    per_core, size = (float(re.search(rf"\b{name} = ([\d.]+)", PAGE)[1]) for name in "LB")
    images = float(re.search(r"\bK = ([\d.]+)", PAGE)[1])
    assert images == round((285 * 5 + 15) / EPOCHS, 1)
    table = list(rows(PAGE, 7))
    assert len(table) == 4
    for _, _, stated, coco, objects, cores, traffic in table:
        rate = float(stated)
        assert coco == f"{COCO * EPOCHS / rate / 3600:.0f}"
        assert float(objects) == pytest.approx(OBJECTS365 / rate / 3600, rel=0.02)
        assert cores == f"{rate / per_core:.1f}"
        assert traffic == f"{rate * images * size:.0f}"
    assert f"at COCO's B it is {round(OBJECTS365 * size / 1000, -1):.0f} GB" in PAGE


def kept_for_backward(recipe):
    """Bytes that the network keeps of one image for the backward pass, weights left out."""
    config = load_config(recipe)
    network = build_model(config.model, num_classes=80).train()
    own = {p.untyped_storage().data_ptr() for p in (*network.parameters(), *network.buffers())}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor  # held, so that no place is reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(torch.zeros(1, 3, *config.input.size))
    return sum(size for size, _ in kept.values())


def test_memory_is_what_the_network_keeps():
    table = {
        name: (int(side), int(size)) for name, side, size in rows(MEMORY, 3) if name[:5] == "yolox"
    }
    assert len(table) == 7
    for name, (side, _) in table.items():
        assert load_config(name).input.size == (side, side)
    assert table["yolox-nano"][1] == pytest.approx(kept_for_backward("yolox-nano") / 1e6, abs=1)


@pytest.mark.slow
def test_a_slurm_job_saves_comes_again_and_finishes(stand_ins, quick, tmp_path):
    """Two agents of the real torchrun; SIGUSR1 as Slurm sends it to the script."""
    path, calls = stand_ins
    (path / "torchrun").unlink()
    output = tmp_path / "run"
    environment = {
        **os.environ,
        **SLURM,
        "SLURM_GPUS_ON_NODE": "1",
        "PATH": f"{path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PET_LOCAL_ADDR": "localhost",
    }
    words = ("yolox-nano", *quick, "train.aug_epochs=20", "train.eval_interval=0")
    for restart in (0, 1):
        environment["SLURM_RESTART_COUNT"] = str(restart)
        with (tmp_path / "job.log").open("ab") as log:
            job = subprocess.Popen(
                ["bash", FOLDER / "slurm.sbatch", output, *words],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            if restart == 0:
                limit = time.monotonic() + 200
                while not any(row.get("step", 0) >= 5 for row in read_log(output)):
                    assert time.monotonic() < limit
                    assert job.poll() is None, (tmp_path / "job.log").read_text()
                    time.sleep(0.05)
                job.send_signal(signal.SIGUSR1)
            code = job.wait(300)
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
        said = (tmp_path / "job.log").read_text()
        assert (code == 0) == (restart == 1), said
        assert (calls / "scontrol").read_text() == "requeue 77\n"
    steps = [row["step"] for row in read_log(output) if row["kind"] == "train"]
    assert steps == list(range(1, steps[-1] + 1))
    assert len(steps) > 60
    assert "resumed" in (output / "log.txt").read_text()
