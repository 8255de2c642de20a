"""The study: which candidates were tried, which comes next; whatever kills a worker, its candidate is tried again."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, final

from pipeline.search.candidates import Engine, Excess, Tried, cost
from pipeline.search.pace import Pace
from pipeline.search.proxies import Glance
from pipeline.search.space import Choices, Numbers, Space, decoded
from pipeline.search.workers import give_back, is_left, is_marked, join, mark
from targets.errors import Fault, InputError, faults_error

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna import Trial
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial

    from pipeline.recipe.searching import SearchSection

_LEFT_OUT: Final = "left out "
_CONFIRMED: Final = "confirmed "
_SETTLED: Final = "settled "
_UNKNOWN_COST: Final = 1e9
_DRAWS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A candidate that this worker is to try.

    Attributes:
        number: Of the trial.
        point: A value for each key that varies.
    """

    number: int
    point: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A candidate that was given up.

    Attributes:
        number: Of the trial.
        point: What varied.
        reason: Why.
        failed: It could not be made, rather than being hopeless.
    """

    number: int
    point: Mapping[str, Any]
    reason: str
    failed: bool


@final
class Study:
    """One search over one space, shared by all workers that open the same storage under the same name.

    What is drawn next depends on the seed and on what is finished, and on nothing else: a search that was killed and
    goes on draws what an undisturbed one would have drawn.
    """

    def __init__(self, storage: BaseStorage, name: str, space: Space, section: SearchSection, seed: int) -> None:
        import optuna

        self._space, self._section, self._seed = space, section, seed
        self._distributions = {variable.key: _distribution(variable) for variable in space}
        directions: list[Literal["minimize", "maximize"] | StudyDirection] = ["minimize"] * len(section.objectives)
        self._study: OptunaStudy = optuna.create_study(
            storage=storage, study_name=name, directions=directions, load_if_exists=True
        )
        self._claims: dict[int, Trial] = {}
        self._check(name)
        join(self._study)

    def _check(self, name: str) -> None:
        try:
            self.tried(), self.glances(), self.given_up(), self.confirmed()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"the study {name!r} cannot be read",
                f"it holds what this version does not know ({type(error).__name__})",
                "search in another place with --storage: whatever the cache holds is not measured again",
            ) from error

    def claim(self) -> Claim | None:
        """The next candidate; None when as many as asked for are tried, given up or under way.

        One that a worker of this machine left when it died, or that was given back, comes first.
        """
        for orphan in self._left():
            trial = self._taken_over(orphan)
            if orphan.number in self._left_out():
                self._study.tell(trial, state=_state("FAIL"))  # drawn in vain, and not told yet
                continue
            if is_marked(orphan) or self._is_of_the_grid(trial):
                return self._claimed(trial)
            self._discard(trial)
        if self._section.sampler == "grid":
            self._lay_out_grid()
            if not any(trial.state.name == "WAITING" for trial in self._trials()):
                return None
        done = len(self._counted())
        if done >= self._section.trials:
            return None
        trial = self._draw(done)
        if sum(other.number < trial.number for other in self._counted()) >= self._section.trials:
            self._discard(trial)  # another worker was faster
            return None
        return self._claimed(trial)

    def _claimed(self, trial: Trial) -> Claim:
        mark(trial)
        self._claims[trial.number] = trial
        return Claim(number=trial.number, point=decoded(self._space, trial.params))

    def _taken_over(self, trial: FrozenTrial) -> Trial:
        """A trial that is under way, as one of this worker's: what was drawn for it stays."""
        from optuna import samplers
        from optuna.trial import Trial

        with _quiet():
            self._study.sampler = samplers.RandomSampler(seed=0)  # draws nothing: all is drawn
            return Trial(self._study, trial._trial_id)  # noqa: SLF001 - the number does not say it in a shared database

    def _under_way(self) -> list[FrozenTrial]:
        return [t for t in self._trials() if t.state.name == "RUNNING" and t.number not in self._claims]

    def _left(self) -> list[FrozenTrial]:
        notes = self._study.user_attrs
        return [trial for trial in self._under_way() if is_left(trial, notes)]

    def _is_of_the_grid(self, trial: Trial) -> bool:
        """Whether a candidate whose worker died over its drawing is known all the same, and can be taken as it is.

        Others are drawn anew, as if it had not been there: it may lack values, or be one that was tried already.
        """
        if self._section.sampler != "grid":
            return False
        for key, distribution in self._distributions.items():
            trial._suggest(key, distribution)  # noqa: SLF001 - as `ask` does
        return True

    def _draw(self, done: int) -> Trial:
        """A candidate that was not tried yet, as far as some draws find one: its figures would be the same."""
        from pipeline.search.samplers import make_sampler

        for attempt in range(_DRAWS):
            with _quiet():
                drawing = f"{self._seed} {done} {attempt}"
                self._study.sampler = make_sampler(self._section, drawing, anyhow=attempt >= _DRAWS // 2)
                trial = self._study.ask(self._distributions)
            # Looked at after the draw: of two workers that draw the same at once the later one gives way.
            known = [other.params for other in self._counted() if other.number < trial.number]
            if trial.params not in known or attempt == _DRAWS - 1:
                return trial
            self._discard(trial)
        raise AssertionError

    def _discard(self, trial: Trial) -> None:
        self._leave_out(trial.number)
        self._study.tell(trial, state=_state("FAIL"))

    def finish(
        self, claim: Claim, engine: Engine, excesses: Sequence[Excess], glance: Glance | None, pace: Pace | None = None
    ) -> None:
        """Notes what came of a candidate."""
        trial = self._claims.pop(claim.number)
        if pace is not None:
            trial.set_user_attr("pace", pace.to_json())
        trial.set_user_attr("engine", engine.to_json())
        trial.set_user_attr("excesses", [_excess_json(excess) for excess in excesses])
        if glance is not None:
            trial.set_user_attr("glance", glance.to_json())
        values = [min(_UNKNOWN_COST, cost(engine, objective)) for objective in self._section.objectives]
        with _quiet():  # a worker that died over it may have noted the constraint: the same candidate's, it stays
            trial.set_constraint("budget", sum(excess.ratio for excess in excesses))
            self._study.tell(trial, values, skip_if_finished=True)

    def give_up(self, claim: Claim, reason: str, *, failed: bool) -> None:
        """Notes that a candidate was not tried to its end."""
        trial = self._claims.pop(claim.number)
        trial.set_user_attr("given", {"reason": reason, "failed": failed})
        with _quiet():
            trial.set_constraint("budget", 1.0)
            self._study.tell(trial, state=_state("FAIL" if failed else "PRUNED"))

    def take_back(self) -> None:
        """Gives back whatever is under way, wherever: nobody else works at this study any more."""
        for trial in self._under_way():
            give_back(self._taken_over(trial))

    def release(self) -> None:
        """Gives back what this worker has under way: it was interrupted."""
        for trial in self._claims.values():
            give_back(trial)
        self._claims.clear()

    def tried(self) -> tuple[Tried, ...]:
        """Every candidate that was tried to its end."""
        return tuple(self._tried(trial) for trial in self._trials() if trial.state.name == "COMPLETE")

    def glances(self) -> tuple[tuple[Glance, Tried], ...]:
        """Those of which cheap figures are known, with them."""
        return tuple(
            (Glance.from_json(trial.user_attrs["glance"]), self._tried(trial))
            for trial in self._trials()
            if trial.state.name == "COMPLETE" and "glance" in trial.user_attrs
        )

    def pace(self, number: int) -> Pace | None:
        """How long a candidate trained; of the one tried last where it is not known of this one."""
        known = {t.number: t.user_attrs["pace"] for t in self._trials() if "pace" in t.user_attrs}
        found = known.get(number, known[max(known)] if known else None)
        return None if found is None else Pace.from_json(found)

    def settle(self, number: int, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What differs from a candidate's recipe in its full run: what was settled first holds, whoever asks again."""
        key = f"{_SETTLED}{number}"
        if key not in self._study.user_attrs:
            self._study.set_user_attr(key, dict(settings))
        found: dict[str, Any] = dict(self._study.user_attrs[key])
        return found

    def confirm(
        self,
        number: int,
        *,
        met_budget: bool,
        shipped: str | None,
        engine: Engine | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Notes what a full run of a candidate's recipe said; no ``shipped`` where it could not be made."""
        seen: dict[str, Any] = {"met_budget": met_budget, "shipped": shipped}
        if engine is not None:
            seen["engine"] = engine.to_json()
        if settings:
            seen["settings"] = dict(settings)
        self._study.set_user_attr(f"{_CONFIRMED}{number}", seen)

    def confirmed(self) -> dict[int, Mapping[str, Any]]:
        """What full runs have said, by trial."""
        return {
            int(key.removeprefix(_CONFIRMED)): seen
            for key, seen in self._study.user_attrs.items()
            if key.startswith(_CONFIRMED)
        }

    def given_up(self) -> tuple[Given, ...]:
        """Every candidate that was given up."""
        return tuple(
            Given(number=trial.number, point=decoded(self._space, trial.params), **trial.user_attrs["given"])
            for trial in self._trials()
            if "given" in trial.user_attrs
        )

    # ---- inside

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _counted(self) -> list[FrozenTrial]:
        """Trials that count: finished, given up or under way; not those that wait or were drawn in vain."""
        left_out = self._left_out()
        return [t for t in self._trials() if t.state.name != "WAITING" and t.number not in left_out]

    def _left_out(self) -> set[int]:
        return {int(key.removeprefix(_LEFT_OUT)) for key in self._study.user_attrs if key.startswith(_LEFT_OUT)}

    def _leave_out(self, number: int) -> None:
        self._study.set_user_attr(f"{_LEFT_OUT}{number}", True)  # noqa: FBT003 - a key a trial: workers write at once

    def _tried(self, trial: FrozenTrial) -> Tried:
        return Tried(
            number=trial.number,
            point=decoded(self._space, trial.params),
            engine=Engine(**trial.user_attrs["engine"]),
            excesses=tuple(Excess(**excess) for excess in trial.user_attrs["excesses"]),
        )

    def _lay_out_grid(self) -> None:
        """Queues every point of the grid once, in an order of the seed's, so that any beginning of it covers it."""
        if "grid" in self._study.user_attrs:
            return
        keys = [variable.key for variable in self._space]
        points = list(itertools.product(*(_values(variable) for variable in self._space)))
        random.Random(self._seed).shuffle(points)  # noqa: S311 - an order, no secret
        for point in points[: self._section.trials]:
            self._study.enqueue_trial(dict(zip(keys, point, strict=True)), skip_if_exists=True)
        self._study.set_user_attr("grid", len(points))


def grid_faults(space: Space) -> None:
    """Refuses a grid over numbers without a step.

    Raises:
        InputError: Names every such key.
    """
    faults = [
        Fault(where=f'search.space."{v.key}"', what="has no step, so a grid has no end", fix="add step = ...")
        for v in space
        if isinstance(v, Numbers) and v.step is None and not v.whole
    ]
    if faults:
        raise faults_error("the search", faults)


def _values(variable: Choices | Numbers) -> list[Any]:
    if isinstance(variable, Choices):
        return list(variable.texts())
    step = variable.step or 1
    count = int((variable.high - variable.low) / step + 1e-9) + 1
    values = [variable.low + index * step for index in range(count)]
    return [int(value) for value in values] if variable.whole else [round(value, 12) for value in values]


def _distribution(variable: Choices | Numbers) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(variable, Choices):
        return CategoricalDistribution(variable.texts())
    if variable.whole:
        step = int(variable.step or 1)
        high = int(variable.low) + (int(variable.high) - int(variable.low)) // step * step
        return IntDistribution(int(variable.low), high, step=step, log=variable.log)
    if variable.step is None:
        return FloatDistribution(variable.low, variable.high, log=variable.log)
    steps = int((variable.high - variable.low) / variable.step + 1e-9)
    return FloatDistribution(variable.low, round(variable.low + steps * variable.step, 12), step=variable.step)


def _state(name: str) -> Any:  # noqa: ANN401 - optuna's enum, imported late
    from optuna.trial import TrialState

    return TrialState[name]


def _excess_json(excess: Excess) -> dict[str, Any]:
    return {"limit": excess.limit, "value": excess.value, "bound": excess.bound, "ratio": excess.ratio}


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna marks what we use of it as experimental, and says so each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
