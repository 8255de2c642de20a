"""Names of parts to remove: residual blocks and branches, else modules whose output has the shape of their input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.depth import Skip, find_blocks
from pipeline.depth.regions import find_region
from pipeline.graph.addresses import addresses, calls
from pipeline.graph.patterns import matches
from targets.errors import Fault, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import fx


def find_parts(gm: fx.GraphModule, patterns: Sequence[str]) -> tuple[list[Skip], list[Fault]]:
    """The parts that names stand for, and what is wrong with names.

    A name stands for residual blocks where any is called so, else for single branches (`find_blocks`), else for
    modules, which an identity takes the place of; of modules within modules the outer one counts.
    """
    skips: dict[str, Skip] = {}
    faults: list[Fault] = []
    blocks = {block.name: block.skip for block in find_blocks(gm, "block")}
    branches = {block.name: block.skip for block in find_blocks(gm, "branch")}
    modules = list(dict.fromkeys(call for node in gm.graph.nodes for call in calls(node) if call))
    for pattern in dict.fromkeys(patterns):
        residual = blocks if _named(blocks, pattern) else branches
        if found := _named(residual, pattern):
            skips |= {name: residual[name] for name in found}
            continue
        named = _outermost(_named(modules, pattern))
        if not named:
            everything = {_path(name) for name in [*modules, *blocks, *branches]}
            what = f"no module that computes anything is called {pattern!r}"
            faults.append(Fault(where="surgery.remove", what=what, fix=nearest(pattern, everything)))
        for call in named:
            skip = _module(gm, call)
            if isinstance(skip, Fault):
                faults.append(skip)
            else:
                skips.setdefault(call, skip)
    return list(skips.values()), faults


def _module(gm: fx.GraphModule, call: str) -> Skip | Fault:
    region = find_region(gm, call)
    assert region is not None, f"{call} has no operators"
    if region.entry is None or region.leaving is None:
        what = f"{call!r} cannot be removed: {region.why_not}"
        blocks = ", ".join(block.name for block in find_blocks(gm))
        fix = f"name parts that keep the shape: {blocks}" if blocks else "leave it out: nothing can stand in its place"
        return Fault(where="surgery.remove", what=what, fix=fix)
    known = addresses(gm)
    return Skip(block=call, entry=known[region.entry], exit=known[region.leaving])


def _named(names: Iterable[str], pattern: str) -> list[str]:
    paths = {name: _path(name) for name in names}
    found = set(matches(pattern, paths.values()))
    return [name for name, path in paths.items() if path in found]


def _outermost(names: Sequence[str]) -> list[str]:
    paths = {_path(name) for name in names}
    return [n for n in names if not any(_path(n).startswith(f"{other}.") for other in paths)]


def _path(name: str) -> str:
    return name.partition("@")[0].partition("#")[0]
