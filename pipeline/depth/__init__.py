"""Depth: whole residual blocks, found on the exported graph without names, and dropped where that costs least."""

from __future__ import annotations

from pipeline.depth.blocks import Block, find_blocks
from pipeline.depth.choose import Judged, drop_cheapest, droppable, how_many
from pipeline.depth.skip import Skip, skipped

__all__ = ["Block", "Judged", "Skip", "drop_cheapest", "droppable", "find_blocks", "how_many", "skipped"]
