"""A model survives the disk exactly; weights that do not fit are named; no file runs code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.artifacts import TorchModel
from pipeline.data import Dataset, Split
from pipeline.edits import Channels, Edit, edits_from_json
from pipeline.graph import trace
from pipeline.pruning import all_criteria, apply_decisions, choose_by_ratio, find_groups
from pipeline.torchmodel import (
    InputSpec,
    example_inputs,
    input_specs,
    load_model,
    load_user_weights,
    make_model,
    save_model,
)
from pipeline.usercode import FactoryRef, find_factory
from pipeline.weights import reading
from pipeline.weights.child import convert_in_child
from targets.errors import InputError, RefusedError

if TYPE_CHECKING:
    from torch.fx import GraphModule

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 4)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, image):
        x = F.relu(self.bn(self.stem(image)))
        x = F.relu(self.body(x) + x)
        return self.head(x.mean((2, 3))) * self.scale

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.mix(self.embed(tokens)).mean(1))

make = Net
tied = Tied
SHARED = Net()

def shared():
    return SHARED

def text():
    return "net"
"""
SPECS = (InputSpec(name="image", dtype="float32", shape=(3, 8, 8)),)


@pytest.fixture
def factory(tmp_path: Path) -> FactoryRef:
    return _factory(tmp_path, "make")


def _factory(folder: Path, function: str) -> FactoryRef:
    (folder / "net.py").write_text(SOURCE, encoding="utf-8")
    found = find_factory(f"net.py:{function}", folder, {}, "model.factory")
    assert isinstance(found, FactoryRef)
    return found


def _stored(folder: Path, graph: GraphModule, specs: tuple[InputSpec, ...], edits: tuple[Edit, ...]) -> TorchModel:
    folder.mkdir()
    save_model(folder, graph, specs, edits)
    return TorchModel(node="prune", folder=folder, digest="", results={}, wall_s=0.0)


def _images(count: int = 5) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((count, 3, 8, 8), dtype=np.float32))


