"""Surgery by hand: parts removed, widths stated and operators replaced at modules that a recipe names."""

from __future__ import annotations

from pipeline.surgery.operators import Swap, find_swaps, swapped
from pipeline.surgery.parts import find_parts
from pipeline.surgery.statistics import measure_statistics
from pipeline.surgery.widths import state_widths

__all__ = ["Swap", "find_parts", "find_swaps", "measure_statistics", "state_widths", "swapped"]
