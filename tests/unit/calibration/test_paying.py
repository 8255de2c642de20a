"""Promises of `layers_without_gain`: int8 stays where it is predicted to pay."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibration.candidates import Workshop
from calibration.collect import collect
from calibration.modelfile import open_float
from calibration.paying import Prediction, fastest_mix, float_cost_us, layers_without_gain
from calibration.placement import place
from calibration.prepare import main_nodes, prepare
from calibration.qdq import quantize_model
from calibration.samples import CalibrationSet
from calibration.work import macs
from targets.costs import COSTS, Kind, LayerCosts
from targets.scheme import SCHEMES, scheme

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SCHEME = scheme("ort-x86")
LAYERS = ("stem", "conv1", "conv2", "head")
ONLY_CONVERSIONS = LayerCosts(
    float_gmacs=MappingProxyType({"dense": 1e12, "thin": 1e12, "single": 1e12, "depthwise": 1e12}),
    int8_gmacs=MappingProxyType({"dense": 1e12, "thin": 1e12, "single": 1e12, "depthwise": 1e12}),
    float_layer_us=0.0,
    int8_layer_us=0.0,
    conversion_us=1.0,
    conversion_ns=0.0,
    image_conversion_ns=0.0,
    layout_us=0.0,
)


@pytest.fixture
def samples(images: NDArray[np.float32]) -> CalibrationSet:
    return CalibrationSet({"x": images}, batch_size=16)


def predict(path: Path, samples: CalibrationSet, costs: LayerCosts) -> Prediction:
    graph = prepare(open_float(path)).graph
    work = macs(prepare(open_float(path)), place(graph, SCHEME), samples, threads=1)
    values = [*graph.inputs, *(value for node in main_nodes(graph) for value in node.outputs)]
    return Prediction(graph, SCHEME, costs, work, {str(value.name): 1000 for value in values})


@pytest.mark.parametrize("floats", [(), ("stem",), ("head",), ("stem", "conv1"), ("conv2",), ("stem", "head")])
def test_conversions_are_those_that_run(
    residual: Path, samples: CalibrationSet, tmp_path: Path, floats: tuple[str, ...]
) -> None:
    """As many Quantize and Dequantize are predicted as ONNX Runtime leaves in the optimised file, within one."""
    out, optimised = tmp_path / "q.onnx", tmp_path / "optimised.onnx"
    quantize_model(residual, collect(residual, samples, threads=1), SCHEME, "minmax", out, float_nodes=floats)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimised)
    onnxruntime.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(optimised).graph.node)
    predicted = predict(residual, samples, ONLY_CONVERSIONS).total_us(floats)
    assert abs(predicted - (kinds["QuantizeLinear"] + kinds["DequantizeLinear"])) <= 1.0


def test_int8_stays_where_it_costs_nothing(residual: Path, samples: CalibrationSet) -> None:
    """With free conversions and faster arithmetic, no layer goes to float."""
    rates: dict[Kind, float] = {"dense": 1.0, "thin": 1.0, "single": 1.0, "depthwise": 1.0}
    fast = MappingProxyType(rates)
    costs = replace(ONLY_CONVERSIONS, float_gmacs=fast, conversion_us=0.0)
    assert layers_without_gain(prepare(open_float(residual)), SCHEME, costs, samples, threads=1) == frozenset()


def test_a_thin_first_layer_goes_to_float(residual: Path, samples: CalibrationSet) -> None:
    """Where int8 is slow on three channels and fast elsewhere, the stem is left, and only that."""
    costs = replace(
        ONLY_CONVERSIONS,
        float_gmacs=MappingProxyType({"dense": 1.0, "thin": 1.0, "single": 1.0, "depthwise": 1.0}),
        int8_gmacs=MappingProxyType({"dense": 10.0, "thin": 0.1, "single": 0.1, "depthwise": 1.0}),
        conversion_us=0.001,
    )
    assert layers_without_gain(prepare(open_float(residual)), SCHEME, costs, samples, threads=1) == {"stem"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rates=st.lists(st.floats(0.1, 10.0), min_size=8, max_size=8), us=st.floats(0.0, 5.0), ns=st.floats(0.0, 5.0))
def test_never_slower_and_never_less_than_half(
    residual: Path, samples: CalibrationSet, rates: list[float], us: float, ns: float
) -> None:
    """Whatever the costs, the choice is predicted no slower than all int8 and keeps half of the work in int8."""
    costs = LayerCosts(
        float_gmacs=MappingProxyType(dict(zip(("dense", "thin", "single", "depthwise"), rates[:4], strict=True))),
        int8_gmacs=MappingProxyType(dict(zip(("dense", "thin", "single", "depthwise"), rates[4:], strict=True))),
        float_layer_us=us / 2,
        int8_layer_us=us,
        conversion_us=us,
        conversion_ns=ns,
        image_conversion_ns=ns,
        layout_us=us,
    )
    model = prepare(open_float(residual))
    work = macs(model, place(model.graph, SCHEME), samples, threads=1)
    prediction = predict(residual, samples, costs)
    chosen = fastest_mix(prediction, work)
    assert prediction.total_us(chosen) <= prediction.total_us(())
    assert sum(work[name] for name in chosen) <= 0.5 * sum(work.values())


def test_costs_are_of_known_dialects() -> None:
    """Every dialect with costs exists, and every figure is positive."""
    assert COSTS.keys() <= SCHEMES.keys()
    for costs in COSTS.values():
        assert min(*costs.float_gmacs.values(), *costs.int8_gmacs.values(), costs.conversion_us) > 0.0


def test_what_float_costs_a_layer(residual: Path, samples: CalibrationSet) -> None:
    """A layer's cost in float is the whole with it in float less the whole without, conversions included."""
    costs = replace(
        ONLY_CONVERSIONS,
        float_gmacs=MappingProxyType({"dense": 0.001, "thin": 0.001, "single": 0.001, "depthwise": 0.001}),
        int8_gmacs=MappingProxyType({"dense": 1e12, "thin": 1e12, "single": 1e12, "depthwise": 1e12}),
        conversion_us=0.0,
    )
    model = prepare(open_float(residual))
    found = float_cost_us(model, SCHEME, costs, samples, threads=1)
    work = macs(model, place(model.graph, SCHEME), samples, threads=1)
    assert found == pytest.approx({name: amount / 0.001 / 1e3 for name, amount in work.items()}, rel=1e-3)
    free = float_cost_us(model, SCHEME, ONLY_CONVERSIONS, samples, threads=1)
    assert free["conv2"] > free["stem"]  # in the middle both sides are converted, at the end one already is


