"""Promises of the only way to open an ONNX file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets.errors import InputError, RefusedError
from targets.onnxfile import io_of, open_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def model(
    weight: NDArray[np.float32] = WEIGHT, *, opset: int = 20, nodes: list[onnx.NodeProto] | None = None
) -> onnx.ModelProto:
    nodes = nodes or [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def external(tmp_path: Path, *, location: str = "weights.bin", **facts: str) -> onnx.ModelProto:
    """A model whose weight lies in a file of its own."""
    proto = model()
    tensor = proto.graph.initializer[0]
    (tmp_path / "weights.bin").write_bytes(tensor.raw_data)
    point_outside(tensor, location, **facts)
    return proto


def point_outside(tensor: TensorProto, location: str, **facts: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": location} | facts).items():
        tensor.external_data.add(key=key, value=value)


def written(tmp_path: Path, proto: onnx.ModelProto) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_good_file_opens_and_says_its_io(tmp_path: Path) -> None:
    """A valid model opens unchanged, and its inputs and outputs are listed with numpy types and named axes."""
    path = written(tmp_path, model())
    opened = open_onnx(path)
    assert opened == model()
    assert io_of(opened) == {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 4]}],
    }


def test_initializers_are_no_inputs_and_free_axes_get_names() -> None:
    """Older files list weights as inputs: they are left out; an unnamed free axis gets a name."""
    proto = model()
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    proto.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    proto.graph.input[0].type.tensor_type.shape.dim[1].Clear()
    assert io_of(proto)["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", "x_1"]}]


def test_weights_listed_as_inputs_are_weights_only(tmp_path: Path) -> None:
    """A weight that an old file also lists as an input cannot be fed; the file stays valid."""
    proto = model()
    proto.ir_version = 3
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    opened = open_onnx(written(tmp_path, proto))
    assert [value.name for value in opened.graph.input] == ["x"]
    assert [tensor.name for tensor in opened.graph.initializer] == ["w"]
    onnx.checker.check_model(opened, full_check=True)


def test_negative_sizes_are_free_and_unknown_types_are_refused() -> None:
    """Some exporters write -1 for a free batch axis; an element type that ONNX does not know is an input error."""
    proto = model()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert io_of(proto)["inputs"][0]["shape"] == ["batch", 3]
    proto.graph.input[0].type.tensor_type.elem_type = 999
    with pytest.raises(InputError, match="'x' has element type 999"):
        io_of(proto)


def test_inputs_that_are_no_shaped_tensors_are_refused() -> None:
    """A sequence input and an input without shape are errors that name it."""
    proto = model()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(InputError, match="'x' has no shape"):
        io_of(proto)
    proto.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None))
    with pytest.raises(InputError, match="'x' is a sequence"):
        io_of(proto)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"\n <!DOCTYPE html><html></html>", "HTML page"),
        (b"\x00\x01 rubbish", "no readable ONNX model"),
        (model().SerializeToString()[:-20], "no readable ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "holds no graph"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, content: bytes, match: str) -> None:
    """Empty files, LFS pointers, web pages, rubbish, truncated and graphless files are told apart, in three lines."""
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        open_onnx(path)
    assert len(str(caught.value).splitlines()) == 3


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    """A missing path, a folder and a pipe are errors; the pipe does not block."""
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(InputError, match="there is no file"):
        open_onnx(tmp_path / "missing.onnx")
    for name in ("", "pipe.onnx"):
        with pytest.raises(InputError, match="is not a file"):
            open_onnx(tmp_path / name)


def test_limits(tmp_path: Path) -> None:
    """File size, node count and tensor size have limits; the message has the number and the limit."""
    path = written(tmp_path, model())
    with pytest.raises(InputError, match="the limit is 10"):
        open_onnx(path, max_bytes=10)
    with pytest.raises(InputError, match="has 1 nodes"):
        open_onnx(path, max_nodes=0)
    with pytest.raises(InputError, match=r"shape \[3, 4\]"):
        open_onnx(path, max_elements=11)
    huge = model()
    huge.graph.initializer[0].dims[:] = [2**40, 2**40]
    with pytest.raises(InputError, match="elements are the limit"):
        open_onnx(written(tmp_path, huge))


def test_data_that_do_not_fit_the_shape(tmp_path: Path) -> None:
    """A tensor with more elements than data is an error, not a crash."""
    short = model()
    short.graph.initializer[0].dims[:] = [3, 5]
    with pytest.raises(InputError, match="do not fit its shape"):
        open_onnx(written(tmp_path, short))


@pytest.mark.parametrize("opset", [10, 24])
def test_opset_outside_the_range(tmp_path: Path, opset: int) -> None:
    """An opset outside 11 to 23 is refused, and both are named."""
    with pytest.raises(InputError, match=rf"opset {opset}\nopsets 11 to 23"):
        open_onnx(written(tmp_path, model(opset=opset)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_weights_name_tensor_count_and_place(tmp_path: Path, bad: float) -> None:
    """NaN or Inf in a weight is reported with the tensor's name, how many, and the first index."""
    weight = WEIGHT.copy()
    weight[1, 2] = weight[2, 0] = bad
    with pytest.raises(InputError, match=r"weight 'w' .* has 2 NaN or Inf \(first at \[1, 2\]\)"):
        open_onnx(written(tmp_path, model(weight)))


