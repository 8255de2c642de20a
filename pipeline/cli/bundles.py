"""``verify``, ``sign`` and ``report``."""

from __future__ import annotations

import dataclasses
import os
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
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), help="Ed25519 public key (PEM) that must have signed it."
)
@click.option(
    "--signature",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Its signatures; BUNDLE.intoto.jsonl beside it when not given.",
)
@click.option(
    "--trust-engine",
    "trusted",
    multiple=True,
    metavar="SHA256",
    help="Run this engine although it is native code (a TensorRT plan) and was not built here (repeatable).",
)
@json_option
def verify(
    bundle: Path, *, engine: bool, key: Path | None, signature: Path | None, trusted: Sequence[str], as_json: bool
) -> None:
    """Check a bundle, a folder or its .tar.gz: every byte, its signature, then the engine's answers."""
    from pipeline.bundling.verify import verify_bundle
    from targets.errors import UsageError

    if signature is not None and key is None:
        raise UsageError("--signature without --key", "a signature is checked against a key", "add --key KEY.pub.pem")
    checked = verify_bundle(bundle, run_engine=engine, key=key, signatures=signature, trusted=trusted)
    if as_json:
        print_json(dataclasses.asdict(checked))
        return
    golden = ""
    if checked.engine_ok:
        golden = f", {checked.samples} golden samples answered, worst error {checked.worst_error:.3g}"
    signed = f", signed by {checked.signed_by[:16]}" if checked.signed_by else ""
    what = f"{checked.name} for {checked.target} ({checked.precision})"
    click.echo(f"OK: {what}, {checked.files} files re-hashed{golden}{signed}")


@click.command(
    short_help="Sign a bundle with your Ed25519 key.",
    epilog=epilog(
        "openssl genpkey -algorithm ed25519 -out key.pem && chmod 600 key.pem",
        "edgepress sign out/digits/host/bundle.tar.gz --key key.pem",
        "openssl pkey -in key.pem -pubout -out key.pub.pem",
        "edgepress verify out/digits/host/bundle.tar.gz --key key.pub.pem",
    ),
)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Ed25519 private key (PEM)."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where signatures go; BUNDLE.intoto.jsonl beside it when not given.",
)
def sign(bundle: Path, *, key: Path, out: Path | None) -> None:
    """Sign a bundle, a folder or its .tar.gz, whose every byte is checked first; its files do not change.

    The password of an encrypted key is read from EDGEPRESS_KEY_PASSWORD, or asked for.
    """
    from pipeline.bundling.signature import is_encrypted, signature_path
    from pipeline.bundling.verify import sign_bundle

    password = os.environ.get("EDGEPRESS_KEY_PASSWORD")
    if password is None and is_encrypted(key):
        password = click.prompt(f"Password of {key}", hide_input=True, err=True)
    out = out or signature_path(bundle)
    who = sign_bundle(bundle, key, out, password=password.encode() if password else None)
    click.echo(f"signed by {who[:16]}: {out}")


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
