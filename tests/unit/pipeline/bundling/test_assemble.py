"""A bundle is complete, deterministic, and made only of what it should be made of."""

from __future__ import annotations

import hashlib
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
from pipeline.bundling.manifest import read_manifest, requirements_text
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


def to_build(build_folder: Path, folder: Path, **changes: object) -> Path:
    """The same build, as one that its device makes."""
    shutil.copytree(build_folder, folder)
    (folder / "build.json").write_text("{}", encoding="utf-8")
    spec = json.loads((folder / "engine.json").read_text())
    digest = hashlib.sha256(b"{}").hexdigest()
    spec |= {"engine": "tensorrt", "runtime": "tensorrt", "build_on_device": True, "files": {"build.json": digest}}
    (folder / "engine.json").write_text(json.dumps(spec | changes))
    return folder


def assembled(build: Path, out: Path, **more: Any) -> Path:  # noqa: ANN401
    fields = {"name": "tiny", "target": "jetson", "precision": "int8"}
    given: dict[str, Any] = {"golden_inputs": {"x": np.zeros((5, 4))}, "golden_outputs": {"y": np.zeros((5, 3))}}
    assemble_bundle(out, build_folder=build, rtol=0.0, atol={"y": 0.1}, manifest_fields=fields, **given, **more)
    return out


def test_a_bundle_to_build_on_the_device_has_what_that_takes(build_folder: Path, tmp_path: Path) -> None:
    """Model, build plan and program, and instructions that build before anything else; who answered is said."""
    by = "ONNX Runtime, the same graph (it is built on the device)"
    out = assembled(to_build(build_folder, tmp_path / "build"), tmp_path / "out", answers_by=by)
    assert {path.name for path in out.iterdir()} == EXPECTED | {"build.json"}
    readme = (out / "README.txt").read_text()
    assert readme.index("ondevice.pyz build .") < readme.index("ondevice.pyz verify") < readme.index("measure")
    assert f"The golden answers are by {by}" in readme
    assert "tensorrt==" not in (out / "requirements.txt").read_text()
    assert "build.json" in read_manifest(out / "manifest.json").files


@pytest.mark.parametrize("files", [{"build.json": "0" * 64}, {"missing.bin": "0" * 64}, {"../engine.json": "0" * 64}])
def test_what_engine_json_lists_must_be_there_as_it_says(
    files: dict[str, str], build_folder: Path, tmp_path: Path
) -> None:
    """Changed, missing or outside the folder: no bundle."""
    build = to_build(build_folder, tmp_path / "build", files=files)
    with pytest.raises(InputError):
        assembled(build, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("runtime", "version", "line"),
    [
        ("onnxruntime", "1.32.0", "onnxruntime==1.32.0"),
        ("openvino", "2026.4.1-21026-abcdef", "openvino==2026.4.1"),
        ("tensorrt_rtx", "1.7.1.4", "tensorrt-rtx==1.7.1.4"),
        ("tensorrt", "10.3.0", "# tensorrt (tested with 10.3.0): from the device's own system"),
        ("tensorrt", "", "# tensorrt: from the device's own system"),
    ],
)
def test_requirements_name_the_runtime_that_was_tested(runtime: str, version: str, line: str) -> None:
    """As pip calls it and its versions; TensorRT belongs to the device's system."""
    assert requirements_text(runtime=runtime, version=version).splitlines()[1].startswith(line)
