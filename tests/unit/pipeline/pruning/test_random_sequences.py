"""The promise on random networks over sequences: attention, recurrent layers, norms, gates, concatenations."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.graph import trace
from pipeline.pruning import apply_decisions, find_groups, mask_decisions


class Attention(nn.Module):
    """Any number of heads and any depth; packed or apart, fused or by hand."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.heads, self.depth, self.fused = 1 + size, 2 + size % 3, size % 2 == 0
        inner = self.heads * self.depth
        self.qkv, self.out = nn.Linear(width, 3 * inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        packed = self.qkv(x)
        parts = packed.chunk(3, dim=-1) if self.fused else packed.view(n, length, 3, -1).unbind(2)
        q, k, v = (part.unflatten(-1, (self.heads, self.depth)).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v) if self.fused else self.by_hand(q, k, v)
        return x + self.out(y.transpose(1, 2).flatten(2))

    def by_hand(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT / self.depth**0.5).softmax(-1) @ v


class Random(nn.Module):
    """A chain of parts, each chosen by a kind and a size."""

    def __init__(self, choices: list[tuple[int, int]]) -> None:
        super().__init__()
        self.embed, width, self.kinds = nn.Embedding(9, 6), 6, [kind for kind, _ in choices]
        parts: list[nn.Module] = []
        for kind, size in choices:
            part, width = self._part(kind, size, width)
            parts.append(part)
        self.parts, self.head = nn.ModuleList(parts), nn.Linear(width, 3)

    @staticmethod
    def _part(kind: int, size: int, width: int) -> tuple[nn.Module, int]:
        made: dict[int, tuple[nn.Module, int]] = {
            0: (Attention(width, size), width),
            1: (nn.Sequential(nn.Linear(width, 2 * size + 2), nn.GELU(), nn.Linear(2 * size + 2, width)), width),
            2: (
                nn.GRU(width, size + 2, batch_first=True, bidirectional=size % 2 == 0),
                (size + 2) * (1 + (size % 2 == 0)),
            ),
            3: (nn.LayerNorm(width), width),
            4: (nn.Linear(width, 2 * size + 2), width + 2 * size + 2),
            5: (nn.Linear(width, 2 * width), width),
            6: (nn.Linear(width, width), width),
        }
        return made[kind]

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for kind, part in zip(self.kinds, self.parts, strict=True):
            y = part(x)
            if kind == 1:
                x = x + y
            elif kind == 2:
                x = y[0]
            elif kind == 4:
                x = torch.cat([torch.tanh(y), x], -1)
            elif kind == 5:
                value, gate = y.chunk(2, -1)
                x = value * torch.sigmoid(gate)
            elif kind == 6:
                x = x.flip(1) * y.mean(1, keepdim=True)
            else:
                x = y
        return self.head(x)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    choices=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), min_size=1, max_size=5),
    share=st.sampled_from([0.3, 0.6, 1.0]),
    statistics=st.sampled_from(["whole", "leave_out"]),
    seed=st.integers(0, 99),
)
def test_promise_on_random_sequences(choices: list[tuple[int, int]], share: float, statistics: str, seed: int) -> None:
    """Promise: whatever the net and whatever goes, small equals masked dense, and so do gradients."""
    torch.manual_seed(seed)
    gm = trace(Random(choices).double(), {"tokens": torch.randint(0, 9, (2, 4))})
    graph = find_groups(gm, statistics="leave_out" if statistics == "leave_out" else "whole")
    rng = np.random.default_rng(seed)
    decisions = graph.decide(
        {g.name: rng.permutation(g.size)[: min(g.size - 1, max(1, round(share * g.size)))] for g in graph}
    )
    small, masked = apply_decisions(gm, decisions), mask_decisions(gm, decisions)
    tokens = torch.randint(0, 9, (3, 4))
    found, wanted = small(tokens), masked(tokens)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    found.sin().sum().backward()
    wanted.sin().sum().backward()
    for name, parameter in small.named_parameters():
        dense = masked.get_parameter(name).grad
        assert dense is not None
        for axis, kept in decisions.parameters.get(name, {}).items():
            dense = dense.index_select(axis, torch.tensor(kept.kept))
        torch.testing.assert_close(parameter.grad, dense, rtol=1e-7, atol=1e-9)
