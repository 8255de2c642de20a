"""Promises of the child processes that calibrate and quantise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from calibration.child import calibrate_in_child, constant_tensors, quantize_in_child
from calibration.observers import METHODS
from calibration.table import CalibrationTable
from targets.errors import InputError
from targets.files import sha256_file
from targets.telling import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
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
    assert set(tried) == set(METHODS)
    assert tried[found["method"]] == max(tried.values()) > 25.0
    assert found["output_snr_db"] == pytest.approx(max(tried.values()), abs=4.0)  # on a fifth of the samples
    assert set(found["portable"]["adjusted"]) | set(found["portable"]["left"]) == {"add"}
    assert [one["step"] for one in found["tried"] if one["kept"]] == [found["method"]]
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
    """A named method is used alone, and a second run gives the same bytes and figures but for the time taken."""
    first = quantize_in_child(request_of(method="mse", algorithms=["bias"]))
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    second = quantize_in_child(request_of(method="mse", algorithms=["bias"]))
    for found in (first, second):
        assert all(tried.pop("seconds") >= 0.0 for tried in found["tried"])
    assert second == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    assert (first["method"], first["algorithms"], first["stopped"]) == ("mse", ["bias"], "as asked")
    assert [tried["step"] for tried in first["tried"]] == ["mse", "bias"]


def test_other_dialects_keep_their_scales(request_of: Callable[..., dict[str, object]]) -> None:
    """TensorRT sums in float: nothing is made to round alike there."""
    assert quantize_in_child(request_of(method="minmax", scheme="trt"))["portable"] is None


def test_doubts_about_the_samples_are_findings(
    request_of: Callable[..., dict[str, object]], images: NDArray[np.float32], tmp_path: Path
) -> None:
    """Too few samples, a missing class and validation samples of another scale are told; enough samples are enough."""
    np.savez(tmp_path / "validation.npz", x=images * 7.0 + 3.0)
    np.save(tmp_path / "labels.npy", np.arange(60) % 3)
    np.save(tmp_path / "validation-labels.npy", np.arange(60) % 5)
    request = request_of(
        out=str(tmp_path / "table.json"),
        validation=str(tmp_path / "validation.npz"),
        labels=str(tmp_path / "labels.npy"),
        validation_labels=str(tmp_path / "validation-labels.npy"),
    )
    codes = {finding["code"] for finding in calibrate_in_child(request)["findings"]}
    assert {"C-FEW", "C-CLASSES", "C-SHIFT"} <= codes
    codes = {finding["code"] for finding in calibrate_in_child(request | {"min_samples": 60})["findings"]}
    assert "C-FEW" not in codes


def test_too_few_samples_are_counted_as_the_user_counts_them(
    request_of: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    """All 60 were given, 12 of them held back: 61 would do, and that is what the remedy says."""
    findings = calibrate_in_child(request_of(out=str(tmp_path / "table.json"), min_samples=61))["findings"]
    (few,) = [finding for finding in findings if finding["code"] == "C-FEW"]
    assert few["text"].startswith("60 calibration samples are fewer than 61")
    assert "at least 61" in few["fix"]


@pytest.mark.parametrize("row", [7, 9])
def test_an_overflow_names_the_sample_that_was_given(
    request_of: Callable[..., dict[str, object]], images: NDArray[np.float32], tmp_path: Path, row: int
) -> None:
    """Seen (7) or held back (9), it is called by the number that it has in the user's data."""
    images = images.copy()
    images[row] = 3e38
    np.savez(tmp_path / "samples.npz", x=images)
    request = request_of(out=str(tmp_path / "table.json"), method="minmax")
    with pytest.raises(InputError, match=rf"^activation '\w+' becomes NaN or Inf at sample {row}\n"):
        quantize_in_child(request)
    with pytest.raises(InputError, match=rf"at sample {1000 + row}\n"):
        quantize_in_child(request | {"numbers": [*range(1000, 1060)]})
    with pytest.raises(InputError, match="there are 59 numbers for 60 samples"):
        quantize_in_child(request | {"numbers": [*range(59)]})
    assert not list((tmp_path / "out").iterdir())


