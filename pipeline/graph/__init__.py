"""The exported graph: how it is made from a model, switched between modes, and measured."""

from __future__ import annotations

from pipeline.graph.copying import copy_graph
from pipeline.graph.measure import count_macs, count_parameters
from pipeline.graph.mode import set_training
from pipeline.graph.outputs import flat_outputs
from pipeline.graph.taps import tap_paths, with_taps
from pipeline.graph.trace import trace

__all__ = [
    "copy_graph",
    "count_macs",
    "count_parameters",
    "flat_outputs",
    "set_training",
    "tap_paths",
    "trace",
    "with_taps",
]
