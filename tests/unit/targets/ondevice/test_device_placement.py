"""Counting nodes by provider: from the profile of one inference, of real samples where there are any."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from targets.ondevice import placement as module
from targets.ondevice.failure import Failure
from targets.ondevice.placement import placement
from targets.ondevice.session import sha256_of

CPU = "CPUExecutionProvider"
NET = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[batch, 1, height, width] x) => (float[batch, 1, p, q] y) <float[1, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}>
{ y = Conv (x, w) }
"""


def _engine(folder: Path) -> dict[str, Any]:
    onnx.save(onnx.parser.parse_model(NET), str(folder / "engine.onnx"))
    options = {
        "providers": [CPU], "threads": 1, "allow_spinning": False, "memory_pattern": True, "arena": True,
        "denormal_as_zero": False, "optimization": "disabled", "provider_options": {},
    }  # fmt: skip
    port = {"name": "x", "dtype": "float32", "shape": ["batch", 1, "height", "width"]}
    return {"file": "engine.onnx", "sha256": sha256_of(folder / "engine.onnx"), "options": options, "inputs": [port]}


def test_real_samples_fit_where_made_up_ones_cannot(tmp_path: Path) -> None:
    """A free height of 1 is no image for a 3 x 3 kernel: with samples the nodes are counted, without it is said."""
    spec = _engine(tmp_path)
    np.savez(tmp_path / "s.npz", x=np.zeros((5, 1, 8, 8), np.float32))
    assert placement(tmp_path, spec, str(tmp_path / "s.npz"))["operators"] == {CPU: {"Conv": 1}}
    with pytest.raises(Failure, match="failed while its nodes were counted"):
        placement(tmp_path, spec)


def test_each_node_counts_once_on_its_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of two providers, one of them run twice: nodes and operators of each, as the profile names them."""
    seen = [("Conv", 0, "NPU"), ("Conv", 0, "NPU"), ("Relu", 1, CPU), ("Conv", 2, CPU)]
    events = [
        {
            "cat": "Node", "name": f"n{index}_kernel_time", "ts": at, "dur": 1,
            "args": {
                "op_name": kind, "node_index": str(index), "provider": on, "input_type_shape": [],
                "output_type_shape": [],
            },
        }
        for at, (kind, index, on) in enumerate(seen)
    ]  # fmt: skip
    (tmp_path / "profile.json").write_text(json.dumps(events))
    fed: list[dict[str, np.ndarray]] = []
    session = SimpleNamespace(
        run=lambda _names, feed: fed.append(feed),
        end_profiling=lambda: str(tmp_path / "profile.json"),
        get_providers=lambda: ["NPU", CPU],
    )
    monkeypatch.setattr(module, "open_session", lambda *_args, **_kwargs: session)
    found = placement(tmp_path, {"inputs": [{"name": "x", "dtype": "float32", "shape": ["n", 2]}]})
    assert found["providers"] == ["NPU", CPU]
    assert found["nodes"] == {CPU: 2, "NPU": 1}
    assert found["operators"] == {CPU: {"Conv": 1, "Relu": 1}, "NPU": {"Conv": 1}}
    assert [feed["x"].shape for feed in fed] == [(1, 2)]


def test_an_engine_of_another_runtime_is_refused(tmp_path: Path) -> None:
    """Only ONNX Runtime has execution providers."""
    with pytest.raises(Failure, match="no execution providers") as caught:
        placement(tmp_path, {"engine": "openvino", "inputs": []})
    assert caught.value.exit_code == 3
