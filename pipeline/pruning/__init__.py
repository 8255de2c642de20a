"""Structured pruning on the exported graph: which units exist, which go, and the graph without them."""

from __future__ import annotations

from pipeline.graph import trace
from pipeline.pruning.allocate import choose_by_ratio, widths_for_ratio, widths_to_fit
from pipeline.pruning.criteria import Criterion, Evidence, all_criteria, normalized
from pipeline.pruning.decisions import Decisions, Kept
from pipeline.pruning.frozen import Frozen
from pipeline.pruning.groups import Group, Member, PruningGraph, find_groups
from pipeline.pruning.masking import mask_decisions
from pipeline.pruning.surgery import apply_decisions
from pipeline.pruning.widths import importance_kept, prunable_groups, remove_lowest, width_choices

__all__ = [
    "Criterion",
    "Decisions",
    "Evidence",
    "Frozen",
    "Group",
    "Kept",
    "Member",
    "PruningGraph",
    "all_criteria",
    "apply_decisions",
    "choose_by_ratio",
    "find_groups",
    "importance_kept",
    "mask_decisions",
    "normalized",
    "prunable_groups",
    "remove_lowest",
    "trace",
    "width_choices",
    "widths_for_ratio",
    "widths_to_fit",
]
