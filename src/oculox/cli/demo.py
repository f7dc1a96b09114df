"""``oculox demo``: the whole job on the built-in dataset."""

import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from oculox.cli import options as o
from oculox.cli.console import note, print_json, say

# Chosen for two CPU cores and a few minutes from scratch (docs/experiments.md): a small input,
# small batches, AdamW at a high rate and no strong augmentation. For real data use the recipe
# unchanged.
SETTINGS = (
    "input.size=[128, 160]",
    "augment.multiscale=null",
    "augment.mosaic_prob=0",
    "loss.l1=always",
    "optimizer.name=adamw",
    "optimizer.lr=0.032",
    "optimizer.weight_decay=0.05",
    "optimizer.clip_grad_norm=10",
    "schedule.warmup_epochs=1",
    "train.batch=8",
    "train.aug_epochs=25",
    "train.tail_epochs=1",
    "train.eval_interval=5",
    "train.checkpoint_interval=5",
    "train.log_interval=25",
    "ema.decay=0.99",
    "ema.ramp=50",
    "data.cache=ram",
)
IMAGES = 12


def demo(
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for data, run and images; a new demo-run by default."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the scenes and the training.")] = 0,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
) -> None:
    """Train and use a detector on a rendered dataset.

    Renders images, trains yolox-nano on them from scratch, evaluates it and draws what it finds.
    """
    from oculox.api import Detector, train
    from oculox.config.schema import DataConfig
    from oculox.data.coco import load_split
    from oculox.data.image import read_image
    from oculox.datasets.demo.dataset import MARK, write_demo
    from oculox.draw import contact_sheet
    from oculox.files import free_path, is_own, require_free, write_image
    from oculox.weights.checkpoint import save_safetensors
    from oculox.weights.load import load_weights

    if output is None:
        output = free_path(Path("demo-run"))
    elif not (overwrite and is_own(output / "data", MARK)):
        require_free(output, replaceable=not overwrite)
    data, run = output / "data", output / "run"
    exported, sheet = output / "demo-nano.safetensors", output / "detections.jpg"
    note("1/4 rendering the demo dataset")
    write_demo(data, seed=seed, overwrite=overwrite)
    # Of an earlier demo; what else is in the folder stays.
    if run.is_dir():
        shutil.rmtree(run)
    exported.unlink(missing_ok=True)
    sheet.unlink(missing_ok=True)
    note("2/4 training yolox-nano from scratch")
    settings = (f"data.root={data}", f"train.seed={seed}", *SETTINGS)
    summary = train("yolox-nano", *settings, output=run)

    note("3/4 evaluating the best checkpoint")
    save_safetensors(exported, load_weights(summary.best))
    detector = Detector(exported)
    metrics = detector.evaluate(data).metrics

    note("4/4 drawing what it finds")
    index = load_split(DataConfig(root=data), "val")
    images = [read_image(index.image_path(i)) for i in range(min(IMAGES, len(index)))]
    drawn = [d.draw(image) for d, image in zip(detector(images), images, strict=True)]
    write_image(sheet, contact_sheet(drawn))
    if json:
        paths = {"weights": exported, "detections": sheet, "run": summary.output, "data": data}
        print_json({"metrics": metrics.as_dict(), **paths})
        return
    say(metrics.table())
    say()
    say(f"AP50 {metrics.ap50:.3f}, AP {metrics.ap:.3f}")
    say(f"weights      {exported}")
    say(f"detections   {sheet}")
    say(f"run          {summary.output}")
    say(f"next         {shlex.join(('oculox', 'predict', str(exported), str(data / 'val2017')))}")
