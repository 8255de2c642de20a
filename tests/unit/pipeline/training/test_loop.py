"""One training loop: reproducible to the bit, equal to a hand-written one, and loud when the loss breaks."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data import Split
from pipeline.graph import trace
from pipeline.training import EpochResult, Loss, TrainConfig, fit, predict
from targets.errors import InputError

if TYPE_CHECKING:
    from torch.fx import GraphModule

RNG = np.random.default_rng(0)
DATA = Split(inputs={"x": RNG.standard_normal((26, 2, 6, 6), dtype=np.float32)}, labels=RNG.integers(0, 3, 26))


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.conv(x)))
        logits: Tensor = self.head(self.drop(x.mean((2, 3))))
        return logits


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


BASE = TrainConfig(epochs=2, batch_size=8, optimizer="sgd", learning_rate=0.05, weight_decay=0.01, seed=0, threads=1)


def _graph(dropout: float = 0.0) -> GraphModule:
    torch.manual_seed(7)
    return trace(Net(dropout), {"x": torch.zeros(2, 2, 6, 6)})


def _loss(_inputs: Mapping[str, Tensor], labels: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    return functional.cross_entropy(outputs[0], labels)


def _fit(graph: GraphModule, data: Split = DATA, loss: Loss = _loss, **changes: Any) -> list[EpochResult]:  # noqa: ANN401 - fields of TrainConfig
    return fit(
        graph,
        data,
        loss,
        dataclasses.replace(BASE, **changes),
        validate=lambda _graph: 0.5,
        on_epoch=lambda _result: None,
    )


def _state(graph: GraphModule) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in graph.state_dict().items()}


def _equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_same_seed_gives_the_same_bits() -> None:
    """Weights and buffers are bit-identical with the same seed, dropout included, whatever ran before."""
    states = []
    for seed in (3, 3, 4):
        graph = _graph(dropout=0.5)
        torch.rand(5)
        _fit(graph, seed=seed)
        states.append(_state(graph))
    assert _equal(states[0], states[1])
    assert not _equal(states[0], states[2])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_agrees_with_a_loop_by_hand(optimizer: Literal["sgd", "adamw"]) -> None:
    """Same start, same order: the exported graph learns what the eager module learns with plain PyTorch."""
    graph = _graph()
    results = _fit(graph, optimizer=optimizer, epochs=3)
    torch.manual_seed(7)
    model = Net().train()
    groups: list[dict[str, Any]] = [
        {"params": [model.conv.weight, model.head.weight], "weight_decay": 0.01},
        {"params": [model.conv.bias, model.bn.weight, model.bn.bias, model.head.bias], "weight_decay": 0.0},
    ]
    by_hand: torch.optim.Optimizer = (
        torch.optim.AdamW(groups, lr=0.05)
        if optimizer == "adamw"
        else torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    )
    order, step, losses = np.random.default_rng(0), 0, []
    assert DATA.labels is not None
    for _ in range(3):
        shuffled = order.permutation(26)
        for start in (0, 8, 16, 24):
            rows = shuffled[start : start + 8]
            for group in by_hand.param_groups:  # 12 steps: one of warm-up, then cosine
                group["lr"] = 0.05 * (1.0 if step == 0 else 0.5 * (1 + math.cos(math.pi * (step - 1) / 11)))
            loss = functional.cross_entropy(
                model(torch.from_numpy(DATA.inputs["x"][rows])), torch.from_numpy(DATA.labels[rows])
            )
            by_hand.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            by_hand.step()
            losses.append(float(loss.detach()))
            step += 1
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(graph.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert [result.loss for result in results] == pytest.approx(
        [np.mean(losses[i : i + 4]) for i in (0, 4, 8)], rel=1e-5
    )


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    """Linear up over a tenth of the steps, cosine down to zero at the last one."""
    rates = [result.learning_rate for result in _fit(_graph(), epochs=10)]
    assert rates[0] == pytest.approx(0.05)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_weight_decay_spares_biases_and_normalisation() -> None:
    """With no gradient at all, decay shrinks weights of two or more dimensions only."""
    graph = _graph()
    before = _state(graph)
    _fit(graph, loss=lambda _i, _l, outputs: outputs[0].sum() * 0.0, weight_decay=0.5)
    after = _state(graph)
    assert float(after["conv.weight"].norm()) < 0.99 * float(before["conv.weight"].norm())
    assert all(torch.equal(after[name], before[name]) for name in ("conv.bias", "bn.weight", "bn.bias", "head.bias"))


@pytest.mark.parametrize(("samples", "batch_size", "steps"), [(17, 8, 2), (18, 8, 3), (1, 8, 1), (5, 1, 5), (8, 8, 1)])
def test_lone_last_sample_is_left_out(samples: int, batch_size: int, steps: int) -> None:
    """A last batch of one sample, for which batch-norm has no statistics, is dropped; every other one is used."""
    seen: list[int] = []

    def loss(inputs: Mapping[str, Tensor], labels: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        seen.append(len(labels))
        return _loss(inputs, labels, outputs)

    _fit(_graph(), DATA.take(slice(0, samples)), loss, epochs=1, batch_size=batch_size)
    assert len(seen) == steps
    assert sum(seen) == (16 if samples == 17 else samples)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_names_epoch_and_step(value: float) -> None:
    """The run stops at the very step, before the weights follow it."""
    calls = itertools.count(1)
    graph = _graph()
    kept: dict[str, Tensor] = {}

    def loss(inputs: Mapping[str, Tensor], labels: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        bad = next(calls) == 6
        if bad:
            kept.update({name: p.detach().clone() for name, p in graph.named_parameters()})
        return _loss(inputs, labels, outputs) * (value if bad else 1.0)

    with pytest.raises(InputError, match="epoch 2, step 2"):
        _fit(graph, loss=loss)
    assert all(torch.equal(kept[name], p) for name, p in graph.named_parameters())


def test_model_without_trainable_parameters_is_refused() -> None:
    """Training that could change nothing is an error, not a success."""
    graph = _graph()
    for parameter in graph.parameters():
        parameter.requires_grad_(False)  # noqa: FBT003 - torch's own
    with pytest.raises(InputError, match="nothing to train"):
        _fit(graph)


def test_frozen_parameters_stay() -> None:
    """What does not require a gradient is not touched, not even by weight decay."""
    graph = _graph()
    graph.get_parameter("conv.weight").requires_grad_(False)  # noqa: FBT003 - torch's own
    before = _state(graph)
    _fit(graph)
    assert torch.equal(_state(graph)["conv.weight"], before["conv.weight"])
    assert not torch.equal(_state(graph)["head.weight"], before["head.weight"])


def test_each_epoch_is_reported_with_the_validation_metric() -> None:
    """Validation sees the graph in evaluation mode, once an epoch; observers get what is returned."""
    told: list[EpochResult] = []
    x = torch.from_numpy(DATA.inputs["x"][:4])
    independent: list[bool] = []

    def validate(graph: GraphModule) -> float:
        independent.append(torch.allclose(graph(x)[:2], graph(x[:2]), atol=1e-6))
        return 0.25 * len(independent)

    results = fit(_graph(0.5), DATA, _loss, BASE, validate=validate, on_epoch=told.append)
    assert told == results
    assert [(r.epoch, r.score) for r in results] == [(1, 0.25), (2, 0.5)]
    assert independent == [True, True]


@pytest.mark.parametrize("fails", [False, True])
def test_thread_count_is_put_back(fails: bool) -> None:  # noqa: FBT001
    """The process keeps its own number of threads, after an error too."""
    loss = (lambda *_: torch.tensor(math.nan)) if fails else _loss
    if fails:
        with pytest.raises(InputError):
            _fit(_graph(), loss=loss, threads=2)
    else:
        _fit(_graph(), threads=2)
        predict(_graph(), DATA, threads=2)
    assert torch.get_num_threads() == 1


def test_predictions_do_not_depend_on_the_batch() -> None:
    """In evaluation mode a sample's outputs are its own, even of a graph left in training mode."""
    graph = _graph(dropout=0.5)
    _fit(graph, epochs=1)
    (all_at_once,) = predict(graph, DATA, threads=1)
    for batch_size in (1, 7):
        np.testing.assert_allclose(predict(graph, DATA, threads=1, batch_size=batch_size)[0], all_at_once, atol=1e-6)
    assert all_at_once.shape == (26, 3)


