"""The same bundles measured on one or several devices, at the same time: one campaign each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.campaign import run_campaign
from targets.errors import EdgepressError, Interrupted

if TYPE_CHECKING:
    from pipeline.benchmarking.accuracy import Labelled
    from pipeline.benchmarking.bundles import OpenBundle
    from pipeline.benchmarking.request import CampaignOptions, Progress
    from pipeline.tasks import Task
    from targets.devices.base import Device

_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What accuracy is measured with: all samples of a split, and the task whose metric counts."""

    samples: Labelled
    task: Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is measured on every device.

    Attributes:
        bundles: Measured interleaved, each compared with those before it.
        options: Of the campaign.
        scoring: With what accuracy is measured there too; None does not.
        energy: Whether energy is measured too.
        roofline: Whether the speed is held against what the device can do.
        reproduce: The command that does the same again on one device; ``{device}`` stands for its name.
    """

    bundles: Sequence[OpenBundle]
    options: CampaignOptions
    scoring: Scoring | None = None
    energy: bool = False
    roofline: bool = False
    reproduce: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How it went on one device: a document, or the error that ended it.

    Attributes:
        device: The device's name.
        document: The content of benchmark.json.
        raw: The file of all samples.
        error: Why there is none.
    """

    device: str
    document: dict[str, Any] | None = None
    raw: Path | None = None
    error: EdgepressError | None = None


OnDevice = Callable[[str, "Progress"], None]
OnNote = Callable[[str, str], None]


def measure_everywhere(
    devices: Sequence[Device],
    wanted: Wanted,
    scratch: Path,
    *,
    state: Path | None,
    on_progress: OnDevice = lambda _device, _progress: None,
    on_note: OnNote = lambda _device, _text: None,
) -> list[Finished]:
    """One campaign on every device, all at the same time; what ends one does not end the others.

    Args:
        devices: Where; different ones.
        wanted: What.
        scratch: A private folder.
        state: Where finished blocks of interrupted campaigns are kept.
        on_progress: Told the device and what its campaign does; called from several threads.
        on_note: Told the device and what else goes on there.

    Returns:
        In the order of ``devices``.
    """
    stop = threading.Event()

    def one(index: int, device: Device) -> Finished:
        def told(progress: Progress) -> None:
            if stop.is_set():
                raise Interrupted("interrupted", "finished blocks are kept", "run the same command to continue")
            on_progress(device.name, progress)

        folder = scratch / f"device-{index}"
        folder.mkdir()
        try:
            return _measure(device, wanted, folder, state, told, lambda text: on_note(device.name, text))
        except EdgepressError as error:
            return Finished(device=device.name, error=error)

    if len(devices) == 1:
        return [one(0, devices[0])]
    with ThreadPoolExecutor(max_workers=len(devices)) as threads:
        futures = [threads.submit(one, index, device) for index, device in enumerate(devices)]
        try:
            return [future.result() for future in futures]
        except BaseException:  # an interrupt: each campaign ends before its next process, its finished blocks kept
            stop.set()
            raise


def _measure(
    device: Device,
    wanted: Wanted,
    scratch: Path,
    state: Path | None,
    on_progress: Callable[[Progress], None],
    on_note: Callable[[str], None],
) -> Finished:
    raw = scratch / "raw.json.gz"
    extra: dict[str, Any] = {}
    if wanted.scoring is not None:
        extra["accuracy_on_device"] = _score(device, wanted, wanted.scoring, scratch, on_note)
    document = run_campaign(
        [bundle.entrant for bundle in wanted.bundles],
        device,
        wanted.options,
        state=state,
        raw_path=raw,
        on_progress=on_progress,
    )
    document = {**document, **extra}
    document["reproduce"] = wanted.reproduce.replace("{device}", device.name)
    document["warnings"] = [*document["warnings"], *_target_warnings(document, wanted.bundles)]
    if wanted.roofline:
        on_note("measuring what the device can do")
        document = _with_roofline(document, device, wanted, state)
    if wanted.energy:
        on_note("measuring energy")
        document = _with_energy(document, device, wanted)
    return Finished(device=device.name, document=document, raw=raw)


def _score(
    device: Device, wanted: Wanted, scoring: Scoring, scratch: Path, on_note: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    from pipeline.benchmarking.accuracy import score_on_device

    return score_on_device(
        {bundle.name: bundle.folder for bundle in wanted.bundles},
        scoring.samples,
        scoring.task,
        device,
        scratch,
        on_share=lambda done, name: on_note(f"scoring {name}, {done:.0%} of all"),
    )


def _with_roofline(document: dict[str, Any], device: Device, wanted: Wanted, state: Path | None) -> dict[str, Any]:
    from pipeline.benchmarking.layers import profile_engine

    results = dict(document["results"])
    with device.session() as session:
        for bundle in wanted.bundles:
            found = profile_engine(
                session, bundle.folder, bundle.entrant.samples, affinity=wanted.options.affinity, state=state
            )
            kept = {key: found[key] for key in ("pct", "bound_by", "calibration_id", "quality")}
            results[bundle.name] = {**results[bundle.name], "roofline": kept}
    return {**document, "results": results}


def _with_energy(document: dict[str, Any], device: Device, wanted: Wanted) -> dict[str, Any]:
    from pipeline.benchmarking.energy import measure_energy

    results, warnings = dict(document["results"]), list(document["warnings"])
    for bundle in wanted.bundles:
        found = measure_energy(
            bundle.entrant,
            device,
            period_ms=wanted.options.scenario.period_ms,
            affinity=wanted.options.affinity,
        )
        warnings += found.pop("warnings")
        results[bundle.name] = {**results[bundle.name], "energy": found}
    return {**document, "results": results, "warnings": warnings}


def _target_warnings(document: dict[str, Any], bundles: Sequence[OpenBundle]) -> list[dict[str, Any]]:
    """A bundle on hardware that it was not built for is measured, and it is said."""
    facts = document["device"]
    told = facts.get("cpu_features") or facts.get("isa") or []
    found = []
    for bundle in bundles:
        hardware = bundle.manifest.profile.get("hardware", {})
        lacks = sorted(set(hardware.get("isa", [])) - set(told)) if told else []
        other = hardware.get("arch") not in {None, facts.get("arch")}
        if other or lacks:
            evidence = f"built for {hardware.get('arch')}, this is {facts.get('arch')}"
            found.append(
                {
                    "code": "W-OTHER-TARGET",
                    "severity": "warning",
                    "engine": bundle.name,
                    "text": f"the bundle was built for {bundle.manifest.target}, which this device is not",
                    "evidence": evidence if other else f"the CPU has no {' '.join(lacks)}",
                    "fix": "build for this device: `edgepress targets list`",
                }
            )
    return found
