"""An ONNX file as the model: from quantize on, with .npz data, with and without labels."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

if TYPE_CHECKING:
    from types import SimpleNamespace

Run = Callable[..., subprocess.CompletedProcess[str]]
RECIPE = """
task = "classification"
threads = 1
[model]
onnx = "net.onnx"
[data]
npz = "data.npz"
[build]
candidates = ["fp32", "int8"]
[budget]
accuracy_drop = 0.2
[benchmark]
measure = false
"""


@pytest.fixture
def onnx_project(tmp_path: Path, result: SimpleNamespace, inline: Run) -> Path:
    """A folder with the exported miniature net, and its validation images as arrays."""
    done = inline("export", result.recipe, "--out", tmp_path / "exported")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "from-onnx"
    folder.mkdir()
    (tmp_path / "exported" / "host" / "export" / "model.onnx").rename(folder / "net.onnx")
    rows, columns = np.indices((8, 8))
    kinds = np.stack([rows % 2, columns % 2, (rows + columns) % 2]).astype(np.float32) * 2 - 1
    labels = np.arange(240) % 3
    noise = np.random.default_rng(3).normal(0, 0.7, (240, 8, 8))
    np.savez(folder / "data.npz", image=(kinds[labels] + noise)[:, np.newaxis].astype(np.float32), labels=labels)
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return folder


@pytest.mark.parametrize("task", [pytest.param("classification", marks=pytest.mark.long), "fidelity"])
def test_a_bundle_from_an_onnx_file(task: str, onnx_project: Path, inline: Run, tmp_path: Path) -> None:
    """The float file becomes a verified bundle; without labels it is judged against itself."""
    if task == "fidelity":
        with np.load(onnx_project / "data.npz") as arrays:
            np.savez(onnx_project / "data.npz", image=arrays["image"])
    done = inline("run", onnx_project, "--out", tmp_path / "out", "--set", f"task={task}", "--json")
    assert done.returncode == 0, done.stderr
    (document,) = json.loads(done.stdout)
    candidates = {candidate["name"]: candidate for candidate in document["run"]["candidates"]}
    assert set(candidates) == {"fp32", "int8"}
    assert candidates["fp32"]["accuracy"] > 0.9
    assert 0.8 < candidates["int8"]["accuracy"] <= 1
    smaller = min(candidates, key=lambda name: candidates[name]["size_bytes"])  # layers that int8 slows stay float
    assert document["run"]["verdict"]["shipped"] == smaller, (
        "unmeasured, the smaller file ships: which, the CPU decides"
    )
    assert inline("verify", Path(document["folder"]) / "bundle.tar.gz").returncode == 0


def test_free_axes_get_the_size_of_the_data(onnx_project: Path, inline: Run, tmp_path: Path) -> None:
    """A model for images of any size is built for the size that the data have, and that is told."""
    model = onnx.load(onnx_project / "net.onnx")
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], ["height", "width"], strict=True):
        dim.dim_param = name
    onnx.save(model, onnx_project / "net.onnx")
    done = inline("build", onnx_project, "--out", tmp_path / "out", "--set", 'build.candidates=["fp32"]')
    assert done.returncode == 0, done.stderr
    assert "height = 8, width = 8" in done.stdout + done.stderr


@pytest.mark.parametrize("stage", ["prune", "distill"])
def test_what_needs_a_torch_graph_refuses_with_the_reason(stage: str, onnx_project: Path, inline: Run) -> None:
    """A section, or the command itself, is exit 3 and says that ONNX cannot be trained."""
    key = "ratio" if stage == "prune" else "epochs"
    done = inline("run", onnx_project, "--set", f"{stage}.{key}={0.5 if stage == 'prune' else 1}")
    assert done.returncode == 3
    assert "no PyTorch graph" in done.stderr
    done = inline(stage, onnx_project)
    assert done.returncode == 3
    assert "an ONNX model starts at quantize" in done.stderr


def test_data_that_does_not_fit_the_file(onnx_project: Path, inline: Run) -> None:
    """Names, dtypes and shapes of both sides are told."""
    np.savez(
        onnx_project / "data.npz",
        picture=np.arange(40 * 64, dtype=np.float32).reshape(40, 1, 8, 8),
        labels=np.arange(40) % 3,
    )
    done = inline("run", onnx_project)
    assert done.returncode == 3
    assert "picture" in done.stderr
    assert "image" in done.stderr


def test_a_file_that_is_no_onnx(onnx_project: Path, inline: Run, tmp_path: Path) -> None:
    """A broken file is exit 3, in three lines, nothing written."""
    (onnx_project / "net.onnx").write_bytes(b"\x08\x07broken")
    done = inline("run", onnx_project, "--out", tmp_path / "out")
    assert done.returncode == 3, done.stderr
    assert "net.onnx" in done.stderr
    assert not (tmp_path / "out").exists()
