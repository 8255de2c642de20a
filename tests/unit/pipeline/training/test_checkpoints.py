"""Checkpoints of a training: killed in the midst of writing one, damaged, forged; never other weights than saved."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.training import checkpoints, loop
from pipeline.training.checkpoints import Checkpoint, Checkpoints
from targets.errors import DiskFailure

STEPS: Final = ("mkdir", "rmtree", "write_new", "fsync_folder", "replace")


class Killed(BaseException):
    """Stands for kill -9: nothing of ours runs after it."""


def made(epoch: int) -> Checkpoint:
    tensors = {"model.w": torch.arange(9.0) * epoch, "rng.torch": torch.full((1, 4), epoch, dtype=torch.uint8)}
    return Checkpoint(epoch=epoch, tensors=tensors, state={"step": epoch, "curve": [{"loss": 0.25}] * epoch})


def same(one: Checkpoint | None, two: Checkpoint) -> bool:
    return (
        one is not None
        and (one.epoch, one.state) == (two.epoch, two.state)
        and one.tensors.keys() == two.tensors.keys()
        and all(torch.equal(one.tensors[name], two.tensors[name]) for name in two.tensors)
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dying(number: int, patched: pytest.MonkeyPatch) -> list[str]:
    """Dies at the given call to the disk: before it, or, of a file, with half of it written. The calls that were."""
    seen: list[str] = []

    def guarded(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            seen.append(name)
            if len(seen) == number:
                if name == "write_new" and number % 2:
                    arguments[0].write_bytes(arguments[1][: len(arguments[1]) // 2])
                raise Killed
            return real(*arguments, **options)

        return call

    patched.setattr(Path, "mkdir", guarded("mkdir", Path.mkdir))
    patched.setattr(shutil, "rmtree", guarded("rmtree", shutil.rmtree))
    patched.setattr(checkpoints, "write_new", guarded("write_new", checkpoints.write_new))
    patched.setattr(checkpoints, "fsync_folder", guarded("fsync_folder", checkpoints.fsync_folder))
    patched.setattr(os, "replace", guarded("replace", os.replace))
    return seen


def test_killed_at_any_call_the_last_whole_one_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise R1: killed anywhere in the writing of one, it or the one before is there, and writing goes on."""
    for number in range(1, 30):
        store = Checkpoints(tmp_path / str(number))
        for epoch in (1, 2):
            store.save(made(epoch))
        (tmp_path / str(number) / "epoch-000003.unfinished").mkdir()  # of a death before
        with monkeypatch.context() as patched:
            seen = dying(number, patched)
            try:
                store.save(made(3))
            except Killed:
                pass
            else:
                assert {*seen} == {*STEPS}, "not every kind of call was met"
                assert number > len(STEPS)
                break
        found = store.latest()
        assert same(found, made(3 if "replace" in seen[:-1] else 2)), f"killed at {seen}"
        store.save(made(3))
        assert same(store.latest(), made(3))
        assert names(tmp_path / str(number)) == ["epoch-000002", "epoch-000003"]
    else:
        pytest.fail("saving never ended")


def test_order_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise R2: both files are fsynced (`write_new`), then their folder, which gets its name, fsynced last."""
    Checkpoints(tmp_path).save(made(1))
    seen = dying(0, monkeypatch)
    Checkpoints(tmp_path).save(made(2))
    assert seen[-5:] == ["write_new", "write_new", "fsync_folder", "replace", "fsync_folder"]


def _flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    bit = int(place * (len(data) * 8 - 1))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def _truncate(path: Path, place: float) -> None:
    path.write_bytes(path.read_bytes()[: int(place * (path.stat().st_size - 2))])  # a line end alone is no loss


def _grow(path: Path, place: float) -> None:
    os.truncate(path, (1 << 40) + int(place))  # a terabyte of nothing


def _pipe(path: Path, place: float) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path, place: float) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def _folder(path: Path, place: float) -> None:
    path.unlink()
    path.mkdir()


def _nested(path: Path, place: float) -> None:
    path.write_bytes(b"[" * 100_000)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "two"
    for epoch in (1, 2):
        Checkpoints(folder).save(made(epoch))
    return folder


@given(
    file=st.sampled_from(["state.json", "tensors.safetensors"]),
    damage=st.sampled_from([_flip, _flip, _flip, _truncate, _grow, _pipe, _link, _folder, _nested]),
    place=st.floats(0, 1),
)
def test_damage_anywhere_falls_back(
    file: str,
    damage: Callable[[Path, float], None],
    place: float,
    saved: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Promise R4: whatever happens to the newest one's files, the one before is used, and it can be written again."""
    folder = Path(shutil.copytree(saved, tmp_path_factory.mktemp("damaged") / "here"))
    damage(folder / "epoch-000002" / file, place)
    store = Checkpoints(folder)
    assert same(store.latest(), made(1))
    if damage not in {_flip, _truncate}:
        store.save(made(2))
        assert same(store.latest(), made(2))


