"""``init``: writes a first recipe from flags, or from an interview where somebody is there to answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.interview import ImageSize, ask_goals, ask_sources
from pipeline.cli.options import epilog, print_json, progress_options
from pipeline.cli.parameters import TARGET, Choice
from pipeline.cli.waiting import waiting
from pipeline.tasks import TASKS

if TYPE_CHECKING:
    from pipeline.assist.init import Answers


@click.command(
    short_help="Write a commented recipe for your model.",
    epilog=epilog(
        "edgepress init                                    # asks",
        "edgepress init --model net.py:make_net --data data.py:make_data",
        "edgepress init --onnx net.onnx --npz data.npz",
    ),
)
@click.option("--model", help="Factory of the model, file.py:function.")
@click.option("--weights", help="Trained weights (.safetensors, .pt); without them the recipe gets a [train] section.")
@click.option("--onnx", help="An ONNX file instead of a factory.")
@click.option("--data", help="Factory of the data, file.py:function.")
@click.option("--npz", help="An .npz file with arrays named like the inputs, and `labels`.")
@click.option("--images", help="A folder of images, a folder a class.")
@click.option("--image-size", type=ImageSize(), help="Height and width that images are brought to, e.g. 224x224.")
@click.option(
    "--task",
    type=Choice([*TASKS]),
    metavar="TASK",
    help=f"What the model is for: {', '.join(TASKS)}; default: what the labels look like.",
)
@click.option("--target", type=TARGET, help="Profile name or file; default: host.")
@click.option("--accuracy-drop", type=click.FloatRange(0, 1), help="Largest loss that may ship; default: 0.01.")
@click.option("--latency-ms", type=click.FloatRange(min=0, min_open=True), help="A ceiling for the latency.")
@click.option(
    "--inspect/--no-inspect", default=True, help="Open model and data first (default), or believe what you say."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("recipe.toml"), show_default=True)
@progress_options
def init(
    task: str | None,
    target: str | None,
    accuracy_drop: float | None,
    latency_ms: float | None,
    out: Path,
    *,
    inspect: bool,
    quiet: bool,
    as_json: bool,
    **given: str | tuple[int, int] | None,
) -> None:
    """Write a commented recipe for your model. Never overwrites a file.

    In a terminal it asks for what no option says; elsewhere it never asks.
    """
    from pipeline.assist.init import Answers, check_answers, write_recipe
    from targets.errors import InputError

    if out.exists():
        raise InputError(f"{out} exists already", "init never overwrites", "choose another file with --out")
    answers = Answers(task=task or "classification", target=target or "host", **given)  # type: ignore[arg-type]
    asking = attended() and _lacks(answers)
    if asking:
        answers = ask_sources(answers, out.absolute().parent)
    check_answers(answers)
    if inspect:
        with waiting("reading the data", quiet=quiet, as_json=as_json) as say:
            answers = _inspected(answers, out, task, say)
        if not (quiet or as_json):  # they stand in the recipe too
            for line in answers.found:
                click.echo(f"  {line}", err=True)
    if asking:
        answers = ask_goals(answers, task=task, target=target, drop=accuracy_drop, latency=latency_ms)
    answers = replace(
        answers,
        accuracy_drop=answers.accuracy_drop if accuracy_drop is None else accuracy_drop,
        latency_ms=latency_ms or answers.latency_ms,
    )
    write_recipe(answers, out)
    if as_json:
        print_json({"recipe": str(out), "found": list(answers.found)})
    else:
        click.echo(f"wrote {out}; next: edgepress plan {out}, then edgepress run {out}")


def attended() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def _lacks(answers: Answers) -> bool:
    """Whether a model or data must still be named."""
    return not (answers.model or answers.onnx) or not (answers.data or answers.npz or answers.images)


def _inspected(answers: Answers, out: Path, task: str | None, say: Callable[[str], None]) -> Answers:
    """The answers with what model and data say of themselves; their code is run, as every run does."""
    from pipeline.assist.init import recipe_of
    from pipeline.assist.survey import survey_data, survey_model
    from pipeline.tasks import find_task
    from targets.errors import faults_error

    plain = replace(answers, task=answers.task if task or answers.images else "classification")
    data, found = survey_data(recipe_of(plain, out))
    answers = replace(answers, task=task or found.task)
    recipe = recipe_of(answers, out)
    wanted = find_task(recipe)
    if isinstance(wanted, list):
        raise faults_error("the task", wanted)
    say("opening the model")
    return replace(answers, found=(*found.lines, *survey_model(recipe, data, wanted, say)))
