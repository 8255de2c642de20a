"""The data of one run: loaded once, and checked to be what the run's first stage saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from targets.errors import InputError

if TYPE_CHECKING:
    from pipeline.artifacts import DatasetInfo
    from pipeline.data.dataset import Dataset
    from pipeline.data.source import DataSource


@final
class LoadedData:
    """Keeps every data set of a run in memory after its first use."""

    def __init__(self) -> None:
        self._datasets: dict[int, tuple[DataSource, Dataset]] = {}  # by identity: sources hold unhashable arguments
        self._checked: set[tuple[int, str]] = set()

    def read(self, source: DataSource) -> Dataset:
        """The data, whatever they are."""
        if id(source) not in self._datasets:
            self._datasets[id(source)] = (source, source.load())
        return self._datasets[id(source)][1]

    def checked(self, source: DataSource, info: DatasetInfo) -> Dataset:
        """The data that ``info`` describes.

        Raises:
            InputError: The source gave other data than when ``info`` was made.
        """
        data = self.read(source)
        if (id(source), info.digest) not in self._checked:
            _check_equal(data, info)
            self._checked.add((id(source), info.digest))
        return data


def _check_equal(data: Dataset, info: DatasetInfo) -> None:
    recorded = {name: split["sha256"] for name, split in info.read_json("info.json")["splits"].items()}
    found = {name: split.sha256() for name, split in data.splits.items()}
    changed = sorted(name for name in {*found, *recorded} if found.get(name) != recorded.get(name))
    if changed:
        raise InputError(
            f"the data factory gave other data than before: split {changed[0]!r} differs",
            "source and files are the same: it depends on a clock, a random seed, or a file it opens itself",
            "seed it, and list every file it reads under data.files; then run `edgepress cache gc --all` once",
        )
