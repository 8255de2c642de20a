"""Float ONNX files of other people: any opset, functions, bodies, several inputs, external data, half precision."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration import modelfile
from calibration.modelfile import model_sha256, open_float, runnable, save
from calibration.prepare import constant, prepare, serialize
from calibration.qdq import quantize_model, snr_db
from calibration.session import Session
from targets.errors import InputError
from targets.onnxfile import open_onnx
from targets.scheme import scheme


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


zoo = _load("qdq_zoo")
X = zoo.images(2, 3, 8, 8)


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    *,
    opset: int = 17,
    rank: int = 4,
    **more: Any,  # noqa: ANN401
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), *more.pop("opsets", [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def _weight(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (np.random.default_rng(3).standard_normal(shape) * 0.3).astype(np.float32)


def _quantise(model: onnx.ModelProto, folder: Path, dialect: str = "ort-x86") -> tuple[Path, Any]:
    path, out = folder / "float.onnx", folder / "int8.onnx"
    path.write_bytes(model.SerializeToString())
    return out, quantize_model(path, zoo.table_of(path, {"x": X}), scheme(dialect), "minmax", out)


def _run(data: bytes) -> Any:  # noqa: ANN401 - any dtype
    return Session(data, threads=1, optimize=True).run(None, {"x": X})[0]


@pytest.mark.parametrize("opset", range(11, 24))
@pytest.mark.parametrize("dialect", ["ort-x86", "trt", "qnn-a16"])
def test_every_opset(opset: int, dialect: str, tmp_path: Path) -> None:
    """Opsets 11 to 23 are quantised; old ones are converted up, operators whose attributes became inputs included."""
    old = opset < 13
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("ReduceMean", ["r"], ["m"], "mean", axes=[2, 3])
        if opset < 18
        else helper.make_node("ReduceMean", ["r", "axes"], ["m"], "mean"),
        helper.make_node("Squeeze", ["m"], ["s"], "squeeze", axes=[2, 3])
        if old
        else helper.make_node("Squeeze", ["m", "axes"], ["s"], "squeeze"),
        helper.make_node("Gemm", ["s", "v"], ["y"], "gemm"),
    ]
    constants: dict[str, Any] = {"w": _weight(8, 3, 3, 3), "v": _weight(8, 4)}
    model = _model(nodes, constants if old else constants | {"axes": np.array([2, 3])}, opset=opset, rank=2)
    out, layers = _quantise(model, tmp_path, dialect)
    assert {layer.node for layer in layers if layer.op in {"Conv", "Gemm"} and layer.precision == "int8"} == {
        "conv",
        "gemm",
    }
    assert next(o.version for o in onnx.load(out).opset_import) == max(opset, scheme(dialect).opset)
    assert snr_db(_run(model.SerializeToString()), _run(out.read_bytes())) > 30.0
    assert serialize(prepare(model)) == serialize(prepare(model))


@pytest.mark.parametrize("opset", [0, 10, 24])
def test_other_opsets_are_refused(opset: int) -> None:
    """An opset outside the supported ones, or none at all, is an input error that says which are supported."""
    model = _model([helper.make_node("Relu", ["x"], ["y"])], {}, opset=max(opset, 1))
    if not opset:
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(InputError, match=r"11 to 23|no valid ONNX graph"):
        prepare(model)


def test_what_cannot_be_converted_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the converter gives up, the error names both opsets and the way out."""

    def give_up(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
        raise RuntimeError(f"no adapter for {model.graph.node[0].op_type} to {version}")

    monkeypatch.setattr(onnx.version_converter, "convert_version", give_up)
    with pytest.raises(InputError, match=r"(?s)opset 11 .* 13.*no adapter for Relu.*opset 17 or newer"):
        prepare(_model([helper.make_node("Relu", ["x"], ["y"])], {}, opset=11))


@pytest.mark.parametrize("opset", [11, 17])
def test_bodies_stay_float(opset: int, tmp_path: Path) -> None:
    """If and Loop bodies keep their operators and values; an int8 tensor that a body reads comes to it as float."""
    result = helper.make_tensor_value_info("r", TensorProto.FLOAT, None)
    then = helper.make_graph([helper.make_node("Conv", ["c", "v"], ["r"], "inner")], "then", [], [result])
    other = helper.make_graph([helper.make_node("Conv", ["c", "v"], ["r"], "inner")], "else", [], [result])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "outer"),
        helper.make_node("If", ["yes"], ["i"], "if", then_branch=then, else_branch=other),
        helper.make_node("Conv", ["i", "u"], ["y"], "last"),
    ]
    constants = {"w": _weight(4, 3, 3, 3), "v": _weight(4, 4, 1, 1), "u": _weight(4, 4, 1, 1), "yes": np.array(True)}  # noqa: FBT003
    model = _model(nodes, constants, opset=opset)
    for dialect in ("ort-x86", "trt", "qnn-a16"):
        out, layers = _quantise(model, tmp_path, dialect)
        assert [(layer.node, layer.precision) for layer in layers] == [
            ("outer", "int8"),
            ("if", "float"),
            ("last", "int8"),
        ]
        assert "bodies of If stay float" in layers[1].reason
        inner = next(node for node in onnx.load(out).graph.node if node.op_type == "If").attribute[0].g
        assert [node.op_type for node in inner.node] == ["Conv"]
        assert inner.node[0].input[1] == "v"
        assert snr_db(_run(model.SerializeToString()), _run(out.read_bytes())) > 30.0


