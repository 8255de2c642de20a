"""What float costs in each layer on a device: engines that differ in one layer, interleaved and paired by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.campaign import run_campaign
from pipeline.benchmarking.request import CampaignOptions, Entrant
from pipeline.benchmarking.results import latency_ns
from pipeline.benchmarking.statistics import log_interval
from targets.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from targets.devices.base import Device

SECONDS_PER_ENGINE: Final = 5.0
"""Of the campaign: three blocks of a process of a second each, and some reserve."""
_RESERVE_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCost:
    """What float costs in one layer.

    Attributes:
        us: Microseconds of one inference that the engine takes longer with that layer in float; negative where less.
        low_us: Lower end of its 95 % interval; None with fewer than two blocks.
        high_us: Upper end.
    """

    us: float
    low_us: float | None
    high_us: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCosts:
    """What a campaign found.

    Attributes:
        layers: By layer.
        whole_us: Latency of the engine with all of them in int8.
        blocks: Blocks that count.
        device: Name of the device.
    """

    layers: Mapping[str, MeasuredCost]
    whole_us: float
    blocks: int
    device: str


def measure_costs(
    whole: Path,
    layers: Mapping[str, Path],
    samples: Path,
    device: Device,
    *,
    seed: int,
    affinity: str = "default",
    memory_limit_mb: int | None = None,
    on_share: Callable[[float], None] = lambda _: None,
) -> MeasuredCosts:
    """Measures all engines in one campaign; each layer's cost is its engine's ratio to the whole one's, block by block.

    Args:
        whole: Folder of the engine with all layers in int8.
        layers: By layer the folder of the engine with that one in float.
        samples: An .npz of real samples.
        device: Where to measure.
        seed: Of the order within blocks.
        affinity: CPUs to use.
        memory_limit_mb: Address space of a process there.
        on_share: Told the share that is done.

    Raises:
        DeviceError: The device failed, is emulated, or was too disturbed to tell a single pair.
        InputError: As `run_campaign`.
    """
    engines = [whole, *layers.values()]
    entrants = [Entrant(name=str(n), folder=folder, samples=samples) for n, folder in enumerate(engines)]
    document = run_campaign(
        entrants,
        device,
        CampaignOptions(
            budget_s=SECONDS_PER_ENGINE * len(engines) + _RESERVE_S,
            seed=seed,
            mode="quick",
            affinity=affinity,
            memory_limit_mb=memory_limit_mb,
        ),
        on_progress=lambda at: on_share(min(1.0, at.elapsed_s / at.budget_s)),
    )
    if document["device"].get("emulated"):
        raise DeviceError(
            "an emulated device has no latency", "its CPU is software", "measure on a real device, or on this machine"
        )
    return costs_of(document["runs"], [*layers], device.name)


def costs_of(runs: Sequence[Mapping[str, Any]], layers: Sequence[str], device: str) -> MeasuredCosts:
    """The costs that the rows of a campaign say: engine ``0`` is the whole one, the others follow in order.

    Raises:
        DeviceError: No block has all engines.
    """
    blocks: dict[int, dict[str, float]] = {}
    for row in runs:
        if not row.get("discarded"):
            blocks.setdefault(int(row["block"]), {})[str(row["engine"])] = latency_ns(row) / 1e3
    full = [block for block in blocks.values() if len(block) == len(layers) + 1]
    if not full:
        raise DeviceError(
            f"device {device!r} finished no block of all {len(layers) + 1} engines",
            "the time was too short, or every block was disturbed",
            "stop other work on it, and run the same command again",
        )
    whole_us = log_interval([block["0"] for block in full]).value
    found = {}
    for number, layer in enumerate(layers, start=1):
        ratio = log_interval([block[str(number)] / block["0"] for block in full])
        low_us, high_us = (None if end is None else _us(end, whole_us) for end in (ratio.low, ratio.high))
        found[layer] = MeasuredCost(us=_us(ratio.value, whole_us), low_us=low_us, high_us=high_us)
    return MeasuredCosts(layers=found, whole_us=round(whole_us, 3), blocks=len(full), device=device)


def _us(ratio: float, whole_us: float) -> float:
    return round((ratio - 1.0) * whole_us, 3)
