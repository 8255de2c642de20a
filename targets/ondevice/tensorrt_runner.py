"""Opens and runs a TensorRT engine: buffers of our own, name-based inputs and outputs, a captured graph."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from . import cuda
from .failure import BAD_INPUT, DEVICE, Failure
from .runner import Bound, Runner
from .tensorrt_execution import Execution, Port
from .tensorrt_module import RTX, Vendor, import_vendor, last_line, logger
from .tensorrt_plan import activations_bytes, check_gpu, check_spec, check_version, deserialized, read_ours

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_NUMPY = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "BOOL": "bool", "UINT8": "uint8",
    "INT64": "int64",
}  # fmt: skip
_STAGE_RUNS = 100


def load_tensorrt(spec: Mapping[str, Any] | None = None) -> None:
    """Imports the vendor's module and initialises the driver, so that neither is counted as loading the engine.

    Raises:
        Failure: One of them is missing here (6).
    """
    cuda.driver()
    import_vendor("" if spec is None else str(spec.get("runtime", "")))


def tensorrt_errors() -> tuple[type[Exception], ...]:
    """The exceptions by which TensorRT's bindings and the driver report a fault."""
    return (cuda.CudaError, RuntimeError, ValueError, TypeError)


def open_tensorrt(folder: Path, spec: Mapping[str, Any]) -> TensorRtRunner:
    """Opens the engine of ``folder``.

    Raises:
        Failure: It is not one of ours (4), not built yet (3), of another version or for another GPU, or TensorRT or
            the driver is missing or refuses it (6).
    """
    check_spec(spec)
    cuda.driver()
    vendor = import_vendor(str(spec["runtime"]))
    check_version(folder, spec, vendor)
    check_gpu(folder, spec, cuda.gpu())
    return TensorRtRunner(vendor, read_ours(folder, spec), spec)


