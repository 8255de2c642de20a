"""Promises of the placement."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import helper

from calibration.placement import Placement, place
from calibration.prepare import prepare
from targets.onnxfile import open_onnx
from targets.scheme import QuantScheme, scheme

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

X86 = scheme("ort-x86")


def placed(path: Path, dialect: QuantScheme = X86) -> Placement:
    return place(prepare(open_onnx(path)).graph, dialect)


def kernel(out: int, inner: int, size: int = 3) -> NDArray[np.float32]:
    return np.ones((out, inner, size, size), np.float32)


def test_residual_net_is_int8_throughout(residual: Path) -> None:
    """No float island in a residual net with padded shortcut: every node is int8, clamps are folded, moves share."""
    placement = placed(residual)
    assert placement.reasons == {}
    assert placement.folded == {"relu", "clip", "relu_out"}
    assert placement.caps["d"] == 6.0
    assert placement.moved == {"slice", "pad", "reshape"}
    assert placement.roots["f"] == placement.roots["g"] == placement.roots["b"]
    assert placement.roots["k"] == placement.roots["j"] != placement.roots["i"]
    assert {"a", "c", "h"}.isdisjoint(placement.roots)
    assert placement.weights["stem"] == ("stem.weight", 0)


@pytest.mark.parametrize(("transposed", "axis"), [(1, 0), (0, 1)])
def test_gemm_axis(save: Callable[..., Path], transposed: int, axis: int | None) -> None:
    """The output channels of a Gemm weight are axis 0 when it is transposed, else axis 1."""
    weight = np.ones((10, 4) if transposed else (4, 10), np.float32)
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], "g", transB=transposed)]
    assert placed(save(nodes, {"w": weight}, inputs={"x": ["batch", 4]})).weights == {"g": ("w", axis)}


def test_matmul_axis(save: Callable[..., Path]) -> None:
    """The output channels of a MatMul weight are its last axis."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "m")]
    path = save(nodes, {"w": np.ones((4, 10), np.float32)}, inputs={"x": ["batch", 4]})
    assert placed(path).weights == {"m": ("w", 1)}


def test_transposed_convolution_axis(save: Callable[..., Path]) -> None:
    """The output channels of a ConvTranspose weight are axis 1."""
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], "t")]
    path = save(nodes, {"w": kernel(3, 5)}, outputs={"y": ["batch", 5, 10, 10]})
    dialect = replace(X86, compute_operators=X86.compute_operators | {"ConvTranspose"})
    assert placed(path, dialect).weights == {"t": ("w", 1)}


def test_relu_with_a_second_reader_is_kept(save: Callable[..., Path]) -> None:
    """A Relu whose input is also used elsewhere is not folded: both tensors are quantised."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Add", ["c", "r"], ["y"], "add"),
    ]
    placement = placed(save(nodes, {"w": kernel(4, 3)}, outputs={"y": ["batch", 4, 6, 6]}))
    assert placement.folded == frozenset()
    assert {"c", "r"} <= set(placement.roots)


@pytest.mark.parametrize(("low", "folded"), [(0.0, True), (-1.0, False)])
def test_only_clamps_from_zero_fold(save: Callable[..., Path], low: float, *, folded: bool) -> None:
    """A Clip folds only when it starts at zero, where the integer range can stand for it exactly."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Clip", ["c", "lo", "hi"], ["y"], "clip")]
    constants = {"w": kernel(4, 3), "lo": np.float32(low), "hi": np.float32(1.0)}
    placement = placed(save(nodes, constants, outputs={"y": ["batch", 4, 6, 6]}))
    assert (placement.folded == {"clip"}) is folded


def concat_net(save: Callable[..., Path], second: str) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["x", "w"], ["d"]),
        *([helper.make_node("Relu", ["d"], ["s"])] if second == "s" else []),
        helper.make_node("Concat", ["r", second], ["y"], axis=1),
    ]
    return save(nodes, {"w": kernel(4, 3)}, outputs={"y": ["batch", 8, 6, 6]})


