"""A torch model on disk: decisions plus weights, replayed on the user's factory. Runs no code but the user's own."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.graph import trace
from pipeline.pruning import Decisions, apply_decisions
from pipeline.usercode import FactoryRef, call_factory
from targets.errors import InputError, nearest

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


def make_model(factory: FactoryRef, seed: int) -> nn.Module:
    """The user's model in evaluation mode, with weights drawn from ``seed``.

    Raises:
        InputError: The factory raises, or returns something else than a module.
    """
    torch.manual_seed(seed)
    model = call_factory(factory, {}, "model.factory")
    if not isinstance(model, nn.Module):
        raise InputError(f"model.factory = {str(factory)!r} returned {type(model).__name__}", "it must return a torch.nn.Module", "return the module itself")
    return model.eval()


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
        raise InputError(f"the data has an input {unknown[0]!r}", f"forward() takes {', '.join(names)}", nearest(unknown[0], names))
    used = [name for name in names if name in arrays]
    if used != names[: len(used)]:
        raise InputError(
            f"the data gives {', '.join(used)}", f"forward() takes {', '.join(names)} in this order", "give every argument up to the last one used"
        )
    return tuple(_spec(name, arrays[name]) for name in used)


def _spec(name: str, array: np.ndarray[Any, Any]) -> InputSpec:
    return InputSpec(name=name, dtype=array.dtype.name, shape=tuple(array.shape[1:]))


def example_inputs(specs: Sequence[InputSpec], batch: int = 2) -> dict[str, Tensor]:
    """Zeros of the inputs' dtypes and shapes."""
    return {spec.name: torch.from_numpy(np.zeros((batch, *spec.shape), dtype=spec.dtype)) for spec in specs}


def load_user_weights(model: nn.Module, path: Path) -> None:
    """Loads the user's weights into the user's model, all of them and nothing else.

    ``.safetensors`` holds tensors only; ``.pt`` and ``.pth`` are read with ``weights_only=True``.

    Raises:
        InputError: The file cannot be read, a name or shape does not fit, or a weight is not finite.
    """
    state = _read_weights(path)
    expected = model.state_dict()
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in expected]
    if missing or unknown:
        first = unknown[0] if unknown else missing[0]
        raise InputError(
            f"{path.name} does not fit the model: {len(missing)} weights missing, {len(unknown)} unknown",
            f"{'unknown' if unknown else 'missing'}: {first!r}" + (f"; missing: {missing[0]!r}" if unknown and missing else ""),
            f"rename the model's layers or the weights; {nearest(first, expected if unknown else state)}",
        )
    for name, tensor in state.items():
        if tuple(tensor.shape) != tuple(expected[name].shape):
            raise InputError(
                f"weight {name!r} of {path.name} does not fit the model",
                f"the file has shape {tuple(tensor.shape)}, the model {tuple(expected[name].shape)}",
                "change model.args (width, classes), or give the weights of this architecture",
            )
    check_finite(state, path.name)
    model.load_state_dict(state, strict=False)


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in {".pt", ".pth"}:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise InputError(f"cannot read weights from {path.name}", f"{path.suffix!r} is no known kind", "give .safetensors (preferred), .pt or .pth")
    except InputError:
        raise
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(f"cannot read weights from {path}", _one_line(error), "check the file; Git LFS pointers need `git lfs pull`") from error
    except Exception as error:  # torch's unpickler raises its own private kinds for globals it refuses
        raise InputError(
            f"cannot read weights from {path}", _one_line(error), "save a plain state dict: torch.save(model.state_dict(), path), or safetensors"
        ) from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise InputError(f"{path.name} holds no state dict", f"it holds {type(loaded).__name__}", "save it with torch.save(model.state_dict(), path)")
    return dict(loaded)


def check_finite(state: Mapping[str, Tensor], subject: str) -> None:
    """Refuses weights that are NaN or infinite.

    Raises:
        InputError: Names the weight, how many values and where the first one is.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = (~torch.isfinite(tensor)).nonzero()
            raise InputError(
                f"weight {name!r} of {subject} is not finite",
                f"{len(bad)} values are NaN or Inf, the first at {bad[0].tolist()}",
                "give weights from a training that converged, or lower the learning_rate that made them",
            )


def save_model(folder: Path, graph: GraphModule, specs: Sequence[InputSpec], decisions: Decisions | None) -> None:
    """Writes ``model.json`` and ``weights.safetensors``; a tensor that several names share is written once.

    Raises:
        InputError: A weight is not finite.
    """
    state = graph.state_dict()
    check_finite(state, "the model")
    owners: dict[tuple[int, tuple[int, ...]], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in sorted(state.items()):
        owner = owners.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name) if tensor.numel() else name
        if owner != name:
            aliases[name] = owner
    save_file({name: tensor.detach().contiguous() for name, tensor in sorted(state.items()) if name not in aliases}, folder / "weights.safetensors")
    document = {
        "schema": 1,
        "inputs": [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in specs],
        "decisions": None if decisions is None else decisions.to_json(),
        "aliases": aliases,
    }
    (folder / "model.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_model(model: TorchModel, factory: FactoryRef, seed: int) -> tuple[GraphModule, tuple[InputSpec, ...], Decisions | None]:
    """The trainable graph of a model on disk, its inputs and what was pruned so far."""
    document = model.read_json("model.json")
    specs = tuple(InputSpec(name=item["name"], dtype=item["dtype"], shape=tuple(item["shape"])) for item in document["inputs"])
    graph = trace(make_model(factory, seed), example_inputs(specs))
    decisions = None if document["decisions"] is None else Decisions.from_json(document["decisions"])
    if decisions is not None:
        graph = apply_decisions(graph, decisions)
    state = load_file(model.weights)
    graph.load_state_dict({**state, **{name: state[owner] for name, owner in document["aliases"].items()}})
    return graph, specs, decisions


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