def _shaken(model: nn.Module) -> nn.Module:
    """The model with weights and buffers that no factory call would give."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    return model


def test_seed_decides_the_weights(factory: FactoryRef) -> None:
    """Same seed, same weights; another seed, others."""
    one, again, other = (make_model(factory, seed).state_dict()["stem.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_factory_must_return_a_module(tmp_path: Path) -> None:
    """Anything else is named by its type."""
    with pytest.raises(InputError, match=r"net\.py:text' returned str"):
        make_model(_factory(tmp_path, "text"), 0)


def test_factory_must_make_a_new_module_each_time(tmp_path: Path) -> None:
    """A shared instance would make teacher and student one set of weights: refused."""
    factory = _factory(tmp_path, "shared")
    make_model(factory, 0)
    with pytest.raises(InputError, match="same module twice"):
        make_model(factory, 0)


def test_dense_model_survives_the_disk(factory: FactoryRef, tmp_path: Path) -> None:
    """Weights and buffers come back bit for bit on a fresh model."""
    graph = trace(_shaken(make_model(factory, 0)), example_inputs(SPECS))
    loaded, specs, edits = load_model(_stored(tmp_path / "m", graph, SPECS, ()), factory, seed=9)
    assert (specs, edits) == (SPECS, ())
    assert torch.equal(loaded(_images()), graph(_images()))


def test_pruned_model_survives_the_disk(factory: FactoryRef, tmp_path: Path) -> None:
    """Decisions replayed on a fresh factory give the small net with equal outputs."""
    dense = trace(_shaken(make_model(factory, 0)), example_inputs(SPECS))
    groups = find_groups(dense)
    scores = all_criteria()["l2"].score(dense, groups.groups)
    chosen = choose_by_ratio(groups, scores, ratio=0.5, alignment=1, protect=[], scope="local")
    small = apply_decisions(dense, chosen)
    model = _stored(tmp_path / "m", small, SPECS, (Channels(decisions=chosen),))
    loaded, _, edits = load_model(model, factory, seed=9)
    assert edits == (Channels(decisions=chosen),)
    assert loaded.state_dict()["stem.weight"].shape[0] < 16
    assert torch.equal(loaded(_images()), small(_images()))


def test_edits_are_replayed_in_order(factory: FactoryRef, tmp_path: Path) -> None:
    """Promise: a model pruned twice is two edits, and loading does both, the second on the result of the first."""
    graph, edits = trace(_shaken(make_model(factory, 0)), example_inputs(SPECS)), ()
    for _ in range(2):
        groups = find_groups(graph)
        scores = all_criteria()["l2"].score(graph, groups.groups)
        edits = (*edits, Channels(decisions=choose_by_ratio(groups, scores, ratio=0.5)))
        graph = edits[-1].apply(graph)
    model = _stored(tmp_path / "m", graph, SPECS, edits)
    assert [edit["kind"] for edit in model.read_json("model.json")["edits"]] == ["channels", "channels"]
    loaded, _, found = load_model(model, factory, seed=9)
    assert found == edits
    assert torch.equal(loaded(_images()), graph(_images()))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, "no list"),
        (["channels"], "edit 0 is str"),
        ([{"kind": "chanels", "parameters": {}}], "'channels'"),
        ([{"parameters": {}}], "'None'"),
        ([{"kind": "channels"}], "no table of parameters"),
    ],
)
def test_edits_that_are_none_are_refused(document: object, words: str) -> None:
    """Promise: a damaged list of edits is an input error that says which edit it is, never a crash."""
    with pytest.raises(InputError, match=words):
        edits_from_json(document)


def test_tied_weights_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    """One tensor with two names is one tensor on disk and one after loading."""
    specs = (InputSpec(name="tokens", dtype="int64", shape=(5,)),)
    factory = _factory(tmp_path, "tied")
    graph = trace(_shaken(make_model(factory, 0)), example_inputs(specs))
    model = _stored(tmp_path / "m", graph, specs, ())
    loaded, _, _ = load_model(model, factory, seed=9)
    tokens = torch.arange(10).reshape(2, 5) % 7
    assert model.read_json("model.json")["aliases"] == {"head.weight": "embed.weight"}
    assert torch.equal(loaded(tokens), graph(tokens))
    assert loaded.get_parameter("head.weight") is loaded.get_parameter("embed.weight")


def test_same_model_gives_the_same_bytes(factory: FactoryRef, tmp_path: Path) -> None:
    """Two saves of one model are equal files."""
    graph = trace(make_model(factory, 0), example_inputs(SPECS))
    one, two = _stored(tmp_path / "a", graph, SPECS, ()), _stored(tmp_path / "b", graph, SPECS, ())
    assert all(
        (one.folder / n).read_bytes() == (two.folder / n).read_bytes() for n in ("model.json", "weights.safetensors")
    )


def test_nan_is_never_saved(factory: FactoryRef, tmp_path: Path) -> None:
    """A model with NaN weights is refused before anything is written."""
    graph = trace(make_model(factory, 0), example_inputs(SPECS))
    with torch.no_grad():
        graph.get_parameter("body.bias")[2] = torch.nan
    with pytest.raises(InputError, match=r"'body\.bias'[\s\S]*1 value is[\s\S]*\[2\]"):
        save_model(tmp_path, graph, SPECS, ())
    assert not (tmp_path / "weights.safetensors").exists()


def _data(**inputs: tuple[int, ...]) -> Dataset:
    arrays = {name: np.zeros((2, *shape), dtype=np.float32) for name, shape in inputs.items()}
    return Dataset(splits={"validation": Split(inputs=arrays, labels=None)})


class _Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor, extra: Tensor | None = None) -> Tensor:
        return left + right


def test_inputs_follow_the_order_of_forward() -> None:
    """However the data orders them, inputs come in the order of the arguments."""
    specs = input_specs(_Two(), _data(right=(3,), left=(4,)))
    assert [(spec.name, spec.shape) for spec in specs] == [("left", (4,)), ("right", (3,))]


def test_unnamed_input_takes_the_first_argument() -> None:
    """A lone array needs no name."""
    arrays = {"": np.zeros((2, 3), dtype=np.int64)}
    specs = input_specs(_Two(), Dataset(splits={"validation": Split(inputs=arrays, labels=None)}))
    assert specs == (InputSpec(name="left", dtype="int64", shape=(3,)),)


@pytest.mark.parametrize(
    ("data", "words"),
    [(_data(lefd=(1,)), ("'lefd'", "left, right, extra", "'left'")), (_data(right=(1,)), ("right", "up to the last"))],
)
def test_inputs_that_forward_does_not_take_are_named(data: Dataset, words: tuple[str, ...]) -> None:
    """Unknown names get the nearest, gaps are refused."""
    with pytest.raises(InputError) as caught:
        input_specs(_Two(), data)
    assert all(word in str(caught.value) for word in words)


# --- the user's weights ---


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the child says is tested here; that it is a child, in tests/unit/pipeline/weights."""
    monkeypatch.setattr(reading, "call_limited", lambda _name, request, **_options: convert_in_child(request))


