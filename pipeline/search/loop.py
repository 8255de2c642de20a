"""The search itself: draw, try, confirm what leads, keep the best bundle on the disk at every moment."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from pipeline.compose import compose
from pipeline.events import Event, Notice, StageFinished, TrialFinished, TrialStarted
from pipeline.search.candidates import Tried, best, best_engine, front
from pipeline.search.defaults import prepared
from pipeline.search.document import document, write_documents
from pipeline.search.finals import finalist, is_shortened, judged, next_final, regained_share
from pipeline.search.full import FullRun, run_in_full, train_samples
from pipeline.search.pace import fitted_epochs
from pipeline.search.space import recipe_at, search_space
from pipeline.search.storage import open_storage
from pipeline.search.study import Claim, Study, grid_faults
from pipeline.search.survey import survey
from pipeline.search.target import profile_at
from pipeline.search.trial import try_candidate
from pipeline.stages.base import configuration
from pipeline.timeleft import TimeLeft
from targets.errors import BudgetError, InputError
from targets.files import sha256_bytes
from targets.words import counted

if TYPE_CHECKING:
    from pipeline.events import Observer
    from pipeline.recipe import Recipe
    from pipeline.recipe.searching import SearchSection
    from pipeline.store import Store
    from targets.profile import TargetProfile

BEST: Final = "best"
_FATAL: Final = 3  # so many candidates in a row that cannot be made are no accident


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search has found so far.

    Attributes:
        target: Name of the profile.
        folder: ``best/`` (bundle and report), ``search.json``, ``search.html`` and the journal lie here.
        found: The content of ``search.json``.
    """

    target: str
    folder: Path
    found: Mapping[str, Any]

    @property
    def met_budget(self) -> bool:
        """Whether the best bundle meets the budget, as its full run measured it."""
        return bool(self.found["met_budget"])

    def raise_if_rejected(self) -> None:
        """Raises when nothing met the budget; the least violating bundle is there all the same.

        Raises:
            BudgetError: Names the limits that bind, and how far they would have to move.
        """
        if not self.met_budget:
            raise BudgetError(
                f"the search found nothing that meets the budget on {self.target}",
                "; ".join(self.found["binding"]) or "no candidate held its figures in a full measurement",
                f"relax [budget], widen [search.space], or allow more trials; the closest is in {self.folder / BEST}",
            )


