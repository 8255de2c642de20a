"""Opens a model to watch its activations as the runtime computes them: in blocks of channels, not turned back.

ONNX Runtime runs convolutions on x86 in a layout of its own, blocks of channels, and turns what leaves the graph back.
For extremes and histograms the order of a sample's values says nothing, and turning every activation of MobileNetV2
back takes as long as computing it. So the optimised graph is written out, the turns before its outputs are taken away,
and it is opened again. A model without convolutions has no blocks; one that is too large for one file keeps its order.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import onnx

from calibration.exposure import exposed
from calibration.modelfile import runnable
from calibration.prepare import main_nodes
from calibration.session import Session
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from calibration.session import Array

_TURN_BACK: Final = "ReorderOutput"
_BLOCK: Final = 16  # the largest of the runtime; a multiple of it has no padding in any


@final
class Unordered:
    """Runs a float model for activations whose order within a sample does not matter.

    Args:
        model: Prepared; left as it is.
        names: Activations and outputs to read.
        threads: Threads inside one operator.

    Attributes:
        names: What they are called in the graph that is run.

    Raises:
        InputError: The runtime cannot load the model.
    """

    def __init__(self, model: ir.Model, names: Sequence[str], *, threads: int) -> None:
        with exposed(model.graph, names), runnable(model) as file:
            blocked = _blocked(file, names, threads) if isinstance(file, bytes) and _convolves(model) else None
            self._session, self.names = blocked or (Session(file, threads=threads, optimize=True), list(names))

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """The outputs, samples along the first axis as the model has them.

        Raises:
            InputError: The model fails on this batch.
            EnvironmentFailure: Memory ran out.
        """
        return self._session.run(self.names, feed) if self.names else []


def _convolves(model: ir.Model) -> bool:
    return any(node.op_type == "Conv" for node in main_nodes(model.graph))


def _blocked(model: bytes, names: Sequence[str], threads: int) -> tuple[Session, list[str]] | None:
    """The optimised model with blocks for outputs, and what ``names`` are called there; None where it has none."""
    try:
        with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
            file = Path(folder) / "model.onnx"
            Session(model, threads=threads, optimize=True, optimized_file=file)
            optimized = onnx.load(file, load_external_data=False)
            blocks = _take_turns_away(optimized, names)
            file.write_bytes(optimized.SerializeToString())
            session = Session(file, threads=threads, optimize=False) if blocks else None
    except (InputError, OSError):  # no room for it, or a runtime that does not open what it wrote
        return None
    if session is None or any(session.channels(name) != channels for name, channels in blocks.values()):
        return None
    return session, [blocks[name][0] if name in blocks else name for name in names]


def _take_turns_away(optimized: onnx.ModelProto, names: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Makes what lies before a turn the output instead of what lies behind it.

    Returns:
        Each such output -> what is the output now, and how many channels it has.
    """
    graph = optimized.graph
    read = {name for node in graph.node for name in node.input}
    found = {}
    for node in [*graph.node]:
        if node.op_type != _TURN_BACK or node.output[0] not in names or node.output[0] in read:
            continue
        channels = next(attribute.i for attribute in node.attribute if attribute.name == "channels")
        if channels % _BLOCK == 0:
            found[node.output[0]] = node.input[0], channels
            graph.node.remove(node)
    for output in [*graph.output]:
        if output.name in found:
            graph.output.remove(output)
            untyped = onnx.helper.make_tensor_value_info(found[output.name][0], onnx.TensorProto.FLOAT, None)
            graph.output.append(untyped)
    return found
