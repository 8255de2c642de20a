"""Models made to harm: what they point to, what they ask for, what they are instead of a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets import onnxtensors
from targets.contained import open_contained
from targets.errors import EnvironmentFailure, InputError, RefusedError
from targets.onnxfile import open_onnx, open_stored
from targets.process import Limits, call_limited

SECRET = b"the secret of another folder"
_INFO = helper.make_tensor_value_info


def _model(nodes: list[onnx.NodeProto], *initializers: TensorProto, output: str = "y") -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [_INFO("x", TensorProto.FLOAT, ["batch", 3])],
        [_INFO(output, TensorProto.FLOAT, ["batch", 3])],
        [*initializers],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _outside(location: str, elements: int = 7) -> TensorProto:
    tensor = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[elements])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "length": str(4 * elements)}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _identity() -> onnx.NodeProto:
    return helper.make_node("Identity", ["x"], ["y"])


def _body(tensor: TensorProto) -> onnx.GraphProto:
    constant = helper.make_node("Constant", [], ["k"], value=tensor)
    return helper.make_graph([constant], "body", [], [_INFO("k", TensorProto.FLOAT, [7])])


def _sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.arange(7, dtype=np.int64), "indices")
    return helper.make_sparse_tensor(tensor, indices, [9])


def _with_function(tensor: TensorProto) -> onnx.ModelProto:
    model = _model([_identity()])
    constant = helper.make_node("Constant", [], ["k"], value=tensor)
    model.functions.append(helper.make_function("own", "f", [], ["k"], [constant], [helper.make_opsetid("", 20)]))
    return model


def _with_sparse_initializer(tensor: TensorProto) -> onnx.ModelProto:
    model = _model([_identity()])
    model.graph.sparse_initializer.append(_sparse(tensor))
    return model


KINDS: dict[str, Callable[[TensorProto], onnx.ModelProto]] = {
    "dense": lambda t: _model([_identity()], t),
    "attribute": lambda t: _model([_identity(), helper.make_node("Constant", [], ["k"], value=t)]),
    "sparse constant": lambda t: _model(
        [_identity(), helper.make_node("Constant", [], ["k"], sparse_value=_sparse(t))]
    ),
    "sparse initializer": _with_sparse_initializer,
    "sub-graph": lambda t: _model(
        [_identity(), helper.make_node("If", ["c"], ["z"], then_branch=_body(t), else_branch=_body(t))]
    ),
    "function": _with_function,
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model's folder, beside a secret that every kind of link leads to."""
    (tmp_path / "secret.bin").write_bytes(SECRET)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "folder").symlink_to(tmp_path)
    os.link(tmp_path / "secret.bin", folder / "hard.bin")
    os.mkfifo(folder / "pipe.bin")
    (folder / "good").mkdir()
    return folder


