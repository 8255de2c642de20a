"""Scales that every CPU rounds alike: sums clear of ties, products with a short ratio, biases restated."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from calibration.portable import CLEARANCE, RATIO_BITS, clear_scale, make_portable, short_ratio_scale

_MODEL = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[n, 2, 4, 4] x) => (float[n, 2, 4, 4] y)
<float sx, uint8 zx, float sc, uint8 zc, float ss, uint8 zs, float sy, uint8 zy,
 int8[2, 2, 1, 1] w, float[2] sw, int8[2] zw, int32[2] b, float[2] sb, int32[2] zb, int32[2] b2, float[2] sb2>
{ qx = QuantizeLinear(x, sx, zx)
  dx = DequantizeLinear(qx, sx, zx)
  dw = DequantizeLinear<axis = 0>(w, sw, zw)
  db = DequantizeLinear<axis = 0>(b, sb, zb)
  c = Conv(dx, dw, db)
  qc = QuantizeLinear(c, sc, zc)
  dc = DequantizeLinear(qc, sc, zc)
  s = OPERATOR(dc, dx)
  qs = QuantizeLinear(s, ss, zs)
  ds = DequantizeLinear(qs, ss, zs)
  dw2 = DequantizeLinear<axis = 0>(w, sw, zw)
  db2 = DequantizeLinear<axis = 0>(b2, sb2, zb)
  e = Conv(ds, dw2, db2)
  qy = QuantizeLinear(e, sy, zy)
  y = DequantizeLinear(qy, sy, zy) }
"""
_SCALES = st.floats(min_value=1e-3, max_value=0.5)


def _model(operator: str = "Add", *, shared: bool = False) -> onnx.ModelProto:
    model = onnx.parser.parse_model(_MODEL.replace("OPERATOR", operator))
    rng = np.random.default_rng(0)
    sx, sc, ss = np.float32(0.0173), np.float32(0.0219), np.float32(0.029)
    sw = np.array([0.011, 0.007], np.float32)
    arrays = {
        "sx": sx, "sc": sc, "ss": ss, "sy": np.float32(0.03), "sw": sw, "zw": np.zeros(2, np.int8),
        "w": rng.integers(-127, 128, (2, 2, 1, 1)).astype(np.int8), "zb": np.zeros(2, np.int32),
        "b": np.array([100, -200], np.int32), "sb": sx * sw, "b2": np.array([40_000, -9_000], np.int32), "sb2": ss * sw,
        **{name: np.uint8(zero) for name, zero in (("zx", 0), ("zc", 128), ("zs", 60), ("zy", 128))},
    }  # fmt: skip
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items())
    if shared:
        for node in model.graph.node:
            node.input[:] = ["sx" if name == "ss" else "zx" if name == "zs" else name for name in node.input]
    return model


def _arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


@settings(deadline=None, max_examples=15)
@given(a=_SCALES, b=_SCALES, zero=st.integers(0, 255))
def test_no_pair_of_inputs_is_near_a_tie(a: float, b: float, zero: int) -> None:
    """Every one of the 65,536 sums that the output can hold keeps its distance from the middle of two integers."""
    left, right = a * np.arange(-128, 128.0), b * np.arange(-128, 128.0)
    before = float(np.float32((left.max() + right.max()) / 127))
    scale = clear_scale(left, right, before, zero, 0, 255)
    if math.isnan(scale):
        return
    assert before <= scale <= before * 1.0101
    exact = (left[:, None] + right).reshape(-1) / np.float64(np.float32(scale)) + zero
    exact = exact[(exact > -0.9) & (exact < 255.9)]
    assert np.abs(exact - np.floor(exact) - 0.5).min() >= CLEARANCE


@settings(deadline=None, max_examples=50)
@given(product=_SCALES, out=_SCALES)
def test_the_ratio_of_a_product_is_short(product: float, out: float) -> None:
    """The output's range only grows, by less than a hundredth, and the ratio fits the bits."""
    scale = short_ratio_scale(product, out)
    assert out * (1 - 1e-6) <= scale <= out * (1 + 2.0 ** (2 - RATIO_BITS))
    mantissa = math.frexp(product / scale)[0] * 2**RATIO_BITS
    assert mantissa == pytest.approx(round(mantissa), abs=1e-4)


def test_a_sum_is_adjusted_and_what_follows_keeps_its_meaning() -> None:
    """The bias behind the sum is restated in the new unit: its real value stays within half a unit."""
    model = _model()
    before = _arrays(model)
    report = make_portable(model)
    after = _arrays(model)
    [ratio] = report.adjusted.values()
    assert 0 < ratio < 0.01
    assert after["ss"] > before["ss"]
    assert np.array_equal(after["sb2"], after["ss"] * after["sw"])
    error = np.abs(after["b2"] * after["sb2"].astype(np.float64) - before["b2"] * before["sb2"].astype(np.float64))
    assert (error <= 0.5 * after["sb2"]).all()
    untouched = set(before) - {"ss", "sb2", "b2"}
    assert all(np.array_equal(before[name], after[name]) for name in untouched)
    onnx.checker.check_model(model, full_check=True)


def test_a_second_pass_changes_nothing() -> None:
    """What is portable stays as it is, byte for byte."""
    model = _model()
    make_portable(model)
    once = model.SerializeToString(deterministic=True)
    assert not make_portable(model).adjusted
    assert model.SerializeToString(deterministic=True) == once


def test_a_product_gets_a_short_ratio() -> None:
    """Mul between Q/DQ is treated, too."""
    model = _model("Mul")
    make_portable(model)
    after = _arrays(model)
    mantissa = math.frexp(float(after["sc"]) * float(after["sx"]) / float(after["ss"]))[0] * 2**RATIO_BITS
    assert mantissa == pytest.approx(round(mantissa), abs=1e-3)


def test_a_shared_scale_is_left_and_named() -> None:
    """A sum whose output has the scale of its input is not touched, and the report says why."""
    model = _model(shared=True)
    once = model.SerializeToString(deterministic=True)
    report = make_portable(model)
    assert list(report.left.values()) == ["its output shares the scale of an input"]
    assert model.SerializeToString(deterministic=True) == once