class TensorRtRunner(Runner):
    """An open engine; each binding has an execution context, a stream and buffers of its own.

    Attributes:
        memory: ``plan_bytes``, ``activations_bytes`` (of one execution context) and ``taken_bytes`` (what the GPU's
            free memory fell by when the engine was opened; other processes count too).
    """

    def __init__(self, vendor: Vendor, plan: bytes, spec: Mapping[str, Any]) -> None:
        self._spec = spec
        self._lines: list[str] = []
        self._bound: list[Execution] = []
        self._runtime: Any = None
        self._engine: Any = None
        self._context = cuda.Context()
        try:
            self._open(vendor, plan)
        except BaseException:
            self.close()
            raise

    def _open(self, vendor: Vendor, plan: bytes) -> None:
        spec, free = self._spec, self._context.free_bytes()
        log = logger(vendor, self._lines)
        self._runtime, self._engine = deserialized(vendor, log, plan, spec["options"])
        if self._engine is None:
            raise Failure(
                DEVICE, f"TensorRT {vendor.__version__} cannot open the engine", last_line(self._lines),
                "build it again on this device (ondevice.pyz build)",
            )  # fmt: skip
        self._ports = _ports(vendor, self._engine, spec)
        self._own = self._execution()
        self.memory = {
            "plan_bytes": len(plan),
            "activations_bytes": activations_bytes(self._engine),
            "taken_bytes": max(0, free - self._context.free_bytes()),
        }
        self.runtime_version = str(vendor.__version__)
        unit = "DLA" if spec["options"]["device"] == "dla" else "GPU"
        self.providers = ["{}:{}".format("TensorRT-RTX" if vendor.__name__ == RTX else "TensorRT", unit)]

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs of one feed, in the engine's order."""
        self._context.use()
        own = self._own
        own.prepare(_shapes(feed))
        for port in own.inputs:
            own.host[port.name].array[...] = _narrowed(feed[port.name], port)
        own.infer()
        return [_widened(own.host[port.name].array, port) for port in own.outputs]

    def bind(self, feeds: Sequence[Mapping[str, np.ndarray]], like: Sequence[np.ndarray]) -> Bound:  # noqa: ARG002
        """Calls on ``feeds``, which have one shape; inputs and outputs lie in pinned memory of their own."""
        self._context.use()
        execution = self._execution()
        execution.prepare(_shapes(feeds[0]))
        if any(_shapes(feed) != _shapes(feeds[0]) for feed in feeds):
            raise Failure(BAD_INPUT, "the feeds differ in shape", "one binding has one shape", "bind them one by one")
        slots = []
        for feed in feeds:
            slot = execution.slot()
            for port in execution.inputs:
                slot[port.name].array[...] = _narrowed(feed[port.name], port)
            slots.append(slot)
        execution.infer()  # the first after a new shape, and the capture: not the caller's time
        use, infer, count, outputs = self._context.use, execution.infer, len(slots), execution.outputs

        def call(index: int) -> None:
            use()
            infer(slots[index % count])

        def rows() -> list[list[np.ndarray]]:
            return [[_widened(slot[port.name].array, port) for port in outputs] for slot in slots]

        return Bound(call=call, outputs=rows)

    def stages(self, feed: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
        """Times as trtexec defines them, in ns: median and p99 of 100 inferences of ``feed``.

        ``h2d`` and ``d2h`` are the copies, ``compute`` the time between the events before and after the engine on its
        stream, ``enqueue`` the host's time in the call that starts it, ``latency`` the sum of copies and compute.
        """
        self.run(feed)
        own, events = self._own, [cuda.Event() for _ in range(4)]
        found: dict[str, list[int]] = {name: [] for name in ("h2d", "compute", "d2h", "enqueue", "latency")}
        try:
            for _ in range(_STAGE_RUNS):
                events[0].record(own.stream)
                own.copy_in()
                events[1].record(own.stream)
                start = time.perf_counter_ns()
                own.start()
                found["enqueue"].append(time.perf_counter_ns() - start)
                events[2].record(own.stream)
                own.copy_out()
                events[3].record(own.stream)
                events[3].wait()
                parts = [events[i + 1].ns_since(events[i]) for i in range(3)]
                for i, name in enumerate(("h2d", "compute", "d2h")):
                    found[name].append(parts[i])
                found["latency"].append(sum(parts))
        finally:
            for event in events:
                event.close()
        result: dict[str, Any] = {
            name: {"median_ns": int(np.median(values)), "p99_ns": int(np.percentile(values, 99))}
            for name, values in found.items()
        }
        return {**result, "n": _STAGE_RUNS, "cuda_graph": own.captured, "memory": self.memory}

    def close(self) -> None:
        """Frees contexts, buffers, streams and the engine."""
        self._context.use()
        for execution in self._bound:
            execution.close()
        self._bound.clear()
        self._engine = self._runtime = None
        self._context.close()

    def _execution(self) -> Execution:
        made = Execution(self._engine, self._ports, self._lines, graph=self._spec["options"]["cuda_graph"])
        self._bound.append(made)
        return made


def _ports(vendor: Vendor, engine: Any, spec: Mapping[str, Any]) -> list[Port]:  # noqa: ANN401 - the vendor's
    """Inputs and outputs in the order of engine.json, with the type that the engine gives each.

    Raises:
        Failure: Names differ, or a type has no counterpart in numpy (6).
    """
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    told = [(item, True) for item in spec["inputs"]] + [(item, False) for item in spec["outputs"]]
    if sorted(names) != sorted(item["name"] for item, _ in told):
        raise Failure(
            DEVICE, "the engine has other inputs and outputs than engine.json says", ", ".join(sorted(names)),
            "build the engine again",
        )  # fmt: skip
    ports = []
    for item, is_input in told:
        kind = engine.get_tensor_dtype(item["name"]).name
        if kind not in _NUMPY:
            raise Failure(
                DEVICE, "{!r} is of type {}, which numpy has not".format(item["name"], kind),
                "inputs and outputs have to be ordinary numbers", "convert the model with its inputs kept in float32",
            )  # fmt: skip
        if (engine.get_tensor_mode(item["name"]) == vendor.TensorIOMode.INPUT) != is_input:
            raise Failure(DEVICE, "engine.json is for another engine", "inputs and outputs differ", "build it again")
        ports.append(Port(item["name"], np.dtype(_NUMPY[kind]), np.dtype(item["dtype"]), is_input))
    return ports


def _shapes(feed: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in feed.items()}


def _narrowed(value: np.ndarray, port: Port) -> np.ndarray:
    """The input in the engine's type: TensorRT before 10 reads int64 as int32.

    Raises:
        Failure: A value does not fit into it (3).
    """
    if value.dtype == port.dtype:
        return value
    found = value.astype(port.dtype)
    if not np.array_equal(found.astype(value.dtype), value):
        raise Failure(
            BAD_INPUT, f"input {port.name!r} does not fit",
            f"the engine reads {port.dtype}, and a value is too large for it", "give values in its range",
        )  # fmt: skip
    return found


def _widened(value: np.ndarray, port: Port) -> np.ndarray:
    """A copy of an output in the model's type: the buffer is written again by the next inference."""
    return value.astype(port.model_dtype, copy=True)