LOCATIONS = [
    "../secret.bin", "good/../../secret.bin", "/proc/self/environ", "/proc/self/mem", "link.bin", "folder/secret.bin",
    "hard.bin", "pipe.bin", "good", "*/_ORT_MEM_ADDR_/*", "a\0b", "C:\\secret.bin", "C:secret.bin",
    "..\\secret.bin", "", ".", "~/secret.bin", "file:///etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_tensor_reads_outside_the_models_folder(kind: str, location: str, place: Path) -> None:
    """Promise S2: wherever a tensor hides and however its path escapes (hard links too), it is refused unread."""
    path = place / "net.onnx"
    path.write_bytes(KINDS[kind](_outside(location)).SerializeToString())
    for opened in (open_onnx, open_stored):
        with pytest.raises(RefusedError, match="points to external data") as caught:
            opened(path)
        assert SECRET.decode() not in str(caught.value)


def test_a_copy_in_the_folder_is_read(place: Path) -> None:
    """What the refusals above refuse is only the way there: a file of one name is read."""
    (place / "good" / "w.bin").write_bytes(SECRET)
    path = place / "net.onnx"
    path.write_bytes(KINDS["dense"](_outside("good/w.bin")).SerializeToString())
    assert open_onnx(path).graph.initializer[0].raw_data == SECRET


def test_a_file_swapped_after_the_check_is_checked_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise S2: between finding a file and reading it, it may become a link: what is read was checked itself."""
    data = place / "w.bin"
    data.write_bytes(bytes(28))
    path = place / "net.onnx"
    path.write_bytes(KINDS["dense"](_outside("w.bin")).SerializeToString())
    real = onnxtensors._load

    def swapped(*arguments: object) -> None:
        data.unlink()
        data.symlink_to(place.parent / "secret.bin")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(onnxtensors, "_load", swapped)
    with pytest.raises(RefusedError, match="symbolic link"):
        open_onnx(path)


def test_a_folder_swapped_while_it_is_open_leads_nowhere_else(place: Path) -> None:
    """Promise S2: the way is gone by descriptors: renaming a folder under it does not change where it leads."""
    (place / "good" / "w.bin").write_bytes(b"inside")
    with open_contained(place / "net.onnx", "w", "good/w.bin") as file:
        (place / "good").rename(place / "moved")
        (place / "good").symlink_to(place.parent)
        assert file.read() == b"inside"
    with pytest.raises(RefusedError, match="'good' is a symbolic link"):
        open_contained(place / "net.onnx", "w", "good/secret.bin")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(b"ptrt" + bytes(60), "TensorRT plan", id="a TensorRT plan"),
        pytest.param(b"ftrt" + bytes(60), "TensorRT plan", id="another TensorRT plan"),
        pytest.param(b"vtrt" + bytes(60), "TensorRT plan", id="a TensorRT-RTX plan"),
        pytest.param(b"\x20\0\0\0ORTM" + bytes(60), r"ONNX Runtime \(.ort\)", id="an .ort file"),
    ],
)
def test_an_engine_is_no_model(data: bytes, told: str, tmp_path: Path) -> None:
    """Promise S6: an engine given as a model is refused as the code that it is."""
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(RefusedError, match=told):
        open_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("op", ["EPContext", "PythonOp", "ATen"])
def test_nodes_that_carry_code_are_refused(op: str, tmp_path: Path) -> None:
    """Promise S6: a node that hands compiled or foreign code to the runtime is refused, in sub-graphs too."""
    node = helper.make_node(op, ["x"], ["y"], "evil", domain="com.microsoft")
    body = helper.make_graph([node], "body", [], [_INFO("y", TensorProto.FLOAT, [1])])
    branch = helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body)
    for number, nodes in enumerate(([node], [_identity(), branch])):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(_model(nodes).SerializeToString())
        with pytest.raises(RefusedError, match=rf"'evil' of {number}\.onnx is a {op}"):
            open_onnx(path)


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand", "RandomNormal"])
def test_a_model_of_68_bytes_asks_for_no_terabytes(op: str, tmp_path: Path) -> None:
    """Promise D12: a shape that stands in the file is refused by its size, before anything is allocated."""
    shape = numpy_helper.from_array(np.array([1 << 20, 1 << 21], np.int64), "s")
    if op == "ConstantOfShape":
        node = helper.make_node(op, ["s"], ["y"])
    elif op == "Expand":
        node = helper.make_node(op, ["x", "s"], ["y"])
    else:
        node = helper.make_node(op, [], ["y"], shape=[1 << 20, 1 << 21])
    for number, model in enumerate(
        (_model([node], shape), _model([helper.make_node("Constant", [], ["s"], value=shape), node]))
    ):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(InputError, match="asks for a tensor 'y' of shape 1048576x2097152 "):
            open_onnx(path)


def test_more_elements_than_a_number_can_say_are_refused(tmp_path: Path) -> None:
    """Promise D12: 64 dimensions of 2^60, of a node without an output at that, are told as any other size is."""
    shape = numpy_helper.from_array(np.array([1 << 60] * 64, np.int64), "s")
    (tmp_path / "net.onnx").write_bytes(
        _model([helper.make_node("ConstantOfShape", ["s"], [])], shape).SerializeToString()
    )
    with pytest.raises(InputError, match=r"of shape (1152921504606846976x){8}\.\.\. \(ConstantOfShape\)"):
        open_onnx(tmp_path / "net.onnx")


def _run(path: Path, folder: Path, limits: Limits) -> object:
    folder.mkdir()
    np.savez(folder / "inputs.npz", x=np.ones((4, 3), np.float32))
    request = {
        "model": str(path), "inputs": str(folder / "inputs.npz"), "outputs": ["y"], "batch": 2, "out": str(folder),
    }  # fmt: skip
    call_limited("calibration.child_import:run_in_child", request, limits=limits, what="running net.onnx")
    return np.load(folder / "0.npy").tolist()


def test_the_child_runs_a_model_that_means_no_harm(tmp_path: Path) -> None:
    """The limits that stop the models below leave others alone."""
    path = tmp_path / "net.onnx"
    path.write_bytes(_model([_identity()]).SerializeToString())
    assert _run(path, tmp_path / "out", Limits(timeout_s=60, memory_bytes=8 << 30)) == [[1.0] * 3] * 4


def test_a_loop_bomb_ends_by_its_deadline(tmp_path: Path) -> None:
    """Promise R15: a model that loops 10^15 times is ended by the time limit, and told so."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Identity", ["state"], ["after"]),
        ],
        "body",
        [
            _INFO("i", TensorProto.INT64, []),
            _INFO("go", TensorProto.BOOL, []),
            _INFO("state", TensorProto.FLOAT, None),
        ],
        [_INFO("on", TensorProto.BOOL, []), _INFO("after", TensorProto.FLOAT, None)],
    )
    trips = numpy_helper.from_array(np.array(10**15, np.int64), "n")
    on = numpy_helper.from_array(np.array(True), "c")  # noqa: FBT003
    path = tmp_path / "net.onnx"
    path.write_bytes(
        _model([helper.make_node("Loop", ["n", "c", "x"], ["y"], body=body)], trips, on).SerializeToString()
    )
    open_onnx(path)
    with pytest.raises(EnvironmentFailure, match=r"running net\.onnx was stopped") as caught:
        _run(path, tmp_path / "out", Limits(timeout_s=3, memory_bytes=8 << 30))
    assert "limit of 3 s" in caught.value.why