@pytest.mark.filterwarnings("error")
def test_read_only_and_flipped_arrays_are_served() -> None:
    """Arrays that torch cannot share (np.frombuffer, a mirrored view) give the same outputs, without a warning."""
    array = DATA.inputs["x"]
    frozen = np.frombuffer(array.tobytes(), dtype=np.float32).reshape(array.shape)
    mirrored = np.ascontiguousarray(array[:, :, ::-1])[:, :, ::-1]
    graph = _graph()
    (expected,) = predict(graph, DATA, threads=1)
    for same in (frozen, mirrored):
        assert np.array_equal(predict(graph, Split(inputs={"x": same}, labels=None), threads=1)[0], expected)


def test_every_output_is_predicted() -> None:
    """Several outputs come in order, one array each."""

    class Two(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"sum": x.sum((1, 2, 3)), "twice": x * 2}

    graph = trace(Two(), {"x": torch.zeros(2, 2, 6, 6)})
    total, twice = predict(graph, DATA, threads=1, batch_size=5)
    np.testing.assert_allclose(total, DATA.inputs["x"].sum((1, 2, 3)), atol=1e-4)
    assert np.array_equal(twice, DATA.inputs["x"] * 2)


class _Projected(nn.Module):
    """A loss with a learned projection of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.project = nn.Linear(3, 3)

    def forward(self, inputs: Mapping[str, Tensor], labels: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        return _loss(inputs, labels, [self.project(outputs[0])])


def test_a_loss_with_parameters_of_its_own_is_trained_too() -> None:
    """Promise: a loss that is a module learns with the model, under the same optimiser."""
    loss = _Projected()
    before = loss.project.weight.detach().clone()
    _fit(_graph(), loss=loss)
    assert not torch.equal(loss.project.weight, before)


def test_after_step_has_the_last_word_about_the_weights() -> None:
    """Promise: what ``after_step`` does to the weights holds after every step, the last one included."""
    graph = _graph()
    calls = []

    def mask() -> None:
        calls.append(1)
        with torch.no_grad():
            graph.get_parameter("conv.weight")[0] = 0.0

    fit(graph, DATA, _loss, BASE, validate=lambda _: 0.0, on_epoch=lambda _: None, after_step=mask)
    assert len(calls) == 8
    assert not graph.get_parameter("conv.weight")[0].any()
    assert graph.get_parameter("conv.weight")[1].all()


def test_any_module_can_be_trained() -> None:
    """Promise: a plain nn.Module goes through the loop as an exported graph does, in both modes."""
    torch.manual_seed(7)
    model = Net()
    modes: list[bool] = []
    fit(model, DATA, _loss, BASE, validate=lambda m: modes.append(m.training) or 0.0, on_epoch=lambda _: None)
    graph = _graph()
    _fit(graph)
    assert modes == [False, False]
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(graph.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
