"""``verify`` and ``sign``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.cli.options import epilog, print_json, progress_options
from pipeline.cli.parameters import ExistingPath
from pipeline.cli.waiting import waiting
from targets.words import counted


@click.command(
    short_help="Check a bundle: its bytes, then its engine's answers.",
    epilog=epilog(
        "edgepress verify out/digits/host/bundle.tar.gz", "edgepress verify out/digits/host/bundle --no-engine"
    ),
)
@click.argument("bundle", type=ExistingPath())
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
@progress_options
def verify(
    bundle: Path,
    *,
    engine: bool,
    key: Path | None,
    signature: Path | None,
    trusted: Sequence[str],
    quiet: bool,
    as_json: bool,
) -> None:
    """Check a bundle, a folder or its .tar.gz: every byte, its signature, then the engine's answers."""
    from pipeline.bundling.verify import verify_bundle
    from targets.errors import UsageError

    if signature is not None and key is None:
        raise UsageError("--signature without --key", "a signature is checked against a key", "add --key KEY.pub.pem")
    with waiting(f"checking {bundle.name}", quiet=quiet, as_json=as_json):
        checked = verify_bundle(bundle, run_engine=engine, key=key, signatures=signature, trusted=trusted)
    if as_json:
        print_json(dataclasses.asdict(checked))
        return
    golden = ""
    if checked.engine_ok:
        golden = f", {counted(checked.samples, 'golden sample')} answered, worst error {checked.worst_error:.3g}"
    signed = f", signed by {checked.signed_by[:16]}" if checked.signed_by else ""
    what = f"{checked.name} for {checked.target} ({checked.precision})"
    click.echo(f"OK: {what}, {counted(checked.files, 'file')} re-hashed{golden}{signed}")


@click.command(
    short_help="Sign a bundle with your Ed25519 key.",
    epilog=epilog(
        "openssl genpkey -algorithm ed25519 -out key.pem && chmod 600 key.pem",
        "edgepress sign out/digits/host/bundle.tar.gz --key key.pem",
        "openssl pkey -in key.pem -pubout -out key.pub.pem",
        "edgepress verify out/digits/host/bundle.tar.gz --key key.pub.pem",
    ),
)
@click.argument("bundle", type=ExistingPath())
@click.option(
    "--key", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Ed25519 private key (PEM)."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where signatures go; BUNDLE.intoto.jsonl beside it when not given.",
)
@progress_options
def sign(bundle: Path, *, key: Path, out: Path | None, quiet: bool, as_json: bool) -> None:
    """Sign a bundle, a folder or its .tar.gz, whose every byte is checked first; its files do not change.

    The password of an encrypted key is read from EDGEPRESS_KEY_PASSWORD, or asked for.
    """
    from pipeline.bundling.signature import is_encrypted, signature_path
    from pipeline.bundling.verify import sign_bundle

    password = os.environ.get("EDGEPRESS_KEY_PASSWORD")
    if password is None and is_encrypted(key):
        password = click.prompt(f"Password of {key}", hide_input=True, err=True)
    out = out or signature_path(bundle)
    with waiting(f"checking {bundle.name}", quiet=quiet, as_json=as_json):
        who = sign_bundle(bundle, key, out, password=password.encode() if password else None)
    if as_json:
        print_json({"signed_by": who, "signatures": str(out)})
    else:
        click.echo(f"signed by {who[:16]}: {out}")
