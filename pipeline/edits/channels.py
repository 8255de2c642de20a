"""The edit that removes channels: which indices of which parameter axes are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from pipeline.edits.base import Edit
from pipeline.pruning import Decisions, apply_decisions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import GraphModule


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Channels(Edit):
    """Units of the label graph that were removed.

    Attributes:
        decisions: What is kept of each parameter axis that was cut.
    """

    kind: ClassVar[str] = "channels"
    decisions: Decisions

    def apply(self, graph: GraphModule) -> GraphModule:
        """The graph without them."""
        return apply_decisions(graph, self.decisions)

    def to_json(self) -> dict[str, object]:
        """The decisions."""
        return self.decisions.to_json()

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Channels:
        """What `to_json` wrote."""
        return cls(decisions=Decisions.from_json(data))