def nested(tensor: TensorProto, kind: str) -> onnx.ModelProto:
    """The tensor inside a constant, an If body, a sparse initializer or a function."""
    constant = helper.make_node("Constant", [], ["k"], value=tensor)
    proto = model()
    if kind == "constant":
        proto.graph.node.append(constant)
    elif kind == "subgraph":
        body = helper.make_graph([constant], "body", [], [helper.make_tensor_value_info("k", TensorProto.FLOAT, [2])])
        proto.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=body, else_branch=body))
    elif kind == "sparse":
        indices = numpy_helper.from_array(np.array([0, 1], np.int64), "i")
        proto.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [4]))
    else:
        opsets = [helper.make_opsetid("", 20)]
        proto.functions.append(helper.make_function("own", "f", [], ["k"], [constant], opsets))
    return proto


@pytest.mark.parametrize("kind", ["constant", "subgraph", "sparse", "function"])
def test_hidden_tensors_are_checked_too(tmp_path: Path, kind: str) -> None:
    """NaN and escaping external data are found in constants, subgraphs, sparse tensors and functions."""
    tensor = numpy_helper.from_array(np.array([1.0, np.nan], np.float32), "hidden")
    with pytest.raises(InputError, match="'hidden'"):
        open_onnx(written(tmp_path, nested(tensor, kind)))
    point_outside(tensor, "../secret")
    with pytest.raises(RefusedError, match="own folder"):
        open_onnx(written(tmp_path, nested(tensor, kind)))


@pytest.mark.parametrize("facts", [{}, {"offset": "0", "length": "48"}])
def test_external_data_beside_the_model(tmp_path: Path, facts: str) -> None:
    """External data in the model's folder are loaded, with and without offset and length."""
    opened = open_onnx(written(tmp_path, external(tmp_path, **facts)))
    assert np.array_equal(numpy_helper.to_array(opened.graph.initializer[0]), WEIGHT)


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../weights.bin", "a/../../weights.bin", "", "C:\\weights", "..\\weights.bin"]
)
def test_external_data_outside_are_refused(tmp_path: Path, location: str) -> None:
    """Absolute paths, parents, empty and foreign paths are refused."""
    with pytest.raises(RefusedError, match="own folder"):
        open_onnx(written(tmp_path, external(tmp_path, location=location)))


def test_external_data_behind_links_are_refused(tmp_path: Path) -> None:
    """A link as the file or as a folder on the way is refused, a folder too."""
    (tmp_path / "link.bin").symlink_to("/etc/passwd")
    (tmp_path / "folder").symlink_to("/etc")
    for location in ("link.bin", "folder/passwd"):
        with pytest.raises(RefusedError, match="symbolic link"):
            open_onnx(written(tmp_path, external(tmp_path, location=location)))
    (tmp_path / "real").mkdir()
    with pytest.raises(RefusedError, match="no such regular file"):
        open_onnx(written(tmp_path, external(tmp_path, location="real")))


def test_external_data_that_are_missing_are_no_attack(tmp_path: Path) -> None:
    """Data that may lie where they are said to, and do not, are a fault of the input: exit code 3, not 4."""
    with pytest.raises(InputError, match=r"'missing\.bin' of net\.onnx are missing"):
        open_onnx(written(tmp_path, external(tmp_path, location="missing.bin")))


@pytest.mark.parametrize("facts", [{"offset": "40"}, {"offset": "-4", "length": "4"}, {"length": "1000"}])
def test_external_data_past_the_end_are_refused(tmp_path: Path, facts: str) -> None:
    """An offset or length beyond the file, or below zero, is refused."""
    facts = {"length": "48"} | facts
    with pytest.raises(RefusedError, match="of a file of 48 bytes"):
        open_onnx(written(tmp_path, external(tmp_path, **facts)))
    with pytest.raises(RefusedError, match="no number"):
        open_onnx(written(tmp_path, external(tmp_path, offset="x")))


def test_external_data_count_to_the_limit(tmp_path: Path) -> None:
    """External data are part of the size limit."""
    path = written(tmp_path, external(tmp_path))
    with pytest.raises(InputError, match=r"external data of net\.onnx are too large"):
        open_onnx(path, max_bytes=path.stat().st_size + 47)
