"""``measure`` and ``compare``: bundles on registered devices, interleaved, with verdicts."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pipeline.cli.options import Command, epilog, print_json, progress_options
from pipeline.cli.parameters import DEVICE, Choice, ExistingPath
from pipeline.cli.waiting import waiting

if TYPE_CHECKING:
    from pipeline.benchmarking.everywhere import Finished, Scoring
    from pipeline.benchmarking.request import CampaignOptions
    from targets.errors import EnvironmentFailure

_SCENARIOS: Final = ("latency", "paced", "throughput", "sustained", "cold")
_MODES: Final = ("quick", "default", "rigorous")
_SUSTAINED_START_S: Final = 15.0
_RIGOROUS_SPARE: Final = 1.25
_BUDGET_S: Final = 60.0


def _options(command: Command) -> Command:
    """The options that `measure` and `compare` share."""
    for option in reversed(
        (
            click.option(
                "--device", "-d", "devices", multiple=True, type=DEVICE, metavar="NAME",
                help="A registered device (repeatable, or a,b: measured at the same time); default: local.",
            ),
            click.option("--mode", type=Choice(_MODES), default="default", show_default=True),
            click.option(
                "--budget-s", type=click.FloatRange(min=0, min_open=True), metavar="S",
                help="Wall-clock seconds of a campaign; default 60, or what rigorous or sustained need.",
            ),
            click.option("--scenario", type=Choice(_SCENARIOS), default="latency", show_default=True),
            click.option("--period-ms", type=click.FloatRange(min=0, min_open=True), help="Paced: time between two."),
            click.option("--fps", type=click.FloatRange(min=0, min_open=True), help="Paced: the same as a rate."),
            click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Throughput."),
            click.option("--concurrency", type=click.IntRange(min=1), default=1, show_default=True, help="Throughput."),
            click.option("--duration-s", type=click.FloatRange(min=0, min_open=True), help="Sustained: default 600."),
            click.option(
                "--samples", type=ExistingPath(dir_okay=False),
                help="An .npz of real samples instead of the golden ones; their outputs are not checked.",
            ),
            click.option(
                "--accuracy", "recipe", type=ExistingPath(), metavar="RECIPE",
                help="Score the recipe's validation split on the device too.",
            ),
            click.option("--energy", is_flag=True, help="Measure energy too, where there is a sensor (minutes)."),
            click.option("--roofline", is_flag=True, help="Say which share of the attainable speed was reached."),
            click.option("--affinity", metavar="CPUS", help="default, big, little or a list such as 0,2-3."),
            click.option("--strict", is_flag=True, help="Exit with 6 when a measurement is void (grade F)."),
            progress_options,
            click.option(
                "--out", type=click.Path(path_type=Path, file_okay=False),
                help="Write benchmark.json and raw.json.gz there, in a folder a device where there are several.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@click.command(
    short_help="Measure bundles on devices.",
    epilog=epilog(
        "edgepress measure out/digits/host/bundle",
        "edgepress measure a.tar.gz b.tar.gz --device pi4 --accuracy digits",
        "edgepress measure bundle --scenario paced --fps 30 --energy",
    ),
)
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@_options
def measure(bundles: tuple[Path, ...], **options: Any) -> None:  # noqa: ANN401 - click's own keywords
    """Measure BUNDLES, folders or .tar.gz, with their golden samples; several are interleaved and compared."""
    _measure(bundles, "measure", **options)


@click.command(
    short_help="Compare two bundles on devices, interleaved.",
    epilog=epilog("edgepress compare fp32/bundle int8/bundle --device pi4"),
)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@_options
def compare(a: Path, b: Path, **options: Any) -> None:  # noqa: ANN401 - click's own keywords
    """Compare the bundles A and B: both are measured now, block by block; the verdict is on B against A."""
    _measure((a, b), "compare", **options)


def _measure(
    bundles: tuple[Path, ...],
    command: str,
    *,
    devices: Sequence[str],
    samples: Path | None,
    recipe: Path | None,
    energy: bool,
    roofline: bool,
    strict: bool,
    quiet: bool,
    as_json: bool,
    out: Path | None,
    **plan: Any,  # noqa: ANN401 - what _campaign_options takes
) -> None:
    import os
    import tempfile

    from pipeline.api import check_writable
    from pipeline.benchmarking.bundles import open_bundles
    from pipeline.benchmarking.everywhere import Wanted, measure_everywhere
    from pipeline.benchmarking.request import check_request
    from pipeline.cli.measuring import MeasuringObserver
    from pipeline.store.place import default_store_root, measuring_folder, private_root
    from targets.devices import device
    from targets.files import disk_guard

    names = _device_names(devices)
    found = [device(name) for name in names]
    if out is not None:
        check_writable(out)
    with disk_guard("preparing to measure"), tempfile.TemporaryDirectory(prefix="edgepress-") as scratch:
        with waiting("opening the bundles", quiet=quiet, as_json=as_json) as say:
            opened = open_bundles(bundles, Path(scratch), samples=samples)
            asked = _campaign_options(opened[0].manifest.profile.get("device", {}), len(opened), **plan)
            check_request([bundle.entrant for bundle in opened], asked)
            if recipe is not None:
                say("reading the recipe's data")
            scoring = None if recipe is None else _scoring(recipe, opened[0].folder)
        wanted = Wanted(
            bundles=opened,
            options=asked,
            scoring=scoring,
            energy=energy,
            roofline=roofline,
            reproduce=_again(command),
        )
        state = measuring_folder(private_root(default_store_root(os.environ)))
        with MeasuringObserver(quiet=quiet, as_json=as_json) as shown:
            finished = measure_everywhere(
                found, wanted, Path(scratch), state=state, on_progress=shown.progress, on_note=shown.note
            )
        unwritten = None if out is None else _written(finished, out)
    _print(finished, as_json=as_json)
    if unwritten is not None:
        raise unwritten
    _raise(finished, strict=strict)


def _device_names(devices: Sequence[str]) -> list[str]:
    from targets.errors import UsageError

    names = [name.strip() for item in devices for name in item.split(",")] or ["local"]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        raise UsageError(
            f"--device {','.join(names)} names no set of devices",
            f"{twice[0]!r} is there twice" if twice else "a name is empty",
            "give each device once",
        )
    return names


def _campaign_options(
    limits: dict[str, Any],
    engines: int,
    *,
    mode: str,
    budget_s: float | None,
    scenario: str,
    period_ms: float | None,
    fps: float | None,
    batch: int,
    concurrency: int,
    duration_s: float | None,
    affinity: str | None,
) -> CampaignOptions:
    from pipeline.benchmarking.modes import MODES
    from pipeline.benchmarking.request import SUSTAINED_S, CampaignOptions, Scenario
    from targets.errors import UsageError

    if period_ms is not None and fps is not None:
        raise UsageError("--period-ms and --fps are both given", "each sets the pace", "leave one of them out")
    if budget_s is None and scenario == "sustained":
        budget_s = engines * ((duration_s or SUSTAINED_S) + _SUSTAINED_START_S) + _SUSTAINED_START_S
    elif budget_s is None and mode == "rigorous":
        rule = MODES["rigorous"]
        budget_s = _RIGOROUS_SPARE * rule.looks[0] * (engines + 1) * (rule.warmup_s + rule.timed_s)
    return CampaignOptions(
        budget_s=_BUDGET_S if budget_s is None else budget_s,
        mode=mode,  # type: ignore[arg-type]  # click checked the choice
        scenario=Scenario(
            kind=scenario,  # type: ignore[arg-type]
            period_ms=1000 / fps if fps is not None else period_ms,
            batch=batch,
            concurrency=concurrency,
            duration_s=duration_s,
        ),
        affinity=affinity or str(limits.get("affinity", "default")),
        memory_limit_mb=limits.get("memory_limit_mb"),
    )


def _scoring(recipe: Path, engine: Path) -> Scoring:
    """The validation split and the metric of a recipe, whose data factory is run."""
    from pipeline.benchmarking.everywhere import Scoring
    from pipeline.benchmarking.validation import validation_of

    samples, task = validation_of(recipe, engine)
    return Scoring(samples=samples, task=task)


def _again(command: str) -> str:
    """The command as it was given, for one device."""
    arguments = sys.argv[1:]
    kept = []
    skip = False
    for argument in arguments[arguments.index(command) + 1 :] if command in arguments else []:
        if skip:
            skip = False
        elif argument in {"--device", "-d"}:
            skip = True
        elif not argument.startswith(("--device=", "-d")):
            kept.append(argument)
    return f"edgepress {shlex.join([command, *kept])} --device {{device}}"


def _written(finished: Sequence[Finished], out: Path) -> EnvironmentFailure | None:
    """Writes the files; the error instead of raising it, so that what took minutes to measure is shown first."""
    from targets.errors import EnvironmentFailure

    try:
        _write(finished, out)
    except EnvironmentFailure as error:
        return error
    return None


def _write(finished: Sequence[Finished], out: Path) -> None:
    """``benchmark.json`` and ``raw.json.gz`` of each device that has them, each file whole or not at all."""
    import json

    from targets.files import disk_guard, write_atomic

    for item in finished:
        if item.document is None or item.raw is None:
            continue
        folder = out if len(finished) == 1 else out / item.device
        with disk_guard(f"writing {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / "raw.json.gz", item.raw.read_bytes())
            text = json.dumps(item.document, indent=1, sort_keys=True, allow_nan=False) + "\n"
            write_atomic(folder / "benchmark.json", text.encode())


def _print(finished: Sequence[Finished], *, as_json: bool) -> None:
    documents = [item.document for item in finished if item.document is not None]
    if as_json:
        print_json(documents)
        return
    from rich.console import Console

    from pipeline.reporting.campaign import campaign_view

    for document in documents:
        Console().print(campaign_view(document))


def _raise(finished: Sequence[Finished], *, strict: bool) -> None:
    """The error of the first device that failed, with what the others' were; with ``strict`` also void results."""
    from pipeline.reporting.verdicts import void_reason
    from targets.errors import DeviceError

    failed = [item for item in finished if item.error is not None]
    for item in failed[1:]:
        click.echo(f"{item.device}: {item.error and item.error.what}: {item.error and item.error.why}", err=True)
    if failed and failed[0].error is not None:
        raise failed[0].error
    if not strict:
        return
    void = [
        f"{name} on {item.device}: {reason}"
        for item in finished
        if item.document is not None
        for name in item.document["results"]
        if (reason := void_reason(item.document, name))
    ]
    if void:
        raise DeviceError(
            f"{len(void)} of the measurements are void (grade F)", "; ".join(void), "mend what the warnings above name"
        )
