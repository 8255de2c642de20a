"""Accuracy from answers that the device gave."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.benchmarking import accuracy
from pipeline.benchmarking.accuracy import Labelled, pieces, score_on_device
from pipeline.benchmarking.devicebuild import NotBuiltThere
from pipeline.tasks import TASKS
from targets.devices.base import Device, RawAnswer, Session
from targets.errors import DeviceError, DeviceLost, InputError

if TYPE_CHECKING:
    import numpy.typing as npt


class Board(Device):
    """Answers ``y = x`` for the engine ``right`` and ``y = -x`` for any other; ``wrong`` spoils what comes back."""

    name, kind = "board", "local"

    def __init__(self, wrong: str = "") -> None:
        self.wrong, self.calls, self.largest = wrong, 0, 0

    @contextmanager
    def _open(self, wait_s: float | None) -> Iterator[Session]:
        yield Desk(self)


class Desk(Session):
    def __init__(self, board: Board) -> None:
        self.board, self.files = board, dict[str, bytes]()

    def _put(self, source: Path, name: str) -> None:
        self.files[name] = source.read_bytes()

    def _run(self, command: Sequence[str], timeout_s: float) -> RawAnswer:
        board, folder = self.board, command[1]
        board.calls += 1
        if board.wrong == "lost":
            raise DeviceLost("device 'board' was lost", "no answer", "reconnect it")
        engine = json.loads(self.files[f"{folder}/engine.json"])
        inputs = np.load(io.BytesIO(self.files[command[command.index("--inputs") + 1]]))["x"]
        board.largest = max(board.largest, len(inputs))
        output = inputs if self.files[f"{folder}/e.onnx"] == b"right" else -inputs
        names = {"shape": output[1:], "kind": output.astype("U8")}
        stream = io.BytesIO()
        np.savez(stream, **{"z" if board.wrong == "names" else "y": names.get(board.wrong, output)})
        self.files["result.npz"] = stream.getvalue()
        sha = "other" if board.wrong == "engine" else engine["sha256"]
        nonce = command[command.index("--nonce") + 1]
        answer = {"command": "infer", "nonce": nonce, "result": {"engine_sha256": sha, "samples": len(inputs)}}
        return RawAnswer(returncode=0, stdout=json.dumps(answer).encode(), stderr=b"", wall_s=0.0)

    def _fetch(self, name: str, target: Path) -> None:
        target.write_bytes(self.files[name])


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, Path]:
    """Two engine folders; only the first is right."""
    found = {}
    for name in ("right", "other"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "e.onnx").write_bytes(name.encode())
        spec = {
            "schema": 1,
            "engine": "onnxruntime",
            "file": "e.onnx",
            "runtime": "onnxruntime",
            "runtime_version": "1",
            "precision": "fp32",
            "options": {},
            "sha256": name,
            "inputs": [{"name": "x", "dtype": "float32", "shape": ["n", 3]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": ["n", 3]}],
        }
        (folder / "engine.json").write_text(json.dumps(spec), encoding="utf-8")
        found[name] = folder
    return found


def labelled(n: int = 100) -> Labelled:
    inputs: npt.NDArray[Any] = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    return Labelled(inputs={"x": inputs}, labels=inputs.argmax(axis=1))


def test_the_task_scores_what_the_device_answered(engines: dict[str, Path], tmp_path: Path) -> None:
    """Piece by piece, in order, for each engine: a right one scores 1, and the answer names file and device."""
    board = Board()
    told: list[float] = []
    found = score_on_device(
        engines, labelled(), TASKS["classification"](), board, tmp_path, on_share=lambda done, _: told.append(done)
    )
    assert found["right"] == {
        "value": 1.0,
        "metric": "accuracy",
        "samples": 100,
        "device": "board",
        "engine_sha256": "right",
    }
    assert found["other"]["value"] < 0.1
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_task_without_labels_compares_with_the_first_engine(engines: dict[str, Path], tmp_path: Path) -> None:
    """The uncompressed model stands first, on the same device."""
    samples = Labelled(inputs=labelled().inputs, labels=None)
    found = score_on_device(engines, samples, TASKS["fidelity"](), Board(), tmp_path)
    assert (found["right"]["value"], found["other"]["value"]) == (1.0, 0.0)


def test_memory_stays_bounded(engines: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the split is, a piece is not: the answers together are those of all samples."""
    monkeypatch.setattr(accuracy, "PIECE_BYTES", 12 * 40)
    board = Board()
    found = score_on_device({"right": engines["right"]}, labelled(130), TASKS["classification"](), board, tmp_path)
    assert board.largest <= 40
    assert board.calls == 5, "32 samples, whole batches, at a time"
    assert found["right"]["value"] == 1.0


@settings(max_examples=50, deadline=None)
@given(total=st.integers(1, 10_000), width=st.integers(1, 3_000_000), batch=st.integers(1, 64))
def test_pieces_cover_every_sample_once(total: int, width: int, batch: int) -> None:
    """In order, none empty, none beyond the limit unless one sample is."""
    array = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (total, width), (0, 0))
    found = list(pieces({"x": array}, batch))
    assert [item.start for item in found] == [0, *(item.stop for item in found[:-1])]
    assert found[-1].stop == total
    assert all(item.stop > item.start for item in found)
    assert all((item.stop - item.start) * width <= max(width, accuracy.PIECE_BYTES) for item in found)


@pytest.mark.parametrize("wrong", ["names", "shape", "kind", "engine"])
def test_answers_that_cannot_be_true_are_refused(wrong: str, engines: dict[str, Path], tmp_path: Path) -> None:
    """Other outputs, too few samples, text, another engine: an error, never a score."""
    with pytest.raises(DeviceError):
        score_on_device(engines, labelled(), TASKS["classification"](), Board(wrong), tmp_path)


def test_a_lost_device_is_told_as_lost(engines: dict[str, Path], tmp_path: Path) -> None:
    """Not as a bad score."""
    with pytest.raises(DeviceLost):
        score_on_device(engines, labelled(), TASKS["classification"](), Board("lost"), tmp_path)


def test_nothing_to_score_is_an_error(engines: dict[str, Path], tmp_path: Path) -> None:
    """Empty is failure."""
    with pytest.raises(InputError):
        score_on_device({}, labelled(), TASKS["classification"](), Board(), tmp_path)
    with pytest.raises(InputError):
        score_on_device(engines, labelled(0), TASKS["classification"](), Board(), tmp_path)


@pytest.mark.parametrize("task", ["fidelity", "classification"])
def test_without_the_reference_nothing_is_compared_with_another(
    engines: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: str
) -> None:
    """Where the uncompressed engine cannot be built there, no other takes its place: a task without labels ends."""
    real = accuracy.put_engine

    def put(engine: Any, *rest: Any) -> Any:  # noqa: ANN401
        if engine.sha256 == "right":
            raise NotBuiltThere("it cannot be built", "no kernels", "ask for another precision")
        return real(engine, *rest)

    monkeypatch.setattr(accuracy, "put_engine", put)
    if task == "fidelity":
        with pytest.raises(NotBuiltThere):
            score_on_device(engines, labelled(), TASKS[task](), Board(), tmp_path, required=())
    else:
        assert list(score_on_device(engines, labelled(), TASKS[task](), Board(), tmp_path, required=())) == ["other"]
