"""``targets``: the hardware profiles, how to check one, and how to make one by measuring a machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pipeline.cli.options import epilog, json_option, print_json, progress_options
from pipeline.cli.parameters import DEVICE, TARGET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from targets.profile import TargetProfile

_BUDGET_S: Final = 120.0


@click.group(epilog=epilog("edgepress targets list"))
def targets() -> None:
    """Hardware profiles: what edgepress can build for."""


@targets.command("list", short_help="List the bundled profiles.", epilog=epilog("edgepress targets list"))
@json_option
def list_targets(*, as_json: bool) -> None:
    """List the profiles that come with edgepress; engines in order of preference."""
    from targets.errors import EnvironmentFailure
    from targets.profile import load_profile, profile_names

    rows: list[dict[str, Any]] = []
    for name in profile_names():
        try:
            rows.append(_row(name, load_profile(name)))
        except EnvironmentFailure as error:  # `host` on a machine that no profile describes
            rows.append({"name": name, "description": error.why, "arch": "-", "choices": [], "scheme": "-"})
    if as_json:
        print_json(rows)
        return
    table = [("target", "arch", "engine", "scheme", "precisions")]
    for row in rows:
        lines = [(item["engine"], item["scheme"], " ".join(item["precisions"])) for item in row["choices"]]
        for index, (engine, scheme, precisions) in enumerate(lines or [("-", "-", "-")]):
            table.append(
                (row["name"], row["arch"], engine, scheme, precisions)
                if index == 0
                else ("", "", engine, scheme, precisions)
            )
    widths = [max(len(line[column]) for line in table) for column in range(5)]
    for line in table:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    click.echo("`edgepress targets show NAME` tells more of one.", err=True)


@targets.command(short_help="Show a profile.", epilog=epilog("edgepress targets show raspberry-pi-5"))
@click.argument("target", type=TARGET)
@json_option
def show(target: str, *, as_json: bool) -> None:
    """Show a profile: a bundled name, or the path of your own profile.toml."""
    from targets.profile import ancestors, load_profile

    profile = load_profile(target)
    extended = ancestors(target)
    document = profile.model_dump(mode="json")
    if as_json:
        print_json({**document, "extends": list(extended), "stands_in": not _hindrance(profile)})
        return
    click.echo(f"{profile.name}: {profile.description}")
    if extended:
        click.echo(f"extends {', which extends '.join(extended)}")
    for line in _toml_like(document, ""):
        click.echo(line)
    why = _hindrance(profile)
    click.echo(f"This machine cannot stand in for it: {why}." if why else "This machine can stand in for it.")
    for line in _how_to_register(profile, target):
        click.echo(line)


@targets.command(short_help="Check profile files.", epilog=epilog("edgepress targets validate my-board.toml"))
@click.argument("files", metavar="FILE [FILE]...", nargs=-1, required=True, type=TARGET)
@json_option
def validate(files: tuple[str, ...], *, as_json: bool) -> None:
    """Check profile files (or bundled names) and show everything that is wrong; exit code 3 when anything is."""
    from dataclasses import asdict, replace

    from targets.errors import Fault, InputError, faults_error
    from targets.profile import load_profile

    rows: list[dict[str, Any]] = []
    faults: list[Fault] = []
    for file in files:
        try:
            found = load_profile(file)
        except InputError as error:
            own = error.faults or (Fault(where="", what=f"{error.what}: {error.why}", fix=error.fix),)
            own = tuple(replace(fault, where=fault.where.removeprefix(f"{Path(file).name}: ")) for fault in own)
            rows.append({"file": file, "ok": False, "faults": [asdict(fault) for fault in own]})
            faults += [replace(fault, where=f"{file}: {fault.where}" if fault.where else file) for fault in own]
            continue
        rows.append({"file": file, "ok": True, "name": found.name, "faults": []})
        if not as_json:
            click.echo(f"{file}: {found.name} is valid")
    if as_json:
        print_json(rows)
    if faults:
        wrong = sum(not row["ok"] for row in rows)
        raise faults_error(files[0] if len(files) == 1 else f"the set of {len(files)} profiles ({wrong} wrong)", faults)


@targets.command(
    short_help="Measure a machine and write its profile.",
    epilog=epilog("edgepress targets probe --out my-pc.toml", "edgepress targets probe --device pi5 --out pi5.toml"),
)
@click.option(
    "--device",
    "-d",
    type=DEVICE,
    default="local",
    show_default=True,
    metavar="NAME",
    help="A registered device, or local.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="The file to write; default: NAME.toml here."
)
@click.option("--model", type=click.Path(path_type=Path), help="Measure this float ONNX model, not two small nets.")
@click.option("--budget-s", type=float, default=_BUDGET_S, show_default=True, help="Time for all of it.")
@click.option("--threads", type=click.IntRange(1, 256), help="Threads to measure with; default: one a core.")
@progress_options
def probe(
    device: str,
    *,
    out: Path | None,
    model: Path | None,
    budget_s: float,
    threads: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Find out which engine and int8 dialect are fastest on a machine, and write a profile that says so.

    Every engine that is there is measured in float and int8, interleaved; what was measured stands in the file.
    """
    import os

    from pipeline.api import check_writable
    from pipeline.cli.measuring import MeasuringObserver
    from pipeline.probing.probe import ProbeOptions
    from pipeline.probing.probe import probe as run_probe
    from pipeline.store.place import default_store_root, measuring_folder, private_root
    from targets.devices import device as device_named
    from targets.errors import UsageError
    from targets.files import disk_guard, write_atomic

    path = out or Path(f"{device}.toml")
    if path.exists():
        raise UsageError(
            f"{path} is already there", "a probe overwrites no profile", "remove it, or give another --out"
        )
    found = device_named(device)
    check_writable(path.parent)
    options = ProbeOptions(
        name=_profile_name(path),
        budget_s=budget_s,
        model=model,
        threads=threads,
        command=_again(device, model, budget_s),
    )
    state = measuring_folder(private_root(default_store_root(os.environ)))
    with MeasuringObserver(quiet=quiet, as_json=as_json) as shown:
        probed = run_probe(
            found,
            options,
            state=state,
            on_progress=lambda at: shown.progress(device, at),
            on_note=lambda text: shown.note(device, text),
        )
    with disk_guard(f"writing {path}"):
        write_atomic(path, probed.text.encode())
    if as_json:
        print_json({"file": str(path), **probed.to_json()})
        return
    click.echo(probed.text, nl=False)
    click.echo(f"written to {path}; use it: edgepress run recipe.toml --target {path}", err=True)


