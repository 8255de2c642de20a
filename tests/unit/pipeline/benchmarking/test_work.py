"""Operations and bytes of a node: against numpy's own count, for every operator that multiplies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.benchmarking.work import Weight, engine_weights, weight_of, work_of


def _row(op: str, inputs: list[Any], outputs: list[Any], name: str = "n") -> dict[str, Any]:
    return {"name": name, "op": op, "inputs": inputs, "outputs": outputs}


def _convolution_macs(
    batch: int, channels: int, groups: int, out_channels: int, side: int, kernel: int
) -> tuple[int, list[int]]:
    """Counted by walking over every output element of an unpadded convolution."""
    wide = side - kernel + 1
    count = 0
    for _ in np.ndindex(batch, out_channels, wide, wide):
        count += channels // groups * kernel * kernel
    return count, [batch, out_channels, wide, wide]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 2), st.sampled_from([(4, 1), (4, 2), (4, 4)]), st.integers(1, 3), st.integers(3, 6))
def test_convolutions_are_counted_as_numpy_counts_them(
    batch: int, split: tuple[int, int], kernel: int, side: int
) -> None:
    """Grouped and depthwise convolutions of any size count what a walk over their outputs counts."""
    channels, groups = split
    macs, written = _convolution_macs(batch, channels, groups, 8, side, kernel)
    weight = Weight(op="Conv", shape=(8, channels // groups, kernel, kernel), dtype="float", groups=groups)
    work = work_of(_row("Conv", [["float", [batch, channels, side, side]]], [["float", written]]), weight)
    assert work.operations == 2 * macs
    assert work.weight_bytes == 4 * math.prod(weight.shape)
    assert work.activation_bytes == 4 * (batch * channels * side * side + math.prod(written))


@pytest.mark.parametrize("op", ["Gemm", "QGemm", "MatMul", "QLinearMatMul", "MatMulInteger"])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_count_one_row_for_each_output(op: str, *, transposed: bool) -> None:
    """(5, 7) times (7, 3) is 105 multiply-accumulates, whichever way the weight lies."""
    weight = Weight(op=op, shape=(3, 7) if transposed else (7, 3), dtype="int8")
    work = work_of(_row(op, [["uint8", [5, 7]]], [["uint8", [5, 3]]]), weight)
    assert work.operations == 2 * 105


def test_a_product_of_two_activations_is_counted_without_weight() -> None:
    """Attention multiplies activations: (2, 4, 8) by (2, 8, 4)."""
    rows = [["float", [2, 4, 8]], ["float", [2, 8, 4]]]
    work = work_of(_row("MatMul", rows, [["float", [2, 4, 4]]]), Weight(op="MatMul"))
    assert work.operations == 2 * 2 * 4 * 4 * 8
    assert work.kind == "matmul.f32"
    assert work.weight_bytes == 0


def test_a_transposed_convolution_counts_from_its_input() -> None:
    """Every input element meets every weight of its channel."""
    weight = Weight(op="ConvTranspose", shape=(6, 4, 2, 2), dtype="float")
    work = work_of(_row("ConvTranspose", [["float", [1, 6, 5, 5]]], [["float", [1, 4, 10, 10]]]), weight)
    assert work.operations == 2 * (6 * 5 * 5) * (4 * 2 * 2)


@pytest.mark.parametrize(
    ("op", "dtype", "weight", "kind"),
    [
        ("Conv", "float", Weight(op="Conv", shape=(8, 4, 3, 3), dtype="float"), "conv3x3.f32"),
        ("QLinearConv", "uint8", Weight(op="QLinearConv", shape=(8, 4, 1, 1), dtype="int8"), "conv1x1.u8s8"),
        ("QLinearConv", "int8", Weight(op="Conv", shape=(8, 4, 3, 3), dtype="int8"), "conv3x3.s8s8"),
        ("QLinearConv", "uint8", Weight(op="Conv", shape=(8, 1, 3, 3), dtype="int8", groups=8), "depthwise.u8s8"),
        ("QGemm", "uint8", Weight(op="QGemm", shape=(8, 4), dtype="uint8"), "matmul.u8u8"),
    ],
)
def test_the_kind_names_shape_and_types(op: str, dtype: str, weight: Weight, kind: str) -> None:
    """Peaks differ by 23 times between pairs of types: the kind keeps them apart."""
    assert work_of(_row(op, [[dtype, [1, 4, 8, 8]]], [[dtype, [1, 8, 8, 8]]]), weight).kind == kind


def test_a_weight_that_the_profile_lists_is_counted_once() -> None:
    """The runtime lists the weight among the inputs where it has not packed it."""
    weight = Weight(op="Gemm", shape=(3, 7), dtype="float")
    packed = work_of(_row("Gemm", [["float", [1, 7]]], [["float", [1, 3]]]), weight)
    listed = work_of(_row("Gemm", [["float", [1, 7]], ["float", [3, 7]]], [["float", [1, 3]]]), weight)
    assert packed == listed


@pytest.mark.parametrize("op", ["Transpose", "ReorderInput", "Concat", "Add", "MaxPool", "Softmax", "Nchwc"])
def test_other_nodes_move_bytes(op: str) -> None:
    """What multiplies nothing is bounded by the bytes it reads and writes."""
    work = work_of(_row(op, [["float", [1, 8]]], [["float", [1, 8]]]), None)
    assert work.kind is None
    assert work.activation_bytes == 64


def test_views_cost_nothing() -> None:
    """A reshape moves no byte."""
    assert work_of(_row("Reshape", [["float", [1, 8]]], [["float", [8]]]), None).activation_bytes == 0


def test_weights_are_found_behind_dequantize_and_under_the_runtimes_names() -> None:
    """A device that optimises further reports `c_token_3` for the engine file's node `c` with its stored integers."""
    weight = onnx.numpy_helper.from_array(np.zeros((8, 4, 3, 3), np.int8), "q")
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="c", group=2),
        onnx.helper.make_node("MaxPool", ["y"], ["z"], kernel_shape=[3, 2]),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], [weight]))
    weights = engine_weights(model)
    found = weight_of({"name": "c_token_3"}, weights)
    assert found == Weight(op="Conv", shape=(8, 4, 3, 3), dtype="int8", groups=2)
    assert weights["MaxPool_2"].kernel == 6
    assert weight_of({"name": "other"}, weights) is None