def test_a_state_that_says_something_else_is_not_used(saved: Path, tmp_path: Path) -> None:
    """Promise R4: a state that is sound JSON, and not what was written, is damage: its seal does not match."""
    folder = Path(shutil.copytree(saved, tmp_path / "here"))
    state = folder / "epoch-000002" / "state.json"
    state.write_text(state.read_text(encoding="utf-8").replace("0.25", "0.35"), encoding="utf-8")
    assert same(Checkpoints(folder).latest(), made(1))


def test_names_that_are_none_of_ours_are_passed_over(tmp_path: Path) -> None:
    """Promise R12: other files in the folder, numbers of other alphabets among them, neither count nor crash."""
    store = Checkpoints(tmp_path)
    store.save(made(1))
    for name in ("epoch-²", "epoch-٣٣٣٣٣٣", "epoch-", "epoch-000002x", "epoch-" + "9" * 200):
        (tmp_path / name).mkdir()
    (tmp_path / "epoch-000007").write_bytes(b"a file")
    assert same(store.latest(), made(1))


def test_what_goes_on_from_damage_is_kept(tmp_path: Path) -> None:
    """Promise R1: with two damaged checkpoints ahead, those written again stay: no epoch is redone for ever."""
    store = Checkpoints(tmp_path)
    for epoch in (1, 2, 3):
        store.save(made(epoch))
    for epoch in (2, 3):
        (tmp_path / f"epoch-{epoch:06d}" / "state.json").write_text("{}")
    assert store.latest() is None
    store.save(made(1))
    assert same(store.latest(), made(1))
    assert names(tmp_path) == ["epoch-000001"]


