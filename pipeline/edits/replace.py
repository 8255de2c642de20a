"""The edit that puts other operators in the place of some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from pipeline.edits.base import Edit, unreadable
from pipeline.graph.addresses import Address
from pipeline.surgery.kinds import ACTIVATIONS, NORMS, POOLS, family
from pipeline.surgery.operators import Swap, swapped
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import GraphModule

_KINDS = {*ACTIVATIONS, *POOLS, *NORMS}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Replace(Edit):
    """Operators that were replaced, all at once.

    Attributes:
        swaps: Each with where it stands in the graph before this edit.
    """

    kind: ClassVar[str] = "replace"
    swaps: tuple[Swap, ...]

    def apply(self, graph: GraphModule) -> GraphModule:
        """The graph with the others."""
        try:
            return swapped(graph, self.swaps)
        except ValueError as error:
            raise InputError(
                "the edits of the model do not fit it", str(error), "run the recipe again with this model"
            ) from error

    def to_json(self) -> dict[str, object]:
        """``{"operators": [{"at": {...}, "operator": "silu", "by": "relu"}]}``."""
        return {
            "operators": [{"at": swap.at.to_json(), "operator": swap.operator, "by": swap.by} for swap in self.swaps]
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Replace:
        """What `to_json` wrote."""
        operators = data.get("operators")
        if not isinstance(operators, list) or not operators:
            raise unreadable("an edit that replaces operators names none")
        return cls(swaps=tuple(_swap(item) for item in operators))


def _swap(item: object) -> Swap:
    try:
        match item:
            case {"at": at, "operator": str(operator), "by": str(by)} if {operator, by} <= _KINDS:
                if family(operator) == family(by):
                    return Swap(at=Address.from_json(at), operator=operator, by=by)
    except ValueError as error:
        raise unreadable(str(error)) from error
    raise unreadable(f"{item!r} replaces no operator")
