"""``devices``: the hardware that edgepress may measure on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import epilog, json_option, print_json, progress_options
from pipeline.cli.parameters import DEVICE, TARGET
from pipeline.cli.waiting import waiting
from targets.errors import InputError, RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from targets.devices.pinning import HostKey
    from targets.devices.registry import AdbEntry, SshEntry

name_argument = click.argument("name", type=DEVICE)


@click.group(
    epilog=epilog(
        "edgepress devices add pi4 --ssh pi@raspberrypi.local", "edgepress measure bundle.tar.gz --device pi4"
    )
)
def devices() -> None:
    """Your devices: boards reached by ssh, phones reached by adb."""


@devices.command(
    short_help="Register a device.",
    epilog=epilog(
        "edgepress devices add pi5 --ssh pi@raspberrypi.local -t raspberry-pi-5",
        "edgepress devices add phone --adb R58M12ABCDE --python /data/local/tmp/py",
    ),
)
@name_argument
@click.option("--ssh", "host", metavar="[USER@]HOST[:PORT]", help="Reach it by ssh.")
@click.option("--adb", "serial", metavar="SERIAL", help="Reach it by adb.")
@click.option("--python", default="python3", show_default=True, help="Python 3.8 or newer there: a name or a path.")
@click.option("--target", "-t", type=TARGET, help="The hardware profile that describes it.")
@click.option("--fingerprint", help="Trust exactly this: SHA256:... of its host key (ssh), its build (adb).")
@click.option("--adb-tcp", is_flag=True, help="Allow a network address as SERIAL; all on that network can use it.")
@progress_options
def add(
    name: str, *, host: str | None, serial: str | None, python: str, target: str | None, fingerprint: str | None,
    adb_tcp: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Register a device under NAME: shows what it is known by, and asks you to confirm it.

    Nothing is sent to it before that.
    """
    from targets.devices.registry import Registry
    from targets.profile import load_profile

    if (host is None) == (serial is None):
        raise UsageError("how is the device reached?", "give either --ssh or --adb", "see `edgepress devices add -h`")
    if target is not None:
        load_profile(target)
        target = str(Path(target).resolve()) if Path(target).is_file() else target
    registry = Registry()
    registry.check_free(name)
    shared = {"python": python, "target": target}
    with waiting(f"asking {host or serial} what it is known by", quiet=quiet, as_json=as_json):
        if host is not None:
            entry: SshEntry | AdbEntry = _ssh_entry(name, host, shared)
        else:
            entry = _adb_entry(name, str(serial), shared, tcp=adb_tcp)
    _confirm(name, entry, fingerprint, as_json=as_json)
    registry.put(name, entry)
    _registered(name, entry, f"registered {name}; try it: edgepress devices facts {name}", as_json=as_json)


@devices.command(
    short_help="Accept that a device is known by something else now.",
    epilog=epilog("edgepress devices trust pi4 --fingerprint SHA256:..."),
)
@name_argument
@click.option("--fingerprint", required=True, help="SHA256:... of its new host key (ssh), its new build (adb).")
@progress_options
def trust(name: str, *, fingerprint: str, quiet: bool, as_json: bool) -> None:
    """Accept the new host key of a board that was set up anew, or the new build of a phone that was updated."""
    from targets.devices.registry import Registry, SshEntry

    registry = Registry()
    entry = registry.entry(name)
    shared = {"python": entry.python, "target": entry.target}
    with waiting(f"asking {entry.address} what it is known by", quiet=quiet, as_json=as_json):
        if isinstance(entry, SshEntry):
            found: SshEntry | AdbEntry = _ssh_entry(name, entry.address, shared)
        else:
            found = _adb_entry(name, entry.serial, {**shared, "folder": entry.folder}, tcp=entry.tcp)
    _confirm(name, found, fingerprint, as_json=as_json)
    registry.put(name, found, replace=True)
    _registered(name, found, f"{name} is known by {found.identity} from now on", as_json=as_json)


@devices.command("list", epilog=epilog("edgepress devices list --json"))
@json_option
def list_devices(*, as_json: bool) -> None:
    """List the devices; `local` is this machine and always there."""
    from targets.devices.registry import Registry

    rows: list[dict[str, Any]] = [
        {"name": "local", "kind": "local", "address": "this machine", "identity": "", "target": None}
    ]
    rows += [_row(name, entry) for name, entry in sorted(Registry().entries().items())]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['name']:<16} {row['kind']:<6} {row['address']:<28} {row['identity']}".rstrip())


