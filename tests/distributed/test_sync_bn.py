"""Batch norm over processes on a CPU equals batch norm over the whole batch."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from oculox.distributed.sync_bn import CpuSyncBatchNorm, to_sync_batch_norm

PROGRAM = """
import sys, torch, torch.distributed as dist
from oculox.distributed.sync_bn import to_sync_batch_norm
folder, rank, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
task = torch.load(f"{folder}/task.pt", weights_only=True)
norm = torch.nn.Sequential(torch.nn.BatchNorm2d(5, eps=1e-3, momentum=0.03))
norm.load_state_dict(task["state"])
norm = to_sync_batch_norm(norm.to(device), device_type=device).train()
part = slice(0, 3) if rank == 0 else slice(3, 4)
x = task["x"][part].to(device, copy=True).requires_grad_()
out = norm(x)
(out * task["weights"][part].to(device)).sum().backward()
grads = [p.grad for p in norm.parameters()]
for grad in grads:
    dist.all_reduce(grad)
half = norm(x.detach().bfloat16())
torch.save(
    {"out": out.detach().cpu(), "x_grad": x.grad.cpu(), "grads": [g.cpu() for g in grads],
     "dtype": str(half.dtype), "state": {k: v.cpu() for k, v in norm.state_dict().items()}},
    f"{folder}/result-{rank}.pt",
)
dist.destroy_process_group()
"""


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_two_processes_equal_the_whole_batch(tmp_path, device):
    # Both on one GPU: gloo allows that, which NCCL does not.
    torch.manual_seed(0)
    norm = nn.Sequential(nn.BatchNorm2d(5, eps=1e-3, momentum=0.03))
    with torch.no_grad():
        norm[0].weight.normal_()
        norm[0].bias.normal_()
    # Far from zero mean: a variance from sums of squares would lose its digits.
    x = torch.randn(4, 5, 6, 7) * 0.1 + 30
    task = {"state": norm.state_dict(), "x": x, "weights": torch.randn(4, 5, 6, 7)}
    torch.save(task, tmp_path / "task.pt")
    words = (sys.executable, "-W", "error::FutureWarning")
    running = [
        subprocess.Popen(
            [*words, "-c", PROGRAM, str(tmp_path), str(rank), device],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in running:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()

    whole = x.clone().requires_grad_()
    out = norm.train()(whole)
    (out * task["weights"]).sum().backward()
    once = {key: value.clone() for key, value in norm.state_dict().items()}
    results = [torch.load(tmp_path / f"result-{r}.pt", weights_only=True) for r in range(2)]
    torch.testing.assert_close(torch.cat([r["out"] for r in results]), out, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(
        torch.cat([r["x_grad"] for r in results]), whole.grad, atol=2e-3, rtol=1e-3
    )
    for result in results:
        for ours, theirs in zip(result["grads"], norm.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.grad, atol=1e-3, rtol=1e-4)
        assert result["dtype"] == "torch.bfloat16"
        assert result["state"].keys() == once.keys()
        # The half-precision pass counted too.
        assert result["state"]["0.num_batches_tracked"] == 2
    for key, value in results[0]["state"].items():
        assert torch.equal(value, results[1]["state"][key]), "processes drifted apart"


@pytest.mark.parametrize("training", [True, False])
def test_alone_it_is_plain_batch_norm(training):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, momentum=0.03)))
    plain[1][0].weight.requires_grad_(False)
    plain.train(training)
    synced = to_sync_batch_norm(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, momentum=0.03))),
        device_type="cpu",
    )
    assert isinstance(synced[1][0], CpuSyncBatchNorm)
    assert synced.state_dict().keys() == plain.state_dict().keys()
    synced.load_state_dict(plain.state_dict())
    synced.train(training)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(synced(x), plain(x))
    for key, value in plain.state_dict().items():
        assert torch.equal(synced.state_dict()[key], value)


def test_conversion_keeps_weights_modes_and_what_is_frozen():
    plain = nn.Sequential(nn.BatchNorm2d(4, eps=1e-3, momentum=0.03)).eval()
    plain[0].running_mean.fill_(3)
    plain[0].weight.requires_grad_(False)
    synced = to_sync_batch_norm(plain, device_type="cpu")[0]
    assert isinstance(synced, CpuSyncBatchNorm)
    assert (synced.eps, synced.momentum, synced.training) == (1e-3, 0.03, False)
    assert torch.equal(synced.running_mean, torch.full((4,), 3.0))
    assert (synced.weight.requires_grad, synced.bias.requires_grad) == (False, True)


def test_accelerators_get_pytorchs_own():
    synced = to_sync_batch_norm(nn.Sequential(nn.BatchNorm2d(4)), device_type="cuda")
    assert isinstance(synced[0], nn.SyncBatchNorm)
