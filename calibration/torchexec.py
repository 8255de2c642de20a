"""Runs an ONNX graph, float or with Q/DQ, as a differentiable torch module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from calibration import (
    torchops_math,
    torchops_nn,
    torchops_quant,
    torchops_recurrent,
    torchops_resize,
    torchops_scatter,
    torchops_shape,
)
from calibration.torchops_base import TYPES, Call, Op, Refusal
from targets.errors import InputError

_FILES: Final = (
    torchops_math,
    torchops_shape,
    torchops_nn,
    torchops_quant,
    torchops_resize,
    torchops_recurrent,
    torchops_scatter,
)
OPS: Final[Mapping[str, Op]] = {name: op for file in _FILES for name, op in file.OPS.items()}
_REFUSALS: Final[Mapping[str, Refusal]] = {name: refusal for file in _FILES for name, refusal in file.REFUSALS.items()}
_QUANTISE: Final = "QuantizeLinear"
_DEQUANTISE: Final = "DequantizeLinear"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One node, ready to run."""

    node: str
    op: Op
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


def unsupported(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """Nodes without an implementation here, as (node, operator and what of it), in graph order; empty when all run."""
    opset = _opset(model)
    typed = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = []
    for index, node in enumerate(model.graph.node):
        what = _hindrance(node, opset)
        strange = next((name for name in node.input if name in typed and typed[name] not in TYPES), None)
        if what is None and strange is not None:
            what = f"{node.op_type} ({onnx.TensorProto.DataType.Name(typed[strange])} constant)"
        if what is not None:
            found.append((node.name or f"{node.op_type}_{index}", what))
    return found


@final
class TorchGraph(nn.Module):
    """An ONNX graph as a torch function.

    Float initializers are parameters (``parameter(name)``) that want no gradient until told so; integers are buffers.
    Integer results of QuantizeLinear are kept in floating point, so that gradients pass through what moves them; a
    QuantizeLinear that is read back at once is computed in one step. Any tensor can be given from outside: weights
    under training, a block's input, a scale.

    Args:
        model: Any model whose nodes all have an implementation.

    Raises:
        InputError: A node has none; all of them are named.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        missing = unsupported(model)
        if missing:
            raise InputError(
                f"{len(missing)} nodes have no differentiable implementation: {missing[0][1]} at {missing[0][0]!r}",
                "; ".join(sorted({op for _, op in missing}))[:300],
                "keep to post-training quantisation without learning, or export the model with other operators",
            )
        self._opset = _opset(model)
        self._where: dict[str, str] = {}
        for index, tensor in enumerate(model.graph.initializer):
            self._add_constant(tensor.name, numpy_helper.to_array(tensor), f"t{index}")
        self.inputs: Final = tuple(v.name for v in model.graph.input if v.name not in self._where)
        self.outputs: Final = tuple(value.name for value in model.graph.output)
        self._steps = [_step(node) for node in model.graph.node]
        self._maker = {name: step for step in self._steps for name in step.outputs if name}
        self._plans: dict[tuple[frozenset[str], tuple[str, ...]], list[_Step]] = {}

    def parameter(self, name: str) -> Tensor:
        """The tensor of an initializer."""
        value: Tensor = getattr(self, self._where[name])
        return value

    def path(self, given: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
        """Names of the tensors that are computed on the way from ``given`` to ``wanted``, in order."""
        return tuple(name for step in self._plan(frozenset(given), tuple(wanted)) for name in step.outputs)

    def forward(
        self, feeds: Mapping[str, Tensor], *, given: Mapping[str, Tensor] | None = None, wanted: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """Tensors by name; only the nodes they need are run.

        Args:
            feeds: The graph's inputs (those that are needed).
            given: Tensors that replace initializers or results of nodes.
            wanted: What to return; the graph's outputs when empty.

        Raises:
            InputError: A needed input is missing.
        """
        values = {**feeds, **(given or {})}
        names = tuple(wanted) or self.outputs
        for step in self._plan(frozenset(values), names):
            results = step.op(self._call(step, values))
            for name, value in zip(step.outputs, (results,) if isinstance(results, Tensor) else results, strict=False):
                if name not in values:
                    values[name] = value
        return {name: values[name] if name in values else self.parameter(name) for name in names}

    def _call(self, step: _Step, values: Mapping[str, Tensor]) -> Call:
        inputs = [
            None if not name else values[name] if name in values else self.parameter(name) for name in step.inputs
        ]
        return Call(inputs=inputs, attributes=step.attributes, outputs=len(step.outputs), opset=self._opset)

    def _plan(self, given: frozenset[str], wanted: tuple[str, ...]) -> list[_Step]:
        key = given, wanted
        if key not in self._plans:
            self._plans[key] = self._ordered(given, wanted)
        return self._plans[key]

    def _ordered(self, given: frozenset[str], wanted: tuple[str, ...]) -> list[_Step]:
        """The steps that lead from what is given to what is wanted, in graph order."""
        chosen: dict[str, _Step] = {}
        todo = [*wanted]
        while todo:
            name = todo.pop()
            if not name or name in given or name in chosen or name in self._where:
                continue
            if name not in self._maker:
                raise InputError(
                    f"the graph has no tensor {name!r} to compute",
                    "it is no result of a node, no constant and was not given",
                    f"feed it with the inputs {', '.join(self.inputs)}",
                )
            step = self._fused(self._maker[name], given)
            chosen |= dict.fromkeys(step.outputs, step)
            todo += step.inputs
        order = {id(step.outputs): index for index, step in enumerate(self._steps)}
        unique = {id(step): step for step in chosen.values()}
        return sorted(unique.values(), key=lambda step: order[id(step.outputs)])

    def _fused(self, step: _Step, given: frozenset[str]) -> _Step:
        """A DequantizeLinear right behind its QuantizeLinear, as one step."""
        maker = self._maker.get(step.inputs[0]) if step.kind == _DEQUANTISE else None
        if (
            maker is None
            or maker.kind != _QUANTISE
            or step.inputs[0] in given
            or maker.inputs[1:] != step.inputs[1:]
            or maker.attributes.get("axis") != step.attributes.get("axis")
        ):
            return step
        return _Step(
            node=step.node,
            op=torchops_quant.quantise_dequantise,
            kind="QuantizeDequantize",
            inputs=maker.inputs,
            outputs=step.outputs,
            attributes=maker.attributes,
        )

    def _add_constant(self, name: str, array: np.ndarray[Any, np.dtype[np.generic]], slot: str) -> None:
        value = torch.from_numpy(np.array(array))
        self._where[name] = slot
        if value.is_floating_point():
            self.register_parameter(slot, nn.Parameter(value, requires_grad=False))
        else:
            self.register_buffer(slot, value)


def _step(node: onnx.NodeProto) -> _Step:
    return _Step(
        node=node.name,
        op=OPS[node.op_type],
        kind=node.op_type,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes={attribute.name: _attribute(attribute) for attribute in node.attribute},
    )


def _attribute(attribute: onnx.AttributeProto) -> object:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return torch.from_numpy(np.array(numpy_helper.to_array(value)))
    if isinstance(value, bytes):
        return value.decode()
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [text.decode() for text in value]
    return value


def _hindrance(node: onnx.NodeProto, opset: int) -> str | None:
    if node.domain not in {"", "ai.onnx"} or node.op_type not in OPS:
        return node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}.{node.op_type}"
    if node.op_type == "LSTM" and len(node.input) > torchops_recurrent.PEEPHOLES and node.input[-1]:
        return "LSTM (peepholes)"
    if node.op_type not in _REFUSALS:
        return None
    attributes = {attribute.name: _attribute(attribute) for attribute in node.attribute}
    what = _REFUSALS[node.op_type](attributes, sum(bool(name) for name in node.output), opset)
    return None if what is None else f"{node.op_type} ({what})"


def _opset(model: onnx.ModelProto) -> int:
    return next((int(entry.version) for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0)
