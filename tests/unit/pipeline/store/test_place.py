"""pipeline.store.place: where the store lies, and whether that place can be trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.store import Store, default_store_root
from targets.errors import EnvironmentFailure, RefusedError


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"EDGEPRESS_CACHE": "/e", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/e"),
        ({"EDGEPRESS_CACHE": "", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/edgepress"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/edgepress"),
        ({"HOME": "/h"}, "/h/.cache/edgepress"),
    ],
)
def test_default_place(environ: dict[str, str], expected: str) -> None:
    """EDGEPRESS_CACHE wins over XDG_CACHE_HOME, that over HOME; empty counts as unset."""
    assert default_store_root(environ) == Path(expected)


def test_relative_choice_is_taken_from_here() -> None:
    """A relative EDGEPRESS_CACHE is below the working folder."""
    assert default_store_root({"EDGEPRESS_CACHE": "c"}) == Path.cwd() / "c"


def test_no_place_is_told() -> None:
    """Without any of the variables the message names the one to set."""
    with pytest.raises(EnvironmentFailure, match="set EDGEPRESS_CACHE"):
        default_store_root({})


def test_new_store_is_private(tmp_path: Path) -> None:
    """A new store, missing parents included, belongs to its user alone."""
    store = Store(tmp_path / "a" / "b")
    assert store.root == (tmp_path / "a" / "b").resolve()
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (store.root, *store.root.iterdir()))


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707])
def test_store_that_others_can_write_is_refused(mode: int, tmp_path: Path) -> None:
    """A store that group or world can write to is refused, with the command that mends it."""
    root = Store(tmp_path / "cache").root
    root.chmod(mode)
    with pytest.raises(RefusedError, match="chmod 700") as caught:
        Store(root)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["cas", "ac", "tmp", "locks", "quarantine"])
def test_link_inside_is_refused(name: str, tmp_path: Path) -> None:
    """A store whose folder was replaced by a link is refused."""
    root = Store(tmp_path / "cache").root
    (root / name).rename(tmp_path / "moved")
    (root / name).symlink_to(tmp_path / "moved")
    with pytest.raises(RefusedError, match="link or a file"):
        Store(root)


def test_parent_that_all_can_write_is_refused(tmp_path: Path) -> None:
    """A folder that everybody can rename in cannot hold a store, unless it is sticky as /tmp is."""
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(0o777)
    with pytest.raises(RefusedError, match="everybody can rename"):
        Store(parent / "cache")
    parent.chmod(0o1777)
    assert Store(parent / "cache").entries() == []


def test_own_link_to_the_store_is_fine(tmp_path: Path) -> None:
    """A link of our own to a private folder is followed."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert Store(tmp_path / "link").root == (tmp_path / "real").resolve()


def test_other_owner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of another user is refused."""
    root = Store(tmp_path / "cache").root
    monkeypatch.setattr(os, "geteuid", lambda: root.stat().st_uid + 1)
    with pytest.raises(RefusedError, match="belongs to user"):
        Store(root)


def test_file_in_the_place_is_refused(tmp_path: Path) -> None:
    """A file where the store should be is not touched."""
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(RefusedError, match="not a folder"):
        Store(tmp_path / "cache")
    assert (tmp_path / "cache").read_text() == "mine"
