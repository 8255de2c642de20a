"""Promises of exact sums on a CPU that adds in 16-bit pairs: those of numpy's integers, whatever the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from calibration.exact import Exact, doubtful, named

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS, INNER, COLUMNS = 5, 9, 6


def model(nodes: list[onnx.NodeProto], inputs: dict[str, NDArray[Any]], constants: dict[str, Any]) -> onnx.ModelProto:
    """A graph from ``inputs`` to ``y``; the first axis is free."""
    graph = helper.make_graph(
        nodes, "g",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), ["n", *array.shape[1:]]
            )
            for name, array in inputs.items()
        ],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return named(helper.make_model(graph, opset_imports=opsets, ir_version=9))


def loud(rng: np.random.Generator, *shape: int) -> NDArray[np.int8]:
    """Weights whose pairs leave 16 bits for inputs near 255."""
    return rng.integers(90, 128, shape).astype(np.int8)


def exactly(graph: onnx.ModelProto, feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
    nodes = doubtful(graph)
    assert nodes.followed
    assert not nodes.unfollowed
    return Exact(graph, nodes.followed, threads=1).run(feed)["y"]


def requantised(sums: NDArray[np.int64], factor: NDArray[Any] | float, zero: int) -> NDArray[np.float64]:
    """What a requantisation gives before it rounds, in double precision."""
    return np.clip(sums * np.float64(factor) + zero, 0, 255)


@given(seed=st.integers(0, 2**32), weight_zero=st.sampled_from([0, 3, -7]), each=st.booleans(), stacked=st.booleans())
@settings(max_examples=25, deadline=None)
def test_integer_products_are_numpys(seed: int, weight_zero: int, each: bool, stacked: bool) -> None:  # noqa: FBT001
    """MatMulInteger: equal to int64, whatever the zero points are, one or one a column, matrix or stack."""
    rng = np.random.default_rng(seed)
    x = rng.integers(200, 256, (2, ROWS, INNER) if stacked else (ROWS, INNER)).astype(np.uint8)
    w, zero = loud(rng, INNER, COLUMNS), np.full(COLUMNS if each else (), weight_zero, np.int8)
    node = helper.make_node("MatMulInteger", ["x", "w", "z", "wz"], ["y"], "m")
    found = exactly(model([node], {"x": x}, {"w": w, "z": np.uint8(11), "wz": zero}), {"x": x})
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, (x.astype(np.int64) - 11) @ (w.astype(np.int64) - weight_zero))


def windows(x: NDArray[Any], w: NDArray[np.int8], zero: int, group: int) -> NDArray[np.int64]:
    """A convolution with one line of padding, sum by sum."""
    padded = np.pad(x.astype(np.int64) - zero, ((0, 0), (0, 0), (1, 1), (1, 1)))
    n, _, rows, columns = x.shape
    made = np.zeros((n, len(w), rows, columns), np.int64)
    for channel in range(len(w)):
        first = channel // (len(w) // group) * w.shape[1]
        for i in range(3):
            for j in range(3):
                seen = padded[:, first : first + w.shape[1], i : i + rows, j : j + columns]
                made[:, channel] += np.einsum("nchw,c->nhw", seen, w[channel, :, i, j].astype(np.int64))
    return made


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("channels_last", [False, True])
def test_convolutions_are_numpys(group: int, channels_last: bool) -> None:  # noqa: FBT001
    """QLinearConv in both layouts, in groups, with a bias: the integer that double precision rounds to."""
    rng = np.random.default_rng(group)
    x = rng.integers(180, 256, (3, 4, 6, 5)).astype(np.uint8)
    w, scales = loud(rng, 8, 4 // group, 3, 3), rng.uniform(0.01, 0.02, 8).astype(np.float32)
    constants = {
        "xs": np.float32(0.02), "xz": np.uint8(3), "w": w, "ws": scales, "wz": np.zeros(8, np.int8),
        "ys": np.float32(1.5), "yz": np.uint8(20), "b": rng.integers(-9999, 9999, 8).astype(np.int32),
    }  # fmt: skip
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    last = {"channels_last": 1, "domain": "com.microsoft"} if channels_last else {}
    node = helper.make_node("QLinearConv", names, ["y"], "c", pads=[1] * 4, group=group, **last)
    feed = {"x": x.transpose(0, 2, 3, 1) if channels_last else x}
    found = exactly(model([node], feed, constants), feed)
    found = found.transpose(0, 3, 1, 2) if channels_last else found
    sums = windows(x, w, 3, group) + constants["b"][:, None, None]
    wanted = requantised(sums, (scales.astype(np.float64) * 0.02 / 1.5)[:, None, None], 20)
    assert found.dtype == np.uint8
    assert np.abs(found - wanted).max() < 0.5 + 1e-4  # float32 steps: a tie may round the other way


@pytest.mark.parametrize("op", ["QLinearMatMul", "QGemm"])
def test_requantised_products_are_numpys(op: str) -> None:
    """Their integers are what double precision rounds to."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(180, 256, (ROWS, INNER)).astype(np.uint8), loud(rng, INNER, COLUMNS)
    constants: dict[str, Any] = {
        "xs": np.float32(0.02), "xz": np.uint8(9), "w": w.T.copy() if op == "QGemm" else w, "ws": np.float32(0.01),
        "wz": np.int8(0), "ys": np.float32(0.3), "yz": np.uint8(5),
    }  # fmt: skip
    names, more = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], {}
    if op == "QGemm":
        names, more = [*names[:6], "", "ys", "yz"], {"transB": 1, "domain": "com.microsoft"}
    node = helper.make_node(op, names, ["y"], "m", **more)
    found = exactly(model([node], {"x": x}, constants), {"x": x})
    wanted = requantised((x.astype(np.int64) - 9) @ w.astype(np.int64), 0.02 * 0.01 / 0.3, 5)
    assert np.abs(found - wanted).max() < 0.5 + 1e-4