def test_concat_shares_a_scale_unless_a_clamp_forbids(save: Callable[..., Path]) -> None:
    """Two rectified inputs share the scale of the Concat; a rectified and a signed one do not."""
    roots = placed(concat_net(save, "s")).roots
    assert roots["r"] == roots["s"] == roots["y"]
    roots = placed(concat_net(save, "d")).roots
    assert len({roots["r"], roots["d"], roots["y"]}) == 3


def test_float_nodes_say_why(save: Callable[..., Path]) -> None:
    """Whatever stays float has a reason, also a follower behind a float node."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Erf", ["c"], ["e"], "erf"),
        helper.make_node("Add", ["e", "c"], ["a"], "add"),
        helper.make_node("Pad", ["c", "pads", "one"], ["p"], "pad"),
        helper.make_node("Add", ["a", "p"], ["y"], "last"),
    ]
    constants = {"w": kernel(4, 3), "pads": np.zeros(8, np.int64), "one": np.float32(1.0)}
    placement = placed(save(nodes, constants, outputs={"y": ["batch", 4, 6, 6]}))
    assert placement.int8 == {"conv"}
    assert "Erf" in placement.reasons["erf"]
    assert "'e' is float" in placement.reasons["add"]
    assert "other than zero" in placement.reasons["pad"]


@pytest.mark.parametrize(("attributes", "match"), [({"alpha": 0.5}, "alpha or beta"), ({"transA": 1}, "transA")])
def test_gemm_without_int8_form(save: Callable[..., Path], attributes: dict[str, float], match: str) -> None:
    """A scaled Gemm or one with a transposed input stays float and says so."""
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], "g", **attributes)]
    path = save(nodes, {"w": np.ones((4, 10), np.float32)}, inputs={"x": [4, 4]}, outputs={"y": [4, 10]})
    assert match in placed(path).reasons["g"]


def test_relu_behind_a_concat_folds(save: Callable[..., Path]) -> None:
    """The raw output of a Concat whose Relu is folded is not quantised; its inputs still share a scale."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Conv", ["x", "w"], ["d"]),
        helper.make_node("Concat", ["c", "d"], ["j"], axis=1),
        helper.make_node("Relu", ["j"], ["y"], "relu"),
    ]
    placement = placed(save(nodes, {"w": kernel(4, 3)}, outputs={"y": ["batch", 8, 6, 6]}))
    assert placement.folded == {"relu"}
    assert "j" not in placement.roots
    assert placement.roots["c"] == placement.roots["d"] != placement.roots["y"]


def test_nested_concats_keep_folded_clamps(save: Callable[..., Path]) -> None:
    """A Concat of rectified tensors is rectified itself: it shares no scale with a signed tensor in the next Concat."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["x", "w"], ["d"]),
        helper.make_node("Relu", ["d"], ["s"]),
        helper.make_node("Concat", ["r", "s"], ["j"], axis=1),
        helper.make_node("Conv", ["x", "w"], ["signed"]),
        helper.make_node("Concat", ["j", "signed"], ["y"], axis=1),
    ]
    roots = placed(save(nodes, {"w": kernel(4, 3)}, outputs={"y": ["batch", 12, 6, 6]})).roots
    assert roots["r"] == roots["s"] == roots["j"]
    assert len({roots["j"], roots["signed"], roots["y"]}) == 3


@pytest.mark.parametrize(("shape", "fits"), [((), True), ((1,), True), ((1, 10), True), ((4, 1), False)])
def test_gemm_bias_is_one_value_an_output_or_float(
    save: Callable[..., Path], shape: tuple[int, ...], *, fits: bool
) -> None:
    """A bias that broadcasts over the batch becomes one value an output; one value a sample keeps the Gemm float."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "g")]
    constants = {"w": np.ones((4, 10), np.float32), "b": np.ones(shape, np.float32)}
    placement = placed(save(nodes, constants, inputs={"x": [4, 4]}, outputs={"y": [4, 10]}))
    assert ("g" in placement.weights) is fits
    assert fits or "one constant for each output channel" in placement.reasons["g"]