@final
class Search:
    """One worker's part of a search on one target."""

    def __init__(
        self,
        recipe: Recipe,
        profile: TargetProfile,
        folder: Path,
        store: Store,
        observer: Observer,
        *,
        storage: str | None,
    ) -> None:
        assert recipe.search is not None
        self._folder, self._store, self._observer = folder, store, _only_news(observer)
        stated = recipe
        if not recipe.search.space:
            recipe = prepared(recipe, profile, survey(recipe, profile, store, self._observer))
        assert recipe.search is not None
        self._recipe, self._section, self._profile = recipe, recipe.search, profile
        self._space = search_space(recipe, profile)
        if self._section.sampler == "grid":
            grid_faults(self._space)
        name = f"{recipe.name} on {profile.name} {_identity(stated, recipe.search, profile)}"
        place = storage or str(folder / "study.journal")
        self.study = Study(open_storage(place), name, self._space, self._section, recipe.seed)
        self._shortened = is_shortened(self._section)
        self._published: int | None = None

    def run(self) -> SearchResult:
        """Tries candidates until trials or time are used up; what is on the disk is valid at every moment."""
        begin, failures, left = time.monotonic(), 0, TimeLeft()
        budget_s = self._section.time_budget_s
        trying_s = budget_s * self._section.screening_share if budget_s and self._shortened else budget_s
        self._keep_best()  # killed between a trial and this, an earlier call left it undone
        while trying_s is None or time.monotonic() - begin < trying_s:
            claim = self.study.claim()
            if claim is None:
                break
            self._announce(claim, left, None if trying_s is None else begin + trying_s - time.monotonic())
            try:
                failures = 0 if self._try(claim) else failures + 1
            except BaseException:
                self.study.release()
                raise
            if failures >= _FATAL and not self.study.tried():
                raise InputError(
                    f"the first {counted(failures, 'candidate')} could not be made",
                    self.study.given_up()[-1].reason,
                    "mend the recipe: run it once with `edgepress run`",
                )
            self._keep_best()
            self._write()
        if self._shortened:
            self._run_finals(None if budget_s is None else begin + budget_s)
        else:
            self._confirm_leader(feasible_only=False)
        return self._write()

    def _announce(self, claim: Claim, left: TimeLeft, budget_s: float | None) -> None:
        """Says what is tried now, and how long trials go on: until all are done or the time is up."""
        done, of = len(self.study.tried()) + len(self.study.given_up()), self._section.trials
        left_s = left.left_s(done / of)
        if left_s is not None and budget_s is not None:
            left_s = min(left_s, budget_s)
        self._observer(TrialStarted(number=claim.number, of=of, point=claim.point, left_s=left_s))

    def _try(self, claim: Claim) -> bool:
        """Whether the candidate could be made; its figures are in the study."""
        glances = self.study.glances() if self._section.proxies else None
        try:
            recipe = recipe_at(self._recipe, claim.point, screening=True)
            profile = profile_at(self._profile, claim.point)
            found = try_candidate(recipe, profile, self._store, self._observer, glances)
        except InputError as error:
            self.study.give_up(claim, f"{error.what}: {error.why}", failed=True)
            self._observer(TrialFinished(number=claim.number, outcome=f"cannot be made: {error.what}: {error.why}"))
            return False
        if found.hopeless:
            self.study.give_up(claim, found.hopeless, failed=False)
            self._observer(TrialFinished(number=claim.number, outcome=f"given up: {found.hopeless}"))
            return True
        budget, first, regain = self._recipe.budget, self._section.objectives[0], self._prior
        engine, excesses = best_engine(found.engines, budget, first, regain=regain)
        self.study.finish(claim, engine, excesses, found.glance, found.pace)
        self._observer(
            TrialFinished(number=claim.number, outcome=_told(engine.to_json(), [e.text() for e in excesses]))
        )
        return True

    def _keep_best(self) -> None:
        """Puts what leads into ``best/``: after a full run of it, or as it was screened where that is dear."""
        if self._shortened:
            self._bundle_as_screened()
        else:
            self._confirm_leader(feasible_only=True)

    def _confirm_leader(self, *, feasible_only: bool) -> None:
        """Runs the whole recipe of whatever leads, until the leader is confirmed; its bundle becomes the best.

        A leader that an earlier call or another worker confirmed is bundled here too: the store has all of it.
        """
        while (leader := self._leader()) is not None and leader.number != self._published:
            if feasible_only and not leader.feasible:
                return
            if self._finish(leader, {}) is None:
                continue
            self._published = leader.number

    def _finish(self, leader: Tried, settings: Mapping[str, Any]) -> FullRun | None:
        """Runs a candidate's whole recipe, notes what came of it, and puts it into ``best/``; None if it cannot be."""
        number = leader.number
        try:
            full = self._full_run(leader, settings)
        except InputError as error:
            self._observer(Notice(text=f"trial {number + 1} cannot be finished: {error.what}: {error.why}"))
            self.study.confirm(number, met_budget=False, shipped=None)
            return None
        engine = None
        if self._shortened:  # where the uncompressed model ships, the candidate's own best says what it reached
            engine = full.engine or best_engine(full.engines, self._recipe.budget, self._section.objectives[0])[0]
        self.study.confirm(number, met_budget=full.met_budget, shipped=full.shipped, engine=engine, settings=settings)
        if leader.feasible and not full.met_budget:
            self._observer(Notice(text=f"trial {number + 1} did not hold its figures in a full measurement"))
        if not self._shortened or (now := self._leader()) is None or now.number == number:
            full.publish(self._store, self._folder / BEST)
        return full

    def _bundle_as_screened(self) -> None:
        """Before any final, ``best/`` holds the leader as it was screened: something is there at every moment."""
        leader = self._leader()
        if leader is None or leader.number == self._published or self.study.confirmed():
            return
        recipe = recipe_at(self._recipe, leader.point, screening=True)
        full = run_in_full(recipe, profile_at(self._profile, leader.point), self._store, self._observer)
        full.publish(self._store, self._folder / BEST)
        self._published = leader.number

    def _run_finals(self, until_s: float | None) -> None:
        """Trains the most promising in full, each with as many epochs as fit into the time that is left."""
        first, finals = self._section.objectives[0], self._section.finals
        while (one := next_final(self._judged(), self.study.confirmed(), first, finals)) is not None:
            over = until_s is not None and time.monotonic() >= until_s
            if over and any(seen["shipped"] for seen in self.study.confirmed().values()):
                return
            settings = self.study.settle(one.number, self._settings(one, until_s))
            told = "".join(f", {key} = {value}" for key, value in settings.items())
            self._observer(Notice(text=f"trial {one.number + 1} is trained in full{told}"))
            self._finish(one, settings)
            self._write()

    def _settings(self, one: Tried, until_s: float | None) -> dict[str, Any]:
        """What differs from the recipe so that the training ends in time."""
        pace = self.study.pace(one.number)
        recipe = recipe_at(self._recipe, one.point, screening=False)
        if until_s is None or pace is None or recipe.distill is None:
            return {}
        samples = train_samples(recipe, self._profile, self._store, self._observer)
        epochs = fitted_epochs(recipe, pace, samples, until_s - time.monotonic())
        return {} if epochs == recipe.distill.epochs else {"distill.epochs": epochs}

    @property
    def _prior(self) -> float:
        return self._section.regain if self._shortened else 0.0

    def _judged(self) -> tuple[Tried, ...]:
        """What was tried: where screening trains less, by what is expected of it or by what its final reached."""
        tried = self.study.tried()
        if not self._shortened:
            return tried
        confirmed = self.study.confirmed()
        return judged(tried, confirmed, self._recipe.budget, regained_share(tried, confirmed, self._prior))

    def _leader(self) -> Tried | None:
        """The best feasible candidate that no full run has refuted; else the least violating that can be made."""
        tried, confirmed = self._judged(), self.study.confirmed()
        if self._shortened:
            return finalist(tried, confirmed, self._section.objectives[0])
        refuted = {number for number, seen in confirmed.items() if not seen["met_budget"]}
        lost = {number for number, seen in confirmed.items() if seen["shipped"] is None}
        feasible = [one for one in tried if one.feasible and one.number not in refuted]
        return best(feasible or [one for one in tried if one.number not in lost], self._section.objectives[0])

    def _full_run(self, leader: Tried, settings: Mapping[str, Any]) -> FullRun:
        recipe = recipe_at(self._recipe, {**leader.point, **settings}, screening=False)
        return run_in_full(recipe, profile_at(self._profile, leader.point), self._store, self._observer)

    def _write(self) -> SearchResult:
        tried, leader = self._judged(), self._leader()
        found = document(
            recipe=self._recipe,
            target=self._profile.name,
            space=self._space,
            tried=tried,
            front=front(tried, self._section.objectives),
            leader=leader,
            given_up=self.study.given_up(),
            confirmed=self.study.confirmed(),
            glances={one.number: glance for glance, one in self.study.glances()},
        )
        write_documents(found, self._folder)
        return SearchResult(target=self._profile.name, folder=self._folder, found=found)


