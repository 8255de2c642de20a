"""``targets``: the hardware profiles."""

from __future__ import annotations

import click

from pipeline.cli.options import epilog, json_option, print_json


@click.group(epilog=epilog("edgepress targets list"))
def targets() -> None:
    """Hardware profiles: what edgepress can build for."""


@targets.command("list", epilog=epilog("edgepress targets list"))
@json_option
def list_targets(*, as_json: bool) -> None:
    """List the profiles that come with edgepress."""
    from targets.errors import EnvironmentFailure
    from targets.profile import load_profile, profile_names

    rows = []
    for name in profile_names():
        try:
            profile = load_profile(name)
        except EnvironmentFailure as error:  # `host` on a machine that no profile describes
            rows.append({"name": name, "description": error.why, "scheme": "-"})
            continue
        rows.append({"name": name, "description": profile.description, "scheme": profile.quantization.scheme})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['name']:<18} {row['scheme']:<14} {row['description']}")


@targets.command(short_help="Show a profile.", epilog=epilog("edgepress targets show raspberry-pi-5"))
@click.argument("target")
@json_option
def show(target: str, *, as_json: bool) -> None:
    """Show a profile: a bundled name, or the path of your own profile.toml."""
    from targets import machine
    from targets.profile import load_profile

    profile = load_profile(target)
    document = profile.model_dump(mode="json")
    if as_json:
        print_json(document)
        return
    click.echo(f"{profile.name}: {profile.description}")
    for section, values in document.items():
        if isinstance(values, dict):
            click.echo(f"[{section}]")
            for key, value in values.items():
                click.echo(f"  {key} = {value}")
    here = machine.provides(profile.hardware.arch, profile.hardware.isa)
    click.echo("This machine can stand in for it." if here else "This machine cannot stand in for it.")
