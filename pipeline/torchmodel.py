"""A torch model on disk: edits and weights, replayed on the user's factory. Runs no code but the user's own."""

from __future__ import annotations

import inspect
import json
import random
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline.edits import Edit, apply_edits, edits_from_json, edits_to_json
from pipeline.graph import trace
from pipeline.graph.paths import check_patterns, fits
from pipeline.usercode import FactoryRef, call_factory
from pipeline.weights import read_weights
from targets.errors import InputError, nearest
from targets.onnxtensors import is_mask
from targets.words import counted

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from pipeline.artifacts import TorchModel
    from pipeline.data import Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """One model input.

    Attributes:
        name: Name of the argument of ``forward``.
        dtype: numpy name of the dtype.
        shape: Without the batch dimension.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


_made: Final[weakref.WeakSet[nn.Module]] = weakref.WeakSet()


def make_model(factory: FactoryRef, seed: int) -> nn.Module:
    """The user's model in evaluation mode, with weights drawn from ``seed``.

    Raises:
        InputError: The factory raises, returns something else than a module, or the same module twice.
    """
    model = call_factory(factory, {}, factory.where, prepare=lambda: _seed_all(seed))
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{factory.where} = {str(factory)!r} returned {type(model).__name__}",
            "it must return a torch.nn.Module",
            "return the module itself",
        )
    if model in _made:  # teacher and student would be one set of weights
        raise InputError(
            f"{factory.where} = {str(factory)!r} returned the same module twice",
            "every call must give a model of its own, with its own weights",
            "build the module inside the function; keep no instance at the top of the file or in a cache",
        )
    _made.add(model)
    return model.eval()


def _seed_all(seed: int) -> None:
    """Whichever of the common generators the factory draws from."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the user's code may use numpy's global generator
    random.seed(seed)


def input_specs(model: nn.Module, data: Dataset) -> tuple[InputSpec, ...]:
    """The model's inputs in the order of ``forward``; a lone unnamed array goes to its first argument.

    Raises:
        InputError: The data's names are not arguments of ``forward``.
    """
    arrays = data["validation"].inputs
    names = [
        parameter.name
        for parameter in inspect.signature(model.forward).parameters.values()
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ]
    if list(arrays) == [""]:
        return (_spec(names[0] if names else "input", arrays[""]),)
    unknown = [name for name in arrays if name not in names]
    if unknown:
        raise InputError(
            f"the data has an input {unknown[0]!r}",
            f"forward() takes {', '.join(names) or 'no named arguments'}",
            f"name the arrays like the arguments of forward(); {nearest(unknown[0], names)}",
        )
    used = [name for name in names if name in arrays]
    if used != names[: len(used)]:
        raise InputError(
            f"the data gives {', '.join(used)}",
            f"forward() takes {', '.join(names)} in this order",
            "give every argument up to the last one used",
        )
    return tuple(_spec(name, arrays[name]) for name in used)


def _spec(name: str, array: np.ndarray[Any, Any]) -> InputSpec:
    return InputSpec(name=name, dtype=array.dtype.name, shape=tuple(array.shape[1:]))


def example_inputs(specs: Sequence[InputSpec], batch: int = 2) -> dict[str, Tensor]:
    """Zeros of the inputs' dtypes and shapes."""
    return {spec.name: torch.from_numpy(np.zeros((batch, *spec.shape), dtype=spec.dtype)) for spec in specs}


def load_user_weights(model: nn.Module, path: Path, *, fresh: Sequence[str] = ()) -> None:
    """Loads the user's weights into the user's model, all of them and nothing else.

    ``.safetensors`` holds tensors only; ``.pt`` and ``.pth`` are looked through and read in a limited child.
    Counters of batch-norm, and names tied to a weight that is there, may be missing.

    Args:
        model: The user's.
        path: The file.
        fresh: Module or parameter paths (globs) that stay as the factory drew them, whatever the file has for them.

    Raises:
        InputError: The file cannot be read, a name or shape does not fit, or a weight is not finite.
        RefusedError: The file holds code beside tensors.
    """
    state = read_weights(path)
    expected = model.state_dict()
    check_patterns("finetune.fresh", fresh, {*expected, *state})
    state = {name: tensor for name, tensor in state.items() if not fits(name, fresh)}
    expected = {name: tensor for name, tensor in expected.items() if not fits(name, fresh)}
    _check_names(state, expected, path.name)
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"weight {name!r} of {path.name} does not fit the model",
                f"the file has shape {tuple(tensor.shape)}, the model {tuple(expected[name].shape)}",
                "change model.args (width, classes), or give the weights of this architecture",
            )
    check_finite(state, model, path.name)
    model.load_state_dict(state, strict=False)


