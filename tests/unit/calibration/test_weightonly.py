"""Promises of weight-only quantisation: the runtime reads our blocks as we meant them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from calibration.session import Session
from calibration.weightonly import WeightOnlySettings, in_blocks, packed, quantize_weights_only
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


LAYOUTS = [(4, 32, True), (4, 32, False), (4, 128, True), (4, 16, False), (8, 32, False), (8, 128, True)]


def linear(save: Callable[..., Path], weight: NDArray[np.float32], *, gemm: bool = False, trans: int = 0) -> Path:
    inner = weight.shape[1] if trans else weight.shape[0]
    outer = weight.size // inner
    bias = np.linspace(-1, 1, outer).astype(np.float32)
    node = (
        helper.make_node("Gemm", ["x", "w", "b"], ["y"], "layer", transB=trans)
        if gemm
        else helper.make_node("MatMul", ["x", "w"], ["y"], "layer")
    )
    constants = {"w": weight, "b": bias} if gemm else {"w": weight}
    return save([node], constants, inputs={"x": ["n", inner]}, outputs={"y": ["n", outer]})


def test_every_layout_is_what_the_runtime_reads(save: Callable[..., Path], tmp_path: Path) -> None:
    """The runtime's output equals the product with our own reading of the blocks, computed in float64.

    Bits, block sizes, zero points, MatMul, Gemm, both orientations, and a length that fills no block.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 70)).astype(np.float32)
    out = tmp_path / "out.onnx"
    for bits, size, symmetric in LAYOUTS:
        for gemm, trans in ((False, 0), (True, 0), (True, 1)):
            weight = (rng.normal(size=(24, 70) if trans else (70, 24)) + 0.3).astype(np.float32)
            given_ = WeightOnlySettings(
                bits=bits, block_size=size, symmetric=symmetric, accuracy_level=1, min_elements=0
            )
            report = quantize_weights_only(linear(save, weight, gemm=gemm, trans=trans), out, given_)
            read = in_blocks(np.ascontiguousarray(weight if trans else weight.T), given_).values(70)
            wanted = x.astype(np.float64) @ read.T.astype(np.float64) + (np.linspace(-1, 1, 24) if gemm else 0)
            found = Session(out, threads=1, optimize=True).run(None, {"x": x})[0]
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-5)
            assert report.changed == {"layer": "MatMulNBits"}
            assert report.snr_db["layer"] > (18 if bits == 4 else 40)


@given(
    seed=st.integers(0, 2**32),
    channels=st.integers(1, 4),
    inner=st.integers(1, 70),
    bits=st.sampled_from([4, 8]),
    symmetric=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_blocks_are_near(seed: int, channels: int, inner: int, bits: int, symmetric: bool) -> None:  # noqa: FBT001
    """Without search no weight is further off than its scale (an affine zero point included); search is never worse."""
    weight = np.random.default_rng(seed).normal(size=(channels, inner)).astype(np.float32)
    weight[0] = 0.0
    plain = WeightOnlySettings(bits=bits, block_size=16, symmetric=symmetric, search=False)
    blocks = in_blocks(weight, plain)
    error = np.abs(blocks.values(inner) - weight)
    scales = np.repeat(np.abs(blocks.scales), 16, axis=1)[:, :inner]
    assert (error <= scales * 1.01).all()
    assert (blocks.values(inner)[0] == 0).all()
    assert blocks.integers.max() < 2**bits
    searched = in_blocks(weight, WeightOnlySettings(bits=bits, block_size=16, symmetric=symmetric))
    assert np.square(searched.values(inner) - weight).sum() <= np.square(error).sum() * (1 + 1e-5) + 1e-12


def test_nibbles_are_packed_low_first() -> None:
    """The earlier value lies in the low half of a byte; a missing last one is 0; bytes stay bytes."""
    np.testing.assert_array_equal(packed(np.array([[1, 2, 15]], np.uint8), 4), [[0x21, 0x0F]])
    np.testing.assert_array_equal(packed(np.array([[1, 200]], np.uint8), 8), [[1, 200]])


def test_small_and_varying_weights_stay(save: Callable[..., Path], tmp_path: Path) -> None:
    """Weights under the size stay float, with their reason; when none is left the model is an error, not a copy."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "large"),
        helper.make_node("MatMul", ["a", "w2"], ["b"], "small"),
        helper.make_node("Mul", ["b", "b"], ["y"], "square"),
    ]
    constants = {"w1": rng.normal(size=(64, 64)).astype(np.float32), "w2": rng.normal(size=(64, 8)).astype(np.float32)}
    path = save(nodes, constants, inputs={"x": ["n", 64]}, outputs={"y": ["n", 8]})
    report = quantize_weights_only(path, tmp_path / "o.onnx", WeightOnlySettings(min_elements=4096))
    assert set(report.changed) == {"large"}
    assert "fewer than 4096" in report.left["small"]
    assert (report.before_bytes, report.after_bytes) == (18432, 64 * 64 // 2 + 64 * 2 * 4 + 64 * 8 * 4)
    with pytest.raises(InputError, match="no node of the model can have its weights in blocks"):
        quantize_weights_only(path, tmp_path / "o.onnx")


def test_same_arguments_same_bytes(save: Callable[..., Path], tmp_path: Path) -> None:
    """Two conversions of one file are equal byte for byte, and valid ONNX."""
    path = linear(save, np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
    for name in "ab":
        quantize_weights_only(path, tmp_path / name, WeightOnlySettings(min_elements=0))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    onnx.checker.check_model(onnx.load(tmp_path / "a"))


@pytest.mark.parametrize("wrong", [{"bits": 3}, {"block_size": 24}, {"accuracy_level": 2}])
def test_impossible_settings_are_refused(save: Callable[..., Path], tmp_path: Path, wrong: dict[str, int]) -> None:
    """What MatMulNBits does not have is named before the model is touched."""
    path = linear(save, np.zeros((8, 8), np.float32))
    with pytest.raises(InputError, match="not possible"):
        quantize_weights_only(path, tmp_path / "o.onnx", WeightOnlySettings(**wrong))
