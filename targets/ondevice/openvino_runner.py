"""Runs an engine folder in OpenVINO, compiled for the shapes of each feed.

The engine file is ONNX; it is compiled here, for this device. Compiled for one batch size it is faster than compiled
for any (batch 1, one thread: 1.04 to 1.1 times), so each batch size is compiled when it first comes.

No compiled model travels: it is bound to the version of OpenVINO, the device and the CPU's features, its bytes are not
the same twice, and it saves a quarter to half of a second when an engine is loaded, nothing later. A device that
loads often keeps compiled models in the folder that ``EDGEPRESS_OPENVINO_CACHE`` names: OpenVINO then looks there
first, and takes only what this version made for this device, these options and this very model. Without the variable
nothing is written, and a measured load is always the same work.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from .failure import DEVICE, Failure
from .openvino_module import (
    MEMORY_MARKS,
    Core,
    OpenVino,
    check_options,
    import_openvino,
    message,
    openvino_errors,
    require_device,
    settings,
    short_version,
)
from .runner import Bound, Runner
from .session import out_of_memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Feed = Mapping[str, np.ndarray]
    Shapes = tuple[tuple[str, tuple[int, ...]], ...]  # in the order of names

Compiled = Any  # openvino.CompiledModel
Request = Any  # openvino.InferRequest
_KEPT = 4  # compiled models that are kept; the one not used for longest goes


def open_openvino(folder: Path, spec: Mapping[str, Any]) -> OpenVinoRunner:
    """Opens the engine of ``folder``; it is compiled by `OpenVinoRunner.prepare`, or when the first feed comes.

    Raises:
        Failure: OpenVINO is missing, lacks the device or cannot read the engine (6), or options are wrong (3).
    """
    check_options(spec["options"])
    runtime = import_openvino()
    core = runtime.Core()
    require_device(runtime, core, spec["options"]["device"])
    return OpenVinoRunner(runtime, core, str(folder / spec["file"]), spec)


def compile_for(core: Core, path: str, shapes: Mapping[str, Sequence[int]], wanted: Mapping[str, Any]) -> Compiled:
    """The model of ``path`` compiled for these input shapes.

    Args:
        core: An ``openvino.Core``.
        path: The engine file.
        shapes: Of every input.
        wanted: Properties, with ``device`` beside them.
    """
    properties = dict(wanted)
    device = properties.pop("device")
    model = core.read_model(path)
    fixed = {name: list(shape) for name, shape in shapes.items()}
    if any(model.input(name).get_partial_shape().is_dynamic for name in fixed):
        model.reshape(fixed)
    return core.compile_model(model, device, properties)


class OpenVinoRunner(Runner):
    """OpenVINO: one compiled model for each set of input shapes and number of streams."""

    def __init__(self, runtime: OpenVino, core: Core, path: str, spec: Mapping[str, Any]) -> None:
        self._runtime, self._core, self._path = runtime, core, path
        self._options = spec["options"]
        self._built_with = spec.get("runtime_version", "?")
        self._names = [item["name"] for item in spec["outputs"]]
        self._compiled: OrderedDict[tuple[Shapes, int], Compiled] = OrderedDict()
        self._requests: dict[Shapes, Request] = {}
        self._streams: dict[Shapes, int] = {}
        self.runtime_version = short_version(runtime)
        self.providers = [str(self._options["device"])]

    def prepare(self, feed: Feed) -> None:
        """Compiles for the shapes of ``feed``."""
        self._compile(_shapes(feed), 1)

    def run(self, feed: Feed) -> list[np.ndarray]:
        """All outputs of one feed; copies."""
        shapes = _shapes(feed)
        request = self._requests.get(shapes)
        if request is None:
            request = self._requests[shapes] = self._compile(shapes, 1).create_infer_request()
        found = request.infer(dict(feed), share_inputs=True, share_outputs=True)
        return [np.array(found[name]) for name in self._names]

    def bind(self, feeds: Sequence[Feed], like: Sequence[np.ndarray]) -> Bound:
        """One request a feed, on the memory of its arrays; for as many streams as there are bindings."""
        shapes = _shapes(feeds[0])
        rows = [[np.zeros_like(value) for value in like] for _ in feeds]
        requests: list[Request] = []
        count = len(feeds)
        # Streams are counted now and compiled when the first of them is called: then all of them are known.
        self._streams[shapes] = self._streams.get(shapes, 0) + 1

        def call(index: int) -> None:
            if not requests:
                compiled = self._compile(shapes, self._streams[shapes])
                requests.extend(self._request(compiled, feed, row) for feed, row in zip(feeds, rows))  # noqa: B905 - Python 3.8
            requests[index % count].infer(share_outputs=True)

        def outputs() -> list[list[np.ndarray]]:
            return [[value.copy() for value in row] for row in rows]

        return Bound(call=call, outputs=outputs)

    def profile(self, shapes: Mapping[str, Sequence[int]]) -> Compiled:
        """Compiled anew for these shapes, with counters of each node."""
        return self._compile_new(shapes, {"PERF_COUNT": True}, 1)

    def _request(self, compiled: Compiled, feed: Feed, row: Sequence[np.ndarray]) -> Request:
        """A request on the memory of ``feed`` and ``row``, which must outlive it."""
        request, tensor = compiled.create_infer_request(), self._runtime.Tensor
        for name, value in feed.items():
            request.set_tensor(compiled.input(name), tensor(value, shared_memory=True))
        for name, value in zip(self._names, row):  # noqa: B905 - Python 3.8
            request.set_tensor(compiled.output(name), tensor(value, shared_memory=True))
        return request

    def _compile(self, shapes: Shapes, streams: int) -> Compiled:
        key = (shapes, streams)
        if key not in self._compiled:
            self._compiled[key] = self._compile_new(dict(shapes), {}, streams)
            while len(self._compiled) > _KEPT:
                (old, _), _ = self._compiled.popitem(last=False)
                self._requests.pop(old, None)
        self._compiled.move_to_end(key)
        return self._compiled[key]

    def _compile_new(self, shapes: Mapping[str, Sequence[int]], more: Mapping[str, Any], streams: int) -> Compiled:
        device = self._options["device"]
        wanted = {"device": device, **settings(self._options, streams), **more}
        try:
            compiled = compile_for(self._core, self._path, shapes, wanted)
            precision = _short(compiled.get_property("INFERENCE_PRECISION_HINT"))
        except openvino_errors() as error:
            if out_of_memory(error) or any(mark in str(error).lower() for mark in MEMORY_MARKS):
                raise MemoryError(message(error)) from error
            raise Failure(
                DEVICE,
                f"openvino {self.runtime_version} cannot open the engine on {device}",
                message(error),
                f"install openvino=={self._built_with}, with which it was built",
            ) from error
        if precision != self._options["precision"]:
            raise Failure(
                DEVICE,
                "this {} does not compute in {}".format(device, self._options["precision"]),
                f"openvino {self.runtime_version} would compute in {precision} here",
                "use the fp32 or int8 engine on this device",
            )
        return compiled


def _shapes(feed: Feed) -> Shapes:
    return tuple((name, tuple(feed[name].shape)) for name in sorted(feed))


def _short(element_type: Any) -> str:  # noqa: ANN401 - openvino.Type
    """``f32`` of ``<Type: 'float32'>``."""
    return str(element_type.get_type_name()) if hasattr(element_type, "get_type_name") else str(element_type)
