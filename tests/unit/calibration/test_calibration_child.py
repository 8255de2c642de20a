"""Promises of the quantising child process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from calibration.child import constant_tensors, output_snr_db, quantize_in_child
from calibration.table import CalibrationTable
from targets.errors import InputError
from targets.files import sha256_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture
def request_of(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> Callable[..., dict[str, object]]:
    np.savez(tmp_path / "samples.npz", x=images)
    out = tmp_path / "out"
    out.mkdir()

    def make(**changes: object) -> dict[str, object]:
        return {
            "model": str(residual),
            "samples": str(tmp_path / "samples.npz"),
            "scheme": "ort-x86",
            "method": "auto",
            "threads": 1,
            "batch_size": 16,
            "out_folder": str(out),
        } | changes

    return make


def test_auto_takes_the_best_method_and_writes_all_files(
    request_of: Callable[..., dict[str, object]], residual: Path, tmp_path: Path
) -> None:
    """The summary names the best of the tried methods, and the four files agree with it."""
    found = quantize_in_child(request_of())
    tried = found["snr_db_by_method"]
    assert set(tried) == {"minmax", "percentile", "mse"}
    assert found["output_snr_db"] == max(tried.values()) == tried[found["method"]] > 25.0
    assert (found["int8_nodes"], found["float_nodes"]) == (12, 0)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["calibration.json", "io.json", "layers.json", "model.onnx"]
    table = CalibrationTable.load(out / "calibration.json")
    assert (table.samples, table.model_sha256) == (48, sha256_file(residual))
    assert json.loads((out / "io.json").read_text())["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": ["batch", 3, 8, 8]}
    ]
    assert len(json.loads((out / "layers.json").read_text())) == 12


def test_one_method_is_that_method_and_repeats(request_of: Callable[..., dict[str, object]], tmp_path: Path) -> None:
    """A named method is used alone, on all samples, and a second run gives the same bytes."""
    first = quantize_in_child(request_of(method="mse"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert quantize_in_child(request_of(method="mse")) == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    assert first["method"] == "mse"
    assert CalibrationTable.load(tmp_path / "out" / "calibration.json").samples == 60


def test_fixed_batch_size_of_the_model_wins(request_of: Callable[..., dict[str, object]], residual: Path) -> None:
    """A model of batch size 4 is calibrated in batches of 4, whatever was asked for."""
    model = onnx.load(residual)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    residual.write_bytes(model.SerializeToString())
    assert quantize_in_child(request_of())["output_snr_db"] > 25.0


def test_nan_outputs_are_an_error() -> None:
    """An int8 model that gives NaN is refused, not scored."""
    with pytest.raises(InputError, match="gives NaN or Inf"):
        output_snr_db([np.ones(3, np.float32)], [np.array([1.0, np.nan, 1.0], np.float32)])


def test_dead_tensors_are_named() -> None:
    """An activation that never changed over all samples is listed, one that did is not."""
    table = CalibrationTable(
        tensors={"live": {"mse": (0.0, 1.0)}, "dead": {"mse": (0.0, 0.0)}},
        samples=1,
        model_sha256="",
        data_sha256="",
        versions={},
    )
    assert constant_tensors(table) == ["dead"]


def test_nan_of_the_float_model_is_not_blamed_on_int8() -> None:
    """A float model that gives Inf is refused as such."""
    with pytest.raises(InputError, match="float model holds NaN or Inf"):
        output_snr_db([np.array([-np.inf, 1.0], np.float32)], [np.ones(2, np.float32)])


def test_external_weights_are_read(request_of: Callable[..., dict[str, object]], residual: Path) -> None:
    """A model whose weights lie in a file beside it is quantised as one in a single file."""
    whole = quantize_in_child(request_of(method="minmax"))
    model = onnx.load(residual)
    onnx.save(model, residual, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert quantize_in_child(request_of(method="minmax")) == whole
