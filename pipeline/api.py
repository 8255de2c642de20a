"""The Python API: a recipe in, results out. The command line is a thin layer over it."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.events import Event, Observer
from pipeline.store import Store, default_store_root
from targets.errors import BudgetError, InputError, UsageError
from targets.files import disk_guard, remove_tree, replace_folder, write_atomic

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.recipe import Recipe
    from pipeline.runner import Outcome
    from targets.profile import TargetProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one recipe gave on one target.

    Attributes:
        target: Name of the profile.
        folder: ``bundle/``, ``bundle.tar.gz``, ``run.json`` and ``report.html`` lie here.
        run: The content of ``run.json``.
        stages_run: How many stages had to work.
        stages_reused: How many the store had.
    """

    target: str
    folder: Path
    run: Mapping[str, Any]
    stages_run: int
    stages_reused: int

    @property
    def shipped(self) -> str:
        """Name of the candidate in the bundle."""
        return str(self.run["verdict"]["shipped"])

    @property
    def met_budget(self) -> bool:
        """Whether the bundle meets the recipe's budget."""
        return bool(self.run["verdict"]["met_budget"])

    def raise_if_rejected(self) -> None:
        """Raises when nothing met the budget; the least violating bundle is there all the same.

        Raises:
            BudgetError: Names what was missed.
        """
        raise_if_rejected(self.target, self.run["verdict"], self.folder)


def raise_if_rejected(target: str, verdict: Mapping[str, Any], folder: Path | None) -> None:
    """Raises when nothing met the budget; the least violating bundle is in ``folder``, if any, all the same.

    Raises:
        BudgetError: Names what was missed.
    """
    if not verdict["met_budget"]:
        raise BudgetError(
            f"nothing meets the budget on {target}",
            "; ".join(verdict["reasons"]),
            "relax [budget], choose a target that has more, or compress differently"
            + (f"; the closest bundle is in {folder}, marked REJECTED" if folder else ""),
        )


def compress(
    recipe: Recipe,
    *,
    targets: Sequence[str] = (),
    out: Path = Path("out"),
    store: Store | None = None,
    observer: Observer | None = None,
) -> list[Result]:
    """Runs a recipe on each target and writes ``out/<recipe name>/<target>/``.

    Args:
        recipe: From `load_recipe`.
        targets: Profile names or files; the recipe's own when empty.
        out: Folder of all results.
        store: Where finished stages are kept; the user's cache when None.
        observer: Is told what happens.

    Raises:
        EdgepressError: See `targets.errors`. A budget that is not met does not raise: see `Result.raise_if_rejected`.
    """
    from pipeline.compose import compose

    observe = observer or _ignore
    store = store or open_store(observe)
    plans = {profile.name: compose(recipe, profile) for profile in load_profiles(recipe, targets)}
    for target in plans:
        check_writable(out / recipe.name / target)
    return [compress_into(target, plan, out / recipe.name / target, store, observe) for target, plan in plans.items()]


def load_profiles(recipe: Recipe, targets: Sequence[str] = ()) -> list[TargetProfile]:
    """The profiles to run a recipe on.

    Args:
        recipe: From `load_recipe`; a profile's file that it names is relative to the recipe's folder.
        targets: Profile names or files; the recipe's own when empty.

    Raises:
        InputError: There is no such profile, or its file is not valid.
        UsageError: Two of them have the same name, and so the same folder of results.
    """
    from targets.profile import load_profile

    own = [str(recipe.resolve(target)) if target.endswith(".toml") else target for target in recipe.targets]
    profiles = [load_profile(target) for target in targets or own]
    names = [profile.name for profile in profiles]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"two targets are called {twice[0]!r}",
            "the results of one would take the place of the other's",
            "give each --target once, and each profile a `name` of its own",
        )
    return profiles