def test_functions_are_inlined(tmp_path: Path) -> None:
    """What a local function computes is quantised as if it stood in the graph."""
    block = helper.make_function(
        "local",
        "Block",
        ["a", "k"],
        ["b"],
        [helper.make_node("Conv", ["a", "k"], ["c"], "conv"), helper.make_node("Relu", ["c"], ["b"], "relu")],
        [helper.make_opsetid("", 17)],
    )
    nodes = [helper.make_node("Block", ["x", "w"], ["y"], "block", domain="local")]
    model = _model(nodes, {"w": _weight(4, 3, 3, 3)}, functions=[block], opsets=[helper.make_opsetid("local", 1)])
    out, layers = _quantise(model, tmp_path)
    assert [layer.op for layer in layers] == ["Conv", "Relu"]
    assert {layer.precision for layer in layers} == {"int8"}
    assert snr_db(_run(model.SerializeToString()), _run(out.read_bytes())) > 30.0


def test_constants_are_computed(tmp_path: Path) -> None:
    """A weight behind Cast and Transpose is a weight; a shape made of fixed sizes is a constant; Dropout is gone."""
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], "conv"),
        helper.make_node("Dropout", ["c"], ["d"], "dropout"),
        helper.make_node("Flatten", ["d"], ["f"], "flatten"),
        helper.make_node("Cast", ["half"], ["w32"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["w32"], ["w"], "transpose", perm=[1, 0]),
        helper.make_node("MatMul", ["f", "w"], ["y"], "linear"),
    ]
    constants = {"k": _weight(4, 3, 3, 3), "half": _weight(5, 144).astype(np.float16)}
    model = _model(nodes, constants, rank=2)
    graph = prepare(model).graph
    assert [node.op_type for node in graph] == ["Conv", "Flatten", "MatMul"]
    assert np.array_equal(np.asarray(constant(graph.initializers["w"])), constants["half"].astype(np.float32).T)
    out, layers = _quantise(model, tmp_path)
    assert {layer.precision for layer in layers} == {"int8"}
    assert snr_db(_run(model.SerializeToString()), _run(out.read_bytes())) > 30.0


