"""One execution context with its stream, buffers and captured graph: copy in, compute, copy out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import cuda
from .failure import BAD_INPUT, DEVICE, Failure
from .tensorrt_module import last_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    Slot = Mapping[str, cuda.PinnedArray]


class Port(NamedTuple):
    """One input or output.

    Attributes:
        name: Its name.
        dtype: As the engine reads or writes it.
        model_dtype: As the model has it.
        is_input: Whether it is read.
    """

    name: str
    dtype: np.dtype[Any]
    model_dtype: np.dtype[Any]
    is_input: bool


class Execution:
    """What one thread runs an engine with; made, used and closed where the engine's context is current.

    Attributes:
        stream: Everything happens in it, in order.
        inputs: The engine's inputs.
        outputs: Its outputs, in order.
        host: Pinned arrays of the current shape, by name.
        captured: Whether the engine is replayed from a graph.
    """

    def __init__(self, engine: Any, ports: Sequence[Port], lines: list[str], *, graph: bool) -> None:  # noqa: ANN401
        self._context = engine.create_execution_context()
        if self._context is None:
            raise MemoryError(f"TensorRT made no execution context: {last_line(lines)}")
        self._lines, self._wants_graph = lines, graph
        self.stream = cuda.Stream()
        self.inputs = [port for port in ports if port.is_input]
        self.outputs = [port for port in ports if not port.is_input]
        self.host: dict[str, cuda.PinnedArray] = {}
        self._device: dict[str, cuda.DeviceMemory] = {}
        self._slots: list[dict[str, cuda.PinnedArray]] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._graph: cuda.Graph | None = None
        self._refused = False

    @property
    def captured(self) -> bool:
        """Whether inferences are replayed from a graph."""
        return self._graph is not None

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Buffers for inputs of these shapes; one inference without capture, then the capture where one is wanted.

        Raises:
            Failure: The engine does not take these shapes (3).
            MemoryError: The buffers do not fit into the GPU or the host.
        """
        if dict(shapes) == self._shapes:
            return
        self._drop()
        for port in self.inputs:
            if not self._context.set_input_shape(port.name, tuple(shapes[port.name])):
                raise Failure(
                    BAD_INPUT, f"input {port.name!r} does not fit the engine",
                    f"{list(shapes[port.name])} is not in its optimisation profile; {last_line(self._lines)}",
                    "use a batch size that engine.batch of the target profile covers, or build it for this one",
                )  # fmt: skip
        missing = self._context.infer_shapes()
        if missing:
            raise _no_size(f"it lacks {missing}")
        try:
            for port in (*self.inputs, *self.outputs):
                size = tuple(int(each) for each in self._context.get_tensor_shape(port.name))
                if min(size, default=0) < 0:
                    raise _no_size(f"that of {port.name!r} depends on values: {list(size)}")
                self._sizes[port.name] = size
                self.host[port.name] = cuda.PinnedArray(size, port.dtype)
                self.host[port.name].array[...] = 0
                self._device[port.name] = cuda.DeviceMemory(self.host[port.name].bytes)
                self._context.set_tensor_address(port.name, self._device[port.name].address)
        except cuda.CudaError as error:
            self._drop()
            raise MemoryError(str(error)) from error
        self.copy_in()
        self._enqueue()  # TensorRT may still allocate in the first one, which cannot be captured
        self.stream.wait()
        self._shapes = dict(shapes)
        if self._wants_graph and not self._refused:
            self._capture()

    def slot(self) -> Slot:
        """Further pinned arrays of the current shapes, one for each input and output; freed with the rest."""
        ports = (*self.inputs, *self.outputs)
        made: dict[str, cuda.PinnedArray] = {}
        self._slots.append(made)  # at once: what is there already is freed where the next one does not fit
        for port in ports:
            made[port.name] = cuda.PinnedArray(self._sizes[port.name], port.dtype)
        return made

    def infer(self, slot: Slot | None = None) -> None:
        """Copies in, computes, copies out, and waits for the end."""
        self.copy_in(slot)
        self.start()
        self.copy_out(slot)
        self.stream.wait()

    def copy_in(self, slot: Slot | None = None) -> None:
        """Puts the copies of all inputs to the GPU into the stream."""
        arrays = self.host if slot is None else slot
        for port in self.inputs:
            arrays[port.name].to_device(self._device[port.name], self.stream)

    def copy_out(self, slot: Slot | None = None) -> None:
        """Puts the copies of all outputs from the GPU into the stream."""
        arrays = self.host if slot is None else slot
        for port in self.outputs:
            arrays[port.name].from_device(self._device[port.name], self.stream)

    def start(self) -> None:
        """Puts the engine's work into the stream: the graph where one was captured."""
        if self._graph is None:
            self._enqueue()
        else:
            self._graph.launch()

    def close(self) -> None:
        """Frees everything."""
        self._drop()
        self._context = None
        self.stream.close()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self.stream.handle.value or 0)):
            raise Failure(DEVICE, "the engine failed", last_line(self._lines), "run `verify` on this device")

    def _capture(self) -> None:
        """An engine that cannot be captured (a DLA's, one with loops) is run without; `captured` tells."""
        try:
            self._graph = self.stream.capture(self._enqueue)
        except (cuda.CudaError, Failure) as error:
            self._refused = True
            self._lines.append("WARNING: no CUDA graph: {}".format(" ".join(str(error).split())[:200]))

    def _drop(self) -> None:
        if self._graph is not None:
            self._graph.close()
        for arrays in (self.host, *self._slots):
            for array in arrays.values():
                array.close()
        for memory in self._device.values():
            memory.close()
        self._graph, self._shapes, self._sizes = None, {}, {}
        self.host, self._device, self._slots = {}, {}, []


def _no_size(why: str) -> Failure:
    return Failure(
        DEVICE,
        "the engine cannot tell its output shapes",
        why,
        "export the model so that shapes follow from the inputs'",
    )