def test_a_table_measured_before_gives_the_same_file(
    request_of: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    """Calibrating apart and quantising with that table is calibrating and quantising at once."""
    measured = calibrate_in_child(request_of(out=str(tmp_path / "table.json")))
    assert (measured["samples"], measured["held_back"], measured["constant_tensors"]) == (60, 12, [])
    quantize_in_child(request_of(method="percentile"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    quantize_in_child(request_of(method="percentile", table=str(tmp_path / "table.json")))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files


def test_a_table_of_other_samples_is_refused(
    request_of: Callable[..., dict[str, object]], images: NDArray[np.float32], tmp_path: Path
) -> None:
    """The held-back samples must be the ones that the table has not seen."""
    calibrate_in_child(request_of(out=str(tmp_path / "table.json")))
    np.savez(tmp_path / "samples.npz", x=images[::-1])
    with pytest.raises(InputError, match="another set of samples"):
        quantize_in_child(request_of(table=str(tmp_path / "table.json")))


def test_labels_give_the_accuracy_of_each_step(
    request_of: Callable[..., dict[str, object]], images: NDArray[np.float32], residual: Path, tmp_path: Path
) -> None:
    """With the float model's own answers as labels, accuracy on the held-back samples is agreement."""
    import onnxruntime

    answers = onnxruntime.InferenceSession(residual).run(None, {"x": images})[0].argmax(1)
    np.save(tmp_path / "labels.npy", answers)
    found = quantize_in_child(request_of(labels=str(tmp_path / "labels.npy")))
    assert [tried["accuracy"] for tried in found["tried"]] == [tried["agreement"] for tried in found["tried"]]
    np.save(tmp_path / "labels.npy", answers[1:])
    with pytest.raises(InputError, match=r"labels of shape \[59\] for 60 samples"):
        quantize_in_child(request_of(labels=str(tmp_path / "labels.npy")))
    (tmp_path / "labels.npy").write_text("none")
    with pytest.raises(InputError, match="cannot be read"):
        quantize_in_child(request_of(labels=str(tmp_path / "labels.npy")))


def test_fixed_batch_size_of_the_model_wins(request_of: Callable[..., dict[str, object]], residual: Path) -> None:
    """A model of batch size 4 is calibrated in batches of 4, whatever was asked for, and holds nothing back."""
    model = onnx.load(residual)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    residual.write_bytes(model.SerializeToString())
    assert quantize_in_child(request_of())["output_snr_db"] > 25.0
    assert calibrate_in_child(request_of(out=str(residual.with_name("t.json"))))["held_back"] == 0


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


def test_external_weights_are_read(request_of: Callable[..., dict[str, object]], residual: Path) -> None:
    """A model whose weights lie in a file beside it is quantised as one in a single file."""
    whole = quantize_in_child(request_of(method="minmax"))
    model = onnx.load(residual)
    onnx.save(model, residual, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert quantize_in_child(request_of(method="minmax"))["output_snr_db"] == whole["output_snr_db"]


def test_each_step_is_told_while_it_works(request_of: Callable[..., dict[str, object]], tmp_path: Path) -> None:
    """Promise: who listens hears every step as it ends, and of one that learns before it begins."""
    heard: list[Mapping[str, Any]] = []
    with Listener(tmp_path / "told", heard.append) as listener:
        request = request_of(
            method="minmax", algorithms=["bias", "rounding"], time_budget_s=1.0, tell=str(tmp_path / "told")
        )
        found = quantize_in_child(request)
        listener.take()
    assert [(one["kind"], one["step"]) for one in heard] == [
        ("step", "minmax"), ("step", "bias"), ("begin", "rounding"), ("step", "rounding"),
    ]  # fmt: skip
    assert [one for one in heard if one["kind"] == "step"] == [{"kind": "step", **one} for one in found["tried"]]
