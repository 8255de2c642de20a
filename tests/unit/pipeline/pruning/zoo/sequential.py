"""Small networks over sequences, tables and several inputs. Needs nothing but torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn


class GruTagger(nn.Module):
    """Words embedded, two bidirectional GRU layers, a tag for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.gru, self.tag = nn.GRU(12, 10, 2, batch_first=True, bidirectional=True), nn.Linear(20, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tag(self.gru(self.embed(tokens))[0])


class LstmTagger(nn.Module):
    """An LSTM whose state begins with what another one ended with; the last step and the last state are read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder = nn.Embedding(30, 12), nn.LSTM(12, 10, batch_first=True)
        self.decoder, self.hidden, self.tag = nn.LSTM(12, 10, batch_first=True), nn.Linear(20, 12), nn.Linear(12, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        _, (h, c) = self.encoder(x)
        y, (last, _) = self.decoder(x.flip(1), (h, c))
        return self.tag(torch.tanh(self.hidden(torch.cat([y[:, -1], last[0]], 1))))


class ProjectedLstm(nn.Module):
    """An LSTM with a projection, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.lstm, self.fc = nn.Linear(6, 8), nn.LSTM(8, 12, proj_size=6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, (_, c) = self.lstm(F.relu(self.inputs(x)).transpose(0, 1))
        return self.fc(y[-1]) + c.sum((0, 2))[:, None]


class RnnClassifier(nn.Module):
    """A vanilla recurrent net, and cells stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.gru, self.lstm = nn.RNN(6, 10, batch_first=True), nn.GRUCell(10, 8), nn.LSTMCell(8, 8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        h = g = c = torch.zeros(x.shape[0], 8, dtype=x.dtype)
        for step in (0, 2, 4):
            h = self.gru(y[:, step], h)
            g, c = self.lstm(h, (g, c))
        return self.fc(g)


class Speech(nn.Module):
    """Convolutions over time, depthwise separable, gated by half of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv1d(8, 12, 5, 2, 2), nn.BatchNorm1d(12)
        self.depthwise, self.pointwise = nn.Conv1d(12, 12, 3, padding=1, groups=12), nn.Conv1d(12, 24, 1)
        self.gated, self.fc = nn.Conv1d(12, 10, 3, padding=1), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.glu(self.pointwise(self.depthwise(x)), dim=1)
        return F.log_softmax(self.fc(F.avg_pool1d(F.relu(self.gated(x)), 10).squeeze(-1)), dim=1)


class TemporalBlock(nn.Module):
    def __init__(self, i: int, o: int, dilation: int) -> None:
        super().__init__()
        self.pad, self.conv = 2 * dilation, nn.Conv1d(i, o, 3, dilation=dilation)
        self.short = nn.Conv1d(i, o, 1) if i != o else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(F.pad(x, (self.pad, 0))))
        return F.relu(y + (x if self.short is None else self.short(x)))


class TemporalConv(nn.Module):
    """Causal dilated convolutions with residual sums."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(TemporalBlock(8, 12, 1), TemporalBlock(12, 12, 2), TemporalBlock(12, 10, 4))
        self.fc = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(x)[:, :, -1])


class TwoTower(nn.Module):
    """A recommender: two towers over embeddings and dense features, a dot product of unit vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item, self.genre = nn.Embedding(20, 8), nn.Embedding(30, 8), nn.Embedding(6, 4)
        self.user_tower = nn.Sequential(nn.Linear(8 + 3, 16), nn.ReLU(), nn.Linear(16, 12))
        self.item_tower = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12))
        self.bias = nn.Embedding(30, 1)

    def forward(self, user: Tensor, features: Tensor, item: Tensor, genre: Tensor) -> Tensor:
        u = self.user_tower(torch.cat([self.user(user), features], 1))
        i = self.item_tower(torch.cat([self.item(item), self.genre(genre)], 1))
        score = (F.normalize(u, dim=1) * F.normalize(i, dim=1)).sum(1)
        return score + F.cosine_similarity(u, i) + self.bias(item).squeeze(1)


class Interactions(nn.Module):
    """A click model: embeddings of every field, their products pair by pair, and a deep part beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = nn.ModuleList(nn.Embedding(10, 8) for _ in range(3))
        self.dense, self.deep = nn.Linear(4, 8), nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 6))
        self.top = nn.Linear(6 + 6, 1)
        self.register_buffer("pairs", torch.tensor([1, 2, 3, 6, 7, 11]))

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        vectors = [field(ids[:, number]) for number, field in enumerate(self.fields)] + [F.relu(self.dense(dense))]
        stacked = torch.stack(vectors, dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2)).flatten(1).index_select(1, self.pairs)
        return torch.sigmoid(self.top(torch.cat([products, self.deep(stacked.flatten(1))], dim=1))).view(-1)


class TiedLm(nn.Module):
    """A language model over a GRU whose output weights are its embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru, self.proj = nn.Embedding(20, 12), nn.GRU(12, 16, batch_first=True), nn.Linear(16, 12)
        self.out = nn.Linear(12, 20)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.proj(self.gru(self.embed(tokens))[0])))


class Autoencoder(nn.Module):
    """The decoder's weight is the encoder's, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.up, self.down = (
            nn.Parameter(torch.randn(16, 10) / 4),
            nn.Parameter(torch.zeros(16)),
            nn.Parameter(torch.zeros(10)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.sigmoid(F.linear(x, self.weight, self.up)), self.weight.t(), self.down)


class ManyInputs(nn.Module):
    """An image, a sequence and numbers in; a class, a value and a map out, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.words, self.numbers = (
            nn.Conv2d(3, 10, 3, padding=1),
            nn.GRU(4, 8, batch_first=True),
            nn.Linear(3, 10),
        )
        self.film, self.joint = nn.Linear(8, 20), nn.Linear(20, 16)
        self.label, self.value, self.map = nn.Linear(16, 3), nn.Linear(16, 1), nn.Conv2d(10, 1, 1)

    def forward(self, image: Tensor, words: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        scale, shift = self.film(self.words(words)[1][0]).chunk(2, dim=1)
        x = F.relu(self.image(image) * scale[:, :, None, None] + shift[:, :, None, None])
        joint = F.relu(self.joint(torch.cat([x.mean((2, 3)), self.numbers(numbers)], 1)))
        return {"label": self.label(joint), "value": self.value(joint).squeeze(1), "map": self.map(x)}


class Operators(nn.Module):
    """What is left: where, masked fill, permutations, repeats, unbind, constants, in-place forms."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(24, 8), nn.Linear(8, 8)
        self.register_buffer("order", torch.tensor([3, 1, 0, 2, 7, 6, 5, 4, 11, 10, 9, 8]))
        self.register_buffer("both", torch.randperm(24))
        self.scale, self.fc = torch.linspace(0.5, 1.5, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = torch.where(x > 0, x, 0.1 * x)[:, self.order]
        y = self.b(x).masked_fill(x > 1.0, 0.0).add_(x).mul_(0.5)
        z = torch.cat([y, torch.zeros_like(y)], 1).roll(1, 0)
        z = self.c(torch.index_select(z, 1, self.both))
        first, second = torch.stack([z, z.tanh()], 0).unbind(0)
        w = self.d(first.repeat_interleave(1, dim=1) * second)
        w = torch.addcmul(w, w.sigmoid(), w.clamp_min(0)) * self.scale.to(w.dtype)
        wide = w.unsqueeze(2).expand(-1, -1, 3).repeat(1, 1, 2).sum(2)
        return self.fc(torch.maximum(wide, w))