def _only_news(observer: Observer) -> Observer:
    """Candidates share most stages: that one is reused again is no news."""

    def observe(event: Event) -> None:
        if not (isinstance(event, StageFinished) and event.reused):
            observer(event)

    return observe


def _identity(recipe: Recipe, section: SearchSection, profile: TargetProfile) -> str:
    """A hash of what candidates are made of and judged by: a study of something else is another study."""
    plan = compose(recipe, profile, until="build")
    stages = json.dumps([configuration(node.stage) for node in plan.nodes], sort_keys=True)
    asked = section.model_dump_json(exclude={"trials", "time_budget_s"})
    parts = [stages, asked, recipe.budget.model_dump_json(), profile.model_dump_json()]
    return sha256_bytes("\n".join(parts).encode())[:12]


def _told(engine: Mapping[str, Any], excesses: list[str]) -> str:
    latency = "" if engine["latency_ms"] is None else f", {engine['latency_ms']:.4g} ms"
    ratio = "" if not engine["latency_ratio"] else f" ({1 / engine['latency_ratio']:.2f}x)"
    missed = f"; misses: {'; '.join(excesses)}" if excesses else ""
    return f"{engine['name']}: {engine['accuracy']:.4f}{latency}{ratio}, {engine['size_bytes']:,} bytes{missed}"
