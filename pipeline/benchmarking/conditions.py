"""What the host knows of a campaign beside its rows: how thorough it was, how quiet, why it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Run = Mapping[str, Any]  # one row of ``runs`` in benchmark.json, ``raw`` included
Runs = Sequence[Run]


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignFacts:
    """How a campaign went.

    Attributes:
        mode: ``quick``, ``default`` or ``rigorous``.
        quiet: Whether nothing else used the device at the start.
        noise_ratio: How much an engine differed from itself (A/A), upper end; 0 when not known.
        noise_known: Whether that was measured on this device.
        sentinel_reference: ``wall_ns`` and ``cpu_ns`` of the fixed work on the undisturbed device; None without one.
        scenario_kind: ``latency``, ``paced``, ``throughput``, ``sustained`` or ``cold``.
        resumed_blocks: Blocks kept from an interrupted campaign.
        stop: Why it stopped: ``interval``, ``budget``, ``blocks`` or ``lost``.
        target_half_width: Half-width of the 95 % interval that was aimed at, as a ratio.
        min_blocks: Below it nothing is claimed.
        verdicts: Whether verdicts are given; False is screening only.
        aa: The A/A interval (``ratio``, ``ci95``, ``blocks``), when this campaign or an earlier one measured it.
        inputs_source: ``real`` or ``random``.
        left_out: Engines that were measured in fewer blocks as they could not win, with the reason.
    """

    mode: str
    quiet: bool
    noise_ratio: float
    noise_known: bool
    sentinel_reference: Mapping[str, int] | None
    scenario_kind: str
    resumed_blocks: int
    stop: str
    target_half_width: float
    min_blocks: int
    verdicts: bool
    aa: Mapping[str, Any] | None
    inputs_source: str = "real"
    left_out: Mapping[str, str] = field(default_factory=dict)
