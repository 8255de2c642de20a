"""import: an ONNX file of the user's, checked, as the float model that quantize starts from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from calibration.axes import free_axes
from pipeline.artifacts import DatasetInfo, OnnxModel
from pipeline.data import DataSource
from pipeline.data.source import FileRef, check_unchanged
from pipeline.stages.base import Context, Stage
from pipeline.tasks import Task
from targets.errors import InputError
from targets.process import call_limited, untrusted

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.data import Split
    from targets.onnxfile import ModelIo

IMPORT_TIMEOUT_S: Final = 1800.0

_LOCATION: Final = re.compile(rb"\x0a\x08location\x12([\x80-\xff]?)([\x00-\x7f])", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportInputs:
    """The data that the model must fit."""

    data: DatasetInfo


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImportStage(Stage[ImportInputs]):
    """Copies the file, having checked that it opens, runs on the data and gives what the task needs.

    Axes that are free beside the batch get the size that they have in the data.

    Attributes:
        onnx: The file.
        external: The files that hold its external data.
        source: The data.
        task: What the model is for.
    """

    name = "import"
    version = 2
    consumes = ImportInputs
    produces = OnnxModel
    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "numpy")

    onnx: FileRef
    external: tuple[FileRef, ...]
    source: DataSource
    task: Task

    def run(self, src: ImportInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``model.onnx`` and ``io.json``; external data moves into the file; children read and run it."""
        read = call_limited(
            "calibration.child_import:import_in_child",
            {"model": str(self.onnx.path.absolute()), "out": str(out)},
            limits=untrusted(IMPORT_TIMEOUT_S),
            what=f"reading {self.onnx.path.name}",
        )
        for file in (self.onnx, *self.external):
            check_unchanged(file, "model.onnx")
        data = context.data.checked(self.source, src.data)
        io: ModelIo = read["io"]  # type: ignore[assignment]  # as `io_of` wrote it
        split = bind_to_onnx(data["validation"], io)
        sizes = free_axes(io, {name: array.shape[1:] for name, array in split.inputs.items()})
        if sizes:
            io = self._fix_axes(out, sizes, context)
        outputs = self._run(out / "model.onnx", io, split, context.scratch)
        task = self.task
        task.check_outputs(outputs, data)
        return {
            **task.named(task.score(outputs, split.labels, outputs)),
            "parameters": read["parameters"],
            "size_bytes": (out / "model.onnx").stat().st_size,
            "fixed_axes": sizes,
        }

    def _fix_axes(self, out: Path, sizes: Mapping[str, int], context: Context) -> ModelIo:
        told = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        context.warn(
            f"engines are built for one size of each axis but the batch: {told}, as in the data; "
            "for other sizes give data of that size and run again"
        )
        fixed = call_limited(
            "calibration.child_import:fix_axes_in_child",
            {"out": str(out), "sizes": sizes},
            limits=untrusted(IMPORT_TIMEOUT_S),
            what=f"fixing the axes of {self.onnx.path.name}",
        )
        io: ModelIo = fixed["io"]  # type: ignore[assignment]  # as `io_of` wrote it
        return io

    def _run(self, model: Path, description: Mapping[str, Any], split: Split, scratch: Path) -> list[npt.NDArray[Any]]:
        """The model's outputs, ``(N, ...)`` each; whoever made it may have made it to run for ever."""
        import numpy as np

        from pipeline.stages.inference import save_inputs, served_batch

        save_inputs(scratch / "inputs.npz", split)
        names = [str(output["name"]) for output in description["outputs"]]
        call_limited(
            "calibration.child_import:run_in_child",
            {
                "model": str(model),
                "inputs": str(scratch / "inputs.npz"),
                "outputs": names,
                "batch": served_batch(description),
                "out": str(scratch),
            },
            limits=untrusted(IMPORT_TIMEOUT_S),
            what=f"running {self.onnx.path.name} for the first time",
        )
        return [np.load(scratch / f"{number}.npy", allow_pickle=False) for number in range(len(names))]


def external_files(onnx: Path) -> list[Path]:
    """The files beside ``onnx`` that its external data may lie in, found without parsing it.

    Every location stands in the file as a protobuf entry: field 1 is the word, field 2 length and text. Whether it may
    be read is for `targets.onnxfile` to say; here only what lies below the model's folder counts.
    """
    data = onnx.read_bytes()
    found = set()
    for match in _LOCATION.finditer(data):
        low, high = match.groups()  # a varint of one or two bytes
        length = (low[0] & 0x7F) | high[0] << 7 if low else high[0]
        name = data[match.end() : match.end() + length].decode("utf-8", "replace")
        inside = "\0" not in name and not name.startswith("/") and ".." not in name.split("/")
        if inside and (onnx.parent / name).is_file():
            found.add(onnx.parent / name)
    return sorted(found)


def bind_to_onnx(split: Split, description: Mapping[str, Any]) -> Split:
    """The split with the inputs that an ``io.json`` names, in its order.

    Raises:
        InputError: Names, dtypes or shapes do not fit; both sides are named.
    """
    wanted = {item["name"]: item for item in description["inputs"]}
    if list(split.inputs) != [""] and set(split.inputs) != set(wanted):
        raise InputError(
            f"the data has inputs {', '.join(split.inputs)}",
            f"the model takes {', '.join(wanted)}",
            "name each array like a model input",
        )
    if list(split.inputs) == [""] and len(wanted) != 1:
        raise InputError(
            "the data has one unnamed input",
            f"the model takes {', '.join(wanted)}",
            "return a mapping from input name to array",
        )
    bound = split.bound(tuple(wanted))
    for name, array in bound.inputs.items():
        shape = wanted[name]["shape"][1:]
        fits = len(shape) == array.ndim - 1 and all(
            isinstance(w, str) or w == f for w, f in zip(shape, array.shape[1:], strict=True)
        )
        if array.dtype.name != wanted[name]["dtype"] or not fits:
            raise InputError(
                f"input {name!r} of the data is {array.dtype.name} of shape {array.shape[1:]} per sample",
                f"the model takes {wanted[name]['dtype']} of shape {tuple(shape)}",
                "convert the arrays where the data is made",
            )
    return bound