@devices.command(short_help="Show what a device is.", epilog=epilog("edgepress devices facts pi4"))
@name_argument
@progress_options
def facts(name: str, *, quiet: bool, as_json: bool) -> None:
    """Connect to a device and show what it says it is: CPU, memory, runtimes, clocks, temperature."""
    from targets.devices import device
    from targets.devices.answers import printable

    asked = device(name)
    with waiting(f"asking {name}", quiet=quiet, as_json=as_json):
        found = asked.facts()
    told = {**found.raw, "transport": asked.kind}
    if as_json:
        print_json(told)
        return
    for key, value in sorted(told.items()):
        if value is not None:
            click.echo(f"{printable(key):<20} {printable(str(value))}")
    if found.runtime_version is None:
        click.echo(f"ONNX Runtime is missing on {name}: install it there (pip install onnxruntime numpy)", err=True)


@devices.command(
    short_help="Run a command there.",
    context_settings={"ignore_unknown_options": True},
    epilog=epilog("edgepress devices shell pi4 -- vcgencmd get_throttled"),
)
@name_argument
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def shell(name: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on a device, or a login shell; checks first that it is the device that was registered."""
    from targets.devices.registry import Registry

    if name == "local":
        raise InputError("there is no shell for 'local'", "it is this machine", "use your own")
    transport = Registry().entry(name).transport(name)
    transport.open()
    try:
        status = transport.interactive(command)
    finally:
        transport.close()
    sys.exit(status)


@devices.command(short_help="Forget a device.", epilog=epilog("edgepress devices rm pi4"))
@name_argument
def rm(name: str) -> None:
    """Forget a device; what lies on it (see docs/devices.md) stays there."""
    from targets.devices.registry import Registry

    Registry().remove(name)
    click.echo(f"forgot {name}", err=True)


def _ssh_entry(name: str, host: str, shared: Mapping[str, object]) -> SshEntry:
    from targets.devices.pinning import SshHost, collect_key
    from targets.devices.registry import SshEntry, checked

    place = SshHost.parse(host)
    key: HostKey = collect_key(name, place)
    return checked(SshEntry, {"host": place.host, "port": place.port, "host_key": str(key), **shared})


def _adb_entry(name: str, serial: str, shared: Mapping[str, object], *, tcp: bool) -> AdbEntry:
    from targets.devices.adb import AdbTransport
    from targets.devices.registry import AdbEntry, checked

    transport = AdbTransport(name, serial, model=None, build=None, tcp=tcp)
    try:
        found = transport.identity()
    finally:
        transport.close()
    return checked(AdbEntry, {"serial": serial, "model": found.model, "build": found.build, "tcp": tcp, **shared})


def _row(name: str, entry: SshEntry | AdbEntry) -> dict[str, Any]:
    return {
        "name": name,
        "kind": entry.kind,
        "address": entry.address,
        "identity": entry.identity,
        "target": entry.target,
    }


def _registered(name: str, entry: SshEntry | AdbEntry, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(_row(name, entry))
    else:
        click.echo(text, err=True)


def _confirm(name: str, entry: SshEntry | AdbEntry, fingerprint: str | None, *, as_json: bool) -> None:
    """Lets a person say that this is the device; a fingerprint got from the device itself says it as well."""
    if fingerprint is None or not as_json:
        click.echo(f"{name} at {entry.address} is known by:\n  {entry.identity}", err=True)
    if fingerprint is not None:
        if fingerprint != entry.fingerprint:
            raise RefusedError(
                f"refused to trust {name!r}",
                f"it is known by {entry.fingerprint}, not by {fingerprint}",
                "compare again on the device itself; somebody may be in between",
            )
        return
    if not _is_terminal():
        raise RefusedError(
            f"refused to trust {name!r}",
            "nobody confirmed it: there is no terminal to ask on",
            f"compare on the device, then give --fingerprint {entry.fingerprint}",
        )
    try:
        answer = click.prompt(
            "Does the device itself show the same? Type yes", default="", show_default=False, err=True
        )
    except click.Abort:
        answer = ""
    if answer.strip().lower() != "yes":
        raise RefusedError(
            f"refused to trust {name!r}",
            "nobody confirmed it",
            f"type yes, or give --fingerprint {entry.fingerprint} after comparing it on the device",
        )


def _is_terminal() -> bool:
    return sys.stdin.isatty()
