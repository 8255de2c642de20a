"""How thorough a campaign is: how many blocks, how long a process, and whether verdicts are given."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from targets.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

ModeName = Literal["quick", "default", "rigorous"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way to measure.

    Attributes:
        name: Its name.
        looks: Numbers of complete blocks at which the interval is looked at; more looks would narrow it falsely. The
            last one ends the campaign.
        min_blocks: Below it nothing is claimed.
        min_iterations: Timed iterations of a process, at least.
        warmup_s: Warm-up of a process.
        timed_s: Timed loop of a process, at least.
        warmup_floor_s: As short a warm-up as the budget may make it.
        timed_floor_s: As short a timed loop as the budget may make it.
        verdicts: Whether engines are compared; False is screening only.
        learns_noise: When an engine is measured against itself: ``never``, when nothing is ``known`` yet, ``always``.
    """

    name: ModeName
    looks: tuple[int, ...]
    min_blocks: int
    min_iterations: int
    warmup_s: float
    timed_s: float
    warmup_floor_s: float
    timed_floor_s: float
    verdicts: bool
    learns_noise: Literal["never", "when unknown", "always"]


MODES: Final[Mapping[str, Mode]] = MappingProxyType(
    {
        "quick": Mode(
            name="quick", looks=(3,), min_blocks=3, min_iterations=50, warmup_s=0.3, timed_s=0.5,
            warmup_floor_s=0.1, timed_floor_s=0.2, verdicts=False, learns_noise="never",
        ),
        "default": Mode(
            name="default", looks=(7, 10, 15, 20, 30), min_blocks=3, min_iterations=100, warmup_s=0.5, timed_s=1.5,
            warmup_floor_s=0.15, timed_floor_s=0.3, verdicts=True, learns_noise="when unknown",
        ),
        "rigorous": Mode(
            name="rigorous", looks=(15, 20, 30, 40), min_blocks=7, min_iterations=450, warmup_s=2.0, timed_s=5.0,
            warmup_floor_s=2.0, timed_floor_s=5.0, verdicts=True, learns_noise="always",
        ),
    }
)  # fmt: skip
"""Blocks and iterations: 7 x 100 = 700 timed iterations licence p99 (662), 15 x 450 = 6750 licence p99.9 (6636)."""


def mode_named(name: str) -> Mode:
    """The mode of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in MODES:
        raise UsageError(f"there is no mode {name!r}", nearest(name, MODES), "choose one of them")
    return MODES[name]
