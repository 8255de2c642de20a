"""Which blocks go: the one that costs least, then the one that costs least without it, and so on.

Costs are measured anew after each drop, since what a block is worth depends on what is left around it: Song et al.,
SLEB: Streamlining LLMs through Redundancy Verification and Elimination of Transformer Blocks, ICML 2024, section 3.3
(there with the perplexity on calibration text, here with the loss of the task).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.depth.skip import skipped
from pipeline.graph.patterns import covers, unknown_faults
from targets.errors import Fault, faults_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.fx import GraphModule

    from pipeline.depth.blocks import Block
    from pipeline.depth.cost import Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A block and what was found out about it.

    Attributes:
        block: The block.
        alone: The model's cost when only this block is dropped; None where it is protected.
        order: It was dropped as the first (1), the second ...; None where it stays.
        after: The model's cost once it was dropped, with those before it.
    """

    block: Block
    alone: Cost | None
    order: int | None
    after: Cost | None


def droppable(blocks: Sequence[Block], protect: Sequence[str]) -> list[Block]:
    """The blocks that no pattern protects.

    Raises:
        InputError: A pattern stands for no block.
    """
    names = [_path(block) for block in blocks]
    if faults := unknown_faults("depth.protect", protect, names, "residual block"):
        raise faults_error("[depth]", faults)
    return [block for block in blocks if not any(covers(pattern, _path(block)) for pattern in protect)]


def how_many(blocks: int | None, share: float | None, free: Sequence[Block], total: int) -> int:
    """The number of blocks to drop, of those that are free.

    Raises:
        InputError: More than there are, or a share that is less than one block.
    """
    among = f"the model has {total} such blocks, {total - len(free)} of them protected"
    if blocks is not None:
        if blocks > len(free):
            fix = f"write depth.blocks = {len(free)} or less" if free else "shorten depth.protect"
            raise faults_error("[depth]", [Fault(where="depth.blocks", what=f"{blocks} is too many: {among}", fix=fix)])
        return blocks
    assert share is not None
    count = round(share * total)
    if not 0 < count <= len(free):
        what = f"{share} of {total} blocks is {'less than one block' if count == 0 else f'{count}: {among}'}"
        fix = f"give a share between {1 / total:.2f} and {len(free) / total:.2f}" if free else "shorten depth.protect"
        raise faults_error("[depth]", [Fault(where="depth.share", what=what, fix=fix)])
    return count


def drop_cheapest(
    gm: GraphModule,
    blocks: Sequence[Block],
    free: Sequence[Block],
    count: int,
    cost: Callable[[GraphModule], Cost],
    progress: Callable[[float, str], None],
) -> tuple[Judged, ...]:
    """Drops ``count`` of the free blocks; all blocks come back, in their order, with what was measured."""
    total = sum(len(free) - done for done in range(count))
    measured = 0
    alone: dict[str, Cost] = {}
    dropped: dict[str, tuple[int, Cost]] = {}
    for turn in range(1, count + 1):
        costs: dict[str, Cost] = {}
        for block in free:
            if block.name not in dropped:
                going = [other.skip for other in blocks if other.name in dropped or other is block]
                costs[block.name] = cost(skipped(gm, going))
                measured += 1
                progress(measured / total, f"drop {turn} of {count}: without {block.name}")
        alone = alone or costs
        cheapest = min(costs, key=lambda name: costs[name])
        dropped[cheapest] = (turn, costs[cheapest])
    return tuple(
        Judged(
            block=block,
            alone=alone.get(block.name),
            order=dropped[block.name][0] if block.name in dropped else None,
            after=dropped[block.name][1] if block.name in dropped else None,
        )
        for block in blocks
    )


def _path(block: Block) -> str:
    """The block's name without the number of its call."""
    return block.name.partition("@")[0].partition("#")[0]
