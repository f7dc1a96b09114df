"""``oculox train``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from oculox.cli import options as o
from oculox.cli.console import note, print_json, say
from oculox.errors import UsageError, plural

if TYPE_CHECKING:
    from oculox.training.run_folder import TrainSummary


def _complete_recipe(incomplete: str) -> list[str]:
    from oculox.config import known_recipes

    return [name for name in known_recipes() if name.startswith(incomplete)]


Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe (see `oculox models`) or a YAML file.",
        autocompletion=_complete_recipe,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings, such as data.root=my-data."),
]


class SettingsCommand(TyperCommand):
    """A command that takes settings: an unknown option that is called like one is explained."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As any command does, after a look for such options."""
        known = {name for param in self.get_params(ctx) for name in param.opts}
        for word, following in zip(args, [*args[1:], "VALUE"], strict=False):
            option, _, value = word.partition("=")
            if option.startswith("--") and option not in known:
                _explain_setting(option, value or following)
        return super().parse_args(ctx, args)


def _explain_setting(option: str, value: str) -> None:
    from oculox.config import key_named

    key = key_named(option.lstrip("-").replace("-", "_"))
    if key is not None:
        raise UsageError(
            f"no option {option}: settings are words without dashes, here {key}={value}"
        )


def train(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE", help="A recipe or a YAML file.", autocompletion=_complete_recipe
        ),
    ] = None,
    overrides: Overrides = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Start from these weights (any class count)."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Folder of a new run; by default runs/NAME, numbered."),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN_FOLDER",
            help="Resume this run, or one of its checkpoints; needs no recipe.",
        ),
    ] = None,
    devices: o.Devices = 1,
    json: o.Json = False,
) -> None:
    """Train a network on your own data.

    Every setting of the recipe can be overridden; `oculox config RECIPE` prints them.
    """
    from oculox.addresses import to_location
    from oculox.distributed.launch import is_launched, is_main_process, launch, was_restarted
    from oculox.training.checkpoints import has_state
    from oculox.training.loop import run_training
    from oculox.training.remote import run_place
    from oculox.training.run_folder import finished_run, settle_config

    words = tuple(overrides or ())
    start, folder, run = (
        None if text is None else to_location(text) for text in (weights, output, resume)
    )
    if folder is not None and was_restarted() and has_state(folder):
        # The same command again: it goes on with what it began.
        recipe, words, start, folder, run = None, (), None, None, folder
    # What is wrong with the command is said here, before processes start.
    place = run_place(folder, run)
    with place.naming_address():
        config = settle_config(
            recipe, words, weights=start, output=place.output, resume=place.resume
        )
    if place.resume is not None and finished_run(config, place.resume) is not None:
        if is_main_process():
            note(
                f"{run}: this run is finished; to continue it, raise train.epochs (or "
                "train.max_steps of a trial), or start a new run from its best.pt with --weights"
            )
    elif devices > 1 and not is_launched():
        raise typer.Exit(launch(context.obj, processes=devices))
    summary = run_training(config, place=place, weights=start)
    if not is_main_process():
        return
    if json:
        print_json(summary.as_dict())
    else:
        _say_summary(summary)


def _say_summary(summary: TrainSummary) -> None:
    from oculox.evaluation.metrics import metrics_table

    say()
    if summary.metrics:
        say(metrics_table(summary.metrics))
        say()
    best = (
        f"best AP {summary.best_ap:.4f} in epoch {summary.best_epoch}"
        if summary.best_ap >= 0
        else "no AP, as the validation split has no objects: the newest weights are the best"
    )
    say(f"{best}; {plural(summary.steps, 'step')} done, {summary.seconds / 60:.1f} minutes")
    if best_exists := summary.best.exists():  # somebody may have moved it
        say(f"best checkpoint  {summary.best}")
    written = {"log": "log.jsonl", "curves": "curves.png", "report": "report.html"}
    for title, name in written.items():
        if (summary.output / name).exists():
            say(f"{title:<16} {summary.output / name}")
    if best_exists:
        say(f"next             oculox predict {shlex.quote(str(summary.best))} YOUR_IMAGES")
