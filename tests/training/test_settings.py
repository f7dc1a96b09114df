"""What settings of a run do, seen in a step of the parts that they build, or in a short run."""

import os
import shutil
from contextlib import contextmanager

import pytest
import torch

from oculox import load_config, train
from oculox.distributed.devices import open_accelerator
from oculox.training.build import build_run
from oculox.training.log import read_log
from oculox.training.step import train_step
from oculox.weights import load_weights


@pytest.fixture
def built(quick):
    """The parts of a run with some settings."""

    @contextmanager
    def build(*words):
        config = load_config("yolox-nano", [*quick, *words])
        with open_accelerator("cpu", precision=config.train.precision) as accelerator:
            yield build_run(config, accelerator, weights=None)

    return build


@pytest.fixture
def state_after(quick, tmp_path):
    """Trains two steps with some settings: the weights to use, and the raw ones."""

    def run(*words, name="run"):
        output = tmp_path / name
        train("yolox-nano", *quick, "train.max_steps=2", *words, output=output)
        content = torch.load(output / "last.pt", weights_only=True)
        return content["state"], content["training"]["raw"]

    return run


def step(run):
    """One step; its loss and the gradients that the optimizer got."""
    gradients = {}

    def keep(*_):
        for name, parameter in run.parts.network.named_parameters():
            gradients[name] = parameter.grad.clone()

    run.parts.optimizer.optimizer.register_step_pre_hook(keep)
    batch = next(run.train_loader.iterate(0, mosaic=True))
    size = run.config.input.size
    loss = train_step(run.parts, batch, rate=0.01, size_hw=size, use_l1=True, step=1)
    return loss, gradients


def norm_of(gradients):
    return torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()


def differing(first, second):
    """Names of the tensors that differ."""
    assert first.keys() == second.keys()
    return {key for key in first if not torch.equal(first[key], second[key])}


def test_accumulation_gives_the_gradients_of_the_whole_batch(built):
    found, sizes = [], []
    for accumulate in (1, 2):
        with built(f"train.accumulate={accumulate}") as run:
            # Batch norm alone sees the split: with fixed statistics the rest must agree.
            run.parts.network.eval()
            run.parts.network.register_forward_pre_hook(
                lambda _, given: sizes.append(len(given[0]))
            )
            found.append(step(run))
    assert sizes == [4, 2, 2]
    (loss, whole), (other, split) = found
    assert other == pytest.approx(loss, rel=1e-5)
    for name, gradient in whole.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-5 * scale)