def _net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth", "wrapped"])
def test_weights_of_every_kind_load(suffix: str, tmp_path: Path) -> None:
    """safetensors, .pt, .pth and a ``state_dict`` wrapper give the same weights; counters may be missing."""
    state = {k: v for k, v in _net(1).state_dict().items() if "num_batches" not in k}
    path = tmp_path / f"w.{'pt' if suffix == 'wrapped' else suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if suffix == "wrapped" else state, path)
    model = _net(2)
    load_user_weights(model, path)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def test_name_tied_to_a_given_weight_may_be_missing(tmp_path: Path) -> None:
    """Safetensors writes tied weights once: that is all of them."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    save_file({"1.weight": torch.full((3, 3), 7.0)}, tmp_path / "w.safetensors")
    load_user_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model.state_dict()["0.weight"], torch.full((3, 3), 7.0))


def _refused(tmp_path: Path, state: dict[str, Tensor], kind: type[Exception] = InputError) -> str:
    save_file(state, tmp_path / "w.safetensors")
    return _message(tmp_path / "w.safetensors", kind)


def _message(path: Path, kind: type[Exception] = InputError) -> str:
    model = _net(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(kind) as caught:
        load_user_weights(model, path)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items()), "half loaded"
    return str(caught.value)


def test_unknown_and_missing_names_get_the_nearest(tmp_path: Path) -> None:
    """Both counts, the first of each and the near name are told."""
    state = dict(_net().state_dict())
    state["2.wieght"] = state.pop("2.weight")
    message = _refused(tmp_path, state)
    assert all(part in message for part in ("1 weight missing, 1 unknown", "'2.wieght'", "'2.weight'"))


def test_prefix_of_a_wrapper_is_recognised(tmp_path: Path) -> None:
    """Names saved under DataParallel are refused with the prefix to remove."""
    message = _refused(tmp_path, {f"module.{name}": tensor for name, tensor in _net().state_dict().items()})
    assert "remove the prefix 'module.'" in message


def test_wrong_shape_names_layer_and_both_shapes(tmp_path: Path) -> None:
    """The layer, the file's shape and the model's are told."""
    message = _refused(tmp_path, {**_net().state_dict(), "2.weight": torch.zeros(9, 4)})
    assert all(part in message for part in ("'2.weight'", "(9, 4)", "(2, 4)"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    """The weight and the place of its first bad value are named."""
    bad = torch.zeros(2, 4)
    bad[1, 3] = value
    message = _refused(tmp_path, {**_net().state_dict(), "2.weight": bad})
    assert all(part in message for part in ("'2.weight'", "1 value is", "[1, 3]"))


def test_a_buffer_may_be_a_mask(tmp_path: Path) -> None:
    """What attention adds is -inf on purpose; among other numbers, or as NaN, it is refused there too."""
    mask = torch.triu(torch.full((3, 3), -torch.inf), 1)
    for bad in (None, 0.5, torch.nan):
        net, state = _net(), dict(_net().state_dict())
        net.register_buffer("mask", torch.zeros(3, 3))
        state["mask"] = mask.clone()
        if bad is not None:
            state["mask"][2, 2] = bad
        path = tmp_path / "w.safetensors"
        save_file(state, path)
        if bad is None:
            load_user_weights(net, path)
            assert torch.equal(net.get_buffer("mask"), mask)
            continue
        with pytest.raises(InputError, match=r"'mask' of .* is not finite"):
            load_user_weights(net, path)


class _Canary:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle"])
def test_pickle_with_code_is_refused_and_does_not_run(plain: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A file that would run code is refused for security, the global is named, and nothing ran."""
    canary, path = tmp_path / "ran", tmp_path / "w.pt"
    if plain:
        path.write_bytes(pickle.dumps({"w": _Canary(str(canary))}, protocol=2))
    else:
        torch.save({"w": _Canary(str(canary))}, path)
    assert "io.open" in _message(path, RefusedError)
    assert not canary.exists()


def test_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    """``torch.save(model)`` needs code to load: the refusal names the class."""
    torch.save(_net(), tmp_path / "w.pt")
    assert "torch.nn.modules" in _message(tmp_path / "w.pt", RefusedError)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_git_lfs_pointer_is_recognised(name: str, tmp_path: Path) -> None:
    """A pointer instead of the file says how to fetch it."""
    (tmp_path / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", encoding="utf-8"
    )
    assert "git lfs pull" in _message(tmp_path / name)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_file_is_an_input_error(name: str, share: float, tmp_path: Path) -> None:
    """A cut file is named, and is no crash."""
    path = tmp_path / name
    if name.endswith("pt"):
        torch.save(_net().state_dict(), path)
    else:
        save_file(_net().state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert str(path) in _message(path)


@pytest.mark.parametrize(
    ("content", "held"),
    [
        ({"model": {}, "epoch": 3}, "a dict with model, epoch"),
        ([1, 2], "list"),
        ({}, "a dict with"),
        (torch.zeros(1), "Tensor"),
    ],
)
def test_file_without_a_state_dict_says_what_it_holds(content: object, held: str, tmp_path: Path) -> None:
    """What was found instead is told."""
    torch.save(content, tmp_path / "w.pt")
    assert held in _message(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.bin", "gone.safetensors", "gone.pt"])
def test_file_of_another_kind_or_absent_is_named(name: str, tmp_path: Path) -> None:
    """Unknown suffixes and absent files are input errors with the name."""
    assert name in _message(tmp_path / name)


def test_model_json_holds_no_private_path(factory: FactoryRef, tmp_path: Path) -> None:
    """What is stored tells nothing of this machine."""
    graph = trace(make_model(factory, 0), example_inputs(SPECS))
    model = _stored(tmp_path / "m", graph, SPECS, ())
    assert str(tmp_path) not in json.dumps(model.read_json("model.json"))
    assert str(tmp_path).encode() not in model.weights.read_bytes()
