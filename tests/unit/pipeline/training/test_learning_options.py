"""What can be asked of the loop beside epochs and a rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.data import Split
from pipeline.graph import trace
from pipeline.training import Augmentation, Schedule, Scope, find_learning_rate, predict
from targets.errors import InputError

CONSTANT = Schedule(kind="constant", warmup_epochs=0)


def state(graph: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in graph.state_dict().items()}


def test_accumulated_batches_are_one_large_batch(world: Any) -> None:  # noqa: ANN401
    """Promise: without batch-norm, four batches of 2 are one of 8, rests of other sizes included."""
    large, small = world.graph(norm=False), world.graph(norm=False)
    world.fit(large, batch_size=8)
    world.fit(small, batch_size=2, accumulate=4)
    for name, tensor in large.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_clipping_bounds_every_step(world: Any) -> None:  # noqa: ANN401
    """Promise: plain SGD moves by at most rate x norm, or rate x value in each number; steps tell the norm before."""
    for bound in ({"clip_norm": 0.01}, {"clip_value": 0.001}):
        graph = world.graph()
        before, norms = state(graph), []
        world.fit(
            graph, epochs=1, batch_size=26, momentum=0.0, weight_decay=0.0, schedule=CONSTANT,
            on_step=lambda r, norms=norms: norms.append(r.gradient_norm), **bound,
        )  # fmt: skip
        moved = [(graph.get_parameter(n) - before[n]).detach().flatten() for n, _ in graph.named_parameters()]
        assert norms[0] > 0.05
        if "clip_norm" in bound:
            assert float(torch.cat(moved).norm()) == pytest.approx(0.05 * 0.01, rel=1e-2)
        else:
            assert float(torch.cat(moved).abs().max()) == pytest.approx(0.05 * 0.001, rel=1e-2)


def test_l1_pulls_weights_to_zero(world: Any) -> None:  # noqa: ANN401
    """Promise: with no other gradient, each step moves weights by rate x strength towards zero; biases stay."""
    graph = world.graph()
    before = state(graph)
    flat: Any = lambda _i, _l, outputs: outputs[0].sum() * 0.0  # noqa: E731
    world.fit(graph, epochs=1, batch_size=26, momentum=0.0, weight_decay=0.0, l1=0.1, schedule=CONSTANT, loss=flat)
    expected = before["conv.weight"] - 0.05 * 0.1 * before["conv.weight"].sign()
    torch.testing.assert_close(graph.get_parameter("conv.weight").detach(), expected)
    assert torch.equal(graph.get_parameter("conv.bias"), before["conv.bias"])


def test_averaged_weights_are_what_is_validated_and_kept(world: Any) -> None:  # noqa: ANN401
    """Promise: the average follows its recurrence over every step; validation sees it and so does the caller."""
    graph = world.graph()
    average, seen = state(graph)["head.weight"], []

    def follow() -> None:
        steps = len(seen) + 1
        seen.append(1)
        decay = min(0.9, (1 + steps) / (10 + steps))
        average.mul_(decay).add_(graph.get_parameter("head.weight").detach(), alpha=1 - decay)

    validated: list[Tensor] = []

    def validate(model: nn.Module) -> float:
        validated.append(model.get_parameter("head.weight").detach().clone())
        return 0.0

    world.fit(graph, ema_decay=0.9, on_step=lambda _: follow(), validate=validate)
    torch.testing.assert_close(validated[-1], average)
    torch.testing.assert_close(graph.get_parameter("head.weight").detach(), average)


def test_early_stopping_keeps_the_best_epoch(world: Any) -> None:  # noqa: ANN401
    """Promise: two epochs without a better score end it, and the weights are those of the best one."""
    scores, weights = iter([0.1, 0.2, 0.5, 0.5, 0.4, 0.9]), []

    def validate(model: nn.Module) -> float:
        weights.append(state(model))
        return next(scores)

    graph = world.graph()
    lower_is_no_better: Any = lambda _i, _l, outputs: outputs[0].square().mean() + len(weights)  # noqa: E731
    results = world.fit(graph, epochs=9, patience=2, keep="best", validate=validate, loss=lower_is_no_better)
    assert [(r.epoch, r.kept) for r in results] == [(1, False), (2, True), (3, False), (4, False)]
    assert all(torch.equal(graph.state_dict()[name], tensor) for name, tensor in weights[2].items())


def test_a_start_that_was_better_is_kept(world: Any) -> None:  # noqa: ANN401
    """Promise: where no epoch is better than the weights that came, they come back."""
    graph = world.graph()
    before, scores = state(graph), iter([0.9, 0.1, 0.1])
    results = world.fit(graph, keep="best", validate=lambda _: next(scores))
    assert not any(result.kept for result in results)
    assert all(torch.equal(graph.state_dict()[name], tensor) for name, tensor in before.items())


def test_only_named_modules_learn(world: Any) -> None:  # noqa: ANN401
    """Promise: a frozen body keeps weights and statistics, bit for bit; the head learns; gradients are wanted again."""
    graph = world.graph()
    before = state(graph)
    world.fit(graph, scope=Scope(train_only=("head",)))
    changed = {name for name, tensor in graph.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}
    assert all(parameter.requires_grad for parameter in graph.parameters())


def test_each_module_has_its_rate(world: Any) -> None:  # noqa: ANN401
    """Promise: the first pattern counts: half a rate moves half as far, 0 freezes, others go on."""
    moves = []
    for rates in ({}, {"conv*": 0.5, "bn": 0.0}):
        graph = world.graph()
        before = state(graph)
        world.fit(
            graph, epochs=1, batch_size=26, momentum=0.0, weight_decay=0.0, schedule=CONSTANT, scope=Scope(rates=rates)
        )
        moves.append({n: graph.state_dict()[n] - before[n] for n in ("conv.weight", "bn.weight", "head.weight")})
    if torch.isfinite(moves[0]["conv.weight"]).all():
        torch.testing.assert_close(moves[1]["head.weight"], moves[0]["head.weight"], rtol=0.3, atol=1e-2)
    assert not moves[1]["bn.weight"].any()
    assert moves[1]["conv.weight"].any()


def test_statistics_can_be_frozen(world: Any) -> None:  # noqa: ANN401
    """Promise: weights of a normalisation learn, its statistics stay."""
    graph = world.graph()
    before = state(graph)
    world.fit(graph, scope=Scope(batch_norm="frozen"))
    assert torch.equal(graph.get_buffer("bn.running_mean"), before["bn.running_mean"])
    assert not torch.equal(graph.get_parameter("bn.weight"), before["bn.weight"])


@pytest.mark.parametrize("scope", [Scope(train_only=("haed",)), Scope(rates={"haed": 0.5})])
def test_a_wrong_path_is_answered_with_near_ones(world: Any, scope: Scope) -> None:  # noqa: ANN401
    """Promise: told before training, with what it may have meant."""
    with pytest.raises(InputError, match="'head'"):
        world.fit(world.graph(), scope=scope)


def test_the_layer_that_broke_is_named(world: Any) -> None:  # noqa: ANN401
    """Promise: samples by number, and the first operator with a NaN by the user's module."""
    broken = Split(inputs={"x": world.split.inputs["x"].copy()}, labels=world.split.labels)
    broken.inputs["x"][5] = 3e38
    with pytest.raises(InputError, match=r"loss became (nan|inf)\nin epoch 1, step \d, samples .*: .*'conv'"):
        world.fit(world.graph(), broken)
    torch.manual_seed(0)
    eager = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    with torch.no_grad():
        for parameter in eager.parameters():
            parameter.fill_(1.0)
    with pytest.raises(InputError, match="such an output is '1'"):
        world.fit(eager, broken)


