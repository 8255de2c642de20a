"""Opens ONNX Runtime sessions for calibration, with telemetry off before the library is imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = NDArray[np.generic]


class Session(Protocol):
    """The part of ``onnxruntime.InferenceSession`` that is used here."""

    def run(self, output_names: Sequence[str] | None, feed: Mapping[str, Array]) -> list[Array]:
        """Outputs in the order of ``output_names`` (all, in the model's order, when None)."""
        ...


def open_session(model: bytes, *, threads: int, optimize: bool) -> Session:
    """A CPU session for a serialised model.

    Args:
        model: A serialised ``ModelProto`` of less than 2 GiB.
        threads: Threads inside one operator.
        optimize: True fuses as deployment does; False keeps to rewrites that leave each tensor's meaning.

    Raises:
        InputError: The runtime cannot load the model.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_ENABLE_BASIC
    try:
        session: Session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except (
        state.Fail,
        state.InvalidGraph,
        state.InvalidArgument,
        state.NotImplemented,
        state.InvalidProtobuf,
    ) as error:
        raise InputError(
            "ONNX Runtime cannot load the model",
            " ".join(str(error).split())[:300],
            "check it with onnx.checker.check_model(model, full_check=True) and export it again",
        ) from error
    return session
