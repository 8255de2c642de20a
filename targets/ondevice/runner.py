"""An opened engine, whatever its runtime: the only place that knows which runtime an engine.json asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .built import need_built
from .failure import BAD_INPUT, Failure
from .session import Runtime, Session, import_runtime, open_session, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_TENSORRT = frozenset({"tensorrt", "tensorrt-rtx"})


class Bound(NamedTuple):
    """Calls with inputs and outputs laid out beforehand.

    Attributes:
        call: Runs feed ``index % len(feeds)``.
        outputs: What each feed's latest call gave: one list of arrays, in the engine's order, for each feed.
    """

    call: Callable[[int], None]
    outputs: Callable[[], list[list[np.ndarray]]]


class Runner(ABC):
    """An engine that is open.

    Attributes:
        runtime_version: Of the runtime that opened it.
        providers: What executes it, in order of preference.
    """

    runtime_version: str
    providers: list[str]

    @abstractmethod
    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs of one feed, in the engine's order."""

    @abstractmethod
    def bind(self, feeds: Sequence[Mapping[str, np.ndarray]], like: Sequence[np.ndarray]) -> Bound:
        """Calls on ``feeds`` whose outputs have the shapes and dtypes of ``like``; of its own, for one thread."""

    def prepare(self, feed: Mapping[str, np.ndarray]) -> None:  # noqa: B027 - most runtimes have nothing to do
        """Gets ready for feeds of these shapes; part of loading, where a runtime compiles for shapes.

        Raises:
            Failure: The runtime refuses these shapes (6).
        """

    def stages(self, _feed: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
        """Time of each part of an inference (transfers, compute, enqueue), in ns; None where no runtime tells it."""
        return None


def load_runtime(spec: Mapping[str, Any]) -> None:
    """Imports the runtime, so that this is not counted as loading the engine.

    Raises:
        Failure: It is not installed here (6), or nothing was built yet (3).
    """
    name = _engine(spec)
    if name == "openvino":
        from .openvino_module import import_openvino

        import_openvino()
    elif name in _TENSORRT:
        from .tensorrt_runner import load_tensorrt

        load_tensorrt(spec)
    else:
        import_runtime()


def open_runner(folder: Path, spec: Mapping[str, Any]) -> Runner:
    """Opens the engine of ``folder``.

    Raises:
        Failure: The runtime is missing, lacks a provider or refuses the engine (6), or nothing was built yet (3).
    """
    name = _engine(spec)
    if name == "openvino":
        from .openvino_runner import open_openvino

        return open_openvino(folder, spec)
    if name in _TENSORRT:
        from .tensorrt_runner import open_tensorrt

        return open_tensorrt(folder, spec)
    return _OnnxRunner(import_runtime(), open_session(folder, spec), [item["name"] for item in spec["outputs"]])


def engine_errors(spec: Mapping[str, Any]) -> tuple[type[Exception], ...]:
    """The exceptions by which the runtime reports a fault."""
    name = _engine(spec)
    if name == "openvino":
        from .openvino_module import openvino_errors

        return openvino_errors()
    if name in _TENSORRT:
        from .tensorrt_runner import tensorrt_errors

        return tensorrt_errors()
    return runtime_errors()


def _engine(spec: Mapping[str, Any]) -> str:
    """The runtime that a folder asks for; folders of the first version name none and mean ONNX Runtime."""
    name = str(spec.get("engine", "onnxruntime"))
    need_built(spec)
    if name not in {"onnxruntime", "openvino", *_TENSORRT}:
        raise Failure(
            BAD_INPUT, f"no engine is called {name!r}", "engine.json names it", "use the ondevice.pyz of the bundle"
        )
    return name


class _OnnxRunner(Runner):
    """ONNX Runtime with IO binding."""

    def __init__(self, runtime: Runtime, session: Session, names: list[str]) -> None:
        self._runtime, self._session, self._names = runtime, session, names
        self._inputs: list[Any] = []
        self.runtime_version = str(runtime.__version__)
        self.providers = list(session.get_providers())

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = self._session.run(self._names, feed)
        return found

    def bind(self, feeds: Sequence[Mapping[str, np.ndarray]], like: Sequence[np.ndarray]) -> Bound:
        bindings, rows = [], []
        for feed in feeds:
            binding = self._session.io_binding()
            for name, value in feed.items():
                binding.bind_cpu_input(name, value)
            row = [self._runtime.OrtValue.ortvalue_from_numpy(np.zeros_like(value)) for value in like]
            for i, name in enumerate(self._names):
                binding.bind_ortvalue_output(name, row[i])
            bindings.append(binding)
            rows.append(row)
        run, count = self._session.run_with_iobinding, len(bindings)

        def call(index: int) -> None:
            run(bindings[index % count])

        def outputs() -> list[list[np.ndarray]]:
            # Copies: what numpy() gives may be a view of memory that ends with its OrtValue.
            return [[np.array(value.numpy()) for value in row] for row in rows]

        self._inputs.append(feeds)  # a binding does not keep its inputs alive
        return Bound(call=call, outputs=outputs)