def test_a_gradient_that_broke_stops_before_the_weights_follow(world: Any) -> None:  # noqa: ANN401
    """Promise: a finite loss with a NaN gradient is noticed at that very step."""
    graph = world.graph()
    before = state(graph)
    root: Any = lambda _i, _l, outputs: (outputs[0] * 0.0).square().sum().sqrt()  # noqa: E731 - its slope at 0 is infinite
    with pytest.raises(InputError, match="gradient became NaN"):
        world.fit(graph, loss=root)
    assert all(torch.equal(graph.get_parameter(name), before[name]) for name, _ in graph.named_parameters())


def test_a_gradient_that_diverges_says_so(world: Any) -> None:  # noqa: ANN401
    """Promise: where every number is finite and their norm is not, the largest is named and no loss is blamed."""
    huge: Any = lambda _i, _l, outputs: outputs[0].sum() * 1e25  # noqa: E731
    with pytest.raises(InputError, match=r"their norm, the largest being \d\.\de\+\d+ in '.*': training diverges"):
        world.fit(world.graph(), loss=huge)


def test_mixed_precision_trains_and_needs_its_hardware(world: Any) -> None:  # noqa: ANN401
    """Promise: bfloat16 gives other weights near those of float32, kept in float32; float16 on a CPU is refused."""
    exact, mixed = world.graph(), world.graph()
    world.fit(exact)
    world.fit(mixed, precision="bf16")
    weights = exact.get_parameter("head.weight"), mixed.get_parameter("head.weight")
    assert weights[1].dtype == torch.float32
    assert not torch.equal(*weights)
    torch.testing.assert_close(*weights, rtol=0.2, atol=0.05)
    with pytest.raises(InputError, match=r"fp16.* needs a GPU"):
        world.fit(world.graph(), precision="fp16")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"cuda.*there is none"):
            world.fit(world.graph(), device="cuda")
    with pytest.raises(InputError, match="processes = 2, and 1 were started"):
        world.fit(world.graph(), processes=2)