def product(zero: Any, weight: NDArray[Any], **attributes: Any) -> onnx.ModelProto:  # noqa: ANN401
    """One MatMulInteger of an activation with that zero point."""
    x = np.zeros((ROWS, INNER), np.asarray(zero).dtype)
    node = helper.make_node("MatMulInteger", ["x", "w", "z"], ["y"], **attributes)
    return model([node], {"x": x}, {"w": weight, "z": zero})


def test_what_no_input_drives_out_of_16_bits_is_left_to_the_runtime() -> None:
    """Signed activations, unsigned weights, 7-bit weights: nothing is doubted."""
    rng = np.random.default_rng(0)
    weight = loud(rng, INNER, COLUMNS)
    assert doubtful(product(np.uint8(0), weight)).followed == ("MatMulInteger__0",)
    for zero, safe in (
        (np.int8(0), weight),
        (np.uint8(0), weight.astype(np.uint8)),
        (np.uint8(0), np.minimum(weight, 63)),
    ):
        found = doubtful(product(zero, safe))
        assert (found.followed, found.unfollowed) == ((), ())


def test_a_depthwise_convolution_is_left_to_the_runtime() -> None:
    """Its kernels multiply in 32 bits."""
    rng = np.random.default_rng(0)
    constants = {
        "xs": np.float32(1), "xz": np.uint8(0), "w": loud(rng, 4, 1, 3, 3), "ws": np.float32(1), "wz": np.int8(0),
        "ys": np.float32(9), "yz": np.uint8(0),
    }  # fmt: skip
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    node = helper.make_node("QLinearConv", names, ["y"], "c", group=4)
    found = doubtful(model([node], {"x": np.zeros((1, 4, 5, 5), np.uint8)}, constants))
    assert (found.followed, found.unfollowed) == ((), ())


@pytest.mark.parametrize(("peak", "lost"), [(127, ("DynamicQuantizeLSTM 'cell'",)), (63, ())])
def test_an_lstm_that_adds_inside_itself_is_named(peak: int, lost: tuple[str, ...]) -> None:
    """With 8 bits it may saturate and cannot be followed; with 7 bits no pair can."""
    node = helper.make_node(
        "DynamicQuantizeLSTM", ["x", "w", "r", "", "", "", "", "", "s", "z", "s", "z"], ["", "y"], "cell",
        hidden_size=4, domain="com.microsoft",
    )  # fmt: skip
    weight = np.full((1, 6, 16), peak, np.int8)
    constants = {"w": weight, "r": weight[:, :4], "s": np.ones((1, 16), np.float32), "z": np.zeros((1, 16), np.int8)}
    found = doubtful(model([node], {"x": np.zeros((2, 1, 6), np.float32)}, constants))
    assert (found.followed, found.unfollowed) == ((), lost)


def test_what_has_more_than_one_scale_for_its_activation_is_not_followed() -> None:
    """It is named instead: no answer is better than a wrong one that is called exact."""
    constants = {
        "xs": np.ones(ROWS, np.float32), "xz": np.zeros(ROWS, np.uint8), "w": loud(np.random.default_rng(0), 9, 6),
        "ws": np.float32(1), "wz": np.int8(0), "ys": np.float32(9), "yz": np.uint8(0),
    }  # fmt: skip
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    graph = model([helper.make_node("QLinearMatMul", names, ["y"], "m")], {"x": np.zeros((5, 9), np.uint8)}, constants)
    assert doubtful(graph).unfollowed == ("QLinearMatMul 'm'",)


def test_nodes_without_names_are_told_apart() -> None:
    """Two without a name, and two with the same: four names, and a node that had one of its own keeps it."""
    nodes = [helper.make_node("Relu", [a], [b], name) for a, b, name in (("x", "a", ""), ("a", "b", ""))]
    nodes += [helper.make_node("Relu", [a], [b], "same") for a, b in (("b", "c"), ("c", "y"))]
    graph = model(nodes, {"x": np.zeros((1, 2), np.float32)}, {})
    names = [node.name for node in graph.graph.node]
    assert len(set(names)) == 4
    assert names[2] == "same"
