"""The edit that drops whole parts: what is read in the place of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from pipeline.depth.skip import Skip, skipped
from pipeline.edits.base import Edit, unreadable
from pipeline.graph import copy_graph
from pipeline.graph.addresses import Address
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import GraphModule


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Remove(Edit):
    """Parts that were dropped, all at once.

    Attributes:
        skips: Each with what enters it and what leaves it, in the graph before this edit.
    """

    kind: ClassVar[str] = "remove"
    skips: tuple[Skip, ...]

    def apply(self, graph: GraphModule) -> GraphModule:
        """The graph without them and without the parameters that only they used."""
        try:
            return copy_graph(skipped(graph, self.skips))
        except ValueError as error:
            raise InputError(
                "the edits of the model do not fit it",
                str(error),
                "run the recipe again with this model",
            ) from error

    def to_json(self) -> dict[str, object]:
        """``{"parts": [{"block": "layer1.1", "entry": {...}, "exit": {...}}]}``."""
        return {
            "parts": [
                {"block": skip.block, "entry": skip.entry.to_json(), "exit": skip.exit.to_json()} for skip in self.skips
            ]
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Remove:
        """What `to_json` wrote."""
        parts = data.get("parts")
        if not isinstance(parts, list) or not parts:
            raise unreadable("an edit that removes parts names none")
        return cls(skips=tuple(_skip(part) for part in parts))


def _skip(part: object) -> Skip:
    try:
        match part:
            case {"block": str(block), "entry": entry, "exit": leaving}:
                return Skip(block=block, entry=Address.from_json(entry), exit=Address.from_json(leaving))
    except ValueError as error:
        raise unreadable(str(error)) from error
    raise unreadable(f"{part!r} is no part of a model")
