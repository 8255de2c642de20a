"""Structured pruning on the exported graph: which units exist, which go, and the graph without them."""

from __future__ import annotations

from pipeline.pruning.allocate import choose_by_ratio
from pipeline.pruning.criteria import CRITERIA, Criterion, L2Norm
from pipeline.pruning.decisions import Decisions, Kept
from pipeline.pruning.frozen import Frozen
from pipeline.pruning.groups import Group, Member, PruningGraph, find_groups
from pipeline.pruning.masking import mask_decisions
from pipeline.pruning.surgery import apply_decisions

__all__ = [
    "CRITERIA",
    "Criterion",
    "Decisions",
    "Frozen",
    "Group",
    "Kept",
    "L2Norm",
    "Member",
    "PruningGraph",
    "apply_decisions",
    "choose_by_ratio",
    "find_groups",
    "mask_decisions",
]
