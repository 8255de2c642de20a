"""The loss of an anchor-free detector: which cells answer for which box, and what they should say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

_RADIUS: Final = 1.5  # cells around a box's centre that answer for it (Tian et al., arXiv 2006.09214, section 3)
_REACH: Final = 8.0  # cells that a level's boxes reach at most; a coarser level takes larger ones
_FOCUS: Final = 2.0


def detection_loss(levels: Sequence[tuple[Tensor, Tensor]], labels: Tensor) -> Tensor:
    """Quality focal loss (Li et al., arXiv 2006.04388, equation 5) plus generalised IoU of the cells that answer.

    Args:
        levels: Logits ``(N, classes, H, W)`` and reaches ``(N, 4, H, W)`` in cells, fine to coarse.
        labels: ``(N, boxes, 5)``: class or -1, then left, top, right, bottom as shares of the image.
    """
    zero = levels[0][0].new_zeros(())
    classes, boxes, answering = zero, zero, zero
    for at, (logits, reaches) in enumerate(levels):
        lowest = 0.0 if at == 0 else _REACH / 2
        highest = float("inf") if at == len(levels) - 1 else _REACH
        target, label, positive = _targets(reaches, labels, lowest, highest)
        shared, generalised = _overlap(reaches.flatten(2).transpose(1, 2).clamp_min(0), target)
        wanted = functional.one_hot(label, logits.shape[1]).to(logits) * (shared.detach() * positive)[..., None]
        said = logits.flatten(2).transpose(1, 2)
        off = (wanted - said.sigmoid()).abs().pow(_FOCUS)
        classes = classes + (off * functional.binary_cross_entropy_with_logits(said, wanted, reduction="none")).sum()
        boxes = boxes + ((1 - generalised) * positive).sum()
        answering = answering + positive.sum()
    return (classes + 2 * boxes) / answering.clamp_min(1)


def _targets(reaches: Tensor, labels: Tensor, lowest: float, highest: float) -> tuple[Tensor, Tensor, Tensor]:
    """For each cell the reaches ``(N, P, 4)`` and class ``(N, P)`` it should give, and whether it answers at all.

    A cell answers for the smallest box that it lies in, close to its centre; the cell of the centre itself always does.
    """
    height, width = reaches.shape[2:]
    rows = torch.arange(height, device=reaches.device).repeat_interleave(width) + 0.5
    columns = torch.arange(width, device=reaches.device).repeat(height) + 0.5
    scale = labels.new_tensor([width, height, width, height])
    corners = (labels[..., 1:] * scale)[:, None]  # (N, 1, M, 4), in cells
    x, y = columns[None, :, None], rows[None, :, None]
    left, top, right, bottom = corners.unbind(-1)
    reach = torch.stack([x - left, y - top, right - x, bottom - y], dim=-1)  # (N, P, M, 4)
    across, down = (left + right) / 2, (top + bottom) / 2
    near = torch.maximum((x - across).abs(), (y - down).abs()) < _RADIUS
    own = torch.maximum((x - across).abs(), (y - down).abs()) <= 0.5  # noqa: PLR2004 - half a cell
    longest = torch.maximum(right - left, bottom - top) / 2
    fits = (longest > lowest) & (longest <= highest) & (labels[:, None, :, 0] >= 0)
    answers = fits & ((near & (reach.amin(-1) > 0)) | own)
    area = ((right - left) * (bottom - top)).expand(answers.shape).masked_fill(~answers, float("inf"))
    smallest = area.argmin(-1, keepdim=True)  # (N, P, 1)
    target = reach.gather(2, smallest[..., None].expand(*smallest.shape, 4)).squeeze(2).clamp_min(0)
    label = labels[:, None, :, 0].expand(answers.shape).gather(2, smallest).squeeze(2).clamp_min(0).long()
    return target.to(reaches), label, answers.any(-1).to(reaches)


def _overlap(found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al., arXiv 1902.09630) of boxes given by reaches from one point."""

    def area(reach: Tensor) -> Tensor:
        return (reach[..., 0] + reach[..., 2]) * (reach[..., 1] + reach[..., 3])

    shared = area(torch.minimum(found, wanted))
    union = (area(found) + area(wanted) - shared).clamp_min(1e-6)
    hull = area(torch.maximum(found, wanted)).clamp_min(1e-6)
    return shared / union, shared / union - (hull - union) / hull
