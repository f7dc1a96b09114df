"""``oculox demo``: the whole job on the built-in data set."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from oculox.api import Detector, train
from oculox.cli.console import say
from oculox.data.coco import load_coco
from oculox.data.image import read_image
from oculox.datasets.demo.dataset import write_demo
from oculox.draw import contact_sheet
from oculox.errors import UsageError
from oculox.evaluation.metrics import metrics_table
from oculox.predict.folder import write_image
from oculox.weights.checkpoint import save_safetensors
from oculox.weights.load import load_weights

# Chosen for two CPU cores and a few minutes: a small input, mild augmentation, a high rate (with
# clipping to bear it) and the L1 term from the start. Real data wants the recipe as it is.
SETTINGS = (
    "input.size=192",
    "augment.multiscale=null",
    "augment.mosaic_prob=0.25",
    "loss.l1=always",
    "optimizer.lr=0.12",
    "optimizer.clip_grad_norm=10",
    "schedule.warmup_epochs=1",
    "train.batch=16",
    "train.epochs=46",
    "train.eval_interval=12",
    "train.tail_eval_interval=5",
    "ema.decay=0.998",
    "ema.ramp=200",
    "data.cache=ram",
)
IMAGES = 12


def demo(
    output: Annotated[Path, typer.Option(help="Folder for data, run and images.")] = Path(
        "demo-run"
    ),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier demo there.")
    ] = False,
) -> None:
    """Render a data set, train yolox-nano on it from scratch, evaluate and use the result."""
    if output.exists():
        if not (overwrite and (output / "data" / "annotations").is_dir()):
            raise UsageError(f"{output}: exists; name another --output or allow --overwrite")
        shutil.rmtree(output)
    data, run = output / "data", output / "run"
    say("1/4 rendering the demo data set")
    write_demo(data)
    say("2/4 training yolox-nano from scratch")
    summary = train("yolox-nano", f"data.root={data}", *SETTINGS, output=run)

    say("3/4 evaluating the best checkpoint")
    exported = output / "demo-nano.safetensors"
    save_safetensors(exported, load_weights(summary.best))
    detector = Detector(exported)
    result = detector.evaluate(data)
    say(metrics_table(result.metrics.as_dict()))

    say("4/4 drawing what it finds")
    sheet = output / "detections.jpg"
    annotations = data / "annotations" / "instances_val2017.json"
    index = load_coco(annotations, data / "val2017")
    images = [read_image(index.image_path(i)) for i in range(min(IMAGES, len(index)))]
    drawn = [d.draw(image) for d, image in zip(detector(images), images, strict=True)]
    write_image(sheet, contact_sheet(drawn))
    say()
    say(f"AP50 {result.metrics.ap50:.3f}, AP {result.metrics.ap:.3f}")
    say(f"weights      {exported}")
    say(f"detections   {sheet}")
    say(f"run          {run}")
    say(f"next         oculox predict {exported} {data / 'val2017'} --output {output / 'found'}")
