"""What learns, and how fast: all of a model, some of its modules, each with a rate of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from pipeline.graph.operators import module_path, operator_name
from pipeline.graph.paths import check_patterns, fits

if TYPE_CHECKING:
    from torch import fx, nn

_STATISTICS: Final = frozenset({"batch_norm", "instance_norm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which modules learn.

    Attributes:
        train_only: Module or parameter paths (globs; a module stands for all in it) that learn; the rest is frozen,
            its normalisation statistics and dropout too. Empty: everything learns.
        rates: Path (glob) -> factor of the learning rate there; the first that fits counts, 0 freezes.
        batch_norm: ``frozen`` keeps the statistics of every normalisation as they are.
    """

    train_only: tuple[str, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    batch_norm: Literal["train", "frozen"] = "train"

    def check(self, model: nn.Module) -> None:
        """Every pattern names something.

        Raises:
            InputError: One does not; the nearest names are told.
        """
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        check_patterns("train_only", self.train_only, names)
        check_patterns("rates", self.rates, names)

    def rate(self, name: str) -> float:
        """Factor of the learning rate of the parameter of that name; 0 where it is frozen."""
        if self.train_only and not fits(name, self.train_only):
            return 0.0
        return next((factor for pattern, factor in self.rates.items() if fits(name, (pattern,))), 1.0)

    def spares(self, node: fx.Node) -> bool:
        """Whether an operator stays in evaluation mode, since its module is frozen."""
        if self.batch_norm == "frozen" and operator_name(node) in _STATISTICS:
            return True
        path = module_path(node)
        return bool(path) and self.rate(path) == 0.0

    def spares_module(self, path: str, module: nn.Module) -> bool:
        """The same, of a module outside of exported graphs."""
        if self.batch_norm == "frozen" and hasattr(module, "running_mean"):
            return True
        return bool(path) and self.rate(path) == 0.0
