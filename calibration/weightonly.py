"""Weight-only int4 and int8: large linear layers as MatMulNBits, small blocks of weights with a scale each.

Activations stay float32; the file shrinks and layers that wait for their weights get faster. The layout is that of
``com.microsoft.MatMulNBits``: weights (N, blocks, bytes of a block), the earlier of two 4-bit values in the low half of
a byte; scales (N, blocks); zero points (N, packed bytes), left out for symmetric weights, whose zero is 8 or 128.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.formats import CONTRIB, FormatReport, finish, open_prepared, size_bytes, take_place, use_contrib
from calibration.numerics import MIN_SCALE
from calibration.prepare import constant, main_nodes, set_initializer
from calibration.qdq import snr_db
from calibration.rules_weights import bias_row, int_attribute, weight_of
from targets.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

MIN_ELEMENTS: Final = 65_536
"""Smaller weights stay float: they fit the caches, and their blocks would only cost accuracy."""

_BIAS, _NIBBLE = 2, 4
_SHRINK: Final = (1.0, 0.95, 0.9, 0.85, 0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOnlySettings:
    """How weights are stored.

    Attributes:
        bits: 4 or 8.
        block_size: Weights of one output channel that share a scale: a power of two from 16 to 256.
        symmetric: True keeps zero in the middle; False stores a zero point for each block.
        accuracy_level: What the runtime may compute in: 0 its own choice, 1 float32, 4 int8 activations. With 8 bits,
            0 and 1 take many times the time of the float product on x86.
        min_elements: Weights with fewer elements stay float.
        search: Try narrower scales for each block and keep the one with the least squared error.
    """

    bits: Literal[4, 8] = 4
    block_size: int = 32
    symmetric: bool = True
    accuracy_level: Literal[0, 1, 4] = 4
    min_elements: int = MIN_ELEMENTS
    search: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A weight in blocks.

    Attributes:
        integers: (N, blocks, block size), the last block filled with the zero point.
        scales: (N, blocks).
        zeros: (N, blocks).
    """

    integers: Bytes
    scales: Floats
    zeros: Bytes

    def values(self, inner: int) -> Floats:
        """The weight as the runtime sees it, (N, inner)."""
        real = (self.integers.astype(np.float32) - self.zeros[..., None]) * self.scales[..., None]
        return np.asarray(real.reshape(len(real), -1)[:, :inner], np.float32)


def quantize_weights_only(
    source: Path | onnx.ModelProto, out_path: Path, settings: WeightOnlySettings | None = None
) -> FormatReport:
    """Writes the model with its large MatMul and Gemm weights in blocks of integers; same arguments, same bytes.

    Raises:
        InputError: The settings are not those MatMulNBits has, the model is quantised already, or no node of it has
            a large constant weight.
    """
    given = settings or WeightOnlySettings()
    _check(given)
    model = open_prepared(source)
    before = size_bytes(model)
    changed: dict[str, str] = {}
    left: dict[str, str] = {}
    noise: dict[str, float] = {}
    for node in [*main_nodes(model.graph)]:
        if node.op_type not in {"MatMul", "Gemm"}:
            continue
        found = weight_of(node, integer_bias=True)
        array = constant(node.inputs[1])
        if isinstance(found, str) or array is None:
            left[str(node.name)] = str(found)
        elif array.size < given.min_elements:
            left[str(node.name)] = f"its weight has fewer than {given.min_elements} elements"
        else:
            noise[str(node.name)] = _replace(model.graph, node, np.asarray(array, np.float32), given)
            changed[str(node.name)] = "MatMulNBits"
    use_contrib(model)
    return finish(
        model,
        out_path,
        what="have its weights in blocks",
        fix="take this format out of quantize.formats: it is for large linear layers",
        changed=changed,
        left=left,
        before_bytes=before,
        snr_db=noise,
    )


