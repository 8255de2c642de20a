"""A model read without its weights is the model that protobuf reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from targets import onnxbytes, onnxsplit, onnxtensors
from targets.errors import InputError, RefusedError
from targets.onnxfile import every_tensor, open_onnx, open_stored
from targets.onnxtensors import INSIDE, check_values, is_inside, tensor_array

PORTS = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]


def _model(*arrays: np.ndarray, typed: bool = False) -> onnx.ModelProto:
    """Weights of any type, one more with typed data, one in a Constant, one in a subgraph."""
    tensors = [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(arrays)]
    if typed:
        tensors.append(helper.make_tensor("typed", TensorProto.FLOAT, [40], [0.5] * 40))
        tensors.append(helper.make_tensor("texts", TensorProto.STRING, [2], [b"a" * 40, b"b"]))
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(40, np.float32), "k"))
    body = helper.make_graph([constant], "body", [], [helper.make_tensor_value_info("k", TensorProto.FLOAT, [40])])
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], "relu"), constant,
        helper.make_node("If", ["c"], ["z"], "if", then_branch=body, else_branch=body),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "net", PORTS[:1], PORTS[1:], tensors, doc_string="d" * 300)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9, producer_name="p" * 200)


ARRAYS = [
    np.arange(50, dtype=np.float32).reshape(5, 10), np.arange(64, dtype=np.int8), np.zeros((0, 3), np.float32),
    np.arange(9, dtype=np.int64), np.arange(40, dtype=np.float16), np.float32(3), np.arange(33) % 2 == 0,
]  # fmt: skip
WHOLE = _model(*ARRAYS, typed=True)
DATA = WHOLE.SerializeToString()


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of any size are taken apart, and weights of more than eight bytes stay in them."""
    monkeypatch.setattr(onnxbytes, "_SPLIT", 0)
    monkeypatch.setattr(onnxsplit, "SMALL_BYTES", 8)


def _split(path: Path) -> bytes | None:
    with path.open("rb") as stream:
        return onnxsplit.without_weights(stream.fileno(), path.stat().st_size)


def _restored(path: Path, data: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto.FromString(data)
    for tensor in filter(is_inside, every_tensor(model)):
        raw = tensor_array(path, tensor).tobytes()
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = raw
    return model


@pytest.mark.usefixtures("everything_is_large")
def test_weights_stay_in_the_file(tmp_path: Path) -> None:
    """The graph is read without the bytes of its weights, and with them it is the whole model again."""
    path = tmp_path / "m.onnx"
    path.write_bytes(DATA)
    data = _split(path)
    assert data is not None
    assert _restored(path, data) == WHOLE
    left = {tensor.name for tensor in open_stored(path).model.graph.initializer if is_inside(tensor)}
    assert left == {"w0", "w1", "w3", "w4", "w6"}
    for tensor in open_stored(path).model.graph.initializer:
        whole = next(each for each in WHOLE.graph.initializer if each.name == tensor.name)
        np.testing.assert_array_equal(tensor_array(path, tensor), numpy_helper.to_array(whole))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_protobuf_is_the_only_judge(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever happens to the bytes: what is taken apart reads as protobuf reads the whole, or both are refused."""
    content = bytearray(DATA)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"]))
        if kind == "flip":
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del content[place : place + data.draw(st.integers(1, 40))]
        elif kind == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=12))
        else:
            content[place:place] = content[place : place + data.draw(st.integers(1, 600))]
    path = tmp_path_factory.getbasetemp() / "mutant.onnx"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxsplit, "SMALL_BYTES", 8)
        found = _split(path)
    if found is None:
        return
    try:
        whole = onnx.ModelProto.FromString(bytes(content))
    except DecodeError:
        with pytest.raises(DecodeError):
            onnx.ModelProto.FromString(found)
        return
    small = onnx.ModelProto.FromString(found)
    restored = {t.name: onnxtensors.place(path, t)[1:] for t in small.graph.initializer if is_inside(t)}
    for one, other in zip(small.graph.initializer, whole.graph.initializer, strict=True):
        assert [*one.dims] == [*other.dims]
        assert (one.name, one.data_type) == (other.name, other.data_type)
        if is_inside(one):
            offset, length = restored[one.name] if len(restored) == sum(map(is_inside, small.graph.initializer)) else (
                onnxtensors.place(path, one)[1:]
            )  # fmt: skip
            assert bytes(content[offset : offset + length]) == other.raw_data
        else:
            assert one == other
    del small.graph.initializer[:], whole.graph.initializer[:]
    assert small == whole


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(DATA + DATA, id="two graphs, which protobuf merges"),
        pytest.param(b"\xba\x80\x00" + DATA, id="a tag longer than it must be"),
        pytest.param(DATA[:-1], id="cut off"),
        pytest.param(DATA + b"\x3b\x3c", id="a group"),
        pytest.param(b"", id="empty"),
    ],
)
def test_unusual_files_are_read_whole(tmp_path: Path, data: bytes) -> None:
    """What is not of the plain form is left to protobuf."""
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert _split(path) is None


@pytest.mark.usefixtures("everything_is_large")
def test_a_model_cannot_say_that_data_lie_in_it(tmp_path: Path) -> None:
    """The place inside has a name that changes with each process; one like it is refused as any other path."""
    for location in ("\0", INSIDE[:-1], "\0" + "0" * 32):
        model = _model(ARRAYS[0])
        outside = model.graph.initializer.add(name="o", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
        outside.external_data.add(key="location", value=location)
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        for opened in (open_onnx, open_stored):
            with pytest.raises(RefusedError, match="external data"):
                opened(path)


@pytest.mark.usefixtures("everything_is_large")
def test_what_is_wrong_with_weights_is_found_in_the_file(tmp_path: Path) -> None:
    """NaN, and data that do not fit the shape, are told as of a model that is read whole."""
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    weight[1, 2] = np.nan
    short = _model(np.arange(12, dtype=np.float32))
    short.graph.initializer[0].dims[:] = [3, 5]
    for model, told in ((_model(weight), r"'w0' .* has 1 NaN or Inf \(first at \[1, 2\]\)"), (short, "do not fit")):
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        for opened in (open_onnx, open_stored):
            with pytest.raises(InputError, match=told):
                opened(path)


@pytest.mark.usefixtures("everything_is_large")
def test_a_file_that_becomes_shorter_is_refused(tmp_path: Path) -> None:
    """Weights that are gone when they are read end in three lines, not in a signal."""
    path = tmp_path / "m.onnx"
    path.write_bytes(_model(np.arange(500, dtype=np.float32)).SerializeToString())
    [tensor] = open_stored(path).model.graph.initializer
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RefusedError, match="external data"):
        check_values(path, tensor)
