"""Options that several commands share, and small helpers of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

import click

from pipeline.cli.parameters import DEVICE, TARGET

Command = Callable[..., None]

VERSION: Final = metadata.version("edgepress")

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path))
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a recipe key, e.g. --set prune.ratio=0.3 (repeatable).",
)
target_option = click.option(
    "--target",
    "-t",
    "targets",
    multiple=True,
    type=TARGET,
    metavar="TARGET",
    help="Profile name or file (repeatable); default: the recipe's.",
)
device_option = click.option(
    "--device",
    type=DEVICE,
    metavar="NAME",
    help="Where to measure: a registered device (`edgepress devices list`), or local; default: the recipe's.",
)
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("out"),
    show_default=True,
    help="Folder of all results.",
)
log_option = click.option(
    "--log-dir", type=click.Path(path_type=Path, file_okay=False), help="Write every training step to DIR/steps.jsonl."
)
tensorboard_option = click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write TensorBoard scalars of every training there (needs edgepress[tensorboard]).",
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Show no progress: results and errors only.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")


def progress_options(command: Command) -> Command:
    """What every command has that may take more than two seconds: ``--quiet``, and ``--json`` for its progress too."""
    told = "Print one JSON document on stdout, progress as JSON lines on stderr."
    return quiet_option(click.option("--json", "as_json", is_flag=True, help=told)(command))


def with_device(overrides: Sequence[str], device: str | None) -> tuple[str, ...]:
    """The recipe's overrides, with ``--device`` as one more; it wins over the others."""
    return (*overrides, *([f"benchmark.device={json.dumps(device)}"] if device is not None else []))


def epilog(*examples: str) -> str:
    """Help text that shows how a command is used."""
    return "\b\nExample:\n" + "\n".join(f"  {example}" for example in examples)


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(document, indent=1, sort_keys=True))