def test_augmented_training_repeats(world: Any) -> None:  # noqa: ANN401
    """Promise: augmentation is part of what the seed decides."""
    states = []
    for seed in (0, 0, 1):
        graph = world.graph()
        world.fit(graph, augment=Augmentation(pad_crop=1, mixup=0.3), seed=seed)
        states.append(state(graph))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_the_range_test_finds_a_rate_and_leaves_no_trace(world: Any) -> None:  # noqa: ANN401
    """Promise: deterministic, model and loss as before, and a rate at which training gets somewhere."""
    graph = world.graph()
    before = state(graph)
    inputs = world.split.inputs
    means = inputs["x"].mean((2, 3))
    split = Split(inputs=inputs, labels=np.where(means.max(1) < 0, 2, means.argmax(1)))
    found = find_learning_rate(graph, split, world.loss, world.config)
    assert all(torch.equal(graph.state_dict()[name], tensor) for name, tensor in before.items())
    assert found == find_learning_rate(world.graph(), split, world.loss, world.config)
    assert 1e-4 < found.learning_rate < 1.0
    assert math.isclose(found.rates[0], 1e-6)
    results = world.fit(graph, split, learning_rate=found.learning_rate, epochs=10)
    assert results[-1].loss < results[0].loss


def test_a_graph_of_two_inputs_trains() -> None:
    """Promise: inputs go in by their order."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            total: Tensor = self.a(x) + self.b(y)
            return total

    graph = trace(Two(), {"x": torch.zeros(2, 2), "y": torch.zeros(2, 3)})
    split = Split(
        inputs={"x": np.ones((4, 2), np.float32), "y": np.ones((4, 3), np.float32)}, labels=np.zeros(4, np.int64)
    )
    assert predict(graph, split, threads=1)[0].shape == (4, 2)


def test_the_average_of_a_tied_weight_is_kept(world: Any) -> None:  # noqa: ANN401
    """Promise: a weight of two names has one average, and the best epoch gives it back under both."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(72, 72), nn.Linear(72, 72)
            self.two.weight = self.one.weight
            self.head = nn.Linear(72, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.two(self.one(x.flatten(1)).relu()))
            return logits

    torch.manual_seed(0)
    model, validated = Tied(), []

    def validate(seen: nn.Module) -> float:
        validated.append(seen.get_parameter("one.weight").detach().clone())
        return float(len(validated))

    world.fit(model, ema_decay=0.9, keep="best", validate=validate)
    assert model.one.weight is model.two.weight
    assert torch.equal(model.one.weight.detach(), validated[-1])
