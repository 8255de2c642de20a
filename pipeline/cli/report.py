"""``report``: what a run did, in several forms, and two runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.observing import observing
from pipeline.cli.options import epilog, out_option, print_json, progress_options, set_option, target_option
from pipeline.cli.parameters import Choice, ExistingPath

if TYPE_CHECKING:
    from pipeline.api import Result


@click.command(
    short_help="Show what a run did, or how two differ.",
    epilog=epilog(
        "edgepress report out/digits/host",
        "edgepress report out/digits/host --format md > run.md",
        "edgepress report --compare out/a/host out/b/host",
    ),
)
@click.argument("source", type=ExistingPath())
@click.argument("other", type=ExistingPath(), required=False)
@click.option("--compare", is_flag=True, help="Compare two result folders: SOURCE and OTHER.")
@click.option(
    "--format",
    "form",
    type=Choice(["text", "md", "json", "html"]),
    default="text",
    show_default=True,
    help="text is for the terminal; the others go to stdout.",
)
@target_option
@out_option
@set_option
@progress_options
def report(
    source: Path,
    other: Path | None,
    targets: Sequence[str],
    out: Path,
    overrides: Sequence[str],
    form: str,
    *,
    compare: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Show what a run did: SOURCE is a result folder (with run.json), or a recipe, which is run as far as needed."""
    from pipeline.api import compress
    from pipeline.recipe import load_recipe
    from targets.errors import UsageError

    form = "json" if as_json else form
    if compare != (other is not None):
        raise UsageError("two result folders and --compare belong together", "only one of them was given", "see --help")
    if other is not None:
        _show_comparison(source, other, form)
        return
    if (source / "run.json").is_file() or source.name == "run.json":
        results: list[Result] = []
        documents = [_read(source)]
    else:
        loaded = load_recipe(source, overrides)
        with observing(as_json=as_json, quiet=quiet) as observer:
            results = compress(loaded, targets=targets, out=out, observer=observer)
        documents = [result.run for result in results]
    if form == "json":
        print_json(documents)
    else:
        for document in documents:
            _show(document, form)
    for result in results:
        result.raise_if_rejected()


def _show(document: Mapping[str, Any], form: str) -> None:
    if form == "md":
        from pipeline.reporting.markdown import markdown_report

        click.echo(markdown_report(document), nl=False)
    elif form == "html":
        from pipeline.reporting.render import render_report

        click.echo(render_report(document))
    else:
        show_run(document)


def _show_comparison(first: Path, second: Path, form: str) -> None:
    import dataclasses

    from pipeline.reporting.compare import compare_runs
    from pipeline.reporting.schema import run_report
    from pipeline.reporting.text import presentable

    documents = [presentable(_read(folder), home=str(Path.home())) for folder in (first, second)]
    rows, notes = compare_runs(*(run_report(document) for document in documents))
    if form == "json":
        print_json({"rows": [dataclasses.asdict(row) for row in rows], "notes": notes})
    elif form == "md":
        from pipeline.reporting.markdown import markdown_comparison

        click.echo(markdown_comparison(rows, notes), nl=False)
    elif form == "html":
        from pipeline.reporting.render import render_comparison

        click.echo(render_comparison(*documents))
    else:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in ("", "first", "second", "change"):
            table.add_column(title, justify="left" if not title else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in (row.label, row.first, row.second, row.change)))
        Console().print(table)
        for note in notes:
            click.echo(f"note: {note}")


def _read(source: Path) -> Mapping[str, Any]:
    from pipeline.reporting.schema import read_run

    file = source if source.name == "run.json" else source / "run.json"
    return read_run(file).model_dump(mode="json", by_alias=True)


def show_run(run: Mapping[str, Any]) -> None:
    """Prints the table of candidates and the verdict."""
    from rich.console import Console

    from pipeline.reporting.summary import terminal_summary

    Console().print(terminal_summary(run))
