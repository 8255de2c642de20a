"""How long TensorRT-RTX may build a net, and what is said of one with recurrent layers that takes longer."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from targets.errors import EnvironmentFailure
from targets.process import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

RECURRENT: Final = frozenset({"LSTM", "GRU", "RNN"})
_LIMIT_S: Final = 600.0  # it takes seconds; thousands of layers take a minute
# An LSTM's build was once not seen to end. Tried again, 1.7.1 built over a hundred recurrent nets without a GPU (1 to 6
# layers, 1 to 4000 steps, one or both directions, 1 to 1024 units, fp32, fp16 and int8) in 3 s each or less; graphs of
# 450 to 4000 layers took up to 15 ms a node. So what takes forty times as long is not waited for.
_RECURRENT_S: Final = 120.0
_NODE_S: Final = 0.1


def recurrent_nodes(model: onnx.ModelProto) -> list[str]:
    """The model's recurrent nodes, as messages name them."""
    return [f"node {node.name or node.op_type!r} ({node.op_type})" for node in model.graph.node if _is_recurrent(node)]


def _is_recurrent(node: onnx.NodeProto) -> bool:
    return node.op_type in RECURRENT and node.domain in {"", "ai.onnx"}


def rtx_limits(model: onnx.ModelProto) -> Limits:
    """What a build ahead of time may take; less where recurrent layers are all that takes time."""
    if not recurrent_nodes(model):
        return Limits(timeout_s=_LIMIT_S)
    return Limits(timeout_s=min(_LIMIT_S, _RECURRENT_S + _NODE_S * len(model.graph.node)))


@contextmanager
def recurrence_named(model: onnx.ModelProto) -> Iterator[None]:
    """Within it, a build that ran out of time says which recurrent layers the net has, and how to go on without it.

    Raises:
        EnvironmentFailure: As within, with node, rule and remedy.
    """
    try:
        yield
    except EnvironmentFailure as error:
        nodes = recurrent_nodes(model)
        if not nodes or "longer than its limit" not in error.why:
            raise
        more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
        why = f"{error.why}; it has {nodes[0]}{more}, and nets with such layers took 3 s and less when tried"
        fix = "leave this engine out: name the other candidates in [build] candidates, or another target's profile"
        raise EnvironmentFailure(error.what, why, fix) from error
