"""Small attention networks, each with the shape of a well-known one. Needs nothing but torch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn


class Feedforward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class PackedAttention(nn.Module):
    """Queries, keys and values of one linear layer; the products are written by hand."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(n, length, width))


class VitBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), PackedAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), Feedforward(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Patches, a class token, learned positions, packed queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 17, 16))
        self.blocks = nn.ModuleList(VitBlock(16, 4, 24) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class BertLayer(nn.Module):
    """Three linear layers, scores masked by addition, layer norm after the sum."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.depth = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out, self.norm1 = nn.Linear(width, width), nn.LayerNorm(width)
        self.mlp, self.norm2, self.dropout = Feedforward(width, 2 * width), nn.LayerNorm(width), nn.Dropout(0.1)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.size()[:-1], self.heads, self.depth).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.depth) + bias
        context = torch.matmul(self.dropout(F.softmax(scores, dim=-1)), v).permute(0, 2, 1, 3).contiguous()
        x = self.norm1(x + self.out(context.view(*context.size()[:-2], self.heads * self.depth)))
        return self.norm2(x + self.mlp(x))


class Bert(nn.Module):
    """Words, positions and segments embedded and summed; a padding mask; a pooled first token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.segments = nn.Embedding(30, 16, padding_idx=0), nn.Embedding(2, 16)
        self.positions, self.norm = nn.Embedding(10, 16), nn.LayerNorm(16)
        self.layers = nn.ModuleList(BertLayer(16, 4) for _ in range(2))
        self.pooler, self.classifier = nn.Linear(16, 12), nn.Linear(12, 3)
        self.register_buffer("ids", torch.arange(10)[None])

    def forward(self, tokens: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
        x = self.words(tokens) + self.segments(segments) + self.positions(self.ids[:, : tokens.shape[1]])
        x, bias = self.norm(x), (1.0 - mask[:, None, None, :].to(x.dtype)) * -1e4
        for layer in self.layers:
            x = layer(x, bias)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


class TorchEncoder(nn.Module):
    """torch's own encoder layers: nn.MultiheadAttention, norm first and norm last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.first = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True)
        self.last = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, activation="gelu")
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.first(self.embed(x))).mean(1))


class EncoderDecoder(nn.Module):
    """torch's nn.Transformer: a causal decoder that attends to the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Linear(6, 16), nn.Linear(4, 16)
        self.transformer = nn.Transformer(16, 4, 1, 1, 24, batch_first=True)
        self.head = nn.Linear(16, 5)
        self.register_buffer("causal", torch.triu(torch.full((5, 5), float("-inf")), 1))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(
            self.transformer(self.source(source), self.target(target), tgt_mask=self.causal, tgt_is_causal=True)
        )


class CrossAttention(nn.Module):
    """Queries of one sequence over keys and values of another, with attention weights among the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.latents, self.embed = nn.Parameter(torch.randn(4, 16)), nn.Linear(6, 12)
        self.attend = nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True)
        self.mlp, self.head = Feedforward(16, 20), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        context = F.relu(self.embed(x))
        latents = self.latents.unsqueeze(0).expand(x.shape[0], -1, -1)
        y, weights = self.attend(latents, context, context)
        return self.head(self.mlp(y)), weights


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class GroupedQueryLayer(nn.Module):
    """RMS norm, rotary positions, four query heads to each of two key heads, SwiGLU."""

    def __init__(self, width: int, heads: int, shared: int, depth: int, *, native: bool) -> None:
        super().__init__()
        self.heads, self.shared, self.depth, self.native = heads, shared, depth, native
        self.q = nn.Linear(width, heads * depth, bias=False)
        self.k, self.v = (nn.Linear(width, shared * depth, bias=False) for _ in range(2))
        self.o = nn.Linear(heads * depth, width, bias=False)
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.gate, self.up, self.down = nn.Linear(width, 24), nn.Linear(width, 24), nn.Linear(24, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        n, length, _ = x.shape
        y = self.norm1(x)
        q = rotated(self.q(y).view(n, length, self.heads, self.depth).transpose(1, 2), cos, sin)
        k = rotated(self.k(y).view(n, length, self.shared, self.depth).transpose(1, 2), cos, sin)
        v = self.v(y).view(n, length, self.shared, self.depth).transpose(1, 2)
        if self.native:
            z = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            k, v = (
                t[:, :, None]
                .expand(n, self.shared, self.heads // self.shared, length, self.depth)
                .reshape(n, self.heads, length, self.depth)
                for t in (k, v)
            )
            z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(z.transpose(1, 2).reshape(n, length, -1))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class GroupedQueryLm(nn.Module):
    """A small Llama: embeddings tied to the output, rotary positions, grouped queries."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.layers = nn.ModuleList(GroupedQueryLayer(16, 4, 2, 8, native=native) for native in (True, False))
        self.norm, self.head = nn.RMSNorm(16), nn.Linear(16, 20, bias=False)
        self.head.weight = self.embed.weight
        angles = torch.arange(6.0)[:, None] * 0.5 ** torch.arange(4.0)
        self.register_buffer("cos", torch.cat([angles, angles], 1).cos())
        self.register_buffer("sin", torch.cat([angles, angles], 1).sin())

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return self.head(self.norm(x))


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.tokens = nn.LayerNorm(width), Feedforward(tokens, 12)
        self.norm2, self.channels = nn.LayerNorm(width), Feedforward(width, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer: linear layers over tokens, then over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.blocks = nn.Conv2d(3, 16, 4, 4), nn.Sequential(MixerBlock(16, 16), MixerBlock(16, 16))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.patch(x).flatten(2).mT)).mean(dim=1))


class EinsumAttention(nn.Module):
    """Weights with the heads as a dimension of their own, and einsum throughout; no norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.q, self.k, self.v = (nn.Parameter(torch.randn(12, 3, 4) / 3) for _ in range(3))
        self.o, self.head = nn.Parameter(torch.randn(3, 4, 12) / 3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (torch.einsum("nli,ihd->nhld", x, weight) for weight in (self.q, self.k, self.v))
        attention = torch.einsum("nhld, nhsd -> nhls", q * 0.5, k).softmax(-1)
        context = torch.einsum("nhls,nhsd->nlhd", attention, v)
        x = x + torch.einsum("nlhd,hdo->nlo", context, self.o)
        return self.head(x.amax(1))


class Window(nn.Module):
    """A Swin block: attention in windows, cyclic shift, a learned bias for each head and pair of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.attn = nn.Conv2d(3, 12, 2, 2), nn.LayerNorm(12), nn.Linear(12, 36)
        self.bias, self.proj = nn.Parameter(torch.randn(49, 3)), nn.Linear(12, 12)
        grid = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        offsets = (grid[:, :, None] - grid[:, None]).permute(1, 2, 0) + 3
        self.register_buffer("index", (offsets[..., 0] * 7 + offsets[..., 1]).flatten())
        self.mlp, self.head = Feedforward(12, 20), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-2, -2), (1, 2))
        y = y.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.attn(y).reshape(y.shape[0], 16, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias[self.index].view(16, 16, 3).permute(2, 0, 1)
        y = ((q * 0.5) @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1) @ v
        y = self.proj(y.transpose(1, 2).reshape(-1, 16, c))
        y = y.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        x = x + torch.roll(y, (2, 2), (1, 2))
        return self.head(self.mlp(x).mean((1, 2)))
