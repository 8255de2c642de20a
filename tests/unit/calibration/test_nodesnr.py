"""Promises of the signal-to-noise ratio of each node's output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.collect import collect
from calibration.fidelity import Judge
from calibration.nodesnr import SAMPLES, outputs_by_node
from calibration.qdq import quantize_model
from calibration.samples import CalibrationSet
from targets.scheme import scheme

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.mark.parametrize("dialect", ["ort-x86", "trt"])
def test_the_last_node_has_the_snr_of_the_outputs_and_errors_add_up(
    residual: Path, images: NDArray[np.float32], tmp_path: Path, dialect: str
) -> None:
    """The head's figure is that of the whole model, found another way; no node is cleaner than what feeds it alone."""
    samples = CalibrationSet({"x": images[:SAMPLES]}, batch_size=16)
    path = tmp_path / "q.onnx"
    quantize_model(residual, collect(residual, samples, threads=1), scheme(dialect), "minmax", path)
    found = outputs_by_node(residual, path, samples, threads=1)
    assert {"stem", "conv1", "conv2", "head"} <= set(found)
    assert found["head"].snr_db == pytest.approx(Judge(residual, samples, threads=1)(path).snr_db, abs=0.02)
    snr = {node: output.snr_db or 0.0 for node, output in found.items()}
    assert snr["stem"] > snr["conv1"] > 15.0
    assert found["head"].shape == (1, 10)


def test_a_spoiled_layer_is_where_the_ratio_falls(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """Noise put into one weight of the int8 file alone: nothing before it changes, everything behind it does."""
    samples = CalibrationSet({"x": images}, batch_size=16)
    path = tmp_path / "q.onnx"
    quantize_model(residual, collect(residual, samples, threads=1), scheme("ort-x86"), "minmax", path)
    before = outputs_by_node(residual, path, samples, threads=1)
    model = onnx.load(path)
    tensor = next(one for one in model.graph.initializer if "conv2.weight" in one.name and one.data_type == 3)
    array = numpy_helper.to_array(tensor)
    noise = np.random.default_rng(0).integers(-40, 40, array.shape)
    tensor.CopyFrom(numpy_helper.from_array(np.clip(array + noise, -127, 127).astype(np.int8), tensor.name))
    path.write_bytes(model.SerializeToString())
    after = outputs_by_node(residual, path, samples, threads=1)
    assert (after["stem"], after["conv1"]) == (before["stem"], before["conv1"])
    assert (after["conv2"].snr_db or 0.0) < (before["conv2"].snr_db or 0.0) - 10.0
    assert (after["head"].snr_db or 0.0) < (before["head"].snr_db or 0.0)