def in_blocks(weight: Floats, settings: WeightOnlySettings) -> Blocks:
    """A weight (N, K) in blocks along K, rounded to nearest.

    Of each block's candidate scales, from the full range down to 0.8 of it, the one with the least squared error is
    kept (all of them clip nothing but the block's largest values).
    """
    channels, inner = weight.shape
    count = -(-inner // settings.block_size)
    blocks = np.pad(weight, ((0, 0), (0, count * settings.block_size - inner)))
    blocks = blocks.reshape(channels, count, settings.block_size)
    top = 2**settings.bits - 1
    best: tuple[Floats, Floats, Floats] | None = None
    least = np.full((channels, count), np.inf)
    for shrink in _SHRINK if settings.search else _SHRINK[:1]:
        scales, zeros = _symmetric(blocks, top, shrink) if settings.symmetric else _affine(blocks, top, shrink)
        integers = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, top)
        error = np.square((integers - zeros[..., None]) * scales[..., None] - blocks, dtype=np.float64).sum(axis=-1)
        better = error < least
        least = np.where(better, error, least)
        kept = best or (integers, scales, zeros)
        best = (
            np.where(better[..., None], integers, kept[0]),
            np.where(better, scales, kept[1]),
            np.where(better, zeros, kept[2]),
        )
    assert best is not None
    return Blocks(integers=best[0].astype(np.uint8), scales=best[1].astype(np.float32), zeros=best[2].astype(np.uint8))


def packed(integers: Bytes, bits: int) -> Bytes:
    """Values in bytes along the last axis; with 4 bits two in a byte, the earlier one low, the last filled with 0."""
    if bits != _NIBBLE:
        return integers
    padded = np.pad(integers, [(0, 0)] * (integers.ndim - 1) + [(0, integers.shape[-1] % 2)])
    return np.asarray(padded[..., 0::2] | (padded[..., 1::2] << _NIBBLE), np.uint8)


def _symmetric(blocks: Floats, top: int, shrink: float) -> tuple[Floats, Floats]:
    """The value of largest magnitude gets the integer 0, which lies one step further out than the top."""
    middle = (top + 1) // 2
    place = np.abs(blocks).argmax(axis=-1, keepdims=True)
    extreme = np.take_along_axis(blocks, place, axis=-1)[..., 0] * shrink
    scales = _nonzero(-extreme / middle)
    return scales, np.full(scales.shape, middle, np.float32)


def _affine(blocks: Floats, top: int, shrink: float) -> tuple[Floats, Floats]:
    low, high = np.minimum(blocks.min(axis=-1), 0.0) * shrink, np.maximum(blocks.max(axis=-1), 0.0) * shrink
    scales = _nonzero((high - low) / top)
    return scales, np.clip(np.rint(-low / scales), 0, top)


def _nonzero(scales: NDArray[np.floating]) -> Floats:
    return np.asarray(np.where(np.abs(scales) < MIN_SCALE, 1.0, scales), np.float32)


def _replace(graph: ir.Graph, node: ir.Node, array: Floats, settings: WeightOnlySettings) -> float:
    """Puts MatMulNBits in the node's place; the signal-to-noise ratio of its weight in dB."""
    transposed = node.op_type == "Gemm" and int_attribute(node, "transB", 0) == 1
    weight = array if transposed else array.T  # (N, K)
    blocks = in_blocks(np.ascontiguousarray(weight), settings)
    name = str(node.name)
    inputs: list[ir.Value | None] = [
        node.inputs[0],
        set_initializer(graph, f"{name}__blocks", packed(blocks.integers, settings.bits)),
        set_initializer(graph, f"{name}__block_scales", blocks.scales),
    ]
    if not settings.symmetric:
        inputs.append(set_initializer(graph, f"{name}__block_zeros", packed(blocks.zeros, settings.bits)))
    bias = node.inputs[_BIAS] if len(node.inputs) > _BIAS else None
    row = bias_row(bias, len(weight))
    if row is not None:
        inputs += [None] * (5 - len(inputs))
        inputs.append(set_initializer(graph, f"{name}__bias", np.ascontiguousarray(row, np.float32)))
    attributes = {
        "K": weight.shape[1],
        "N": weight.shape[0],
        "bits": settings.bits,
        "block_size": settings.block_size,
        "accuracy_level": settings.accuracy_level,
    }
    new = ir.node("MatMulNBits", inputs, attributes, domain=CONTRIB, name=name)
    graph.insert_before(node, new)
    take_place(graph, node, new)
    return snr_db(weight, blocks.values(weight.shape[1]))


def _check(settings: WeightOnlySettings) -> None:
    size = settings.block_size
    wrong = {
        f"bits is {settings.bits}: use 4 or 8": settings.bits not in {4, 8},
        f"block_size is {size}: use 16, 32, 64, 128 or 256": size not in {16, 32, 64, 128, 256},
        f"accuracy_level is {settings.accuracy_level}: use 0, 1 or 4": settings.accuracy_level not in {0, 1, 4},
    }
    faults = [what for what, holds in wrong.items() if holds]
    if faults:
        raise InputError("the weight-only settings are not possible", "; ".join(faults), "see WeightOnlySettings")
