"""The stage that converts to other formats: what it asks of its child, and when it withdraws."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.child_formats import convert_in_child
from pipeline.artifacts import DatasetInfo, OnnxModel
from pipeline.benchmarking.modules import read_modules, write_modules
from pipeline.data import Dataset, Split
from pipeline.stages.base import WITHDRAWN, Context
from pipeline.stages.convert import ConvertInputs, ConvertStage
from targets import process
from targets.onnxfile import io_of, open_onnx


@pytest.fixture
def src(tmp_path: Path) -> ConvertInputs:
    """A linear layer of 131,072 weights: too few to gain anything."""
    folder = tmp_path / "model"
    folder.mkdir()
    weight = np.random.default_rng(0).normal(0, 0.1, (256, 512)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm", transB=1)],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 256])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    from calibration.child import write_json

    write_json(folder / "io.json", io_of(open_onnx(folder / "model.onnx")))
    write_modules(folder, {"gemm": "head"})
    common: dict[str, Any] = {"digest": "d", "results": {}, "wall_s": 0.0}
    return ConvertInputs(
        data=DatasetInfo(node="data", folder=tmp_path, **common),
        model=OnnxModel(node="import", folder=folder, **common),
    )


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Children run in this process."""
    monkeypatch.setattr(process, "call_limited", lambda _, request, **__: convert_in_child(request))
    split = Split(inputs={"x": np.random.default_rng(1).normal(size=(40, 512)).astype(np.float32)}, labels=None)
    data: Any = SimpleNamespace(checked=lambda *_: Dataset(splits={"validation": split}))
    (tmp_path / "out").mkdir()
    return Context(
        progress=lambda *_, **__: None, warn=lambda _: None, scratch=tmp_path, state=tmp_path / "state", data=data
    )


def stage(precision: Any, *, asked: bool) -> ConvertStage:  # noqa: ANN401
    source: Any = None  # the data are given
    return ConvertStage(source=source, precision=precision, weight_bits=8, samples=16, threads=1, asked=asked)


@pytest.mark.parametrize("precision", ["int8-dynamic", "int8-weights", "int4-weights"])
def test_it_withdraws_where_nothing_is_to_be_gained(
    precision: str, src: ConvertInputs, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a look, without a child and without a file; the reason is the result."""
    monkeypatch.setattr(process, "call_limited", lambda *_, **__: pytest.fail("a child was started"))
    results = stage(precision, asked=False).run(src, tmp_path / "out", context)
    assert list(results) == [WITHDRAWN]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8-dynamic", "int8-weights", "int4-weights"])
def test_what_is_asked_for_is_made(precision: str, src: ConvertInputs, context: Context, tmp_path: Path) -> None:
    """A model like any other, with the user's module names."""
    results = stage(precision, asked=True).run(src, tmp_path / "out", context)
    assert results["changed"] >= 1
    assert results["size_bytes"] == (tmp_path / "out" / "model.onnx").stat().st_size
    assert results["after_bytes"] < results["before_bytes"]
    assert read_modules(tmp_path / "out") == {"gemm": "head"}
    assert (tmp_path / "out" / "io.json").read_bytes() == (src.model.folder / "io.json").read_bytes()
