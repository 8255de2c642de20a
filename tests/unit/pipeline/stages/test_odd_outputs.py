"""Models that give more, or other things, than one tensor of numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.artifacts import DatasetInfo, TorchModel
from pipeline.data import FactoryData
from pipeline.data.loaded import LoadedData
from pipeline.graph import flat_outputs
from pipeline.recipe import DistillSection
from pipeline.stages.base import Context
from pipeline.stages.bundle import golden_atol
from pipeline.stages.data import DataInputs, DataStage
from pipeline.stages.distill import DistillInputs, DistillStage
from pipeline.stages.load import trace_checked
from pipeline.tasks import Classification
from pipeline.torchmodel import make_model, save_model
from pipeline.usercode import FactoryRef, find_factory
from targets.errors import InputError

USER = """
import numpy as np
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        inner = torch.relu(self.body(x))
        return {"logits": self.head(inner), "inner": inner}

def net():
    return Net()

def data():
    x = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.uint8)
    return {"train": (x, y), "validation": (x + 1e-3, y)}
"""


def _factory(tmp_path: Path, name: str) -> FactoryRef:
    (tmp_path / "user.py").write_text(USER, encoding="utf-8")
    found = find_factory(f"user.py:{name}", tmp_path, {}, name)
    assert isinstance(found, FactoryRef)
    return found


def test_a_model_that_returns_a_dict_can_be_distilled(tmp_path: Path) -> None:
    """Its first value holds the logits, the teacher's too."""
    factory, source = _factory(tmp_path, "net"), FactoryData(factory=_factory(tmp_path, "data"), files={})
    context = Context(
        progress=lambda *_, **__: None, warn=lambda _: None, scratch=tmp_path, state=tmp_path, data=LoadedData()
    )
    folders = {name: tmp_path / name for name in ("info", "dense", "out")}
    for folder in folders.values():
        folder.mkdir()
    results = DataStage(source=source, task=Classification(), splits=("validation",)).run(
        DataInputs(), folders["info"], context
    )
    info = DatasetInfo(node="data", folder=folders["info"], digest="d", results=results, wall_s=0.0)
    graph, specs = trace_checked(make_model(factory, 0), context.data.read(source), Classification())
    save_model(folders["dense"], graph, specs, ())
    dense = TorchModel(node="load", folder=folders["dense"], digest="m", results={}, wall_s=0.0)
    stage = DistillStage(
        factory=factory,
        dense=factory,
        teachers=(factory,),
        source=source,
        task=Classification(),
        distill=DistillSection(epochs=1, batch_size=4),
        seed=0,
        threads=1,
    )
    sources = DistillInputs(data=info, student=dense, dense=dense, teachers=(dense,), answers=())
    done = stage.run(sources, folders["out"], context)
    assert 0 <= done["accuracy"] <= 1
    assert (folders["out"] / "weights.safetensors").stat().st_size > 0


@pytest.mark.parametrize("answer", [None, (torch.zeros(2), None), [(torch.zeros(2),)], {"a": 1}])
def test_outputs_that_onnx_cannot_give_are_named(answer: object) -> None:
    """A fault of the model and no bug of ours, told before any training."""
    with pytest.raises(InputError, match="the model returns"):
        flat_outputs(answer)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "float32"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_output_has_a_tolerance(dtype: str, precision: str) -> None:
    """Truth values and integers too, without overflow."""
    outputs = np.array([[-100, 100]]).astype(dtype)
    assert 0 <= golden_atol(outputs, precision) <= 2


def test_a_factory_that_draws_from_numpy_is_seeded(tmp_path: Path) -> None:
    """Equal seeds give equal weights, whichever common generator the factory uses."""
    text = (
        "import random\nimport numpy as np\nfrom torch import nn\ndef net():\n    layer = nn.Linear(1, 1)\n"
        "    nn.init.constant_(layer.weight, np.random.rand() + random.random())\n    return layer\n"
    )
    (tmp_path / "user.py").write_text(text, encoding="utf-8")
    factory = find_factory("user.py:net", tmp_path, {}, "model.factory")
    assert isinstance(factory, FactoryRef)
    first, second = (make_model(factory, 3) for _ in range(2))
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    assert torch.equal(first.weight, second.weight)
