"""Traces a model into an exported graph, and says which line of the user's code stands in the way when it cannot."""

from __future__ import annotations

import inspect
import io
import logging
import sysconfig
import traceback
import warnings
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, fx, nn

from pipeline.graph.mode import mark_always_training
from targets.errors import EdgepressError, InputError
from targets.memory import memory_guard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LIBRARIES: Final = tuple(
    {
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        str(Path(torch.__file__).parent),
    }
)
_LONGEST_REASON: Final = 200


def trace(model: nn.Module, example: Mapping[str, Tensor]) -> fx.GraphModule:
    """The exported graph of a model in evaluation mode: trainable, parameters under the user's names.

    The graph shares its parameters and buffers with ``model``, which is left in evaluation mode.

    Args:
        model: Takes the inputs as positional arguments and gives a tensor, or tensors in a tuple, list or dict.
        example: One tensor an input, in the order of ``forward``'s parameters; axis 0 is the batch and stays dynamic.

    Raises:
        InputError: ``forward`` raises by itself, or cannot be traced; names the line of the user's code.
    """
    values = tuple(_at_least_two(name, value) for name, value in example.items())
    if not values:
        raise InputError("the model cannot be traced", "no example input was given", "declare the model's inputs")
    model.eval()
    _run_once(model, values)
    batch = torch.export.Dim("batch")
    try:
        with _quiet(), memory_guard("tracing the model"):
            program = torch.export.export(
                model, values, dynamic_shapes=_dynamic_shapes(model, values, batch), strict=False
            )
            gm = program.module(check_guards=False)
    except EdgepressError:
        raise
    except Exception as error:
        raise _untraceable(error, model) from error
    assert isinstance(gm, fx.GraphModule)
    gm.graph.eliminate_dead_code()  # what no output needs would hold dimensions for nobody
    gm.recompile()
    mark_always_training(gm)
    return gm


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch's deprecations and its dumps of half a graph away: what the user can act on is in our error."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def _at_least_two(name: str, value: Tensor) -> Tensor:
    """A batch of one would be specialised, and fail later for every other size."""
    if value.ndim == 0 or value.shape[0] == 0:
        raise InputError(
            "the model cannot be traced",
            f"the example for input {name!r} has no samples on axis 0 (its shape is {tuple(value.shape)})",
            "give every input a batch axis first, with at least one sample",
        )
    return value if value.shape[0] > 1 else torch.cat([value, value])


def _dynamic_shapes(model: nn.Module, values: tuple[Tensor, ...], batch: object) -> tuple[object, ...]:
    """One entry a positional parameter of ``forward``; a ``*args`` parameter takes the rest as one tuple."""
    shapes: list[object] = [{0: batch} for _ in values]
    for index, parameter in enumerate(inspect.signature(model.forward).parameters.values()):
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return (*shapes[:index], tuple(shapes[index:]))
    return tuple(shapes)


def _run_once(model: nn.Module, values: tuple[Tensor, ...]) -> None:
    try:
        with torch.no_grad(), memory_guard("the model's forward pass"):
            model(*values)
    except EdgepressError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(value.shape)) for value in values)
        raise InputError(
            "the model cannot be run on the example input",
            f"{_user_line(error, model)}: {type(error).__name__}: {_one_line(error)}",
            f"make forward() work for inputs of shape {shapes}, or mend the declared inputs",
        ) from error


def _untraceable(error: Exception, model: nn.Module) -> InputError:
    reason = _one_line(error)
    return InputError("the model cannot be traced", f"{_user_line(error, model)}: {reason}", _remedy(str(error), model))


def _user_line(error: BaseException, model: nn.Module) -> str:
    """File and line of the innermost frame that is neither a library's nor ours."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    for link in reversed(chain):  # the first cause knows the line best
        for frame in reversed(traceback.extract_tb(link.__traceback__)):
            if frame.filename != __file__ and not frame.filename.startswith((*_LIBRARIES, "<")):
                return f"{frame.filename}:{frame.lineno}"
    return _definition(model)


def _definition(model: nn.Module) -> str:
    """Where ``forward`` is defined: the best that is left when no frame of it is in the traceback."""
    code = getattr(type(model).forward, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else type(model).__name__


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    details = [line.removeprefix("- ").partition(". ")[0] for line in lines if line.startswith("- ")]
    if lines and lines[0].startswith("Constraints violated") and details:
        lines = details
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def _remedy(message: str, model: nn.Module) -> str:
    lowered = message.lower()
    recurrent = [name for name, module in model.named_modules() if isinstance(module, nn.RNNBase)]
    if "data-dependent" in lowered or "data dependent" in lowered or "guard on" in lowered:
        return "replace `if` on a tensor's value by torch.where, and .item() or nonzero() by operations of fixed shape"
    if recurrent and ("rnn" in lowered or "constraint" in lowered or "specializ" in lowered or "flatten" in lowered):
        return f"give the recurrent layer {recurrent[0]!r} a fixed sequence length and leave only the batch axis free"
    if "constraint" in lowered or "specializ" in lowered:
        return "keep the batch size free: use x.shape[0] or -1 in view(), never a number, int() or a per-batch buffer"
    return (
        "rewrite that line with torch operators only, without branches on values; `torch.export.export` must accept it"
    )
