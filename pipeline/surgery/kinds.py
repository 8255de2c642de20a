"""Operators that can take each other's place: activations, pooling, normalisation; each by the name a recipe uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import torch
from torch import fx

from pipeline.graph.operators import arguments, operator_name

if TYPE_CHECKING:
    from torch._ops import OpOverload

Family: TypeAlias = Literal["activation", "pooling", "normalisation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """One activation.

    Attributes:
        plain: The operator.
        inplace: Its form that writes into its operand.
        arguments: What it takes beside its operand.
    """

    plain: OpOverload
    inplace: OpOverload
    arguments: tuple[float, ...] = ()


_ATEN: Final = torch.ops.aten

ACTIVATIONS: Final[Mapping[str, Activation]] = MappingProxyType(
    {
        "relu": Activation(plain=_ATEN.relu.default, inplace=_ATEN.relu_.default),
        "relu6": Activation(plain=_ATEN.hardtanh.default, inplace=_ATEN.hardtanh_.default, arguments=(0.0, 6.0)),
        "leaky_relu": Activation(plain=_ATEN.leaky_relu.default, inplace=_ATEN.leaky_relu_.default, arguments=(0.01,)),
        "elu": Activation(plain=_ATEN.elu.default, inplace=_ATEN.elu_.default),
        "silu": Activation(plain=_ATEN.silu.default, inplace=_ATEN.silu_.default),
        "hardswish": Activation(plain=_ATEN.hardswish.default, inplace=_ATEN.hardswish_.default),
        "gelu": Activation(plain=_ATEN.gelu.default, inplace=_ATEN.gelu_.default),
        "mish": Activation(plain=_ATEN.mish.default, inplace=_ATEN.mish_.default),
        "sigmoid": Activation(plain=_ATEN.sigmoid.default, inplace=_ATEN.sigmoid_.default),
        "hardsigmoid": Activation(plain=_ATEN.hardsigmoid.default, inplace=_ATEN.hardsigmoid_.default),
        "tanh": Activation(plain=_ATEN.tanh.default, inplace=_ATEN.tanh_.default),
    }
)
POOLS: Final = ("max_pool", "avg_pool")
NORMS: Final = ("layer_norm", "group_norm", "batch_norm")
_GATES: Final = {"sigmoid": "silu", "hardsigmoid": "hardswish"}


def family(kind: str) -> Family:
    """Which operators a kind can change places with."""
    return "activation" if kind in ACTIVATIONS else "pooling" if kind in POOLS else "normalisation"


def kind_of(node: fx.Node) -> str:
    """What an operator is called here; empty where it is none of these.

    ``x * sigmoid(x)`` written out is a SiLU, ``x * hardsigmoid(x)`` a Hardswish.
    """
    if node.op != "call_function":
        return ""
    name = operator_name(node)
    if name in ACTIVATIONS:
        return name
    if name == "hardtanh" and tuple(map(float, list(arguments(node).values())[1:3])) == (0.0, 6.0):
        return "relu6"
    if name == "mul":
        return _GATES.get(gate_of(node)[0], "")
    if name.rstrip("123d") in POOLS:
        return name.rstrip("123d")
    return name if name in NORMS else ""


def gate_of(node: fx.Node) -> tuple[str, fx.Node | None]:
    """For a product of x and a gate of x: the gate's operator and x; else nothing."""
    given = [value for value in node.args[:2] if isinstance(value, fx.Node)]
    for gate, x in ((given[-1:], given[:1]), (given[:1], given[-1:])):
        if len(given) == 2 and operator_name(gate[0]) in _GATES and gate[0].args[0] is x[0]:  # noqa: PLR2004 - a product
            return operator_name(gate[0]), x[0]
    return "", None
