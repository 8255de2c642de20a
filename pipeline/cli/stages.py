"""``run``, ``plan`` and one command per stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from pipeline.cli.observing import observing
from pipeline.cli.options import (
    device_option,
    epilog,
    log_option,
    out_option,
    print_json,
    progress_options,
    recipe_argument,
    set_option,
    target_option,
    tensorboard_option,
    with_device,
)
from pipeline.cli.waiting import waiting
from pipeline.events import Observer
from targets.words import counted

_STAGE_HELP: Final = {
    "surgery": "Change the architecture by hand: up to `surgery`.",
    "depth": "Drop residual blocks: everything up to `depth`.",
    "prune": "Remove channels: everything up to `prune`.",
    "sparsify": "Set small weights to zero: up to `sparsify`.",
    "distill": "Recover what pruning cost: everything up to `distill`.",
    "export": "Write the float ONNX model: everything up to `export`.",
    "calibrate": "Measure activation ranges: all up to `calibrate`.",
    "quantize": "Write the int8 ONNX model: everything up to `quantize`.",
    "build": "Build all candidate engines: everything up to `build`.",
    "benchmark": "Measure all candidates: everything up to `benchmark`.",
    "bundle": "Bundle what the gate chose: everything up to `bundle`.",
}


@click.command(
    short_help="Run a recipe to a verified bundle and a report.",
    epilog=epilog(
        "edgepress run examples/digits --target host --out out", "edgepress run recipe.toml --set prune.ratio=0.5"
    ),
)
@recipe_argument
@target_option
@device_option
@out_option
@set_option
@log_option
@tensorboard_option
@progress_options
def run(
    recipe: Path,
    targets: Sequence[str],
    device: str | None,
    out: Path,
    overrides: Sequence[str],
    log_dir: Path | None,
    tensorboard: Path | None,
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a recipe to a verified bundle and a report, in OUT/<recipe name>/<target>/."""
    from pipeline.api import compress
    from pipeline.recipe import load_recipe

    loaded = load_recipe(recipe, with_device(overrides, device))
    with observing(as_json=as_json, quiet=quiet, log_dir=log_dir, tensorboard=tensorboard) as observer:
        results = compress(loaded, targets=targets, out=out, observer=observer)
    if as_json:
        print_json([{"target": r.target, "folder": str(r.folder), "run": dict(r.run)} for r in results])
    else:
        from pipeline.cli.report import show_run

        for result in results:
            show_run(result.run)
            click.echo(
                f"{counted(result.stages_run, 'stage')} run, {result.stages_reused} reused. Results: {result.folder}"
            )
    for result in results:
        result.raise_if_rejected()


@click.command(
    short_help="Show the stages of a recipe, and which are stored.",
    epilog=epilog("edgepress plan examples/digits --target host"),
)
@recipe_argument
@target_option
@device_option
@set_option
@progress_options
def plan(
    recipe: Path, targets: Sequence[str], device: str | None, overrides: Sequence[str], *, quiet: bool, as_json: bool
) -> None:
    """Show which stages a recipe needs and which of them are in the store; runs nothing."""
    from pipeline.api import load_profiles, open_store
    from pipeline.compose import compose
    from pipeline.recipe import load_recipe
    from pipeline.runner import cached_state

    loaded = load_recipe(recipe, with_device(overrides, device))
    document: list[dict[str, Any]] = []
    with waiting("looking into the store", quiet=quiet, as_json=as_json):
        for profile in load_profiles(loaded, targets):
            composed = compose(loaded, profile)
            state = cached_state(composed, open_store(lambda _event: None))
            stages = [{"stage": n.name, "title": n.title, "state": state[n.name]} for n in composed.nodes]
            document.append({"target": profile.name, "stages": stages})
    if as_json:
        print_json(document)
        return
    for row in document:
        click.echo(f"{loaded.name} on {row['target']}")
        for stage in row["stages"]:
            click.echo(f"  {stage['stage']:<22} {stage['state']:<10} {stage['title']}")


def _stage_command(stage: str) -> click.Command:
    @click.command(
        name=stage, help=_STAGE_HELP[stage], epilog=epilog(f"edgepress {stage} examples/digits --out {stage}-out")
    )
    @recipe_argument
    @target_option
    @device_option
    @click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        help="Also copy the stage's files there, OUT/<target>/<stage>/.",
    )
    @set_option
    @log_option
    @tensorboard_option
    @progress_options
    def command(
        recipe: Path,
        targets: Sequence[str],
        device: str | None,
        out: Path | None,
        overrides: Sequence[str],
        log_dir: Path | None,
        tensorboard: Path | None,
        *,
        quiet: bool,
        as_json: bool,
    ) -> None:
        with observing(as_json=as_json, quiet=quiet, log_dir=log_dir, tensorboard=tensorboard) as observer:
            _run_until(stage, recipe, targets, out, with_device(overrides, device), observer, as_json=as_json)

    return command


def _run_until(
    stage: str,
    recipe: Path,
    targets: Sequence[str],
    out: Path | None,
    overrides: Sequence[str],
    observer: Observer,
    *,
    as_json: bool,
) -> None:
    from pipeline.api import open_store, raise_if_rejected, run_until
    from pipeline.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    document = run_until(stage, loaded, targets=targets, out=out, store=open_store(observer), observer=observer)
    if as_json:
        print_json(document)
    elif out:
        click.echo("\n".join(str(row["folder"]) for row in document))
    for row in document:
        if row["verdict"]:
            raise_if_rejected(row["target"], row["verdict"], Path(row["folder"]) if out else None)


STAGE_COMMANDS: Final = tuple(_stage_command(stage) for stage in _STAGE_HELP)
