"""``cache``, ``doctor`` and ``schema``."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.options import epilog, json_option, print_json, progress_options
from pipeline.cli.parameters import Choice
from pipeline.cli.waiting import waiting
from targets.words import counted


@click.group(short_help="The store of finished stages.", epilog=epilog("edgepress cache ls"))
def cache() -> None:
    """The store of finished stages ($EDGEPRESS_CACHE, else $XDG_CACHE_HOME/edgepress, else ~/.cache/edgepress)."""


@cache.command("ls", epilog=epilog("edgepress cache ls"))
@json_option
def list_entries(*, as_json: bool) -> None:
    """List what the store holds."""
    from pipeline.api import open_store

    entries = sorted(open_store(lambda _event: None).entries(), key=lambda entry: (entry.stage, entry.key))
    rows: list[dict[str, Any]] = [
        {
            "key": e.key,
            "stage": e.stage,
            "digest": e.digest,
            "bytes": sum(f.size_bytes for f in e.files),
            "measured": e.measured,
        }
        for e in entries
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(
            f"{row['key'][:12]}  {row['stage']:<18} {row['bytes']:>12,} bytes{'  measured' if row['measured'] else ''}"
        )
    click.echo(counted(len(rows), "entry", "entries"))


@cache.command("verify", short_help="Re-hash everything in the store.", epilog=epilog("edgepress cache verify"))
@progress_options
def verify_entries(*, quiet: bool, as_json: bool) -> None:
    """Re-hash everything in the store; damaged entries go to quarantine and are rebuilt by the next run."""
    from pipeline.api import open_store
    from targets.errors import InputError

    with waiting("re-hashing the store", quiet=quiet, as_json=as_json):
        damage = open_store(lambda _event: None).verify()
    if as_json:
        print_json({"damaged": damage})
    if damage:
        raise InputError(
            f"{counted(len(damage), 'store entry was', 'store entries were')} damaged",
            "; ".join(damage),
            "they are in quarantine now; run the recipe again to rebuild them",
        )
    if not as_json:
        click.echo("OK: every entry is what its hash says")


@cache.command(
    short_help="Remove entries and leftovers.",
    epilog=epilog("edgepress cache gc --older-than 30", "edgepress cache gc --all"),
)
@click.option(
    "--older-than",
    "max_age_days",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Remove entries not used for that long.",
)
@click.option("--all", "everything", is_flag=True, help="Remove every entry.")
@progress_options
def gc(max_age_days: float | None, *, everything: bool, quiet: bool, as_json: bool) -> None:
    """Remove entries and leftovers of interrupted runs; never while a run uses the store."""
    import dataclasses

    from pipeline.api import open_store

    with waiting("cleaning the store", quiet=quiet, as_json=as_json):
        report = open_store(lambda _event: None).gc(max_age_days=max_age_days, everything=everything)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    removed = counted(report.removed_entries, "entry", "entries")
    click.echo(f"removed {removed} ({report.removed_bytes:,} bytes), kept {report.kept_entries}")


@click.command(short_help="Check this machine, and say what to install.", epilog=epilog("edgepress doctor"))
@json_option
def doctor(*, as_json: bool) -> None:
    """Check this machine, and say what to install: libraries, extras, CPU, tools for devices, store, disk."""
    import dataclasses

    from pipeline.assist.doctor import examine
    from targets.errors import EnvironmentFailure

    findings = examine()
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "FAIL" if not finding.ok else "note" if finding.note else "ok  "
            click.echo(f"{mark} {finding.subject:<17} {finding.text}")
            if finding.fix and mark != "ok  ":
                click.echo(f"     {'':<17} fix: {finding.fix}")
        notes = sum(finding.ok and finding.note for finding in findings)
        if all(finding.ok for finding in findings):
            more = f"; {counted(notes, 'note')} on what would give it more" if notes else ""
            click.echo(f"This machine can run recipes{more}.")
    bad = [finding for finding in findings if not finding.ok]
    if bad:
        raise EnvironmentFailure(
            f"{counted(len(bad), 'check')} failed",
            "; ".join(f"{f.subject}: {f.text}" for f in bad),
            "; ".join(f.fix for f in bad),
        )


@click.command(epilog=epilog("edgepress schema recipe > recipe.schema.json", "edgepress schema recipe --format md"))
@click.argument("kind", type=Choice(["recipe", "profile"]))
@click.option("--format", "form", type=Choice(["json", "md"]), default="json", show_default=True)
def schema(kind: str, form: str) -> None:
    """Print the JSON Schema of a recipe or a target profile.

    With --format md, of a recipe, the page docs/recipe.md.
    """
    if form == "md":
        from pipeline.assist.reference import recipe_reference
        from targets.errors import UsageError

        if kind != "recipe":
            raise UsageError("profiles have no such page", "docs/targets.md describes their keys", "leave --format out")
        click.echo(recipe_reference(), nl=False)
    elif kind == "recipe":
        from pipeline.recipe import recipe_schema

        print_json(recipe_schema())
    else:
        from targets.profile import TargetProfile

        print_json(TargetProfile.model_json_schema())
