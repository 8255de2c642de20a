"""Carries labels through a graph: each operator's rule says how the labels of its inputs become those of its output.

A parameter's axes get fresh labels where it enters the graph, one an index. Rules unite labels (what must live or die
together), freeze them (what must stay), note which operator consumes or produces them, and write down which arguments
of the operator are sizes. Roles are kept by label id, so they find their parameter through any view of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import numpy as np
import torch
from torch import Tensor, fx

from pipeline.graph.operators import module_path, operator_name
from pipeline.pruning.decisions import Statistics
from pipeline.pruning.dims import Dim, Factor, Layout, Size, ids_of, is_labelled, labelled, plain, size_of
from pipeline.pruning.factoring import split_grid
from pipeline.pruning.frozen import Frozen, FrozenParts, on_record
from pipeline.pruning.labels import WHOLE, Ids, Labels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch._ops import OpOverload

Value: TypeAlias = "Layout | list[Layout] | None"
Rule: TypeAlias = "Callable[[Propagation, fx.Node], Value]"


Kind: TypeAlias = Literal["channel", "head", "head_dim", "hidden"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewrite:
    """Arguments of an operator, by name, with a `Length` wherever a size depends on what is kept.

    Attributes:
        node: The operator.
        target: What it becomes, taking ``arguments`` in their order; ``None`` leaves it and changes only those named.
        arguments: New values by argument name.
    """

    node: fx.Node
    target: OpOverload | None
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Read:
    """An operator that reads units through an activation: a sum, or the product of two activations.

    It is the consumer whose "weights" are zeroed in the reference: there the activation is multiplied by 0 for the
    units that go. With ``statistic``, the operator takes a statistic, and in the reference it leaves them out.

    Attributes:
        node: The operator.
        source: The activation.
        dims: The axes of the activation that are read, with their labels.
        statistic: Whether the operator takes a statistic over the axes.
    """

    node: fx.Node
    source: fx.Node
    dims: dict[int, Ids]
    statistic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Renumber:
    """A constant whose values are positions among labels, and change with what is kept of these.

    Attributes:
        name: Name of the parameter, buffer or constant.
        ids: The labels its values count.
    """

    name: str
    ids: Ids


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constant:
    """A parameter, buffer or constant, by its first name."""

    name: str
    value: Tensor


@final
class Propagation:
    """One pass over a graph; reads the shapes in ``node.meta["val"]`` and changes nothing in the graph."""

    def __init__(
        self, gm: fx.GraphModule, rules: Mapping[str, Rule], fallback: Rule, *, statistics: Statistics = "whole"
    ) -> None:
        self.labels = Labels()
        self.statistics = statistics
        self.parameters: dict[str, Layout] = {}  # parameters and buffers by their first name, ties once
        self.layouts: dict[fx.Node, Value] = {}
        self.rewrites: list[Rewrite] = []
        self.reads: list[Read] = []
        self.renumbered: dict[str, Renumber] = {}
        self.kinds: list[tuple[Kind, Ids]] = []
        self._frozen: list[FrozenParts] = []
        self._produced: list[Ids] = []
        self._consumed: list[Ids] = []
        self._zero_keeping: set[fx.Node] = set()  # views of one parameter: zero there is zero here
        self._names = _first_names(gm)
        self._gm = gm
        for node in gm.graph.nodes:
            if node not in self.layouts:  # a rule may have followed several operators at once
                self.layouts[node] = self._visit(node, rules, fallback)

    # ---- what rules ask

    def layout(self, node: object) -> Layout:
        """The layout of a tensor argument."""
        assert isinstance(node, fx.Node)
        value = self.layouts[node]
        assert isinstance(value, tuple)
        return value

    def shape(self, node: object, output: int | None = None) -> tuple[Size, ...]:
        """The traced shape of a node (of its ``output``-th result), ints and symbolic ints."""
        assert isinstance(node, fx.Node)
        value = node.meta["val"]
        return tuple((value if output is None else value[output]).shape)

    def is_tensor(self, argument: object) -> bool:
        """Whether an argument is a node that gives one tensor."""
        return isinstance(argument, fx.Node) and isinstance(self.layouts.get(argument), tuple)

    def input_dims(self, node: fx.Node) -> list[Dim]:
        """Every dimension of every tensor the operator takes."""
        return [dim for source in node.all_input_nodes for dim in _dims(self.layouts[source])]

    def is_parameter_view(self, node: object) -> bool:
        """Whether a node is a parameter, or only rearranges one: what is zero in the parameter is zero in it."""
        return node in self._zero_keeping

    def constant(self, node: fx.Node) -> Constant | None:
        """The parameter, buffer or constant that a node is, if it is one as it stands."""
        while node.op == "call_function" and operator_name(node) in _COPIES:
            (node,) = node.all_input_nodes
        if node.op != "get_attr":
            return None
        value = _attribute(self._gm, str(node.target))
        return Constant(name=self._names[id(value)], value=value) if isinstance(value, Tensor) else None

    # ---- what rules say

    def unite(self, a: Ids, b: Ids) -> None:
        """Indices a[i] and b[i] live or die together."""
        self.labels.union(a, b)

    def produce(self, dim: Dim) -> None:
        """These indices of a weight make the unit."""
        self._produced.extend(labelled(dim))

    def consume(self, x: Dim, weight: Dim) -> None:
        """An operator contracts ``x`` with ``weight``: zero weights there make it blind to the unit."""
        self.unite(ids_of(x), ids_of(weight))
        self._consumed.extend(labelled(weight))

    def read(self, node: fx.Node, source: object, dims: Mapping[int, Dim], *, statistic: bool = False) -> None:
        """An operator reads these axes of an activation: see `Read`."""
        assert isinstance(source, fx.Node)
        found = {axis: ids_of(dim) for axis, dim in dims.items() if is_labelled(dim)}
        if found:
            self.reads.append(Read(node=node, source=source, dims=found, statistic=statistic))

    def call(self, kind: Kind, dim: Dim) -> None:
        """The units of a dimension are of a kind."""
        self.kinds.extend((kind, ids) for ids in labelled(dim))

    def fix(self, dim: Dim) -> None:
        """This dimension is nobody's channels (a kernel's height, say) and stays."""
        for ids in labelled(dim):
            self.labels.freeze(ids)

    def whole(self, node: fx.Node, dims: Sequence[Dim], reason: str, *, always: bool = False) -> None:
        """Keep dimensions whole because of an operator, and put that on record where it costs units."""
        arrays = [ids for dim in dims for ids in labelled(dim)]
        if not arrays:
            return
        parts = np.unique(self.labels.parts(np.concatenate(arrays)))
        parts = parts[~self.labels.stays(parts)]
        made = np.intersect1d(parts, self._produced_parts())
        parts_on_record = parts if always and not len(made) else made
        self.labels.freeze(parts)
        if len(parts_on_record):
            self._frozen.append(
                FrozenParts(
                    operator=operator_name(node), module=module_path(node), reason=reason, parts=parts_on_record
                )
            )

    def positions(self, node: fx.Node, dims: Sequence[Dim], reason: str) -> None:
        """Keep dimensions whole whose indices are positions: pixels, or the three of queries, keys and values.

        Where a view made them, one side of a grid, that costs no channel, and is not on record.
        """
        for dim in dims:
            for ids in labelled(dim):
                parts = self.labels.parts(ids)
                if (self.labels.families(parts[parts != WHOLE]) > 0).all():
                    self.labels.freeze(ids)
        self.whole(node, dims, reason)

    def merge(self, node: fx.Node, a: Dim, b: Dim) -> Dim:
        """One dimension out of two of equal size that an operator takes index by index."""
        if not is_labelled(a) and not is_labelled(b):
            return a
        if len(a) == len(b) and all(_same_kind(x, y) for x, y in zip(a, b, strict=True)):
            return tuple(self._merge_factor(node, x, y) for x, y in zip(a, b, strict=True))
        self.whole(node, [a, b], "joins dimensions that are composed differently")
        return a

    def join(self, node: fx.Node, factors: Sequence[Factor]) -> Dim:
        """The product of factors in canonical form."""
        result: list[Factor] = []
        for factor in factors:
            if isinstance(factor, torch.SymInt) or not result or isinstance(result[-1], torch.SymInt):
                result.append(factor)
            else:
                result[-1] = self._product(node, result[-1], factor)
        return tuple(f for f in result if not (isinstance(f, int) and f == 1)) or (1,)

    def split(self, ids: Ids, sizes: tuple[int, int]) -> tuple[Factor, Factor]:
        """A labelled factor as a product of two: rows and columns of a grid, each labelled where its units can go."""
        outer, inner = split_grid(self.labels, ids, sizes)
        return (sizes[0] if outer is None else outer), (sizes[1] if inner is None else inner)

    def rewrite(self, node: fx.Node, arguments: dict[str, Any], *, target: OpOverload | None = None) -> None:
        """Write down arguments, by name, in which sizes are `Length`s; with ``target``, all of another operator's."""
        self.rewrites.append(Rewrite(node=node, target=target, arguments=arguments))

    def renumber(self, name: str, ids: Ids) -> bool:
        """A constant holds positions among ``ids``; whether it holds none among other labels already."""
        known = self.renumbered.setdefault(name, Renumber(name=name, ids=ids))
        return len(known.ids) == len(ids) and bool((self.labels.find(known.ids) == self.labels.find(ids)).all())

    # ---- what the analysis asks

    @property
    def frozen(self) -> list[Frozen]:
        """The dimensions an operator keeps whole, with what that costs."""
        return on_record(self.labels, self.parameters, self._frozen)

    def produced(self) -> Ids:
        """Label ids of weight indices that make a unit."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *self._produced]))

    def consumed(self) -> Ids:
        """Label ids of weight indices that read a unit."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *self._consumed]))

    # ---- inside

    def _visit(self, node: fx.Node, rules: Mapping[str, Rule], fallback: Rule) -> Value:
        if node.op == "get_attr":
            return self._parameter(node)
        if node.op == "placeholder":
            value = node.meta.get("val")
            return plain(value.shape) if isinstance(value, Tensor) else None
        if node.op == "output":
            self.whole(node, self.input_dims(node), "the model's outputs keep their shape")
            return None
        return self._operator(node, rules, fallback)

    def _operator(self, node: fx.Node, rules: Mapping[str, Rule], fallback: Rule) -> Value:
        sources = node.all_input_nodes
        name = operator_name(node)
        if len(sources) == 1 and sources[0] in self._zero_keeping and name in _REARRANGES:
            self._zero_keeping.add(node)
        return rules.get(name, fallback)(self, node)

    def _parameter(self, node: fx.Node) -> Value:
        value = _attribute(self._gm, str(node.target))
        if not isinstance(value, Tensor):
            return None
        self._zero_keeping.add(node)
        name = self._names[id(value)]
        if name not in self.parameters:
            # an axis of one index has nothing to remove
            self.parameters[name] = tuple(((1,) if n == 1 else (self.labels.fresh(n),)) for n in value.shape)
        return self.parameters[name]

    def _merge_factor(self, node: fx.Node, a: Factor, b: Factor) -> Factor:
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            self.unite(a, b)
            return a
        self.whole(node, [(a,), (b,)], "joins it with a dimension that stays whole")
        return b if isinstance(b, np.ndarray) else a

    def _product(self, node: fx.Node, a: Factor, b: Factor) -> Factor:
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return self._product_of_labels(node, a, b)
        if isinstance(a, np.ndarray):
            return np.repeat(a, int(size_of(b)))
        if isinstance(b, np.ndarray):
            return np.tile(b, int(size_of(a)))
        return int(a) * int(b)

    def _product_of_labels(self, node: fx.Node, a: Ids, b: Ids) -> Factor:
        if self.labels.stays(a).all():
            return self._product(node, len(a), b)
        if self.labels.stays(b).all():
            return self._product(node, a, len(b))
        if len(a) * len(b) > _MOST_PRODUCTS:
            smaller = a if len(a) < len(b) else b
            self.whole(node, [(smaller,)], "flattens two very long dimensions into one; the larger stays prunable")
            return self._product_of_labels(node, a, b)
        return self.labels.product(np.repeat(a, len(b)), np.tile(b, len(a)))

    def _produced_parts(self) -> Ids:
        return np.unique(self.labels.parts(self.produced()))