def test_clipping_limits_the_norm_of_the_gradients(built):
    with built() as run:
        loss, gradients = step(run)
    assert norm_of(gradients) == pytest.approx(loss.gradient_norm, rel=1e-4)
    limit = loss.gradient_norm / 3
    with built(f"optimizer.clip_grad_norm={limit}") as run:
        clipped, shorter = step(run)
    assert clipped.gradient_norm == pytest.approx(loss.gradient_norm, rel=1e-4)
    assert norm_of(shorter) == pytest.approx(limit, rel=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(shorter[name], gradient / 3, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_network_alone_computes_in_the_precision(built, precision, dtype):
    inside, outside = set(), set()
    with built(f"train.precision={precision}") as run:
        for module in run.parts.network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(lambda *given: inside.add(given[2].dtype))
        run.parts.network.register_forward_hook(
            lambda *given: outside.update(t.dtype for t in given[2] if torch.is_tensor(t))
        )
        step(run)
        kept = {parameter.dtype for parameter in run.parts.network.parameters()}
    assert inside == {dtype}
    assert outside == kept == {torch.float32}


def test_auto_is_settled_once_and_saved(quick, tmp_path):
    words = (*quick, "train.precision=auto", "train.max_steps=1")
    output = train("yolox-nano", *words, output=tmp_path / "out").output
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    expected = "bf16" if native else "fp32"
    assert load_config(output / "config.yaml").train.precision == expected
    assert f"in {expected}:" in (output / "log.txt").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's compiler
def test_a_compiled_network_trains_alike(quick, tmp_path):
    losses = {}
    for word in ("false", "true"):
        words = (*quick, "train.max_steps=2", "augment.multiscale=null", f"train.compile={word}")
        output = train("yolox-nano", *words, output=tmp_path / word).output
        losses[word] = [row["loss"] for row in read_log(output) if row["kind"] == "train"]
        assert load_weights(output / "best.pt").spec.names
    assert losses["true"] == pytest.approx(losses["false"], rel=1e-3)


def test_a_frozen_part_stays_and_the_others_move(built, state_after):
    with built() as run:
        start = {key: value.clone() for key, value in run.parts.network.state_dict().items()}
    # High enough for a step to be seen.
    words = ("optimizer.lr=0.5", "schedule.warmup_epochs=0")
    moved = differing(start, state_after(*words, "train.freeze=[backbone]")[1])
    assert not {key for key in moved if key.startswith("backbone.")}
    still = {key for key in start.keys() - moved if not key.startswith("backbone.")}
    # Without an object on a level its norms get no gradient; convolutions decay at any rate.
    assert not {key for key in still if "running_" in key or key.endswith("conv.weight")}
    moved = differing(start, state_after(*words, name="free")[1])
    assert {key.split(".")[0] for key in moved} == {"backbone", "neck", "head"}


def test_without_the_average_the_raw_weights_are_used(state_after):
    averaged, raw = state_after(name="with")
    assert differing(averaged, raw)
    used, raw = state_after("ema.enabled=false")
    assert not differing(used, raw)


def spoil(image):
    """Overwrite a file so that only decoding it tells."""
    before = image.stat()
    image.write_bytes(bytes(before.st_size))
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_cache_gives_the_same_batches_without_decoding_again(built, tiny_data, tmp_path, cache):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    # The images' own size: a cache keeps them no larger than the input needs.
    words = (f"data.root={data}", "input.size=96")
    with built(*words) as run:
        expected = list(run.train_loader.iterate(0, mosaic=True))
    with built(*words, f"data.cache={cache}") as run:
        for image in (data / "train2017").iterdir():
            spoil(image)
        batches = list(run.train_loader.iterate(0, mosaic=True))
    if cache == "disk":
        # The next run finds the first one's.
        with built(*words, "data.cache=disk") as run:
            batches += run.train_loader.iterate(0, mosaic=True)
            expected *= 2
    assert len(batches) == len(expected)
    for ours, theirs in zip(batches, expected, strict=True):
        assert ours.image_ids == theirs.image_ids
        assert torch.equal(ours.images, theirs.images)
        assert all(map(torch.equal, ours.targets, theirs.targets))


def test_l1_from_the_start_and_a_rectangle(quick, tmp_path):
    words = ("loss.l1=always", "input.size=[64, 96]", "train.max_steps=1")
    output = train("yolox-nano", *quick, *words, output=tmp_path / "out").output
    row = read_log(output)[0]
    assert (row["phase"], row["size"]) == ("aug", [64, 96])
    assert row["l1"] > 0
    assert load_weights(output / "best.pt").spec.input.size == (64, 96)


@pytest.mark.parametrize(
    ("weights", "words", "rate", "said"),
    [
        (
            *("eager_pt", (), 0.0021 * 0.3),
            "optimizer.lr is 0.00063 now, the peak learning rate at 64 images a step",
        ),
        ("three_classes_pt", (), 0.0021, "class predictors, which start fresh"),
        pytest.param(
            *("eager_pt", ("optimizer.lr=0.1",), 0.1 * 0.3, "optimizer.lr is 0.03 now"),
            marks=pytest.mark.slow,
        ),
        ("eager_pt", ("recipe=official",), 0.01, "weights: all tensors"),
    ],
)
def test_the_rate_of_a_run_from_weights_follows_what_they_know(
    quick, tmp_path, request, weights, words, rate, said
):
    words = (*quick, *words, "train.max_steps=1")
    start = request.getfixturevalue(weights)
    summary = train("yolox-nano", *words, weights=start, output=tmp_path / "out")
    config = load_config(summary.output / "config.yaml")
    assert config.optimizer.lr == pytest.approx(rate)
    assert config.recipe == ("official" if "recipe=official" in words else "finetune")
    log = (summary.output / "log.txt").read_text()
    assert said in log
    assert f"recipe={config.recipe}" in log
    # It is settled: the saved configuration gives the same rate again.
    again = train(summary.output / "config.yaml", weights=start, output=tmp_path / "again")
    assert load_config(again.output / "config.yaml").optimizer == config.optimizer