def _check_names(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], file: str) -> None:
    owners = _owners(expected)
    given = {owners[name] for name in state if name in owners}
    missing = [
        name
        for name in expected
        if name not in state and owners[name] not in given and not name.endswith("num_batches_tracked")
    ]
    unknown = [name for name in state if name not in expected]
    if not missing and not unknown:
        return
    first = unknown[0] if unknown else missing[0]
    prefix = first.partition(".")[0] + "."
    if unknown and all(name.startswith(prefix) and name.removeprefix(prefix) in expected for name in state):
        fix = f"remove the prefix {prefix!r} from all names of the file (a wrapper such as DataParallel put it there)"
    else:
        fix = f"rename the model's layers or the weights; {nearest(first, expected if unknown else state)}"
    raise InputError(
        f"{file} does not fit the model: {counted(len(missing), 'weight')} missing, {len(unknown)} unknown",
        f"{'unknown' if unknown else 'missing'}: {first!r}"
        + (f"; missing: {missing[0]!r}" if unknown and missing else ""),
        fix,
    )


def _owners(state: Mapping[str, Tensor]) -> dict[str, str]:
    """For each name the first name, in sorted order, of the same tensor: itself unless weights are tied."""
    seen: dict[tuple[object, ...], str] = {}
    return {
        name: seen.setdefault((state[name].data_ptr(), state[name].shape, state[name].stride()), name)
        if state[name].numel()
        else name
        for name in sorted(state)
    }


def check_finite(state: Mapping[str, Tensor], model: nn.Module, subject: str) -> None:
    """Refuses weights that are NaN or infinite; a buffer may be a mask (`targets.onnxtensors.is_mask`).

    Raises:
        InputError: Names the weight, how many values and where the first one is.
    """
    learned = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in state.items():
        if not tensor.is_floating_point() or torch.isfinite(tensor).all():
            continue
        if name in learned or not is_mask(tensor.detach().float().cpu().numpy()):
            bad = (~torch.isfinite(tensor)).nonzero()
            raise InputError(
                f"weight {name!r} of {subject} is not finite",
                f"{counted(len(bad), 'value is', 'values are')} NaN or Inf, the first at {bad[0].tolist()}",
                "give weights from a training that converged, or lower the learning_rate that made them",
            )


def save_model(folder: Path, graph: GraphModule, specs: Sequence[InputSpec], edits: Sequence[Edit]) -> None:
    """Writes ``model.json`` and ``weights.safetensors``; a tensor that several names share is written once.

    Args:
        folder: Where to.
        graph: The model after all edits.
        specs: Its inputs.
        edits: All that was done to the graph of the user's factory, in order: those of the model it came from first.

    Raises:
        InputError: A weight is not finite.
    """
    state = graph.state_dict()
    check_finite(state, graph, "the model")
    aliases = {name: owner for name, owner in _owners(state).items() if owner != name}
    own = {name: state[name].detach().clone(memory_format=torch.contiguous_format) for name in sorted(state)}
    weights = save({name: tensor for name, tensor in own.items() if name not in aliases})
    (folder / "weights.safetensors").write_bytes(weights)  # a full disk is an OSError here, and none in save_file
    document = {
        "schema": 2,
        "inputs": [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs],
        "edits": edits_to_json(edits),
        "aliases": aliases,
    }
    (folder / "model.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_model(
    model: TorchModel, factory: FactoryRef, seed: int
) -> tuple[GraphModule, tuple[InputSpec, ...], tuple[Edit, ...]]:
    """The trainable graph of a model on disk, its inputs and all that was edited so far.

    Raises:
        InputError: The edits cannot be read, or do not fit what the factory makes.
    """
    document = model.read_json("model.json")
    specs = tuple(
        InputSpec(name=item["name"], dtype=item["dtype"], shape=tuple(item["shape"])) for item in document["inputs"]
    )
    edits = edits_from_json(document["edits"])
    graph = apply_edits(trace(make_model(factory, seed), example_inputs(specs)), edits)
    state = load_file(model.weights)
    graph.load_state_dict({**state, **{name: state[owner] for name, owner in document["aliases"].items()}})
    for edit in edits:
        edit.check(graph)
    return graph, specs, edits
