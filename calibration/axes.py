"""Free axes of a model's inputs beside the batch: engines are built for one size, that of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from targets.errors import InputError
from targets.onnxfile import size_or_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from targets.onnxfile import ModelIo


def free_axes(io: ModelIo, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """What free axes are called, and their size in the data.

    Args:
        io: The model's inputs and outputs.
        shapes: Shape of one sample of each input, without the batch axis.

    Raises:
        InputError: Axes of one name have two sizes in the data.
    """
    batch = {spec["shape"][0] for spec in io["inputs"] if spec["shape"]}
    sizes: dict[str, int] = {}
    for spec in io["inputs"]:
        for name, size in zip(spec["shape"][1:], shapes[spec["name"]], strict=True):
            if not isinstance(name, str) or name in batch:
                continue
            if sizes.setdefault(name, size) != size:
                raise InputError(
                    f"axis {name!r} of the model has size {sizes[name]} in one input of the data and {size} in another",
                    f"the model calls both {name!r}, so they must be equal",
                    "give the inputs equal sizes there, or export the model with two names",
                )
    return sizes


def fix_axes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> None:
    """Gives the free axes of inputs their size, and axes of the same name everywhere else in the graph.

    Args:
        model: Changed in place; the first axis of its inputs stays free.
        sizes: As from `free_axes`.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in constants:
            continue
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            name = size_or_name(value.name, axis, dim)
            if axis and isinstance(name, str) and name in sizes:
                dim.dim_value = sizes[name]
    for value in (*model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
