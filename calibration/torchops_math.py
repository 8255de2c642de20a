"""Element-wise operators, reductions and logic of ONNX in torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from calibration.torchops_base import TYPES, Call, Op, Refusal, wrap, wrap_two


def _divide(left: Tensor, right: Tensor) -> Tensor:
    return left / right if left.is_floating_point() else torch.div(left, right, rounding_mode="trunc")


def _power(left: Tensor, right: Tensor) -> Tensor:
    return torch.pow(left, right).to(left.dtype)


def _clip(call: Call) -> Tensor:
    value, low, high = call.tensor(0), call.optional(1), call.optional(2)
    value = value if low is None else torch.maximum(value, low.to(value.dtype))
    return value if high is None else torch.minimum(value, high.to(value.dtype))


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Op:
    """Along one axis since opset 13; before, over everything from the axis on."""

    def run(call: Call) -> Tensor:
        value = call.tensor(0)
        if call.opset >= 13:  # noqa: PLR2004 - an opset
            return function(value, call.integer("axis", -1))
        start = call.integer("axis", 1) % max(value.ndim, 1)
        flat = value.reshape(math.prod(value.shape[:start]), -1)
        return function(flat, 1).reshape(value.shape)

    return run


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Op:
    return lambda call: functools.reduce(function, [value for value in call.inputs if value is not None])


def _mean(call: Call) -> Tensor:
    values = [value for value in call.inputs if value is not None]
    return functools.reduce(torch.add, values) / len(values)


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Op:
    def run(call: Call) -> Tensor:
        value, axes = call.tensor(0), call.sizes(1, "axes")
        if not axes and call.integer("noop_with_empty_axes", 0):
            return value
        listed = sorted({axis % value.ndim for axis in axes}) if axes else [*range(value.ndim)]
        return function(value, listed, bool(call.integer("keepdims", 1))) if listed else value

    return run


def _product(value: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001 - as torch's reductions
    for axis in reversed(axes):
        value = torch.prod(value, dim=axis, keepdim=keep)
    return value


def _argument(function: Callable[..., Tensor]) -> Op:
    def run(call: Call) -> Tensor:
        return function(call.tensor(0), dim=call.integer("axis", 0), keepdim=bool(call.integer("keepdims", 1)))

    return run


def _cast(call: Call) -> Tensor:
    return call.tensor(0).to(TYPES[call.integer("to", 1)])


def _prelu(value: Tensor, slope: Tensor) -> Tensor:
    return torch.where(value < 0, value * slope, value)


def _hard_sigmoid(value: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.clamp(value * alpha + beta, 0.0, 1.0)


def _modulo(call: Call) -> Tensor:
    function = torch.fmod if call.integer("fmod", 0) else torch.remainder
    return function(call.tensor(0), call.tensor(1))


def _cumulative(call: Call) -> Tensor:
    value, axis = call.tensor(0), int(call.tensor(1))
    flip = bool(call.integer("reverse", 0))
    value = torch.flip(value, (axis,)) if flip else value
    total = torch.cumsum(value, axis)
    total = total - value if call.integer("exclusive", 0) else total
    return torch.flip(total, (axis,)) if flip else total


def _refuse_cast(attributes: Mapping[str, Any], _outputs: int, _opset: int) -> str | None:
    return None if int(attributes.get("to", 1)) in TYPES else f"a cast to element type {attributes['to']}"


def _refuse_select_last(attributes: Mapping[str, Any], _outputs: int, _opset: int) -> str | None:
    return "select_last_index" if int(attributes.get("select_last_index", 0)) else None


OPS: Final[Mapping[str, Op]] = {
    "Abs": wrap(torch.abs),
    "Add": wrap_two(torch.add),
    "And": wrap_two(torch.logical_and),
    "ArgMax": _argument(torch.argmax),
    "ArgMin": _argument(torch.argmin),
    "Cast": _cast,
    "CastLike": lambda call: call.tensor(0).to(call.tensor(1).dtype),
    "Ceil": wrap(torch.ceil),
    "Celu": lambda call: functional.celu(call.tensor(0), call.number("alpha", 1.0)),
    "Clip": _clip,
    "Cos": wrap(torch.cos),
    "CumSum": _cumulative,
    "Div": wrap_two(_divide),
    "Elu": lambda call: functional.elu(call.tensor(0), call.number("alpha", 1.0)),
    "Equal": wrap_two(torch.eq),
    "Erf": wrap(torch.erf),
    "Exp": wrap(torch.exp),
    "Floor": wrap(torch.floor),
    "Gelu": lambda call: functional.gelu(call.tensor(0), approximate=call.text("approximate", "none")),
    "Greater": wrap_two(torch.gt),
    "GreaterOrEqual": wrap_two(torch.ge),
    "HardSigmoid": lambda call: _hard_sigmoid(call.tensor(0), call.number("alpha", 0.2), call.number("beta", 0.5)),
    "HardSwish": lambda call: call.tensor(0) * _hard_sigmoid(call.tensor(0), 1 / 6, 0.5),
    "IsNaN": wrap(torch.isnan),
    "LeakyRelu": lambda call: functional.leaky_relu(call.tensor(0), call.number("alpha", 0.01)),
    "Less": wrap_two(torch.lt),
    "LessOrEqual": wrap_two(torch.le),
    "Log": wrap(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Max": _many(torch.maximum),
    "Mean": _mean,
    "Min": _many(torch.minimum),
    "Mish": wrap(functional.mish),
    "Mod": _modulo,
    "Mul": wrap_two(torch.mul),
    "Neg": wrap(torch.neg),
    "Not": wrap(torch.logical_not),
    "Or": wrap_two(torch.logical_or),
    "PRelu": wrap_two(_prelu),
    "Pow": wrap_two(_power),
    "Reciprocal": wrap(torch.reciprocal),
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda x, axes, keep: torch.amax(x, axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda x, axes, keep: torch.amin(x, axes, keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "Relu": wrap(torch.relu),
    "Round": wrap(torch.round),
    "Selu": wrap(functional.selu),
    "Sigmoid": wrap(torch.sigmoid),
    "Sign": wrap(torch.sign),
    "Sin": wrap(torch.sin),
    "Softmax": _softmax(torch.softmax),
    "Softplus": wrap(functional.softplus),
    "Softsign": wrap(functional.softsign),
    "Sqrt": wrap(torch.sqrt),
    "Sub": wrap_two(torch.sub),
    "Sum": _many(torch.add),
    "Tanh": wrap(torch.tanh),
    "Where": lambda call: torch.where(call.tensor(0), call.tensor(1), call.tensor(2)),
    "Xor": wrap_two(torch.logical_xor),
}

REFUSALS: Final[Mapping[str, Refusal]] = {
    "Cast": _refuse_cast,
    "ArgMax": _refuse_select_last,
    "ArgMin": _refuse_select_last,
    "Selu": lambda attributes, _outputs, _opset: "own alpha or gamma" if attributes else None,
}
