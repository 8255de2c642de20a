"""Names of metrics: what a name with a number in it means, and how its values are told."""

from __future__ import annotations

import re
from typing import Final

_SHARES: Final = ("accuracy", "top<k>", "precision", "recall", "f1", "auc", "miou", "pixel_accuracy", "map", "map<k>",
                  "hit_rate@<k>", "ndcg@<k>")  # fmt: skip
_COUNTED: Final = ("accuracy", "top<k>", "hit_rate@<k>")


def fits(name: str, template: str) -> bool:
    """Whether ``top5`` is a ``top<k>``."""
    return re.fullmatch(re.escape(template).replace("<k>", r"[1-9]\d{0,4}"), name) is not None


def number_in(name: str) -> int:
    """The 5 of ``top5``, the 10 of ``ndcg@10``."""
    return int(re.sub(r".*?(\d+)$", r"\1", name))


def is_share(name: str) -> bool:
    """Whether values of the metric are shares of one, told in percent."""
    return any(fits(name.lower(), template) for template in _SHARES)


def is_counted(name: str) -> bool:
    """Whether the metric is a share of samples that are right, each counted once: then an interval is known."""
    return any(fits(name.lower(), template) for template in _COUNTED)
