"""Runs ONNX models for calibration, with telemetry off before the runtime is imported and its errors translated."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from targets.errors import EnvironmentFailure, InputError
from targets.ondevice.session import import_runtime, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Array = NDArray[np.generic]


@final
class Session:
    """A serialised model, opened on the CPU.

    Args:
        model: A serialised ``ModelProto`` of less than 2 GiB, or a file.
        threads: Threads inside one operator.
        optimize: True fuses as deployment does; False keeps to rewrites that leave each tensor's meaning.
        optimized_file: Where to write the graph that is run, if anywhere; its weights go into ``NAME.data`` beside it.

    Raises:
        InputError: The runtime cannot load the model.
    """

    def __init__(
        self, model: bytes | Path, *, threads: int, optimize: bool, optimized_file: Path | None = None
    ) -> None:
        ort = import_runtime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # A product of float32 and of weights behind DequantizeLinear becomes MatMulNBits, which by default rounds its
        # input to 8 bits, sample by sample (level 4, seen in 1.32); level 1 is float32.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if optimized_file is not None:
            options.optimized_model_filepath = str(optimized_file)
            weights = f"{optimized_file.name}.data"
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_ENABLE_BASIC
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except runtime_errors() as error:
            raise InputError(
                "ONNX Runtime cannot load the model",
                _one_line(error),
                "check it with onnx.checker.check_model(model, full_check=True) and export it again",
            ) from error

    def channels(self, output_name: str) -> int | str | None:
        """Size of an output's second axis, its name where it is free; None where nothing is known of it."""
        shape = next(output.shape for output in self._session.get_outputs() if output.name == output_name)
        known: int | str | None = shape[1] if len(shape) > 1 else None
        return known

    def run(self, output_names: Sequence[str] | None, feed: Mapping[str, Array]) -> list[Array]:
        """Outputs in the order of ``output_names`` (all, in the model's order, when None).

        Raises:
            InputError: The model fails on this batch.
            EnvironmentFailure: Memory ran out.
        """
        try:
            outputs: list[Array] = self._session.run(output_names, dict(feed))
        except runtime_errors() as error:
            if "Failed to allocate memory" in str(error) or "bad_alloc" in str(error):
                raise EnvironmentFailure(
                    "running the model ran out of memory", _one_line(error), "use a smaller calibration batch"
                ) from error
            shapes = {name: list(array.shape) for name, array in feed.items()}
            raise InputError(
                f"the model fails on a batch of shapes {shapes}",
                _one_line(error),
                "often a batch size is baked into the model: export it with a free batch axis",
            ) from error
        return outputs


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
