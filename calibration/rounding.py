"""Learned rounding: weights of a Q/DQ file round up or down so that each block gives what the float model's does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.blocks import Block, Pair, find_blocks, find_layers
from calibration.quantized import QuantizedGraph, read_quantized
from calibration.torchexec import TorchGraph
from calibration.torchlearn import float_parent, float_weights, progress_ratio, to_tensors, torch_threads
from calibration.torchround import RoundingVariables
from targets.errors import InputError
from targets.onnxfile import open_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from calibration.samples import CalibrationSet

Array = NDArray[np.generic]
Values = dict[str, Tensor]
Range = tuple[float, float]

_REGULAR: Final = 1.0
_COPIES: Final = 6
"""Tensors of a cut's size that are kept at a time: both models' at the beginning and the end, and room for one more."""

_FLOAT_BYTES: Final = 4
_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockResult:
    """What became of one block.

    Attributes:
        output: The tensor it was fitted to.
        nodes: The nodes whose weights were learned.
        before_db: Signal-to-noise ratio of the block's output before, on the calibration samples.
        after_db: After, rounded.
        moved_ratio: Share of weight integers that moved.
        steps: Optimiser steps.
        kept: False where the result was no better and the block stays as it was.
        seconds: Time taken.
    """

    output: str
    nodes: tuple[str, ...]
    before_db: float
    after_db: float
    moved_ratio: float
    steps: int
    kept: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundingReport:
    """What learned rounding did.

    Attributes:
        blocks: In graph order.
        samples: How many samples were used (the memory limit may leave some out).
        stopped_early: True when the time budget cut the steps of a block.
        seconds: Time taken.
    """

    blocks: tuple[BlockResult, ...]
    samples: int
    stopped_early: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    steps: int
    learning_rate: float
    learn_biases: bool
    learn_scales: bool
    share_s: float


def learn_rounding(
    float_model: Path,
    quantized: Path,
    samples: CalibrationSet,
    out: Path,
    *,
    steps: int = 150,
    seed: int = 0,
    threads: int = 1,
    time_budget_s: float | None = None,
    unit: Literal["layer", "block"] = "block",
    learn_biases: bool = False,
    learn_scales: bool = False,
    learning_rate: float = 0.05,
    memory_bytes: int = 2**29,
    on_progress: Callable[[BlockResult, int, int], None] = lambda *_: None,
) -> RoundingReport:
    """AdaRound (Nagel et al., arXiv 2004.10568), layer by layer or block by block (BRECQ, arXiv 2102.05426).

    A block lies between tensors through which everything must pass. It is fed with what the Q/DQ model gives so far and
    fitted to what the float model gives there, so it also makes up for what the blocks before it lost. No labels.
    Integers move by at most one step from those in the file.

    Args:
        float_model: The float ONNX file the Q/DQ file was made from.
        quantized: The Q/DQ file.
        samples: Calibration samples; a step takes one batch of them.
        out: File to write.
        steps: Optimiser steps for each block.
        seed: Seed of the batches.
        threads: torch threads; another number may give other weights.
        time_budget_s: Blocks share this time; annealing then runs faster. None for no limit.
        unit: Fit each layer's output alone, or each block's.
        learn_biases: Biases are learned along.
        learn_scales: Scales of the block's activations are learned along.
        learning_rate: Of Adam, for the rounding variables.
        memory_bytes: Limit for what is kept of the samples between blocks; fewer samples are used where it is passed.
        on_progress: Called after each block with its result, its number from 1 and how many there are.

    Raises:
        InputError: A node has no differentiable implementation, or the loss becomes NaN or Inf.
    """
    begin = time.monotonic()
    parent = float_parent(float_model)
    graph = read_quantized(open_onnx(quantized))
    with torch_threads(threads, seed):
        exact, rough = TorchGraph(parent), TorchGraph(graph.model)
        learner = _Learner(graph, exact, rough, float_weights(parent))
        blocks = find_blocks(graph, parent) if unit == "block" else find_layers(graph, parent)
        state = _State(samples, memory_bytes, exact, find_blocks(graph, parent))
        results: list[BlockResult] = []
        for index, block in enumerate(blocks):
            left = math.inf if time_budget_s is None else time_budget_s - (time.monotonic() - begin)
            settings = _Settings(
                steps=steps,
                learning_rate=learning_rate,
                learn_biases=learn_biases,
                learn_scales=learn_scales,
                share_s=left / (len(blocks) - index),
            )
            state.advance_to(block, learner)
            result = learner.fit(block, state, settings, np.random.default_rng((seed, index)))
            if result is not None:
                results.append(result)
                on_progress(result, index + 1, len(blocks))
    graph.save(out)
    return RoundingReport(
        blocks=tuple(results),
        samples=state.count,
        stopped_early=any(result.steps < steps for result in results),
        seconds=time.monotonic() - begin,
    )


@final
class _State:
    """The samples as the Q/DQ model and the float model have them at the place reached so far, batch by batch."""

    def __init__(self, samples: CalibrationSet, memory_bytes: int, exact: TorchGraph, cuts: Sequence[Block]) -> None:
        names = {name for block in cuts for _, name in (*block.begin, *block.ends)}
        batches = [to_tensors(batch) for batch in samples]
        with torch.no_grad():
            sizes = [value.numel() for value in exact(batches[0], wanted=[*names]).values()]
        kept = max(1, memory_bytes // (_COPIES * _FLOAT_BYTES * max(sizes)))
        self.rough: list[Values] = batches[:kept]
        self.exact: list[Values] = [dict(batch) for batch in self.rough]
        self.count = sum(len(next(iter(batch.values()))) for batch in self.rough)
        self._begin: tuple[Pair, ...] = ()

    @torch.no_grad()
    def advance_to(self, block: Block, learner: _Learner) -> None:
        """Computes what the block begins with; the blocks before it are final by now."""
        if not self._begin or self._begin == block.begin:  # the first block begins with the inputs
            self._begin = block.begin
            return
        mine, theirs = [name for name, _ in block.begin], [name for _, name in block.begin]
        self.rough = [learner.rough(batch, wanted=mine) for batch in self.rough]
        self.exact = [learner.exact(batch, wanted=theirs) for batch in self.exact]
        self._begin = block.begin


@final
class _Learner:
    """Fits one block after the other and keeps the file and the running model in step."""

    def __init__(
        self, graph: QuantizedGraph, exact: TorchGraph, rough: TorchGraph, weights: Mapping[str, Array]
    ) -> None:
        self.graph, self.exact, self.rough = graph, exact, rough
        self._weights = weights
        self._done: set[str] = set()

    def fit(self, block: Block, state: _State, settings: _Settings, random: np.random.Generator) -> BlockResult | None:
        """Learns a block and writes it, if it is better than what was there; None where nothing is left to learn."""
        begin = time.monotonic()
        with torch.no_grad():
            feeds = [self.rough(batch, wanted=block.feeds) for batch in state.rough]
            targets = [self.exact(batch, wanted=[name for _, name in block.ends]) for batch in state.exact]
        ends = [end for end in block.ends if targets[0][end[1]].is_floating_point()]  # positions cannot be fitted
        if not ends:
            return None
        theirs = [name for _, name in ends]
        mine = [self._compared(name, read=settings.learn_scales) for name, _ in ends]
        goals = [[target[name] for name in theirs] for target in targets]
        clamps = [self._clamp(name) for name in mine]
        stored = [self.graph.weights[n] for n in block.nodes if self.graph.weights[n].integers not in self._done]
        self._done |= {weight.integers for weight in stored}
        variables = RoundingVariables(
            self.graph,
            stored,
            self._weights,
            biases=[node for node in block.nodes if node in self.graph.biases] if settings.learn_biases else [],
            scales=self._scales(block, mine) if settings.learn_scales else [],
        )
        if not variables.groups(settings.learning_rate):
            return None
        before = self._noise(feeds, goals, mine, clamps, {})
        steps = self._descend(block.nodes, variables, feeds, goals, mine, clamps, before, settings, random)
        after = self._noise(feeds, goals, mine, clamps, variables.rounded())
        kept = after < before
        moved = variables.write(self.rough) if kept else 0.0
        return BlockResult(
            output=theirs[0],
            nodes=block.nodes,
            before_db=_decibel(before),
            after_db=_decibel(after),
            moved_ratio=moved,
            steps=steps,
            kept=kept,
            seconds=time.monotonic() - begin,
        )

    def _descend(
        self,
        nodes: Sequence[str],
        variables: RoundingVariables,
        feeds: Sequence[Values],
        goals: Sequence[Sequence[Tensor]],
        names: Sequence[str],
        clamps: Sequence[Range],
        before: float,
        settings: _Settings,
        random: np.random.Generator,
    ) -> int:
        optimizer = torch.optim.Adam(variables.groups(settings.learning_rate))
        begin, step, order = time.monotonic(), 0, [*range(len(feeds))]
        while step < settings.steps:
            done = progress_ratio(step, settings.steps, time.monotonic() - begin, settings.share_s)
            if done >= 1.0:
                break
            if step % len(feeds) == 0:
                order = random.permutation(len(feeds)).tolist()
            index = order[step % len(feeds)]
            found = self.rough(feeds[index], given=variables.soft(), wanted=names)
            error = _relative([found[name] for name in names], goals[index], clamps)
            loss = error / max(before, _TINY) + _REGULAR * variables.undecided(done)
            if not math.isfinite(float(loss.detach())):
                raise InputError(
                    f"learned rounding of {', '.join(nodes)} became NaN or Inf",
                    f"at step {step + 1}",
                    "look at these layers' activations, or leave them in float",
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
        return step

    @torch.no_grad()
    def _noise(
        self,
        feeds: Sequence[Values],
        goals: Sequence[Sequence[Tensor]],
        names: Sequence[str],
        clamps: Sequence[Range],
        given: Values,
    ) -> float:
        """Relative squared error of the block over all samples."""
        noise = signal = 0.0
        for batch, goal in zip(feeds, goals, strict=True):
            found = self.rough(batch, given=given, wanted=names)
            for name, exact, (low, high) in zip(names, goal, clamps, strict=True):
                noise += float((found[name].clamp(low, high) - exact).square().sum())
                signal += float(exact.square().sum())
        return noise / max(signal, _TINY)

    def _compared(self, name: str, *, read: bool) -> str:
        """The tensor itself, or what is read of it behind its Q/DQ."""
        for activation in self.graph.activations.values() if read else ():
            if activation.source == name and activation.dequantized:
                return activation.dequantized[0]
        return name

    def _scales(self, block: Block, names: Sequence[str]) -> list[str]:
        """Scales that only this block and its end use; the scale of the model's input belongs to the first block."""
        inside = set(self.rough.path(block.feeds, names))
        fixed = {theirs for _, theirs in block.begin} - set(self.exact.inputs)
        found: dict[str, None] = {}
        for activation in self.graph.activations.values():
            shared = set(self.graph.groups[activation.scale])
            learned = activation.scale not in self.graph.fixed and not shared & fixed
            if learned and inside & set(activation.dequantized):
                found[activation.scale] = None
        return [*found]

    def _clamp(self, name: str) -> Range:
        """What the Q that alone reads a tensor lets through: a folded Relu lives there."""
        readers = sum(name in node.input for node in self.graph.model.graph.node)
        for activation in self.graph.activations.values():
            if readers == 1 and activation.source == name and activation.zero is not None:
                zero = self.graph.array(activation.zero)
                limits, scale = np.iinfo(zero.dtype.name), float(self.graph.array(activation.scale))
                return (limits.min - int(zero)) * scale, (limits.max - int(zero)) * scale
        return -math.inf, math.inf


def _relative(found: Sequence[Tensor], goals: Sequence[Tensor], clamps: Sequence[Range]) -> Tensor:
    parts = [(f.clamp(low, high) - g).square().sum() for f, g, (low, high) in zip(found, goals, clamps, strict=True)]
    return torch.stack(parts).sum() / torch.stack([g.square().sum() for g in goals]).sum().clamp_min(_TINY)


def _decibel(noise: float) -> float:
    return round(-10.0 * math.log10(max(noise, _TINY)), 3)
