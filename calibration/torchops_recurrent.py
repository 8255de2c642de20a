"""ONNX LSTM, GRU and RNN in torch, step by step, so that every weight gets its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from calibration.torchops_base import Call, Op, Refusal

_State = tuple[Tensor, ...]
_Step = Callable[[Tensor, _State, Tensor, Tensor, bool], _State]
"""(input part of the gates, state, recurrent weight, recurrent bias, linear_before_reset) -> next state."""

_GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS: Final = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}


def _lstm_step(gates: Tensor, state: _State, weight: Tensor, bias: Tensor, _linear: bool) -> _State:  # noqa: FBT001
    hidden, cell = state
    i, o, f, c = (gates + functional.linear(hidden, weight, bias)).chunk(4, dim=-1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(c)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _gru_step(gates: Tensor, state: _State, weight: Tensor, bias: Tensor, linear: bool) -> _State:  # noqa: FBT001
    (hidden,) = state
    size = hidden.shape[-1]
    z, r = torch.sigmoid(
        gates[..., : 2 * size] + functional.linear(hidden, weight[: 2 * size], bias[: 2 * size])
    ).chunk(2, dim=-1)
    kernel, offset = weight[2 * size :], bias[2 * size :]
    reset = r * functional.linear(hidden, kernel, offset) if linear else functional.linear(r * hidden, kernel, offset)
    return ((1 - z) * torch.tanh(gates[..., 2 * size :] + reset) + z * hidden,)


def _rnn_step(gates: Tensor, state: _State, weight: Tensor, bias: Tensor, _linear: bool) -> _State:  # noqa: FBT001
    return (torch.tanh(gates + functional.linear(state[0], weight, bias)),)


def _recurrent(step: _Step, gate_count: int, states: int) -> Op:
    """Inputs (x, W, R, B, sequence_lens, initial states...) -> (Y, last states...), as ONNX lays them out."""

    def run(call: Call) -> tuple[Tensor, ...]:
        value, kernel, recurrent = call.tensor(0), call.tensor(1), call.tensor(2)  # (T, N, I) (D, G H, I) (D, G H, H)
        directions, size = kernel.shape[0], recurrent.shape[-1]
        bias = call.optional(3)
        bias = value.new_zeros(directions, 2 * gate_count * size) if bias is None else bias
        begin = [
            value.new_zeros(directions, value.shape[1], size) if call.optional(5 + i) is None else call.tensor(5 + i)
            for i in range(states)
        ]
        linear = bool(call.integer("linear_before_reset", 0))
        outputs, last = [], []
        for direction in range(directions):
            backward = direction == 1 or call.text("direction", "forward") == "reverse"
            own, other = bias[direction].chunk(2)
            gates = functional.linear(value, kernel[direction], own)

            def advance(part: Tensor, state: _State, d: int = direction, offset: Tensor = other) -> _State:
                return step(part, state, recurrent[d], offset, linear)

            start = tuple(state[direction] for state in begin)
            sequence, final = _scan(gates, start, advance, call.optional(4), backward=backward)
            outputs.append(sequence)
            last.append(final)
        stacked = (torch.stack(outputs, dim=1), *(torch.stack(parts) for parts in zip(*last, strict=True)))
        return stacked[: call.outputs]

    return run


def _scan(
    gates: Tensor, state: _State, advance: Callable[[Tensor, _State], _State], lengths: Tensor | None, *, backward: bool
) -> tuple[Tensor, _State]:
    """All steps of one direction; a sequence that has ended gives zeros and keeps its state."""
    steps = [*range(gates.shape[0])]
    outputs: dict[int, Tensor] = {}
    for index in reversed(steps) if backward else steps:
        following = advance(gates[index], state)
        if lengths is None:
            state, outputs[index] = following, following[0]
        else:
            alive = (index < lengths).reshape(-1, 1)
            state = tuple(torch.where(alive, new, old) for new, old in zip(following, state, strict=True))
            outputs[index] = torch.where(alive, following[0], torch.zeros_like(following[0]))
    return torch.stack([outputs[index] for index in steps]), state


def _refuse(op: str) -> Refusal:
    def refuse(attributes: Mapping[str, Any], _outputs: int, _opset: int) -> str | None:
        named = [str(name).lower() for name in attributes.get("activations") or []]
        hindrances = {
            "activations other than the default": named != _ACTIVATIONS[op] * (len(named) // len(_ACTIVATIONS[op])),
            "clipping of the gates": bool(attributes.get("clip")),
            "the batch-first layout": bool(attributes.get("layout", 0)),
            "coupled gates": bool(attributes.get("input_forget", 0)),
        }
        return next((what for what, holds in hindrances.items() if holds), None)

    return refuse


OPS: Final[Mapping[str, Op]] = {
    "LSTM": _recurrent(_lstm_step, _GATES["LSTM"], 2),
    "GRU": _recurrent(_gru_step, _GATES["GRU"], 1),
    "RNN": _recurrent(_rnn_step, _GATES["RNN"], 1),
}

REFUSALS: Final[Mapping[str, Refusal]] = {op: _refuse(op) for op in OPS}

PEEPHOLES: Final = 7
"""LSTM's input of peephole weights, which has no implementation here."""
