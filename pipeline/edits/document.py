"""The list of edits in ``model.json``: written, read back and replayed in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from pipeline.edits.base import Edit, unreadable
from pipeline.edits.channels import Channels
from pipeline.edits.remove import Remove
from pipeline.edits.replace import Replace
from pipeline.edits.sparse import Sparse
from targets.errors import nearest

if TYPE_CHECKING:
    from torch.fx import GraphModule

KINDS: Final[Mapping[str, type[Edit]]] = MappingProxyType(
    {edit.kind: edit for edit in (Channels, Remove, Replace, Sparse)}
)


def apply_edits(graph: GraphModule, edits: Sequence[Edit]) -> GraphModule:
    """The graph after all edits, in order; ``graph`` stays as it is.

    Raises:
        InputError: An edit was not made for this graph.
    """
    for edit in edits:
        graph = edit.apply(graph)
    return graph


def edits_to_json(edits: Sequence[Edit]) -> list[dict[str, object]]:
    """The edits as plain data: ``[{"kind": "channels", ...}, ...]``."""
    return [{"kind": edit.kind, **edit.to_json()} for edit in edits]


def edits_from_json(data: object) -> tuple[Edit, ...]:
    """What `edits_to_json` wrote.

    Raises:
        InputError: It is no list of edits of known kinds.
    """
    if not isinstance(data, list):
        raise unreadable("there is no list of edits")
    return tuple(_edit(number, item) for number, item in enumerate(data))


def _edit(number: int, item: object) -> Edit:
    if not isinstance(item, Mapping):
        raise unreadable(f"edit {number} is {type(item).__name__}, and no table")
    kind = str(item.get("kind"))
    if kind not in KINDS:
        raise unreadable(f"edit {number} is of kind {kind!r}; {nearest(kind, KINDS)}")
    return KINDS[kind].from_json({name: value for name, value in item.items() if name != "kind"})