@pytest.mark.parametrize(
    ("attributes", "op"),
    [
        ({"kernel_shape": [8, 8]}, "GlobalAveragePool"),
        ({"kernel_shape": [8, 8], "strides": [3, 3], "count_include_pad": 1}, "GlobalAveragePool"),
        ({"kernel_shape": [8, 4]}, "AveragePool"),
        ({"kernel_shape": [8, 8], "pads": [1, 0, 0, 0]}, "AveragePool"),
        ({"kernel_shape": [8, 8], "auto_pad": "SAME_UPPER"}, "AveragePool"),
    ],
)
def test_a_pool_over_the_plane_is_global(attributes: dict[str, Any], op: str) -> None:
    """AveragePool of the plane's own size becomes GlobalAveragePool with the same output; any other stays."""
    model = _model([helper.make_node("AveragePool", ["x"], ["y"], "pool", **attributes)], {})
    prepared = prepare(model)
    assert [node.op_type for node in prepared.graph] == [op]
    assert np.allclose(_run(serialize(prepared)), _run(model.SerializeToString()), atol=1e-6)


@pytest.mark.parametrize("pick", ["Slice", "along", "Gather", "Gather one", "backwards"])
def test_sizes_beside_a_free_batch_are_constants(pick: str) -> None:
    """What is picked from a Shape without the batch is known, and so is the mask that is made of it."""
    last, first, one = np.array([-1]), np.array([0]), np.array([1])
    nodes = {
        "Slice": [helper.make_node("Slice", ["shape", "last", "end"], ["size"])],
        "along": [helper.make_node("Slice", ["shape", "last", "end", "first"], ["size"])],
        "Gather": [helper.make_node("Gather", ["shape", "last"], ["size"])],
        "Gather one": [
            helper.make_node("Gather", ["shape", "minus"], ["scalar"]),
            helper.make_node("Unsqueeze", ["scalar", "first"], ["size"]),
        ],
        "backwards": [helper.make_node("Slice", ["shape", "last", "two", "first", "back"], ["size"])],
    }[pick]
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        *nodes,
        helper.make_node("Concat", ["size", "size"], ["square"], axis=0),
        helper.make_node("Expand", ["fill", "square"], ["full"]),
        helper.make_node("Trilu", ["full"], ["mask"]),
        helper.make_node("Add", ["x", "mask"], ["y"], "add"),
    ]
    constants = {"last": last, "first": first, "end": np.array([2**60]), "minus": np.array(-1), "two": np.array([2])}
    constants |= {"back": -one, "fill": np.float32(2.0)}
    model = _model(nodes, {name: array for name, array in constants.items() if any(name in n.input for n in nodes)})
    prepared = prepare(model)
    assert [node.op_type for node in prepared.graph] == ["Add"]
    assert np.array_equal(_run(serialize(prepared)), _run(model.SerializeToString()))


def test_the_batch_itself_is_no_constant() -> None:
    """A pick that holds the free batch stays a node."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Cast", ["batch"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "number"], ["y"], "add"),
    ]
    prepared = prepare(_model(nodes, {"first": np.array([0])}))
    assert [node.op_type for node in prepared.graph] == ["Shape", "Gather", "Cast", "Add"]


def test_large_fills_are_not_stored() -> None:
    """A constant that grows a lot when computed (a filled or repeated tensor) stays a node."""
    nodes = [
        helper.make_node("ConstantOfShape", ["sizes"], ["big"], "fill"),
        helper.make_node("Add", ["x", "big"], ["y"], "add"),
    ]
    model = _model(nodes, {"sizes": np.array([400, 3, 8, 8])})
    assert [node.op_type for node in prepare(model).graph] == ["ConstantOfShape", "Add"]


def test_shared_weights_are_stored_once_for_each_axis(tmp_path: Path) -> None:
    """Two readers along one axis share the integers; a reader along another axis has its own."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w"], ["a"], "one"),
        helper.make_node("Gemm", ["a", "w"], ["b"], "two"),
        helper.make_node("Gemm", ["b", "w"], ["y"], "three", transB=1),
    ]
    model = _model(nodes, {"w": _weight(8, 8), "shape": np.array([-1, 8])}, rank=2)
    out, layers = _quantise(model, tmp_path)
    names = [t.name for t in onnx.load(out).graph.initializer if t.data_type == TensorProto.INT8 and t.dims == [8, 8]]
    assert names == ["w__one__quantized", "w__three__quantized"]
    assert [layer.precision for layer in layers] == ["float", "int8", "int8", "int8"]
    assert snr_db(_run(model.SerializeToString()), _run(out.read_bytes())) > 25.0


