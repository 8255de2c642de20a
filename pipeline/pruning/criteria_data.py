"""Criteria that look at what a unit does on samples: to the loss, to the outputs, or at its activation."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
import torch
from torch import Tensor, fx

from pipeline.graph.mode import set_training
from pipeline.graph.outputs import flat_outputs
from pipeline.pruning.criteria import Criterion, Evidence, Needs, Scores
from pipeline.pruning.sites import find_sites, unit_sums
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline.data import Split
    from pipeline.pruning.groups import Group, Member
    from pipeline.pruning.sites import Site

_MOST_OUTPUTS = 64  # beyond so many, squared derivatives are estimated by random projections
_PROJECTIONS = 16


@final
class Taylor(Criterion):
    """First order: how much the loss changes, to first order, when a unit is switched off.

    Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017, equations 8-10:
    the mean over samples of ``|sum a dL/da|`` over a unit's activation ``a``. It is computed at the weights that read
    the unit (the sum of ``w dL/dw`` over them is that very sum), so that it holds for every operator.
    """

    name: ClassVar[str] = "taylor"
    needs: ClassVar[Needs] = "labels"
    comparable: ClassVar[bool] = True

    def _score(self, gm: fx.GraphModule, groups: Sequence[Group], evidence: Evidence) -> dict[str, Scores]:
        return _mean_over_samples(gm, groups, evidence, np.abs)


@final
class SecondOrder(Criterion):
    """Second order: half the mean square of the loss's derivative by a gate on the unit.

    LeCun et al., Optimal Brain Damage, NIPS 1989, equation 5, with the Fisher information (the mean squared gradient)
    for the curvature; for a unit as a whole, Theis et al., Faster gaze prediction with dense networks and Fisher
    pruning, arXiv 1801.05787, equation 7. The gate's derivative is computed as in `Taylor`.
    """

    name: ClassVar[str] = "second_order"
    needs: ClassVar[Needs] = "labels"
    comparable: ClassVar[bool] = True

    def _score(self, gm: fx.GraphModule, groups: Sequence[Group], evidence: Evidence) -> dict[str, Scores]:
        return _mean_over_samples(gm, groups, evidence, lambda gates: 0.5 * np.square(gates))


@final
class OutputSensitivity(Criterion):
    """How sensitive the outputs are to a neuron: ``importance(i) = sum_j (dy_j/dx_i)^2``.

    The squared norm of a row of the network's Jacobian (Novak et al., Sensitivity and Generalization in Neural
    Networks, ICLR 2018, section 3.1), here by hidden neuron: summed over a unit's positions and over the places where
    it is read, averaged over samples. It needs no labels. With more than 64 outputs the sum over ``j`` is estimated,
    without bias, by random signs (Hutchinson, Communications in Statistics 19, 1990).
    """

    name: ClassVar[str] = "output_sensitivity"
    needs: ClassVar[Needs] = "samples"
    comparable: ClassVar[bool] = True

    def _score(self, gm: fx.GraphModule, groups: Sequence[Group], evidence: Evidence) -> dict[str, Scores]:
        samples, sites = _samples(evidence), find_sites(gm, groups)
        flat = [(group, site) for group in groups for site in sites[group.name]]
        total = {group.name: np.zeros(group.size, dtype=np.float64) for group in groups}
        draw = torch.Generator().manual_seed(evidence.seed)
        done = 0
        with _evaluating(gm):
            for number, batch in enumerate(samples.batches(evidence.batch_size)):
                held, outputs = _with_activations(gm, [site for _, site in flat], batch)
                for row in _directions(outputs, draw):
                    tensors = [held[site.node] for _, site in flat]
                    gradients = torch.autograd.grad(row, tensors, retain_graph=True, materialize_grads=True)
                    for (group, site), gradient in zip(flat, gradients, strict=True):
                        squares = unit_sums(gradient.detach().double().square(), site.axis, site.units, group.size)
                        _check_finite(squares, number, done, len(batch))
                        total[group.name] += squares.sum(dim=0).numpy()
                done += len(batch)
                evidence.on_share(done / len(samples))
        return {name: values / len(samples) for name, values in total.items()}


@final
class ActivationMean(Criterion):
    """The mean absolute activation of a unit where it is read.

    Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017, section 2.2
    (there after a ReLU, where the absolute value changes nothing).
    """

    name: ClassVar[str] = "activation_mean"
    needs: ClassVar[Needs] = "samples"

    def _score(self, gm: fx.GraphModule, groups: Sequence[Group], evidence: Evidence) -> dict[str, Scores]:
        samples, sites = _samples(evidence), find_sites(gm, groups)
        total = {group.name: np.zeros(group.size, dtype=np.float64) for group in groups}
        seen = {group.name: np.zeros(group.size, dtype=np.float64) for group in groups}
        done = 0
        with _evaluating(gm):
            for number, batch in enumerate(samples.batches(evidence.batch_size)):
                held, _ = _with_activations(gm, [site for group in groups for site in sites[group.name]], batch)
                for group in groups:
                    for site in sites[group.name]:
                        values = held[site.node].detach().double().abs()
                        sums = unit_sums(values, site.axis, site.units, group.size)
                        _check_finite(sums, number, done, len(batch))
                        total[group.name] += sums.sum(dim=0).numpy()
                        counts = unit_sums(torch.ones_like(values), site.axis, site.units, group.size)
                        seen[group.name] += counts.sum(dim=0).numpy()
                done += len(batch)
                evidence.on_share(done / len(samples))
        return {name: values / np.maximum(seen[name], 1.0) for name, values in total.items()}


def _mean_over_samples(
    gm: fx.GraphModule, groups: Sequence[Group], evidence: Evidence, each: Callable[[Scores], Scores]
) -> dict[str, Scores]:
    """The mean over samples of ``each`` derivative of a sample's loss by the gates of a group's units."""
    samples = _samples(evidence)
    assert evidence.loss is not None
    weights = dict(gm.named_parameters(remove_duplicate=False))
    names = sorted({member.parameter for group in groups for member in _gated(group)})
    total = {group.name: np.zeros(group.size, dtype=np.float64) for group in groups}
    with _evaluating(gm), _trainable([weights[name] for name in names]):
        for number, sample in enumerate(samples.batches(1)):
            assert sample.labels is not None
            outputs = flat_outputs(gm(*_tensors(sample).values()))
            loss = evidence.loss(outputs, torch.from_numpy(np.ascontiguousarray(sample.labels)))
            _check_loss(loss, number)
            found = torch.autograd.grad(loss, [weights[name] for name in names], allow_unused=True)
            gradients = dict(zip(names, found, strict=True))
            for group in groups:
                gates = np.zeros(group.size, dtype=np.float64)
                for member in _gated(group):
                    gradient = gradients[member.parameter]
                    if gradient is not None:
                        gates += _gate(weights[member.parameter], gradient, member, group.size)
                _check_finite(torch.from_numpy(gates), number, number, 1)
                total[group.name] += each(gates)
            evidence.on_share((number + 1) / len(samples))
    return {name: values / len(samples) for name, values in total.items()}


def _gated(group: Group) -> list[Member]:
    """The weights that read the group's units; where none does, all that make them."""
    readers = [member for member in group.members if "consumer" in member.roles]
    return readers or [member for member in group.members if "consumer" not in member.roles]


