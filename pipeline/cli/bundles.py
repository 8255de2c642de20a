"""``verify`` and ``report``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import epilog, json_option, out_option, print_json, set_option, target_option

if TYPE_CHECKING:
    from pipeline.api import Result


@click.command(
    short_help="Check a bundle: its bytes, then its engine's answers.",
    epilog=epilog(
        "edgepress verify out/digits/host/bundle.tar.gz", "edgepress verify out/digits/host/bundle --no-engine"
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--engine/--no-engine", default=True, help="Run the golden vectors too (default), or only re-hash the files."
)
@json_option
def verify(bundle: Path, *, engine: bool, as_json: bool) -> None:
    """Check a bundle, a folder or its .tar.gz: every byte, then the engine's answers to its golden vectors."""
    from pipeline.bundling.verify import verify_bundle

    checked = verify_bundle(bundle, run_engine=engine)
    if as_json:
        print_json(dataclasses.asdict(checked))
        return
    golden = ""
    if checked.engine_ok:
        golden = f", {checked.samples} golden samples answered, worst error {checked.worst_error:.3g}"
    click.echo(
        f"OK: {checked.name} for {checked.target} ({checked.precision}), {checked.files} files re-hashed{golden}"
    )


@click.command(
    short_help="Show what a run did.",
    epilog=epilog("edgepress report out/digits/host", "edgepress report examples/digits --json"),
)
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@target_option
@out_option
@set_option
@json_option
def report(source: Path, targets: Sequence[str], out: Path, overrides: Sequence[str], *, as_json: bool) -> None:
    """Show what a run did: SOURCE is a result folder (with run.json), or a recipe, which is run as far as needed."""
    if (source / "run.json").is_file() or source.name == "run.json":
        results: list[Result] = []
        documents = [_read(source)]
    else:
        results = _run(source, targets, out, overrides)
        documents = [result.run for result in results]
    if as_json:
        print_json(documents)
    else:
        for document in documents:
            show_run(document)
    for result in results:
        result.raise_if_rejected()


def _read(source: Path) -> Mapping[str, Any]:
    from pipeline.reporting.schema import read_run

    file = source if source.name == "run.json" else source / "run.json"
    return read_run(file).model_dump(mode="json", by_alias=True)


def _run(source: Path, targets: Sequence[str], out: Path, overrides: Sequence[str]) -> list[Result]:
    from pipeline.api import compress
    from pipeline.cli.console import ConsoleObserver
    from pipeline.recipe import load_recipe

    with ConsoleObserver() as observer:
        return compress(load_recipe(source, overrides), targets=targets, out=out, observer=observer)


def show_run(run: Mapping[str, Any]) -> None:
    """Prints the table of candidates and the verdict."""
    from rich.console import Console

    from pipeline.reporting.summary import terminal_summary

    Console().print(terminal_summary(run))
