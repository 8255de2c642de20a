"""How the next candidate is drawn: optuna's samplers, each drawing with a seed of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from optuna.samplers import GPSampler, NSGAIISampler, RandomSampler, TPESampler

from targets.files import sha256_bytes

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from pipeline.recipe.searching import SearchSection


@final
class _Nsga2(NSGAIISampler):
    """Parents in the order of their trials, in which optuna finds them again once it has noted them.

    Else a drawing that a worker died over would give something else the second time.
    """

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


def make_sampler(section: SearchSection, drawing: str, *, anyhow: bool) -> BaseSampler:
    """The recipe's sampler for one drawing.

    Args:
        section: Of the recipe.
        drawing: What the seed is made of.
        anyhow: The recipe's sampler gave nothing new, draw at random.
    """
    seed = int(sha256_bytes(drawing.encode())[:8], 16)
    startup = section.startup_trials
    if anyhow or section.sampler in {"random", "grid"}:
        return RandomSampler(seed=seed)
    if section.sampler == "nsga2":
        return _Nsga2(seed=seed, population_size=max(2, startup))
    if section.sampler == "gp":
        return GPSampler(seed=seed, n_startup_trials=startup)
    return TPESampler(seed=seed, n_startup_trials=startup, multivariate=True)
