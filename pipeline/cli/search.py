"""``search``: find what meets the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import (
    device_option,
    epilog,
    out_option,
    print_json,
    progress_options,
    recipe_argument,
    set_option,
    target_option,
    with_device,
)


@click.command(
    short_help="Search for the recipe that meets the budget best.",
    epilog=epilog(
        "edgepress search recipe.toml --trials 20",
        "edgepress search recipe.toml --storage postgresql://db.local/studies",
    ),
)
@recipe_argument
@target_option
@device_option
@out_option
@set_option
@click.option(
    "--trials", type=click.IntRange(min=1), help="Candidates in all, over all workers; default: the recipe's."
)
@click.option("--time-budget", "time_budget_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="Begin no further candidate after that long.")  # fmt: skip
@click.option("--storage", metavar="PLACE", help="Study that several workers share: a journal file, or a database URL.")
@click.option("--take-back", is_flag=True, help="Try again what lost workers of other machines had under way.")
@progress_options
def search(
    recipe: Path,
    targets: Sequence[str],
    device: str | None,
    out: Path,
    overrides: Sequence[str],
    trials: int | None,
    time_budget_s: float | None,
    storage: str | None,
    *,
    take_back: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Try candidates until trials or time are used up, into OUT/<recipe name>/<target>.search/.

    Stop it at any moment: the best bundle so far, the front and the study are on the disk; the same command goes on.
    """
    from pipeline.api import open_store
    from pipeline.cli.observing import observing
    from pipeline.recipe import load_recipe
    from pipeline.search import search as run_search

    asked = [f"search.trials={trials}"] if trials is not None else []
    asked += [f"search.time_budget_s={time_budget_s}"] if time_budget_s is not None else []
    loaded = load_recipe(recipe, with_device((*overrides, *asked), device))
    if loaded.search is None:
        loaded = load_recipe(recipe, with_device((*overrides, "search={}"), device))
    with observing(as_json=as_json, quiet=quiet) as observer:
        results = run_search(
            loaded,
            targets=targets,
            out=out,
            storage=storage,
            take_back=take_back,
            store=open_store(observer),
            observer=observer,
        )
    if as_json:
        print_json([{"target": r.target, "folder": str(r.folder), "found": dict(r.found)} for r in results])
    for result in results:
        if not as_json:
            _show(result.found, result.folder)
        result.raise_if_rejected()


def _show(found: Mapping[str, Any], folder: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="the front", title_justify="left")
    for title in ("trial", "engine", "speed", "accuracy", "size", "settings"):
        table.add_column(title, justify="right" if title in {"speed", "accuracy", "size"} else "left")
    by_number = {trial["number"]: trial for trial in found["trials"]}
    for number in found["front"]:
        trial = by_number[number]
        engine = trial["engine"]
        table.add_row(
            f"{number + 1}{' *' if number == found['best'] else ''}",
            engine["name"],
            f"{1 / engine['latency_ratio']:.2f}x" if engine["latency_ratio"] else "-",
            f"{-100 * engine['accuracy_drop']:+.2f} points",
            f"{engine['size_bytes']:,}",
            ", ".join(f"{key}={value}" for key, value in trial["point"].items()),
            style="" if trial["feasible"] else "dim",
        )
    Console().print(table)
    click.echo(f"{len(found['trials'])} measured, {len(found['given_up'])} given up. Results: {folder}")
