"""`method = "auto"`: starts with the cheapest way to quantise and adds what pays on held-back samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, final

from calibration.candidates import ALGORITHMS, SPARE, Candidate, Choice, Workshop
from calibration.observers import METHODS
from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from calibration.fidelity import Fidelity, Judge

AUTO: Final = "auto"
TARGET_SNR_DB: Final = 40.0
"""Above this, rounding errors of int8 outputs hide whatever else an algorithm mends."""

GAIN_DB: Final = 0.2
TIME_BUDGET_S: Final = 300.0
Algorithms = Literal["auto"] | tuple[str, ...]
Stopped = Literal["target SNR reached", "time budget spent", "all tried", "as asked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One step.

    Attributes:
        step: The range method, or the algorithm that was added to what was best so far.
        snr_db: Output SNR, None where it was not made.
        agreement: Share of largest classes equal to the float model's; None where there are none.
        accuracy: Share of largest classes equal to the labels, None without labels.
        held_back: Whether these are of the samples that nothing else sees, and not of all samples.
        kept: Whether what was best so far has it.
        reason: Why not, empty when kept.
        seconds: Time taken; the only part that differs from run to run.
    """

    step: str
    snr_db: float | None
    agreement: float | None = None
    accuracy: float | None = None
    held_back: bool = False
    kept: bool = False
    reason: str = ""
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoResult:
    """What was chosen, and the way there.

    Attributes:
        candidate: The best one.
        fidelity: What it is worth on the held-back samples.
        tried: Every step, in order.
        stopped: Why no further algorithm was tried.
    """

    candidate: Candidate
    fidelity: Fidelity
    tried: tuple[Tried, ...]
    stopped: Stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoSettings:
    """What to try, and when it is good enough.

    Attributes:
        method: A range method, or ``auto`` for the best of all that the table has.
        algorithms: ``auto``, or those to use, whether they pay or not.
        target_snr_db: Enough: with this output SNR (and agreement within a thousandth of all) no more is added.
        gain_db: An algorithm stays only when it adds this much.
        time_budget_s: No algorithm starts after that long, and what is learned ends then.
    """

    method: str = AUTO
    algorithms: Algorithms = AUTO
    target_snr_db: float = TARGET_SNR_DB
    gain_db: float = GAIN_DB
    time_budget_s: float = TIME_BUDGET_S

    def __post_init__(self) -> None:
        """Refuses what does not exist.

        Raises:
            InputError: An unknown method or algorithm, an algorithm twice, or a figure out of range.
        """
        named = self.algorithms if isinstance(self.algorithms, tuple) else ()
        if self.method not in {AUTO, *METHODS}:
            raise _unknown("method", self.method, [AUTO, *METHODS])
        if not isinstance(self.algorithms, tuple) and self.algorithms != AUTO:
            raise _unknown("set of algorithms", str(self.algorithms), [AUTO])
        for name in named:
            if name not in ALGORITHMS:
                raise _unknown("algorithm", name, ALGORITHMS)
        if len(set(named)) != len(named):
            raise InputError(f"algorithms = {list(named)} names one twice", "each is used once", "name each once")
        if not (self.time_budget_s > 0.0 and self.gain_db >= 0.0 and math.isfinite(self.target_snr_db)):
            raise InputError(
                f"time_budget_s={self.time_budget_s}, gain_db={self.gain_db}, target_snr_db={self.target_snr_db}",
                "the budget is positive, the gain not negative, the target finite",
                "leave them out for the defaults",
            )


LEARNED: Final = frozenset({"rounding"})
"""Steps with a parameter for each weight: they are judged on samples that they have not seen. What chooses a few
figures for a tensor is judged on all samples, for their number makes a better judge than their being new."""

STEPS: Final = ("spare", "ranges", "bias", "equalize", "smooth", "rounding")
"""What is tried, in this order: the cheap before the dear. A step that changes the float model goes before all others
in the file, so what was kept is done anew on top of it."""


def choose(
    workshop: Workshop,
    judge: Judge,
    settings: AutoSettings,
    *,
    wide: Judge | None = None,
    float_nodes: Collection[str] = (),
    on_step: Callable[[Tried], None] = lambda _: None,
    on_begin: Callable[[str], None] = lambda _: None,
) -> AutoResult:
    """The best candidate within the settings.

    Equal arguments give equal candidates, unless the time budget cuts the search short (``stopped`` says so).

    Args:
        workshop: Makes the candidates.
        judge: Holds the samples that nothing else sees.
        settings: What to try.
        wide: Holds all samples; `judge` where there is none.
        float_nodes: Nodes that stay float in every candidate.
        on_step: Called after each step.
        on_begin: Called with the name of a step that learns, and so may take long, before it.

    Raises:
        InputError: No candidate can be made at all, or an algorithm that was asked for does not take this model.
    """
    search = _Search(workshop, judge, wide or judge, settings, on_step, on_begin)
    measured = [method for method in METHODS if method in workshop.table.methods]
    methods = measured if settings.method == AUTO else [settings.method]
    search.methods([Choice(method=method, float_nodes=frozenset(float_nodes)) for method in methods])
    stopped = search.add_what_pays() if settings.algorithms == AUTO else search.add_all(settings.algorithms)
    assert search.best is not None
    best = search.best
    return AutoResult(candidate=best, fidelity=judge(best.path), tried=tuple(search.tried), stopped=stopped)