def test_half_precision_is_left_alone(tmp_path: Path) -> None:
    """Nodes of float16 stay as they are, with a reason; float32 ones are quantised."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "single"),
        helper.make_node("Cast", ["c"], ["h"], "down", to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["h", "v"], ["g"], "half"),
        helper.make_node("Cast", ["g"], ["y"], "up", to=TensorProto.FLOAT),
    ]
    model = _model(nodes, {"w": _weight(4, 3, 3, 3), "v": _weight(4, 4, 1, 1).astype(np.float16)})
    for dialect in ("ort-x86", "trt", "qnn-a16"):
        out, layers = _quantise(model, tmp_path, dialect)
        precision = {layer.node: layer.precision for layer in layers}
        assert (precision["single"], precision["half"]) == ("int8", "float")
        assert "float32" in next(layer.reason for layer in layers if layer.node == "half")
        assert snr_db(_run(model.SerializeToString()), _run(out.read_bytes())) > 30.0


@pytest.mark.parametrize("op", ["MatMulNBits", "QAttention", "DynamicQuantizeMatMul", "QGemm"])
def test_quantised_input_of_any_kind_is_refused(op: str) -> None:
    """Operators that hold integers already are named, by their output when they have no name."""
    node = helper.make_node(op, ["x", "x", "x"], ["y"], domain="com.microsoft")
    model = _model([node], {}, opsets=[helper.make_opsetid("com.microsoft", 1)])
    with pytest.raises(InputError, match=f"'y' is a {op}"):
        prepare(model)


def _with_external_data(folder: Path) -> tuple[onnx.ModelProto, Path]:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "v"], ["y"], "last"),
    ]
    model = _model(nodes, {"w": _weight(32, 3, 3, 3), "v": _weight(64, 32, 3, 3)})
    path = folder / "float.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save_model(copy, str(path), save_as_external_data=True, location="weights.bin", size_threshold=64)
    return model, path


def test_external_data_counts_in_the_hash(tmp_path: Path) -> None:
    """A table measured with other external weights does not fit: the hash is of all files."""
    _, path = _with_external_data(tmp_path)
    before = model_sha256(path)
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert model_sha256(path) != before


def test_models_too_large_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit weights never pass through one protobuf, and the result is the same numbers in two files."""
    model, path = _with_external_data(tmp_path)
    small = tmp_path / "small.onnx"
    table = zoo.table_of(path, {"x": X})
    quantize_model(path, table, scheme("ort-x86"), "minmax", small)
    monkeypatch.setattr(modelfile, "ONE_FILE_BYTES", 1000)
    large = tmp_path / "large.onnx"
    quantize_model(path, table, scheme("ort-x86"), "minmax", large)
    assert (tmp_path / "large.onnx.data").stat().st_size > 18_000
    assert large.stat().st_size < 8_000
    found = Session(large, threads=1, optimize=True).run(None, {"x": X})[0]
    assert np.array_equal(found, _run(small.read_bytes()))
    opened = open_onnx(large)
    onnx.checker.check_model(opened, full_check=True)
    with runnable(prepare(open_float(path))) as source:
        assert isinstance(source, Path)
        floating = Session(source, threads=1, optimize=True).run(None, {"x": X})[0]
    assert not source.exists()
    assert np.allclose(floating, _run(model.SerializeToString()), atol=1e-5)
    save(prepare(open_float(path)), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx.data").exists()