def test_a_full_disk_is_told_and_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise R3: no room for a checkpoint is exit 5 with the room that it takes, and the one before is still there."""
    store = Checkpoints(tmp_path)
    store.save(made(1))
    big = dataclasses.replace(made(2), tensors={"model.w": torch.zeros(1 << 20)})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_new", full)
    with pytest.raises(DiskFailure, match=r"No space left on device \(.* free\)") as caught:
        store.save(big)
    assert caught.value.fix.startswith("free at least 5 MB")
    assert same(store.latest(), made(1))


class Stopped(BaseException):
    """Stands for a kill between two epochs."""


def _weights(graph: Any) -> dict[str, Tensor]:  # noqa: ANN401
    return {name: tensor.detach().clone() for name, tensor in graph.state_dict().items()}


def _forge(folder: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> None:
    """Writes another content into the newest checkpoint, with right hashes."""
    store = Checkpoints(folder)
    found = store.latest()
    assert found is not None
    state, tensors = json.loads(json.dumps(found.state)), dict(found.tensors)
    change(state, tensors)
    store.save(dataclasses.replace(found, state=state, tensors=tensors))


FORGERIES: Final[dict[str, Callable[[dict[str, Any], dict[str, Tensor]], object]]] = {
    "a tensor is missing": lambda s, t: t.pop("model.conv.weight"),
    "a shape": lambda s, t: t.update({"model.conv.weight": torch.zeros(5)}),
    "a dtype": lambda s, t: t.update({"model.conv.weight": t["model.conv.weight"].double()}),
    "a tensor too many": lambda s, t: t.update({"model.other": torch.zeros(1)}),
    "a moment of nothing": lambda s, t: t.update({"optimizer.99.step": torch.zeros(())}),
    "a moment's shape": lambda s, t: t.update({"optimizer.0.momentum_buffer": torch.zeros(7)}),
    "a moment's name": lambda s, t: t.update({"optimizer.x": torch.zeros(7)}),
    "random numbers": lambda s, t: t.update({"rng.torch": torch.zeros(2, 3, dtype=torch.uint8)}),
    "no best": lambda s, t: t.pop("best.conv.weight"),
    "no step": lambda s, t: s.pop("step"),
    "a step": lambda s, t: s.update(step="7"),
    "a curve": lambda s, t: s.update(curve=s["curve"][1:]),
    "a result": lambda s, t: s.update(curve=[{"epoch": 1, "what": 2}] * 2),
    "moments": lambda s, t: s.update(optimizer={"0": 7}),
    "the best": lambda s, t: s.update(best=[1]),
    "nothing": lambda s, t: s.clear(),
}


def test_a_checkpoint_that_does_not_fit_is_not_used(
    tmp_path: Path,
    world: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Promise R4: whole, with right hashes, and yet of something else: told, and none of it gets into the model."""
    options: dict[str, Any] = {"epochs": 3, "keep": "best", "momentum": 0.9}

    def stop(result: Any) -> None:  # noqa: ANN401
        if result.epoch == 2:
            raise Stopped

    with pytest.raises(Stopped):
        world.fit(world.graph(), **options, on_epoch=stop, checkpoints=tmp_path / "real")
    fresh = world.graph()
    before = _weights(fresh)

    def told(text: str, *_: object) -> None:
        assert "not of this training" in text
        raise Stopped

    monkeypatch.setattr(loop._log, "warning", told)
    for name, forgery in FORGERIES.items():
        folder = Path(shutil.copytree(tmp_path / "real", tmp_path / name))
        _forge(folder, forgery)
        with pytest.raises(Stopped):
            world.fit(fresh, **options, checkpoints=folder)
        assert all(torch.equal(tensor, before[key]) for key, tensor in _weights(fresh).items()), name
    monkeypatch.undo()
    world.fit(fresh, **options, checkpoints=tmp_path / "a shape")
    whole = world.graph()
    world.fit(whole, **options)
    assert all(torch.equal(tensor, _weights(whole)[name]) for name, tensor in _weights(fresh).items())


@pytest.mark.parametrize(
    "damage", [_flip, *(pytest.param(damage, marks=pytest.mark.long) for damage in (_truncate, _pipe))]
)
def test_a_training_goes_on_before_the_damage(
    damage: Callable[[Path, float], None],
    tmp_path: Path,
    world: Any,  # noqa: ANN401
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Promise R1: the newest one is damaged: told, its epoch is redone, and the bits are the same."""
    whole, killed, resumed = world.graph(0.5), world.graph(0.5), world.graph(0.5)
    world.fit(whole, epochs=4)

    def stop(result: Any) -> None:  # noqa: ANN401
        if result.epoch == 3:
            raise Stopped

    with pytest.raises(Stopped):
        world.fit(killed, epochs=4, on_epoch=stop, checkpoints=tmp_path)
    damage(tmp_path / "epoch-000003" / "tensors.safetensors", 0.7)
    told: list[int] = []
    steps: list[int] = []
    world.fit(
        resumed, epochs=4, checkpoints=tmp_path, on_epoch=lambda r: told.append(r.epoch),
        on_step=lambda r: steps.append(r.epoch),
    )  # fmt: skip
    assert told == [1, 2, 3, 4]
    assert set(steps) == {3, 4}, "one epoch is redone, no more"
    assert "epoch 3 is damaged" in caplog.text
    assert all(torch.equal(tensor, _weights(whole)[name]) for name, tensor in _weights(resumed).items())