_COPIES = frozenset({"lift_fresh_copy", "clone", "contiguous", "detach", "alias"})
_MOST_PRODUCTS = 1_000_000

_REARRANGES = frozenset(
    {
        "t",
        "transpose",
        "permute",
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "contiguous",
        "clone",
        "to",
        "unsqueeze",
        "squeeze",
        "detach",
        "alias",
        "movedim",
        "mT",
        "numpy_T",
        "slice",
        "narrow",
        "select",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "getitem",
    }
)


def _dims(value: Value) -> list[Dim]:
    if value is None:
        return []
    return list(value) if isinstance(value, tuple) else [dim for layout in value for dim in layout]


def _same_kind(a: Factor, b: Factor) -> bool:
    if isinstance(a, torch.SymInt) or isinstance(b, torch.SymInt):
        return isinstance(a, torch.SymInt) and isinstance(b, torch.SymInt)
    return bool(size_of(a) == size_of(b))


def _first_names(gm: fx.GraphModule) -> dict[int, str]:
    names: dict[int, str] = {}
    for name, value in [*gm.named_parameters(remove_duplicate=False), *gm.named_buffers(remove_duplicate=False)]:
        names.setdefault(id(value), name)
    for node in gm.graph.nodes:  # constants that are plain attributes
        if node.op == "get_attr":
            names.setdefault(id(_attribute(gm, str(node.target))), str(node.target))
    return names


def _attribute(gm: fx.GraphModule, path: str) -> object:
    value: object = gm
    for part in path.split("."):
        value = getattr(value, part)
    return value
