"""``explain`` and ``completion``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

import click

from pipeline.cli.options import epilog, json_option, print_json
from pipeline.cli.parameters import CODE, Choice, ExistingPath

COMPLETE_VARIABLE: Final = "_EDGEPRESS_COMPLETE"


@click.command(
    short_help="Explain a warning, or a layer of a run.",
    epilog=epilog("edgepress explain W-FEW", "edgepress explain layer1.0.conv2 --run out/cifar10/host"),
)
@click.argument("subject", type=CODE)
@click.option("--run", "folder", type=ExistingPath(), help="Result folder of a run; needed for a layer.")
@json_option
def explain(subject: str, folder: Path | None, *, as_json: bool) -> None:
    """Explain SUBJECT: the code of a warning (W-FEW), or a layer of a run by its module path."""
    from pipeline.assist.explain import explain_code, explain_layer
    from pipeline.reporting.schema import read_run
    from targets.errors import UsageError

    run = None if folder is None else read_run(folder if folder.name == "run.json" else folder / "run.json")
    if subject[:2].upper() in {"W-", "C-"}:
        found = explain_code(subject.upper(), run)
        if as_json:
            print_json(dataclasses.asdict(found))
            return
        click.echo(f"{found.code}: {found.means}.\nFix: {found.fix}.")
        for line in found.seen:
            click.echo(f"In this run: {line}")
        return
    if run is None:
        raise UsageError(
            f"{subject!r} is no code of a warning", "a layer is explained from a run", "add --run OUT/RECIPE/TARGET"
        )
    layers = explain_layer(subject, run)
    if as_json:
        print_json(layers)
        return
    for facts in layers:
        width = max(map(len, facts))
        click.echo("\n".join(f"{key:<{width}}  {value}" for key, value in facts.items()) + "\n")


@click.command(
    short_help="Print a shell's completion script.",
    epilog=epilog("edgepress completion bash >> ~/.bashrc", "edgepress completion fish | source"),
)
@click.argument("shell", type=Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, options and paths in SHELL."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "edgepress", COMPLETE_VARIABLE).source())
