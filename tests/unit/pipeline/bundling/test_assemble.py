"""A bundle is complete, deterministic, and made only of what it should be made of."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.bundling.archive import pack_archive
from pipeline.bundling.assemble import assemble_bundle, npz_bytes
from pipeline.bundling.manifest import read_manifest
from targets.errors import InputError, RefusedError
from targets.ondevice_pack import pack

EXPECTED = {
    "README.txt", "engine.json", "engine.onnx", "golden.npz", "inspect.json", "manifest.json", "ondevice.pyz",
    "requirements.txt",
}  # fmt: skip


def test_a_bundle_has_everything_the_device_needs(bundle: Path, build_folder: Path) -> None:
    """Engine, its description, golden vectors, program, requirements, how-to, manifest: all there and unchanged."""
    assert {p.name for p in bundle.iterdir()} == EXPECTED
    for name in ("engine.onnx", "engine.json", "inspect.json"):
        assert (bundle / name).read_bytes() == (build_folder / name).read_bytes()
    assert (bundle / "ondevice.pyz").read_bytes() == pack()
    assert (bundle / "requirements.txt").read_text() == "numpy>=1.26\nonnxruntime==1.32.0\n"
    assert "ondevice.pyz verify" in (bundle / "README.txt").read_text()
    manifest = read_manifest(bundle / "manifest.json")
    assert set(manifest.files) == EXPECTED - {"manifest.json"}
    assert (manifest.golden.samples, manifest.golden.atol) == (5, {"y": 1e-5})
    with np.load(bundle / "golden.npz", allow_pickle=False) as golden:
        assert sorted(golden.files) == ["input.x", "output.y"]
        assert golden["input.x"].shape == (5, 4)


def test_two_bundles_of_the_same_things_are_the_same_bytes(make_bundle: Callable[[Path], Path], tmp_path: Path) -> None:
    """Folder, umask and time leave no trace in any file, nor in the archive."""
    first = make_bundle(tmp_path / "one")
    old = os.umask(0o077)
    try:
        second = make_bundle(tmp_path / "deep" / "er" / "two")
    finally:
        os.umask(old)
    for name in EXPECTED:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    pack_archive(first, tmp_path / "1.tar.gz", top="b")
    pack_archive(second, tmp_path / "2.tar.gz", top="b")
    assert (tmp_path / "1.tar.gz").read_bytes() == (tmp_path / "2.tar.gz").read_bytes()


@settings(max_examples=30, deadline=None)
@given(
    array=npst.arrays(
        st.sampled_from([np.float32, np.float64, np.int8, np.uint8, np.int64, np.bool_]),
        npst.array_shapes(min_dims=0, max_dims=4, max_side=4),
    )
)
def test_numpy_reads_our_npz(array: np.ndarray) -> None:
    """What is written without numpy.savez is read back by numpy.load, equal in type, shape and every value."""
    data = npz_bytes({"input.x": array, "a": np.asfortranarray(array)})
    with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
        for name in ("input.x", "a"):
            assert loaded[name].dtype == array.dtype
            np.testing.assert_array_equal(loaded[name], array)
    assert data == npz_bytes({"a": array.copy(), "input.x": array})


WRONG: dict[str, dict[str, Any]] = {
    "no samples": {"golden_inputs": {"x": np.zeros((0, 4))}, "golden_outputs": {"y": np.zeros((0, 3))}},
    "no inputs": {"golden_inputs": {}},
    "other number of samples": {"golden_outputs": {"y": np.zeros((4, 3))}},
    "not finite": {"golden_outputs": {"y": np.full((5, 3), np.nan)}},
    "objects": {"golden_outputs": {"y": np.array([object()] * 5)}},
    "tolerance for another output": {"atol": {"z": 1.0}},
    "negative tolerance": {"rtol": -1.0},
    "tolerance that is no number": {"rtol": float("nan")},
    "field missing": {"manifest_fields": {"name": "x", "target": "host"}},
    "field unknown": {"manifest_fields": {"name": "x", "target": "host", "precision": "fp32", "colour": "red"}},
}


@pytest.mark.parametrize("case", WRONG)
def test_incomplete_input_makes_no_bundle(case: str, build_folder: Path, tmp_path: Path) -> None:
    """Empty, inconsistent or not finite golden vectors and wrong manifest fields raise; no manifest is left."""
    given_: dict[str, Any] = {
        "golden_inputs": {"x": np.zeros((5, 4))},
        "golden_outputs": {"y": np.zeros((5, 3))},
        "rtol": 0.0,
        "atol": {"y": 0.1},
        "manifest_fields": {"name": "x", "target": "host", "precision": "fp32"},
    }
    with pytest.raises(InputError):
        assemble_bundle(tmp_path / "out", build_folder=build_folder, **{**given_, **WRONG[case]})
    assert not (tmp_path / "out" / "manifest.json").exists()


def _assemble(build: Path, out: Path) -> None:
    assemble_bundle(
        out, build_folder=build, golden_inputs={"x": np.zeros((1, 4))}, golden_outputs={"y": np.zeros((1, 3))},
        rtol=0.0, atol={"y": 0.1}, manifest_fields={"name": "x", "target": "host", "precision": "fp32"},
    )  # fmt: skip


def test_a_build_that_is_not_whole_is_not_bundled(build_folder: Path, tmp_path: Path) -> None:
    """An engine that differs from its description, a missing file, a link and a name elsewhere are refused."""
    changed = Path(shutil.copytree(build_folder, tmp_path / "changed"))
    (changed / "engine.onnx").write_bytes(b"other")
    with pytest.raises(InputError, match=r"not the file engine\.json describes"):
        _assemble(changed, tmp_path / "out1")
    missing = Path(shutil.copytree(build_folder, tmp_path / "missing"))
    (missing / "inspect.json").unlink()
    with pytest.raises(InputError, match=r"inspect\.json is missing"):
        _assemble(missing, tmp_path / "out2")
    linked = Path(shutil.copytree(build_folder, tmp_path / "linked"))
    (linked / "engine.onnx").unlink()
    (linked / "engine.onnx").symlink_to(build_folder / "engine.onnx")
    with pytest.raises(RefusedError, match="not a regular file"):
        _assemble(linked, tmp_path / "out3")
    elsewhere = Path(shutil.copytree(build_folder, tmp_path / "elsewhere"))
    spec = json.loads((elsewhere / "engine.json").read_text())
    (elsewhere / "engine.json").write_text(json.dumps({**spec, "file": "../engine.onnx"}))
    with pytest.raises(InputError, match="names no engine file in it"):
        _assemble(elsewhere, tmp_path / "out4")


def test_a_folder_in_use_is_left_alone(build_folder: Path, tmp_path: Path) -> None:
    """A bundle is never mixed with what a folder holds already."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("1")
    with pytest.raises(InputError, match="not empty"):
        _assemble(build_folder, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]