def test_an_image_from_float_keeps_two_layouts(residual_blocks: Path, samples: CalibrationSet, tmp_path: Path) -> None:
    """Where sums are predicted to join two layouts the runtime turns images around for them, else it does not."""
    net = residual_blocks
    table = collect(net, samples, threads=1)
    costs = replace(ONLY_CONVERSIONS, conversion_us=0.0, layout_us=1.0, float_layer_us=10.0, int8_layer_us=10.0)
    turned, predicted = {}, {}
    for floats in ((), ("stem",)):
        out, optimised = tmp_path / "q.onnx", tmp_path / "optimised.onnx"
        quantize_model(net, table, SCHEME, "minmax", out, float_nodes=floats)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(optimised)
        onnxruntime.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
        turned[floats] = sum(node.op_type == "Transpose" for node in onnx.load(optimised).graph.node)
        predicted[floats] = predict(net, samples, costs).total_us(floats)
    assert predicted["stem",] - predicted[()] == pytest.approx(2.0, abs=1e-3)
    assert turned["stem",] - turned[()] >= 2


def test_a_convolution_that_turns_is_foretold(residual_blocks: Path, samples: CalibrationSet) -> None:
    """Where one int8 layer takes less than the sums that it spares, that is what an image from float costs."""
    net = residual_blocks
    costs = replace(ONLY_CONVERSIONS, conversion_us=0.0, layout_us=1.0, float_layer_us=0.5, int8_layer_us=0.5)
    predicted = {floats: predict(net, samples, costs).total_us(floats) for floats in ((), ("stem",))}
    assert predicted["stem",] - predicted[()] == pytest.approx(0.5, abs=1e-3)


def test_first_and_last_layers_stay_int8_where_float_is_known_to_be_slower(
    residual: Path, samples: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers of little work at the ends are left in float, but not those that figures of the dialect call slower so."""
    free = {"dense": 1e12, "thin": 1e12, "single": 1e12, "depthwise": 1e12}
    slow_stem = replace(
        ONLY_CONVERSIONS,
        float_gmacs=MappingProxyType({**free, "thin": 1e-3}),  # type: ignore[arg-type]
        int8_gmacs=MappingProxyType({**free, "dense": 1.0}),  # type: ignore[arg-type]
    )
    table = collect(residual, samples, threads=1)
    monkeypatch.setattr("calibration.candidates._LITTLE", 1.0)
    monkeypatch.setattr("calibration.candidates._IN_ALL", 1.0)
    found = {}
    for name, costs in (("unknown", {}), ("known", {"ort-x86": slow_stem})):
        monkeypatch.setattr("calibration.candidates.COSTS", costs)
        shop = Workshop(residual, table, samples, scheme=SCHEME, folder=tmp_path, threads=1)
        found[name] = shop.spared
    assert found["unknown"] >= {"stem", "head"}
    assert "stem" not in found["known"]
    assert "head" in found["known"]
    wide = Workshop(residual, table, samples, scheme=scheme("qnn-a16"), folder=tmp_path, threads=1)
    assert wide.spared == frozenset(), "16 bits round neither end coarsely"
