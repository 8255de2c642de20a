"""Two towers: one makes a vector of a user, the other one of every film; their products are the scores."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class TwoTowers(nn.Module):
    """The user's tower is embeddings and two layers; that of the films is a table, which an engine holds as weights."""

    def __init__(self, users: int, catalogue: int, width: int, hidden: int) -> None:
        super().__init__()
        self.user, self.age = nn.Embedding(users, width), nn.Embedding(8, width)
        self.gender, self.occupation = nn.Embedding(2, width), nn.Embedding(32, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(0.3)
        self.film = nn.Linear(width, catalogue)  # its bias is how popular a film is
        for table in (self.user, self.age, self.gender, self.occupation, self.film):
            nn.init.normal_(table.weight, std=0.05)

    def forward(self, person: Tensor) -> Tensor:
        """(N, 4) user, age group, gender, occupation to scores (N, catalogue)."""
        number, age, gender, occupation = person.unbind(1)
        x = self.user(number) + self.age(age) + self.gender(gender) + self.occupation(occupation)
        x = x + self.down(self.dropout(functional.relu(self.up(x))))
        return self.film(self.dropout(x))


def two_towers(users: int = 943, catalogue: int = 1682, width: int = 32, hidden: int = 64) -> nn.Module:
    """The untrained network."""
    return TwoTowers(users, catalogue, width, hidden)
