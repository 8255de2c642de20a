"""What float costs in a layer, through real engines and the real device program on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from calibration.child import calibrate_in_child, quantize_in_child
from calibration.child_examine import examine_in_child
from pipeline.stages.floatcost import FloatCost
from targets.process import Limits
from targets.profile import load_profile

if TYPE_CHECKING:
    from pathlib import Path

NET = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[batch, 16, 24, 24] x) => (float[batch, 16, 20, 20] y)
<float[16, 16, 3, 3] v, float[16, 16, 3, 3] w>
{ h = Conv (x, v) r = Relu (h) y = Conv (r, w) }
"""


@pytest.mark.long
def test_a_layer_s_cost_is_measured_with_its_interval(tmp_path: Path) -> None:
    """Promise: each layer that gives something back in float has a cost in microseconds, with its interval."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(NET)
    for name in ("v", "w"):
        weight = rng.normal(size=(16, 16, 3, 3)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    onnx.save(model, str(tmp_path / "net.onnx"))
    np.savez(tmp_path / "samples.npz", x=rng.normal(size=(40, 16, 24, 24)).astype(np.float32))
    profile = load_profile("host").choices()[""]
    (out := tmp_path / "out").mkdir()
    request: dict[str, Any] = {
        "model": str(tmp_path / "net.onnx"), "samples": str(tmp_path / "samples.npz"), "threads": 1, "batch_size": 8,
        "table": str(tmp_path / "table.json"), "scheme": profile.quantization.scheme, "method": "minmax", "seed": 0,
        "out_folder": str(out),
    }  # fmt: skip
    calibrate_in_child({**request, "out": request["table"]})
    quantize_in_child(request)
    examine_in_child({**request, "sensitivity": "on", "forecast": False})
    rows = json.loads((out / "layers.json").read_text("utf-8"))
    (work := tmp_path / "work").mkdir()
    cost = FloatCost(request=request, limits=Limits(timeout_s=120.0), profile=profile, device="local", folder=work)
    shares: list[float] = []
    costs, told = cost.measured(rows, "minmax", shares.append)
    assert set(costs) == {"n0", "n2"}
    assert told["device"] == "local"
    assert 1 <= told["blocks"] <= 3  # fewer on a busy machine
    assert told["int8_us"] > 0
    for us, low_us, high_us in told["layers"].values():
        assert low_us is None or low_us <= us <= high_us
    assert shares == sorted(shares)
