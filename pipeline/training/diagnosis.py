"""Where NaN and Inf came from: the batch, and the first layer that gave one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Never, final

import torch
from torch import Tensor, fx, nn

from pipeline.graph.operators import module_path, operator_name
from targets.errors import InputError

if TYPE_CHECKING:
    from pipeline.training.batches import Rows
    from pipeline.training.results import When

_FIX = "lower learning_rate or set clip_norm, and look at these samples for extreme values"
_NAMED = 8
_HUGE = 1e15


def stop_for_loss(value: float, model: nn.Module, inputs: Sequence[Tensor], rows: Rows, when: When) -> Never:
    """Ends a training whose loss is not finite.

    Raises:
        InputError: Names epoch, step, samples and the first layer with such an output.
    """
    raise InputError(
        f"the training loss became {value}",
        f"in epoch {when.epoch}, step {when.number}, samples {_named(rows)}: {_first_layer(model, inputs)}",
        _FIX,
    )


def stop_for_gradient(model: nn.Module, rows: Rows, when: When) -> Never:
    """Ends a training whose gradient is not finite, before the weights follow it.

    Raises:
        InputError: Names epoch, step, samples and the parameter nearest to the loss with such a gradient.
    """
    names = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]
    where = f"first that of {names[-1]!r}" if names else _too_large(model)
    raise InputError(
        "a gradient became NaN or infinite",
        f"in epoch {when.epoch}, step {when.number}, samples {_named(rows)}: {where}; the loss itself was finite",
        _FIX,
    )


def _too_large(model: nn.Module) -> str:
    """Each number is finite: their norm is not, or the loss has parameters of its own."""
    largest = {
        name: float(p.grad.abs().max()) for name, p in model.named_parameters() if p.grad is not None and p.numel()
    }
    name = max(largest, key=lambda name: largest[name], default="")
    if largest and largest[name] > _HUGE:
        return f"their norm, the largest being {largest[name]:.1e} in {name!r}: training diverges"
    return "in the loss's own parameters"


def _named(rows: Rows) -> str:
    few = ", ".join(str(row) for row in rows[:_NAMED])
    return few if len(rows) <= _NAMED else f"{few}, ... ({len(rows)} in all)"


@torch.no_grad()
def _first_layer(model: nn.Module, inputs: Sequence[Tensor]) -> str:
    weight = next((name for name, tensor in model.named_parameters() if not _finite(tensor)), None)
    if weight is not None:
        return f"the weight {weight!r} is not finite"
    try:
        if isinstance(model, fx.GraphModule):
            _Watch(model).run(*inputs)
        else:
            _watch_modules(model, inputs)
    except _Found as found:
        return f"the first layer with such an output is {found.layer}"
    return "all layers are finite, the loss function itself is not"


@final
class _Found(Exception):
    def __init__(self, layer: str) -> None:
        super().__init__(layer)
        self.layer = layer


@final
class _Watch(fx.Interpreter):
    """Runs a graph and stops at the first operator whose result is not finite."""

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - whatever the operator gives
        value = super().run_node(n)
        if n.op == "call_function" and not _finite(value):
            path = module_path(n)
            raise _Found(f"{path!r} ({operator_name(n)})" if path else operator_name(n))
        return value


def _watch_modules(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    def hook(name: str) -> Any:  # noqa: ANN401 - a forward hook
        def look(_module: nn.Module, _inputs: object, output: object) -> None:
            if not _finite(output):
                raise _Found(repr(name))

        return look

    leaves = [(name, module) for name, module in model.named_modules() if not [*module.children()]]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: object) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    return not isinstance(value, Iterable) or isinstance(value, str | dict) or all(_finite(item) for item in value)
