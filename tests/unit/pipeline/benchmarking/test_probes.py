"""The probe models: what they claim to compute is what their graphs hold, and they are small enough to send."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx
import pytest

from pipeline.benchmarking.probes import calibrate_device, make_probes, write_probes

if TYPE_CHECKING:
    from pathlib import Path

PROBES = make_probes()


def _macs(model: onnx.ModelProto) -> int:
    """Counted from inferred shapes and stored weights, by another way than the probes' own formula."""
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*onnx.shape_inference.infer_shapes(model).graph.value_info, *model.graph.output)
    }
    stored = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    behind = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    total = 0
    for node in model.graph.node:
        if node.op_type in {"Conv", "MatMul", "MatMulInteger"}:
            weight = stored[behind.get(node.input[1], node.input[1])]
            reads = math.prod(weight[1:]) if node.op_type == "Conv" else weight[0]
            total += math.prod(shapes[node.output[0]]) * reads
    return total


@pytest.mark.parametrize("probe", [p for p in PROBES if p.kind != "dispatch"], ids=lambda p: p.name)
def test_a_probe_computes_as_many_operations_as_it_says(probe) -> None:  # noqa: ANN001
    """Peaks rest on this number; a multiply-accumulate is two operations."""
    model = onnx.load_model_from_string(probe.model)
    onnx.checker.check_model(model, full_check=True)
    assert 2 * _macs(model) == probe.operations


def test_chains_have_as_many_nodes_as_they_say() -> None:
    """The dispatch cost is a slope over these numbers."""
    chains = {p.operations: onnx.load_model_from_string(p.model) for p in PROBES if p.kind == "dispatch"}
    assert len(chains) >= 3
    assert all(len(model.graph.node) == count for count, model in chains.items())


def test_the_kinds_that_engines_need_are_there() -> None:
    """f32 and each pair of integer types, convolutions of both sizes, and depthwise ones."""
    assert {p.kind for p in PROBES} >= {
        "matmul.f32", "matmul.u8s8", "matmul.u8u8", "matmul.s8s8", "conv1x1.f32", "conv3x3.f32", "conv1x1.u8s8",
        "conv3x3.u8s8", "depthwise.f32", "depthwise.u8s8", "dispatch",
    }  # fmt: skip


def test_probes_are_small_and_the_same_every_time(tmp_path: Path) -> None:
    """They travel to the device before a measurement: under 8 MB, byte for byte the same, listed with their hashes."""
    assert sum(len(p.model) for p in PROBES) < 8e6
    assert [p.model for p in make_probes()] == [p.model for p in PROBES]
    write_probes(tmp_path, PROBES, {"threads": 1})
    listed = json.loads((tmp_path / "probes.json").read_text())["probes"]
    assert [row["name"] for row in listed] == [p.name for p in PROBES]
    assert len({row["file"] for row in listed}) == len(PROBES)


def test_probe_weights_hold_no_subnormal_numbers() -> None:
    """Subnormal weights would make a peak many times too low."""
    for probe in PROBES:
        for tensor in onnx.load_model_from_string(probe.model).graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == np.float32:
                assert not np.any((array != 0) & (np.abs(array) < np.finfo(np.float32).tiny))


class Asked:
    """A session that answers whatever probes it was sent, and notes which."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []

    def facts(self) -> SimpleNamespace:
        return SimpleNamespace(fingerprint="f", runtime_version="1")

    def put(self, folder: Path, name: str) -> None:
        plan = json.loads((folder / "probes.json").read_text("utf-8"))
        self.sent.append([row["name"] for row in plan["probes"]])

    def run(self, command: list[str], *, timeout_s: float) -> SimpleNamespace:
        times = {name: {"best_ns": 1000 + 10 * i, "median_ns": 1100 + 10 * i} for i, name in enumerate(self.sent[-1])}
        copies = {level: {"bytes": 1000, "best_ns": 100} for level in ("l2", "llc", "memory")}
        caches = {"l2": 1 << 20, "llc": 1 << 23, "assumed": False}
        return SimpleNamespace(result={
            "runtime_version": "1", "probes": times, "copies": copies, "caches": caches, "skipped": {},
        })  # fmt: skip


def test_a_brief_calibration_sends_only_what_is_asked_and_is_not_remembered(tmp_path: Path) -> None:
    """The kinds of one engine, the nearest where a kind has no probe; what is remembered in full is taken instead."""
    options = {"threads": 1, "providers": ["CPUExecutionProvider"], "allow_spinning": True}
    session = Asked()
    for kinds in ({"conv3x3.f32", "conv1x1.u8u8"}, set[str]()):
        calibrate_device(cast("Any", session), options=options, state=tmp_path, kinds=kinds, clock=lambda: 1.0)
    sent = [{name.rpartition("-")[0] for name in names} for names in session.sent]
    assert sent == [{"dispatch", "conv3x3-f32", "matmul-u8u8"}, {"dispatch", "matmul-f32"}]
    full = calibrate_device(cast("Any", session), options=options, state=tmp_path, clock=lambda: 1.0)
    assert len(session.sent) == 3
    assert len(session.sent[-1]) == len(PROBES)
    again = calibrate_device(cast("Any", session), options=options, state=tmp_path, kinds={"x.f32"}, clock=lambda: 2.0)
    assert len(session.sent) == 3
    assert again == full
