"""Search: which recipe meets the budget best. Anytime, resumable, shared by several workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.search.loop import Search, SearchResult

if TYPE_CHECKING:
    from pipeline.events import Observer
    from pipeline.recipe import Recipe
    from pipeline.store import Store

__all__ = ["Search", "SearchResult", "search"]


def search(
    recipe: Recipe,
    *,
    targets: Sequence[str] = (),
    out: Path = Path("out"),
    storage: str | None = None,
    take_back: bool = False,
    store: Store,
    observer: Observer,
) -> list[SearchResult]:
    """Searches on each target, into ``out/<recipe name>/<target>.search/``; the same call goes on with what is there.

    Args:
        recipe: With a ``[search]`` section.
        targets: Profile names or files; the recipe's own when empty.
        out: Folder of all results.
        storage: A journal file or database that other workers share; a journal beside the results when None.
        take_back: Also try again what other workers have under way: they are lost.
        store: Where finished stages are kept.
        observer: Is told what happens.

    Raises:
        InputError: The recipe, its space or one of its files is not valid, or no candidate can be made.
    """
    from pipeline.api import check_writable, load_profiles

    profiles = load_profiles(recipe, targets)
    folders = [out / recipe.name / f"{profile.name}.search" for profile in profiles]
    for folder in folders:
        check_writable(folder)
    searches = [
        Search(recipe, profile, folder, store, observer, storage=storage)
        for profile, folder in zip(profiles, folders, strict=True)
    ]
    for one in searches if take_back else ():
        one.study.take_back()
    return [one.run() for one in searches]
