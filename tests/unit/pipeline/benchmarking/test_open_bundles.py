"""Bundles opened for measuring: checked, copied, never believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.benchmarking.bundles import engine_names, open_bundles
from pipeline.bundling.archive import pack_archive
from pipeline.bundling.assemble import assemble_bundle
from targets.errors import InputError, RefusedError
from targets.files import sha256_bytes

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A bundle with an engine that nobody runs."""

    def made(name: str = "net", precision: str = "fp32", size: int = 3, file: str = "engine.onnx") -> Path:
        built = tmp_path / f"{name}-{precision}-built"
        built.mkdir(parents=True)
        content = f"{name} {precision}".encode()
        (built / "engine.onnx").write_bytes(content)
        spec: dict[str, Any] = {
            "schema": 1, "engine": "onnxruntime", "file": "engine.onnx", "runtime": "onnxruntime",
            "precision": precision, "runtime_version": "1", "options": {"threads": 1}, "sha256": sha256_bytes(content),
            "inputs": [{"name": "x", "dtype": "float32", "shape": ["n", size]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": ["n", 2]}],
        }  # fmt: skip
        (built / "engine.json").write_text(json.dumps(spec), encoding="utf-8")
        (built / "inspect.json").write_text("{}", encoding="utf-8")
        folder = tmp_path / name / "bundle"
        assemble_bundle(
            folder,
            build_folder=built,
            golden_inputs={"x": np.ones((4, size), np.float32)},
            golden_outputs={"y": np.ones((4, 2), np.float32)},
            rtol=1e-3,
            atol={"y": 0.25},
            manifest_fields={"name": name, "target": "host", "precision": precision, "profile": {}},
        )
        return folder

    return made


def test_a_bundle_becomes_an_entrant(make: Make, tmp_path: Path) -> None:
    """Golden inputs are timed, golden outputs expected, within the tolerance that the manifest gives."""
    (found,) = open_bundles([make()], tmp_path)
    assert (found.name, found.build.precision) == ("fp32", "fp32")
    assert found.entrant.samples == found.folder / "golden.npz"
    assert found.entrant.expected is not None
    with np.load(found.entrant.expected) as arrays:
        assert arrays["output.y"].shape == (4, 2)
        assert float(arrays["atol.y"]) == 0.25


def test_the_archive_is_the_same_as_the_folder(make: Make, tmp_path: Path) -> None:
    """Both are copied to a private place: what changes afterwards in the user's folder changes nothing."""
    folder = make()
    pack_archive(folder, tmp_path / "b.tar.gz", top="net")
    (tmp_path / "s").mkdir()
    first, second = open_bundles([folder, tmp_path / "b.tar.gz"], tmp_path / "s")
    shutil.rmtree(folder)
    assert first.build.sha256 == second.build.sha256
    assert (first.folder / "engine.onnx").read_bytes() == (second.folder / "engine.onnx").read_bytes()
    assert {first.name, second.name} == {"net", "b.tar.gz"}


@pytest.mark.parametrize("file", ["engine.onnx", "golden.npz", "engine.json", "ondevice.pyz", "manifest.json"])
def test_a_damaged_bundle_is_refused(file: str, make: Make, tmp_path: Path) -> None:
    """One changed byte of any file, and nothing is measured."""
    folder = make()
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    (tmp_path / "s").mkdir()
    with pytest.raises(RefusedError) as caught:
        open_bundles([folder], tmp_path / "s")
    assert caught.value.exit_code == 4


def test_a_link_is_refused(make: Make, tmp_path: Path) -> None:
    """Nothing outside the bundle is read."""
    folder = make()
    (folder / "README.txt").unlink()
    (folder / "README.txt").symlink_to("/etc/hostname")
    with pytest.raises(RefusedError):
        open_bundles([folder], tmp_path)


def test_different_inputs_are_no_comparison(make: Make, tmp_path: Path) -> None:
    """Both sides are named."""
    with pytest.raises(InputError, match="different inputs") as caught:
        open_bundles([make("a", size=3), make("b", size=4)], tmp_path)
    assert "['n', 3]" in caught.value.why
    assert "['n', 4]" in caught.value.why


def test_own_samples_expect_nothing(make: Make, tmp_path: Path) -> None:
    """Nobody knows their outputs; golden ones do not apply."""
    (found,) = open_bundles([make()], tmp_path, samples=tmp_path / "mine.npz")
    assert (found.entrant.samples, found.entrant.expected) == (tmp_path / "mine.npz", None)


def test_a_missing_bundle_is_bad_input(tmp_path: Path) -> None:
    """Three lines, no traceback."""
    with pytest.raises(InputError, match="there is no bundle"):
        open_bundles([tmp_path / "nowhere"], tmp_path)


@pytest.mark.parametrize(
    ("precisions", "paths", "names"),
    [
        (["fp32", "int8"], ["a/bundle", "b/bundle"], ["fp32", "int8"]),
        (["int8", "int8"], ["old/host/bundle", "new/host/bundle.tar.gz"], ["old/host", "new/host"]),
        (["int8", "int8"], ["x/bundle", "x/bundle"], ["x", "x#2"]),
        (["int8"], ["x"], ["int8"]),
    ],
)
def test_names_tell_engines_apart(precisions: list[str], paths: list[str], names: list[str]) -> None:
    """By precision, else by as much of the path as is needed, else by number."""
    assert engine_names(precisions, [Path(path) for path in paths]) == names