def test_a_memory_bomb_is_told_as_such(tmp_path: Path) -> None:
    """Promise R8: a model that multiplies its input to gigabytes runs out of its own memory, not of ours."""
    repeats = numpy_helper.from_array(np.array([1 << 14, 1 << 13], np.int64), "r")  # 3.2 GB
    path = tmp_path / "net.onnx"
    path.write_bytes(_model([helper.make_node("Tile", ["x", "r"], ["y"])], repeats).SerializeToString())
    open_onnx(path)
    with pytest.raises(EnvironmentFailure, match="ran out of memory") as caught:
        _run(path, tmp_path / "out", Limits(timeout_s=60, memory_bytes=3 << 30))
    assert caught.value.fix


@pytest.mark.parametrize("depth", [50, 2_000, 60_000])
def test_nesting_is_read_or_refused(depth: int, tmp_path: Path) -> None:
    """Promise D12: sub-graphs in sub-graphs end in an answer or in three lines, never in a crash."""
    heads, size, tail = [], 0, b"\xa0\x01\x05"
    for _ in range(depth):  # GraphProto{node{attribute{name, g}}}, built from within
        graph = b"\x0a" + _varint(size)
        inner = b"\x0a\x01g\x32" + _varint(len(graph) + size)
        size += len(inner) + len(graph) + len(tail)
        outer = b"\x22\x02If\x2a" + _varint(size)
        heads.append(outer + inner + graph)
        size += len(outer)
    attribute = b"".join(reversed(heads)) + tail * depth
    assert len(attribute) == size
    model = _model([_identity()]).SerializeToString()
    graph = b"\x0a" + _varint(len(attribute)) + attribute
    path = tmp_path / "net.onnx"
    path.write_bytes(model + b"\x3a" + _varint(len(graph)) + graph)
    if depth == 50:  # protobuf itself ends at 100 messages
        with pytest.raises(InputError, match=r"nested too deeply|no readable ONNX"):
            open_onnx(path)
    else:
        with pytest.raises(InputError):
            open_onnx(path)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def test_a_name_of_a_megabyte_is_a_name(tmp_path: Path) -> None:
    """Promise D12: long names cost no more than their bytes."""
    name = "n" * (1 << 20)
    path = tmp_path / "net.onnx"
    path.write_bytes(_model([helper.make_node("Identity", ["x"], [name])], output=name).SerializeToString())
    assert open_onnx(path).graph.output[0].name == name
