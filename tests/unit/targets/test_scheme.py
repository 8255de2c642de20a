"""Dialects are found by name, and each says what its engine is known to need."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from targets.errors import InputError
from targets.scheme import SCHEMES, QuantScheme, scheme


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_every_scheme_is_found_under_its_name(name: str) -> None:
    """Ask for X, get X."""
    assert scheme(name) is SCHEMES[name]
    assert scheme(name).name == name


def test_unknown_scheme_names_the_nearest() -> None:
    """A misspelt dialect is an input error with the near name."""
    with pytest.raises(InputError, match=r"(?s)'ort-x68'.*'ort-x86'"):
        scheme("ort-x68")


def test_avx2_differs_by_its_weight_bits_alone() -> None:
    """Without VNNI, int16 sums saturate: 7-bit weights, everything else as on VNNI."""
    differences = {
        field.name
        for field in dataclasses.fields(SCHEMES["ort-x86"])
        if getattr(SCHEMES["ort-x86"], field.name) != getattr(SCHEMES["ort-x86-avx2"], field.name)
    }
    assert differences == {"name", "weight_bits"}
    assert (SCHEMES["ort-x86"].weight_bits, SCHEMES["ort-x86-avx2"].weight_bits) == (8, 7)


@pytest.mark.parametrize("found", SCHEMES.values(), ids=SCHEMES)
def test_symmetry_fits_the_integer_type(found: QuantScheme) -> None:
    """A zero point of 0 needs a signed type; an operator has one role only."""
    assert found.activation_symmetric == (found.activation_dtype == "int8")
    roles = [found.compute_operators, found.follow_operators, found.same_scale_operators]
    assert sum(map(len, roles)) == len(frozenset().union(*roles))
    assert {"Conv", "Gemm", "MatMul"} <= found.compute_operators


def test_tensorrt_is_symmetric_with_float_edges() -> None:
    """TensorRT refuses zero points and integer biases; outputs and Relus stay as they are."""
    found = scheme("trt")
    assert (found.activation_symmetric, found.bias, found.style) == (True, "float", "inputs")
    assert not found.fold_relu
    assert not found.quantize_graph_output
    assert "ConvTranspose" in found.compute_operators


@pytest.mark.parametrize(("name", "sums"), [("ort-arm64", "as they are"), ("openvino", "in 4-d")])
def test_dialects_that_follow_x86(name: str, sums: Literal["as they are", "in 4-d"]) -> None:
    """They differ from x86 by their name, OpenVINO's also by what its kernels get wrong."""
    base = dataclasses.replace(SCHEMES["ort-x86"], sums_of_series=sums)
    assert dataclasses.replace(SCHEMES[name], name="ort-x86") == base


def test_qnn_with_sixteen_bits() -> None:
    """What its documents ask for: uint16 between Q/DQ, one scale for linear weights, prescribed scales, opset 21."""
    found = scheme("qnn-a16")
    assert (found.activation_dtype, found.activation_bits, found.weight_bits, found.bias) == ("uint16", 16, 8, "int32")
    assert (found.opset, found.moves, found.activation_products) == (21, "between", False)
    assert {op for op in found.compute_operators if found.by_channel(op)} == {"Conv", "ConvTranspose"}
    steps = {op: (high - low) / 65535 for op, (low, high) in found.fixed_ranges}
    assert steps == {"Sigmoid": 1 / 65536, "Tanh": 1 / 32768}
    others = [one for one in SCHEMES.values() if one is not found]
    assert {(one.opset, one.moves, one.activation_bits) for one in others} == {(13, "integers", 8)}
    assert all(one.by_channel(op) for one in others for op in one.compute_operators)