def _gate(weight: Tensor, gradient: Tensor, member: Member, size: int) -> Scores:
    """The sum of ``w dL/dw`` over each unit's weights. (units,)."""
    product = (weight.detach().double() * gradient.double()).unsqueeze(0)
    return unit_sums(product, member.axis + 1, member.units, size)[0].numpy()


def _samples(evidence: Evidence) -> Split:
    assert evidence.samples is not None
    return evidence.samples


def _tensors(batch: Split) -> dict[str, Tensor]:
    return {n: torch.from_numpy(np.require(a, requirements=("C", "W"))) for n, a in batch.inputs.items()}


@contextmanager
def _evaluating(gm: fx.GraphModule) -> Iterator[None]:
    set_training(gm, training=False)
    with torch.enable_grad():
        yield


@contextmanager
def _trainable(weights: Sequence[Tensor]) -> Iterator[None]:
    """Weights that the user has frozen have gradients too, for as long as they are scored."""
    before = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_()
    try:
        yield
    finally:
        for weight, flag in zip(weights, before, strict=True):
            weight.requires_grad = flag


class _Holding(fx.Interpreter):
    """Runs a graph and keeps some of its activations, each apart from what later operators do to it in place."""

    def __init__(self, gm: fx.GraphModule, wanted: set[fx.Node]) -> None:
        super().__init__(gm)
        self.wanted = wanted
        self.held: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        out = super().run_node(n)
        if n not in self.wanted or not isinstance(out, Tensor):
            return out
        self.held[n] = out if out.requires_grad else out.detach().requires_grad_(out.is_floating_point())
        return self.held[n].clone()


def _with_activations(
    gm: fx.GraphModule, sites: Sequence[Site], batch: Split
) -> tuple[Mapping[fx.Node, Tensor], tuple[Tensor, ...]]:
    """The activations at the sites, and the outputs that came of them."""
    running = _Holding(gm, {site.node for site in sites})
    answer: object = running.run(*_tensors(batch).values())
    return running.held, flat_outputs(answer)


def _directions(outputs: Sequence[Tensor], draw: torch.Generator) -> Iterator[Tensor]:
    """Scalars whose squared gradients, summed, are the squared derivatives of all outputs of each sample, summed."""
    every = torch.cat([out.reshape(len(out), -1) for out in outputs if out.is_floating_point()], dim=1)
    count = every.shape[1]
    if count <= _MOST_OUTPUTS:
        for index in range(count):
            yield every[:, index].sum()
        return
    for _ in range(_PROJECTIONS):
        signs = torch.randint(0, 2, every.shape, generator=draw).to(every.dtype) * 2 - 1
        yield (signs * every).sum() / math.sqrt(_PROJECTIONS)


def _check_loss(loss: Tensor, number: int) -> None:
    if not torch.isfinite(loss.detach()).all():
        raise _not_finite("loss", number, number, 1)


def _check_finite(values: Tensor, number: int, first: int, count: int) -> None:
    if not torch.isfinite(values).all():
        raise _not_finite("gradient or activation", number, first, count)


def _not_finite(what: str, number: int, first: int, count: int) -> InputError:
    samples = f"sample {first}" if count == 1 else f"samples {first} to {first + count - 1}"
    return InputError(
        "the importance of channels cannot be computed",
        f"the {what} is NaN or infinite in batch {number} ({samples} of those drawn for prune.samples)",
        "check the data and weights for extreme values, or choose a criterion that looks at weights alone",
    )
