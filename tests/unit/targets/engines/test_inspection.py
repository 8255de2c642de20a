"""The verdict on what was built, and the two ways by which ONNX Runtime's nodes are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from targets.engines import engine, onnxruntime_inspect
from targets.engines.inspection import Inspection, check_precision, overall
from targets.errors import InputError
from targets.options import Precision
from targets.profile import load_profile

MODEL = Path("m.onnx")
CPU = "CPUExecutionProvider"


def _inspection(precision: Precision, found: dict[str, int], **changes: object) -> Inspection:
    total = sum(found.values())
    plain: dict[str, object] = {
        "engine": "onnxruntime",
        "scope": "here",
        "requested_precision": precision,
        "actual_precision": overall(found),
        "nodes": {"Conv": total},
        "int8_nodes": {"Conv": found.get("int8", 0)},
        "providers": {CPU: total},
        "int8_node_ratio": 0.0,
        "compute": {"total": total, "int8": found.get("int8", 0), "macs": 1, "int8_macs": 0},
        "precisions": found,
        "int8_mac_ratio": 0.0,
        "float_compute": (),
        "weights_bytes": 1,
        "subnormal_weights": 0,
    }
    return Inspection(**{**plain, **changes})


@pytest.mark.parametrize(
    ("precision", "found", "part"),
    [
        ("int8", {"fp32": 3}, "stayed float"),
        ("int8-dynamic", {"fp32": 3}, "stayed float"),
        ("fp16", {"fp32": 3}, "run in fp32"),
        ("bf16", {"fp16": 3}, "run in fp16"),
        ("fp32", {"fp32": 2, "int8": 1}, "1 in int8"),
        ("fp32", {"fp16": 2}, "2 in fp16"),
    ],
)
def test_nothing_as_asked_is_an_error(precision: Precision, found: dict[str, int], part: str) -> None:
    """An engine in which nothing runs as asked, or an fp32 engine that is none, is refused with what it runs in."""
    with pytest.raises(InputError, match=precision) as caught:
        check_precision(MODEL, _inspection(precision, found))
    assert part in caught.value.why


def test_all_somewhere_else_is_an_error_and_a_part_a_warning() -> None:
    """When every compute node fell back to another provider the engine is refused; when some did, it says so."""
    compute = {"total": 2, "int8": 2, "macs": 1, "int8_macs": 1}
    with pytest.raises(InputError, match="does not run where"):
        check_precision(MODEL, _inspection("int8", {"int8": 2}, compute={**compute, "elsewhere": 2}))
    lines = check_precision(MODEL, _inspection("int8", {"int8": 2}, compute={**compute, "elsewhere": 1}))
    assert lines == ("1 of 2 convolutions and matrix products do not run where they were to",)


def test_parts_and_copies_are_warnings() -> None:
    """Compute nodes in another precision, unseen ones, and more reformat nodes than compute nodes are said aloud."""
    assert check_precision(MODEL, _inspection("int8", {"int8": 2}, reformats=2)) == ()
    lines = check_precision(MODEL, _inspection("int8", {"int8": 1, "fp32": 2, "unknown": 4}, reformats=8))
    assert [line.split()[0] for line in lines] == ["2", "4", "8"]


def test_layers_left_float_on_purpose_are_no_warning() -> None:
    """What runs is counted against what the model asks for: layers it has in float are as they should be."""
    found = {"int8": 7, "fp32": 2}
    assert check_precision(MODEL, _inspection("int8", found, asked=7)) == ()
    assert check_precision(MODEL, _inspection("fp16", {"fp16": 3, "fp32": 1}, asked=3)) == ()
    [line] = check_precision(MODEL, _inspection("int8", found, asked=8))
    assert line == "1 of 8 convolutions and matrix products do not run in int8 as asked: 2 in fp32"
    assert check_precision(MODEL, _inspection("int8", {"int8": 6, "unknown": 1}, asked=7))[0].startswith("1 of 7")


def test_weights_alone_are_checked_where_they_are_known() -> None:
    """An engine that was to store small weights and stores none is refused."""
    with pytest.raises(InputError, match="int4 weights"):
        check_precision(MODEL, _inspection("int4-weights", {"fp32": 1}, weights={"float32": 9}))
    assert check_precision(MODEL, _inspection("int4-weights", {"fp32": 1}, weights={"uint8": 9})) == ()


def test_what_nobody_saw_is_a_warning_and_the_graph_is_still_judged() -> None:
    """Without a look inside, unknown precisions are no error, a graph that cannot be int8 is one; it is said aloud."""
    seen = _inspection("fp16", {"unknown": 3}, inspected="no GPU here")
    assert check_precision(MODEL, seen) == ("nobody has seen what was built: no GPU here",)
    with pytest.raises(InputError, match="nothing can"):
        check_precision(MODEL, _inspection("int8", {"unknown": 3}, inspected="no GPU here"))
    quantised = {"total": 3, "int8": 1, "macs": 0, "int8_macs": 0}
    with pytest.raises(InputError, match="is quantised"):
        check_precision(MODEL, _inspection("fp32", {"unknown": 3}, compute=quantised, inspected="no GPU here"))


NET = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[batch, 3, 12, 12] x) => (float[batch, 5] y)
<float[16, 3, 3, 3] a, float[16, 1, 3, 3] d, float[32, 16, 1, 1] e, float[5, 32] w, float[5] b>
{
    h = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, a)
    r = Relu (h)
    s = Conv <group = 16, pads = [1, 1, 1, 1]> (r, d)
    t = Add (s, r)
    m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (t)
    u = Conv (m, e)
    p = GlobalAveragePool (u)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, w, b)
}
"""


