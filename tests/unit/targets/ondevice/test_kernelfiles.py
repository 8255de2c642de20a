"""Reading kernel files: what is there is read, everything else is None."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from targets.ondevice.kernelfiles import Tree, integer, numbers

if TYPE_CHECKING:
    import pytest


def test_missing_garbage_and_folders_are_none_and_numbers_are_numbers(tmp_path: Path) -> None:
    """Only a plain decimal integer is a number; missing files, folders and garbage are None, never 0."""
    for name, text in {
        "good": " 42\n",
        "signed": "-7\n",
        "hex": "0x10",
        "word": "N/A",
        "empty": "",
        "float": "1.5",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder").mkdir()
    tree = Tree(str(tmp_path))
    assert (tree.number("/good"), tree.number("/signed")) == (42, -7)
    assert [tree.number(f"/{name}") for name in ("hex", "word", "empty", "float", "binary", "folder", "none")] == [
        None
    ] * 7
    assert tree.text("/folder") is None
    assert tree.names("/good") == []


def test_a_file_that_only_root_may_read_is_told_from_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A denied file is None as a value, and known to be denied; a missing one is not denied."""
    (tmp_path / "secret").write_text("1")
    real = Path.open

    def refuse(self: Path, *arguments: str) -> object:
        if self.name == "secret":
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments)

    monkeypatch.setattr(Path, "open", refuse)
    tree = Tree(str(tmp_path))
    assert tree.number("/secret") is None
    assert tree.denied("/secret")
    assert not tree.denied("/missing")


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 300), min_size=1, max_size=20))
def test_a_list_of_cpus_is_read_back_however_it_is_written(cpus: set[int]) -> None:
    """Single numbers and ranges of the kernel's lists give exactly those CPUs."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    text = ",".join(f"{a}-{b}" if a != b else str(a) for a, b in ranges)
    assert numbers(text) == sorted(cpus)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=12))
def test_no_text_breaks_a_number_or_a_list(text: str) -> None:
    """Whatever a file holds, reading it ends in a value or None, never in an exception."""
    value = integer(text)
    assert value is None or value == int(text)
    assert all(cpu >= 0 for cpu in numbers(text))
