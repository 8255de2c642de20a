"""How the device program compares outputs, and what engine.json and samples it accepts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.ondevice.arrays import read_inputs, write_arrays
from targets.ondevice.failure import BAD_INPUT, DEVICE, REFUSED, Failure
from targets.ondevice.session import one_sample_feeds, read_spec
from targets.ondevice.verify import compare_outputs

if TYPE_CHECKING:
    from pathlib import Path

WANTED = {"y": np.array([[1.0, 2.0], [3.0, -4.0]], np.float32)}


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(-3, 3))
def test_tolerance_is_that_of_numpy(rtol: float, atol: float, shift: float) -> None:
    """Property: an output passes exactly where numpy's allclose with the same tolerances does."""
    got = {"y": WANTED["y"] + np.float32(shift)}
    if np.allclose(got["y"].astype(float), WANTED["y"].astype(float), rtol=rtol, atol=atol):
        report = compare_outputs(got, WANTED, rtol, {"y": atol})
        assert report["y"]["worst_error"] == pytest.approx(abs(shift), abs=1e-5)
    else:
        with pytest.raises(Failure) as caught:
            compare_outputs(got, WANTED, rtol, {"y": atol})
        assert caught.value.exit_code == DEVICE


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_fail(value: float) -> None:
    """NaN and Inf never pass, whatever the tolerance."""
    got = {"y": WANTED["y"].copy()}
    got["y"][0, 0] = value
    with pytest.raises(Failure, match="not what"):
        compare_outputs(got, WANTED, 1e9, {"y": 1e9})
    with pytest.raises(Failure, match="not what"):
        compare_outputs(WANTED, {"y": np.full((2, 2), np.nan)}, 1e9, {"y": 1e9})


def test_other_names_and_shapes_fail() -> None:
    """Outputs of another model are not compared, they are refused."""
    with pytest.raises(Failure) as caught:
        compare_outputs({"z": WANTED["y"]}, WANTED, 0, {"y": 0})
    assert caught.value.exit_code == BAD_INPUT
    with pytest.raises(Failure, match="not what"):
        compare_outputs({"y": WANTED["y"][:1]}, WANTED, 0, {"y": 0})


def test_arg_max_agreement_is_reported() -> None:
    """Where outputs are classes, the share of samples whose winner agrees is reported."""
    got = {"y": np.array([[2.0, 1.0], [3.0, -4.0]])}
    assert compare_outputs(got, WANTED, 0, {"y": 1.0})["y"]["argmax_agreement_ratio"] == 0.5


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"file": "../engine.onnx"}, REFUSED),
        ({"file": "/etc/passwd"}, REFUSED),
        ({"sha256": "0" * 64}, REFUSED),
        ({"file": "other.onnx"}, BAD_INPUT),
        ({"schema": 2}, BAD_INPUT),
        ({"options": {}}, BAD_INPUT),
        ({"options": {"threads": "1"}}, BAD_INPUT),
        ({"options": None}, BAD_INPUT),
    ],
)
def test_a_wrong_engine_json_is_refused(bundle: Path, change: dict[str, object], code: int) -> None:
    """An engine.json that leaves its folder, lies about the engine, or lacks an option is not used."""
    spec = json.loads((bundle / "engine.json").read_text())
    (bundle / "engine.json").write_text(json.dumps({**spec, **change}))
    with pytest.raises(Failure) as caught:
        read_spec(bundle)
    assert caught.value.exit_code == code


SPEC = {"inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}]}


@pytest.mark.parametrize(
    "arrays",
    [
        {"z": np.zeros((2, 3), np.float32)},
        {"x": np.zeros((2, 3))},
        {"x": np.zeros((2, 4), np.float32)},
        {"x": np.zeros((0, 3), np.float32)},
        {"x": np.zeros((2, 3), np.float32), "more": np.zeros((2, 3), np.float32)},
    ],
)
def test_samples_that_do_not_fit_are_refused(arrays: dict[str, np.ndarray]) -> None:
    """Samples of other names, dtypes or shapes, or none at all, are bad input."""
    with pytest.raises(Failure) as caught:
        one_sample_feeds(arrays, SPEC)
    assert caught.value.exit_code == BAD_INPUT


def test_every_sample_becomes_one_feed() -> None:
    """Feeds are the samples in order, each with a batch axis of one."""
    data = np.arange(12, dtype=np.float32).reshape(4, 3)
    feeds = one_sample_feeds({"x": data}, SPEC)
    assert [feed["x"].shape for feed in feeds] == [(1, 3)] * 4
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds]), data)


def test_sample_files_in_both_forms(tmp_path: Path) -> None:
    """Samples may be named like the inputs, or as in golden.npz; pickles and garbage are refused."""
    data = np.ones((2, 3), np.float32)
    write_arrays(str(tmp_path / "plain.npz"), {"x": data})
    write_arrays(str(tmp_path / "golden.npz"), {"input.x": data, "output.y": data})
    assert set(read_inputs(str(tmp_path / "plain.npz"))) == set(read_inputs(str(tmp_path / "golden.npz"))) == {"x"}
    np.savez(tmp_path / "pickle.npz", x=np.array([{"a": 1}], dtype=object))
    (tmp_path / "garbage.npz").write_bytes(b"PK\x03\x04 nothing")
    for name in ("pickle.npz", "garbage.npz", "absent.npz"):
        with pytest.raises(Failure) as caught:
            read_inputs(str(tmp_path / name))
        assert caught.value.exit_code == BAD_INPUT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["garbage.npz", "golden.npz", "pickle.npz", "plain.npz"]


@pytest.mark.parametrize("kind", ["npy", "empty", "text", "damaged"])
def test_files_that_are_no_archive(kind: str, tmp_path: Path) -> None:
    """Whatever is given instead of an .npz is bad input, never a bug."""
    path = tmp_path / "samples.npz"
    if kind == "npy":
        np.save(tmp_path / "one.npy", np.ones(3))
        (tmp_path / "one.npy").rename(path)
    elif kind == "damaged":
        np.savez_compressed(path, x=np.arange(1000.0))
        data = bytearray(path.read_bytes())
        data[60:90] = b"\xff" * 30
        path.write_bytes(data)
    else:
        path.write_bytes(b"" if kind == "empty" else b"not an archive")
    with pytest.raises(Failure, match="cannot read") as caught:
        read_inputs(str(path))
    assert caught.value.exit_code == BAD_INPUT


def test_one_number_is_no_sample() -> None:
    """An array without a sample axis is refused."""
    spec = {"inputs": [{"name": "x", "dtype": "float32", "shape": ["batch"]}]}
    with pytest.raises(Failure, match="do not match"):
        one_sample_feeds({"x": np.array(1.0, np.float32)}, spec)