def _net(path: Path) -> Path:
    model = onnx.parser.parse_model(NET)
    rng = np.random.default_rng(0)
    for value in model.graph.value_info:  # declared, and made by no node
        shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
        array = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("target", ["host", "raspberry-pi-5", "x86-64-avx2"])
def test_what_the_runtime_wrote_is_what_it_runs(tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes, precisions and MACs read from the written graph are those of a profiled inference, blocked or not."""
    build = engine("onnxruntime").build(
        _net(tmp_path / "n.onnx"), load_profile(target), tmp_path / "e", precision="fp32"
    )
    answers = []
    written = onnxruntime_inspect.written_events
    monkeypatch.setattr(
        onnxruntime_inspect, "written_events", lambda proto: answers.append(written(proto)) or answers[-1]
    )
    read = engine("onnxruntime").inspect(build)
    assert answers[0] is not None
    monkeypatch.setattr(onnxruntime_inspect, "written_events", lambda _proto: None)
    assert engine("onnxruntime").inspect(build) == read
    assert read.compute["total"] == 4
    assert read.compute["macs"] == 16 * 36 * 27 + 16 * 36 * 9 + 32 * 9 * 16 + 5 * 32
    assert read.reformats == read.nodes.get("ReorderInput", 0) + read.nodes.get("ReorderOutput", 0)


def test_a_half_precision_engine_that_computes_in_float_is_refused(tmp_path: Path) -> None:
    """A CPU provider that puts casts around 16-bit nodes computes in float: asked for fp16, that is an error."""
    model = tmp_path / "half.onnx"
    text = """
<ir_version: 10, opset_import: ["" : 18]>
h (float[n, 2] x) => (float[n, 2] y) <float16[2, 2] w = {1, 2, 3, 4}>
{ c = Cast <to = 10> (x) m = MatMul (c, w) y = Cast <to = 1> (m) }
"""
    onnx.save(onnx.parser.parse_model(text), str(model))
    with pytest.raises(InputError, match="run in fp16, and nothing does"):
        engine("onnxruntime").build(model, load_profile("host"), tmp_path / "e", precision="fp16")


def test_slow_dialects_are_warned_of(tmp_path: Path) -> None:
    """What the linter knows to be slow on x86 stands in inspect.json, one line a kind, with the first node's name."""
    text = """
<ir_version: 10, opset_import: ["" : 19]>
net (float[batch, 3, 8, 8] x) => (float[batch, 4, 6, 6] y)
<float s = {0.1}, int8 z = {0}, int8[4, 3, 3, 3] w, float sw = {0.02}, int8 zw = {0}>
{
    xq = QuantizeLinear (x, s, z)
    xd = DequantizeLinear (xq, s, z)
    wd = DequantizeLinear (w, sw, zw)
    h = Conv (xd, wd)
    hq = QuantizeLinear (h, s, z)
    y = DequantizeLinear (hq, s, z)
}
"""
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).integers(-9, 9, (4, 3, 3, 3)).astype(np.int8)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, str(tmp_path / "s.onnx"))
    build = engine("onnxruntime").build(
        tmp_path / "s.onnx", load_profile("x86-64-vnni"), tmp_path / "e", precision="int8"
    )
    warnings = json.loads((build.folder / "inspect.json").read_text())["warnings"]
    assert any("its activation is int8" in line and "'h'" in line for line in warnings)
    arm = engine("onnxruntime").warn(tmp_path / "s.onnx", load_profile("raspberry-pi-5"))
    assert arm == []


def test_a_build_knows_which_layers_its_model_has_in_float(tmp_path: Path) -> None:
    """Of a real build of a net with one layer spared, nothing is warned of, when it is built and when it is read."""
    text = """
<ir_version: 10, opset_import: ["" : 19]>
net (float[batch, 8, 8, 8] x) => (float[batch, 8, 4, 4] y)
<float s = {0.1}, uint8 z = {0}, int8[8, 8, 3, 3] w, float sw = {0.02}, int8 zw = {0}, float[8, 8, 3, 3] v>
{
    xq = QuantizeLinear (x, s, z)
    xd = DequantizeLinear (xq, s, z)
    wd = DequantizeLinear (w, sw, zw)
    h = Conv (xd, wd)
    hq = QuantizeLinear (h, s, z)
    hd = DequantizeLinear (hq, s, z)
    y = Conv (hd, v)
}
"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    weights = {"w": rng.integers(-9, 9, (8, 8, 3, 3)).astype(np.int8), "v": rng.normal(size=(8, 8, 3, 3))}
    for name, array in weights.items():
        kept = array if array.dtype == np.int8 else array.astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(kept, name))
    onnx.save(model, str(tmp_path / "s.onnx"))
    build = engine("onnxruntime").build(
        tmp_path / "s.onnx", load_profile("x86-64-vnni"), tmp_path / "e", precision="int8"
    )
    document = json.loads((build.folder / "inspect.json").read_text())
    assert (document["asked"], document["precisions"]["int8"], document["precisions"]["fp32"]) == (1, 1, 1)
    assert not [line for line in document["warnings"] if "do not run in int8" in line]
    assert not [line for line in engine("onnxruntime").inspect(build).warnings if "do not run in int8" in line]
