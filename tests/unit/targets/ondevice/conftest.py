"""A small bundle, as the bundle stage lays it out, with the packed program in it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from targets.engines import engine
from targets.ondevice_pack import FILE_NAME, pack
from targets.profile import load_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MODEL = """
<ir_version: 10, opset_import: ["" : 18]>
tiny (float[batch, 3] x) => (float[batch, 4] y) <float[3, 4] w = {1, 2, 3, 4, -1, 2, 0.5, 1, 0, 1, -3, 2}>
{
    h = MatMul(x, w)
    y = Tanh(h)
}
"""
Answer = tuple[int, dict[str, Any], str]


def seal(bundle: Path) -> None:
    """Writes manifest.json for what lies in the folder."""
    spec = json.loads((bundle / "engine.json").read_text())
    files = {
        path.relative_to(bundle).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    manifest = {
        "schema": 1,
        "files": files,
        "engine_sha256": spec["sha256"],
        "golden": {"file": "golden.npz", "samples": 4, "rtol": 1e-4, "atol": {"y": 1e-5}},
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that `bundle` copies; no test changes it."""
    folder = tmp_path_factory.mktemp("pristine")
    model = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), str(model))
    bundle = folder / "bundle"
    build = engine("onnxruntime").build(model, load_profile("host"), bundle, precision="fp32")
    inputs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    with engine("onnxruntime").open(build) as runner:
        outputs = runner.infer({"x": inputs})["y"]
    np.savez(bundle / "golden.npz", **{"input.x": inputs, "output.y": outputs})
    (bundle / FILE_NAME).write_bytes(pack())
    seal(bundle)
    return bundle


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    """A bundle to do anything with."""
    target = tmp_path / "bundle"
    target.mkdir()
    for path in pristine.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.fixture
def reseal() -> Callable[[Path], None]:
    """Writes a new manifest for a changed bundle."""
    return seal


@pytest.fixture
def program() -> Callable[..., Answer]:
    """Runs a bundle's own ondevice.pyz, isolated: exit code, the one JSON document, stderr."""

    def run(bundle: Path, *arguments: str, flags: Sequence[str] = ("-I",), cwd: Path | None = None) -> Answer:
        done = subprocess.run(
            [sys.executable, *flags, str(bundle / FILE_NAME), *arguments],
            capture_output=True,
            check=False,
            timeout=120,
            cwd=cwd or bundle.parent,
        )
        return done.returncode, json.loads(done.stdout), done.stderr.decode()

    return run


@pytest.fixture
def make_engine(tmp_path: Path) -> Callable[..., Path]:
    """Builds an engine from the text of a model, with samples beside it (<name>.npz)."""

    def make(text: str, name: str = "made", options: dict[str, Any] | None = None, **samples: np.ndarray) -> Path:
        onnx.save(onnx.parser.parse_model(text), str(tmp_path / f"{name}.onnx"))
        folder = tmp_path / name
        engine("onnxruntime").build(tmp_path / f"{name}.onnx", load_profile("host"), folder, precision="fp32")
        spec = json.loads((folder / "engine.json").read_text())
        spec["options"].update(options or {})
        (folder / "engine.json").write_text(json.dumps(spec))
        np.savez(tmp_path / f"{name}.npz", **samples)
        return folder

    return make
