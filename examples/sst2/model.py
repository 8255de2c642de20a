"""A small transformer encoder for token numbers (Vaswani et al., arXiv 1706.03762; normalisation before each part)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Layer(nn.Module):
    """Self-attention and a feed-forward part, each around a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys, self.values = (nn.Linear(width, width) for _ in range(3))
        self.mix = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        """(N, L, width); ``blocked`` (N, 1, 1, L) is added to the attention's logits."""
        x = x + self.dropout(self._attend(self.norm1(x), blocked))
        return x + self.dropout(self.down(functional.gelu(self.up(self.norm2(x)))))

    def _attend(self, x: Tensor, blocked: Tensor) -> Tensor:
        length, width = x.shape[1], x.shape[2]
        split = (-1, length, self.heads, width // self.heads)
        queries, keys, values = (
            part(x).reshape(split).transpose(1, 2) for part in (self.queries, self.keys, self.values)
        )
        logits = queries @ keys.transpose(2, 3) / split[3] ** 0.5 + blocked
        return self.mix((logits.softmax(-1) @ values).transpose(1, 2).reshape(-1, length, width))


class TextTransformer(nn.Module):
    """Embeddings, encoder layers, the mean over the tokens that are there, a linear head."""

    def __init__(self, tokens: int, length: int, width: int, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(tokens, width, padding_idx=0)
        nn.init.normal_(self.words.weight, std=0.1)  # rare words must be able to learn from few steps
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.dropout = nn.Dropout(0.3)
        self.layers = nn.ModuleList(Layer(width, 4, 2 * width, 0.2) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, L) token numbers to logits (N, 2)."""
        there = (tokens != 0).to(self.places.dtype)
        blocked = (there[:, None, None, :] - 1) * 30.0
        x = self.dropout(self.words(tokens) + self.places)
        for layer in self.layers:
            x = layer(x, blocked)
        weight = there / there.sum(1, keepdim=True).clamp_min(1.0)
        return self.head((self.norm(x) * weight[..., None]).sum(1))


def text_transformer(tokens: int = 6002, length: int = 48, width: int = 64, layers: int = 2) -> nn.Module:
    """The untrained network."""
    return TextTransformer(tokens, length, width, layers)