def _row(name: str, profile: TargetProfile) -> dict[str, Any]:
    choices = [
        {
            "label": label,
            "engine": _engine(plain),
            "scheme": plain.quantization.scheme,
            "precisions": list(plain.quantization.precisions),
        }
        for label, plain in profile.choices().items()
    ]
    return {
        "name": name,
        "description": profile.description,
        "arch": profile.hardware.arch,
        "isa": list(profile.hardware.isa),
        "choices": choices,
        "scheme": profile.quantization.scheme,
    }


def _engine(profile: TargetProfile) -> str:
    """``onnxruntime``, or with what else it runs on: ``onnxruntime/xnnpack``, ``tensorrt/dla``."""
    from targets.options import OnnxRuntimeOptions

    if isinstance(profile.engine, OnnxRuntimeOptions):
        provider = profile.engine.providers[0].removesuffix("ExecutionProvider").lower()
        return "onnxruntime" if provider == "cpu" else f"onnxruntime/{provider}"
    where = profile.engine.device.lower()
    plain = {"openvino": "cpu", "tensorrt": "gpu", "tensorrt-rtx": "gpu"}[profile.engine.name]
    return profile.engine.name if where == plain else f"{profile.engine.name}/{where}"


def _toml_like(document: Mapping[str, Any], at: str) -> list[str]:
    """The tables as a file would hold them, keys without a value left out."""
    lines, tables = [], []
    for key, value in document.items():
        if isinstance(value, dict):
            inner = _toml_like(value, f"{at}{key}.")
            tables += [f"[{at}{key}]", *inner] if inner else []
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                tables += [f"[[{at}{key}]]", *_toml_like(item, f"{at}{key}.")]
        elif value is not None and (at or key not in {"name", "description"}) and value != []:
            lines.append(f"  {key} = {_value(value)}")
    return lines + tables


def _value(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def _hindrance(profile: TargetProfile) -> str:
    """Why this machine cannot run the target's engine of first choice; empty where it can."""
    from targets import machine
    from targets.engines import engine

    hardware = profile.hardware
    if not machine.provides(hardware.arch, hardware.isa):
        missing = sorted(set(hardware.isa) - machine.cpu_features()) if machine.arch() == hardware.arch else []
        return f"it is {machine.arch()}" + (f" without {' '.join(missing)}" if missing else "")
    there = engine(profile.engine.name).runs(profile)
    return "" if there.ok else there.why


def _how_to_register(profile: TargetProfile, target: str) -> list[str]:
    device = profile.device
    if device.name != "local":
        return [f"It is measured on the device {device.name!r} (`edgepress devices list`)."]
    if device.connection == "local":
        return []
    address = device.login or ("USER@HOST" if device.connection == "ssh" else "SERIAL")
    command = f"edgepress devices add NAME --{device.connection} {address} --target {target}"
    return [f"To measure on such a device, register it: {command}"]


def _profile_name(path: Path) -> str:
    """The file's name as a profile's name: letters, digits and ._- only, at most 64."""
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in path.stem)
    return kept.lstrip("._-")[:64] or "probed"


def _again(device: str, model: Path | None, budget_s: float) -> str:
    """The command that repeats the probe, without what holds on this machine only."""
    words: Sequence[str] = (
        "edgepress targets probe",
        *([f"--device {device}"] if device != "local" else []),
        *([f"--model {model.name}"] if model is not None else []),
        *([f"--budget-s {budget_s:g}"] if budget_s != _BUDGET_S else []),
    )
    return " ".join(words)