@final
class _Search:
    def __init__(
        self,
        workshop: Workshop,
        judge: Judge,
        wide: Judge,
        settings: AutoSettings,
        on_step: Callable[[Tried], None],
        on_begin: Callable[[str], None],
    ) -> None:
        self._workshop, self._judge, self._wide, self._settings = workshop, judge, wide, settings
        self._on_step, self._on_begin = on_step, on_begin
        self._begin = time.monotonic()
        self._known: dict[tuple[Path, bool], Fidelity] = {}
        self.tried: list[Tried] = []
        self.best: Candidate | None = None
        self._nearly: list[str] = []

    @property
    def left_s(self) -> float:
        return self._settings.time_budget_s - (time.monotonic() - self._begin)

    def methods(self, choices: Sequence[Choice]) -> None:
        """The best of some range methods; the first of equals."""
        found: list[tuple[Candidate, Fidelity, float]] = []
        for choice in choices:
            begin = time.monotonic()
            candidate = self._workshop.make(choice)
            found.append((candidate, self._worth(candidate), time.monotonic() - begin))
        best = max(range(len(found)), key=lambda index: found[index][1].snr_db)
        self.best = found[best][0]
        for index, (candidate, fidelity, seconds) in enumerate(found):
            reason = "" if index == best else f"{self.best.choice.method} is better"
            self._note(candidate.choice.method, fidelity, reason, seconds)

    def add_all(self, algorithms: Collection[str]) -> Stopped:
        """Adds the algorithms that were asked for; one that has nothing to do in this model is noted as not kept."""
        for name in (name for name in ALGORITHMS if name in algorithms):
            begin = time.monotonic()
            assert self.best is not None
            if idle := self._workshop.idle(self.best.choice, name):
                self._on(Tried(step=name, snr_db=None, reason=idle, seconds=round(time.monotonic() - begin, 3)))
                continue
            if held_back := name in LEARNED:
                self._on_begin(name)
            self.best = self._workshop.make(self.best.choice.with_algorithm(name), time_budget_s=max(self.left_s, 1.0))
            fidelity = self._worth(self.best, held_back=held_back)
            self._note(name, fidelity, "", time.monotonic() - begin, held_back=held_back)
        return "as asked"

    def add_what_pays(self) -> Stopped:
        """Adds algorithms, cheapest first, as long as there is something to gain and time.

        What spares layers makes the model faster too, so it is tried however good the model is. At the end, those that
        each gave something, but too little to stay, are tried together.
        """
        for step in STEPS:
            if step != SPARE and self._good_enough():
                return "target SNR reached"
            if self.left_s <= 0.0:
                return "time budget spent"
            self._try((step,))
        if len(self._nearly) > 1 and self.left_s > 0.0:
            self._try(tuple(self._nearly))
        return "target SNR reached" if self._good_enough() else "all tried"

    def _good_enough(self) -> bool:
        assert self.best is not None
        return self._worth(self.best).snr_db >= self._settings.target_snr_db

    def _worth(self, candidate: Candidate, *, held_back: bool = False) -> Fidelity:
        key = candidate.path, held_back
        if key not in self._known:
            self._known[key] = (self._judge if held_back else self._wide)(candidate.path)
        return self._known[key]

    def _try(self, algorithms: tuple[str, ...]) -> None:
        begin, step, held_back = time.monotonic(), "+".join(algorithms), not LEARNED.isdisjoint(algorithms)
        assert self.best is not None
        choice, before = self.best.choice, self._worth(self.best, held_back=held_back)
        try:
            if idle := self._workshop.idle(choice, algorithms[0]):
                self._on(Tried(step=step, snr_db=None, reason=idle, seconds=round(time.monotonic() - begin, 3)))
                return
            if held_back:
                self._on_begin(step)
            for name in algorithms:
                choice = choice.with_algorithm(name)
            candidate = self._workshop.make(choice, time_budget_s=max(self.left_s, 1.0))
            fidelity = self._worth(candidate, held_back=held_back)
        except InputError as error:  # this model is nothing for this algorithm: the next may do
            seconds = round(time.monotonic() - begin, 3)
            self._on(Tried(step=step, snr_db=None, reason=f"{error.what}: {error.why}", seconds=seconds))
            return
        gain, reason = round(fidelity.snr_db - before.snr_db, 3), ""
        wanted = 0.0 if algorithms == (SPARE,) else self._settings.gain_db
        if fidelity.agrees_less_than(before):
            reason = "it costs agreement with the float model"
        elif gain < wanted:
            reason = f"it adds {gain:.2f} dB, less than {wanted:g}"
            self._nearly += [*algorithms] if gain > 0.0 else []
        else:
            self.best = candidate
        self._note(step, fidelity, reason, time.monotonic() - begin, held_back=held_back)

    def _note(self, step: str, fidelity: Fidelity, reason: str, seconds: float, *, held_back: bool = False) -> None:
        self._on(
            Tried(
                step=step,
                snr_db=fidelity.snr_db,
                agreement=fidelity.agreement,
                accuracy=fidelity.accuracy,
                held_back=held_back,
                kept=not reason,
                reason=reason,
                seconds=round(seconds, 3),
            )
        )

    def _on(self, tried: Tried) -> None:
        self.tried.append(tried)
        self._on_step(tried)


def _unknown(what: str, name: str, known: Collection[str]) -> InputError:
    return InputError(
        f"no {what} of quantisation is called {name!r}", nearest(name, known), f"it knows {', '.join(known)}"
    )


def snr_by_method(tried: Sequence[Tried]) -> Mapping[str, float]:
    """Output SNR of each range method, before any algorithm."""
    return {one.step: one.snr_db for one in tried if one.step in METHODS and one.snr_db is not None}