def run_until(
    stage: str,
    recipe: Recipe,
    *,
    targets: Sequence[str] = (),
    out: Path | None = None,
    store: Store,
    observer: Observer,
) -> list[dict[str, Any]]:
    """Runs the part of the plan that ``stage`` needs; one row of results for each of the stage's nodes.

    The row of a bundle holds the gate's verdict on it too: see `raise_if_rejected`.

    Args:
        stage: Name of the stage.
        recipe: From `load_recipe`.
        targets: Profile names or files; the recipe's own when empty.
        out: Where to copy the stage's files, ``<out>/<target>/<node>/``; None copies nothing.
        store: Where finished stages are kept.
        observer: Is told what happens.

    Raises:
        InputError: The recipe's plan has no such stage.
    """
    from pipeline.compose import compose
    from pipeline.runner import run_plan

    plans = {profile.name: compose(recipe, profile, until=stage) for profile in load_profiles(recipe, targets)}
    for target, plan in plans.items():
        if not plan.nodes:
            raise _no_stage(stage, recipe, target)
        if out is not None:
            check_writable(out / target)
    rows = []
    for target, plan in plans.items():
        outcomes = run_plan(plan, store, observer)
        for name, outcome in outcomes.items():
            if outcome.node.stage.name == stage:
                folder = out and out / target / name.replace(":", "-")
                verdict = outcomes["gate"].entry.meta if stage == "bundle" else None
                rows.append(_row(target, outcome, store, folder, verdict))
    return rows


def _row(
    target: str, outcome: Outcome, store: Store, folder: Path | None, verdict: Mapping[str, Any] | None
) -> dict[str, Any]:
    if folder is not None:
        with _staged(folder) as staging:
            store.materialize(outcome.entry, staging)
            if verdict is not None:
                _mark_rejected(staging, verdict)
    return {
        "stage": outcome.node.name,
        "target": target,
        "results": dict(outcome.entry.meta),
        "digest": outcome.entry.digest,
        "verdict": verdict,
        "folder": str(folder or ""),
    }


def _no_stage(stage: str, recipe: Recipe, target: str) -> InputError:
    from pipeline.recipe.document import EDITS

    what, why = (
        f"recipe {recipe.name!r} has no stage {stage!r}",
        f"it has no [{stage}], or target {target!r} excludes it",
    )
    if recipe.model.onnx:
        return InputError(what, "an ONNX model starts at quantize", "run `edgepress plan` to see its stages")
    if stage in {*EDITS, "distill"}:
        return InputError(what, why, f"add [{stage}] to the recipe")
    return InputError(what, why, "run `edgepress plan` to see its stages")


@contextmanager
def _staged(destination: Path) -> Iterator[Path]:
    """A name for a new folder that takes the place of ``destination`` when the block ends well."""
    with disk_guard(f"writing {destination}"):
        destination.parent.mkdir(parents=True, exist_ok=True)
        private = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        staging = private / destination.name
        yield staging
        replace_folder(staging, destination)
    finally:
        remove_tree(private)


def open_store(observer: Observer) -> Store:
    """The user's store, whose damage reports become notices."""
    from pipeline.events import Notice

    return Store(default_store_root(os.environ), on_damage=lambda message: observer(Notice(text=message)))


def compress_into(target: str, plan: Plan, destination: Path, store: Store, observer: Observer) -> Result:
    """Runs a plan to its end and puts bundle and report into ``destination``, in place of what was there."""
    from pipeline.runner import run_plan

    outcomes = run_plan(plan, store, observer)
    publish(outcomes, store, destination)
    run = json.loads((destination / "run.json").read_text(encoding="utf-8"))
    reused = sum(outcome.reused for outcome in outcomes.values())
    return Result(target=target, folder=destination, run=run, stages_run=len(outcomes) - reused, stages_reused=reused)


def check_writable(folder: Path) -> None:
    """Refuses a place that results cannot be written to, before the work; leaves nothing behind.

    Raises:
        EnvironmentFailure: A file stands where a folder must be, or there is no permission.
    """
    with disk_guard(f"writing {folder}"):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        place = next(parent for parent in folder.absolute().parents if os.path.lexists(parent))
        with tempfile.TemporaryDirectory(prefix=".edgepress-", dir=place):
            pass


def publish(outcomes: Mapping[str, Outcome], store: Store, destination: Path) -> None:
    """Puts bundle and report into ``destination``, in place of what was there, whole or not at all."""
    with _staged(destination) as staging:
        store.materialize(outcomes["bundle"].entry, staging)
        for file in outcomes["report"].entry.files:
            write_atomic(staging / file.name, store.read_bytes(outcomes["report"].entry, file.name))
        _mark_rejected(staging, outcomes["gate"].entry.meta)


def _mark_rejected(folder: Path, verdict: Mapping[str, Any]) -> None:
    if not verdict["met_budget"]:
        reasons = "".join(f"- {reason}\n" for reason in verdict["reasons"])
        write_atomic(folder / "REJECTED.txt", f"This bundle does not meet the budget:\n{reasons}".encode())


def _ignore(event: Event) -> None:
    del event
