"""The runtime's profile of an engine: read, bounded, summarised, beside the same loop without the profiler."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.ondevice import layers
from targets.ondevice.failure import BAD_INPUT, DEVICE, Failure

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def engine(bundle: Path) -> Path:
    """An engine that leaves this process's arithmetic as it is: a session may set it to flush subnormals for good."""
    spec = json.loads((bundle / "engine.json").read_text())
    spec["options"]["denormal_as_zero"] = False
    (bundle / "engine.json").write_text(json.dumps(spec))
    return bundle


def _event(name: str, ts: int, dur: int, op: str = "Conv", index: int = 0) -> dict[str, Any]:
    return {
        "cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur,
        "args": {
            "node_index": str(index), "op_name": op, "provider": "CPUExecutionProvider",
            "input_type_shape": [{"float": [1, 3]}, {"int64": []}], "output_type_shape": [{"float": [1, 4]}],
        },
    }  # fmt: skip


def _read(tmp_path: Path, document: object) -> list[dict[str, Any]]:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(document))
    return layers.read_profile(str(path))


def test_an_engine_is_profiled_node_by_node(engine: Path) -> None:
    """Each node of the engine comes once, in order, with its operator, provider and shapes; shares add up to one."""
    found = layers.profile_layers(engine, str(engine / "golden.npz"), 12)
    assert [node["op"] for node in found["nodes"]] == ["MatMul", "Tanh"]
    assert [node["outputs"] for node in found["nodes"]] == [[["float", [1, 4]]]] * 2
    assert {node["provider"] for node in found["nodes"]} == {"CPUExecutionProvider"}
    assert sum(node["share_ratio"] for node in found["nodes"]) == pytest.approx(1)
    assert found["nodes_sum_ns"] == sum(node["median_ns"] for node in found["nodes"])
    assert found["iterations"] == 12
    assert {node["calls"] for node in found["nodes"]} == {12}


def test_the_sum_of_the_nodes_fits_into_the_profiled_wall_time(engine: Path) -> None:
    """Times of nodes are parts of the inference they were measured in: their sum is of its size at most."""
    found = layers.profile_layers(engine, str(engine / "golden.npz"), 60)
    assert 0 < found["nodes_sum_ns"] <= 2 * found["profiled_wall_median_ns"]
    assert found["wall_min_ns"] <= found["wall_median_ns"]


def test_no_iterations_is_refused(engine: Path) -> None:
    """Nothing to measure is an error, not an empty answer."""
    with pytest.raises(Failure) as caught:
        layers.profile_layers(engine, str(engine / "golden.npz"), 0)
    assert caught.value.exit_code == BAD_INPUT


def test_the_profile_leaves_no_file_behind(engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime's profile is written to a private folder that is gone afterwards."""
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in engine.iterdir())
    layers.profile_layers(engine, str(engine / "golden.npz"), 3)
    assert sorted(path.name for path in engine.iterdir()) == before
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".json"]


def test_nodes_inside_a_branch_are_left_out(tmp_path: Path) -> None:
    """The time of an If already holds its body's: counting both would count it twice."""
    events = [_event("a", 0, 5), _event("inner", 12, 3), _event("branch", 10, 9, op="If", index=1), _event("b", 30, 2)]
    assert [event["name"] for event in _read(tmp_path, events)] == ["a", "branch", "b"]


@pytest.mark.parametrize("document", [[], {}, [{"cat": "Session"}], [_event("a", 0, 1) | {"args": {}}], 7, [3]])
def test_a_profile_without_nodes_is_a_failure(tmp_path: Path, document: object) -> None:
    """An empty or foreign profile ends in three lines, never in an empty table."""
    with pytest.raises(Failure) as caught:
        _read(tmp_path, document)
    assert caught.value.exit_code == DEVICE


def test_a_huge_profile_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is checked before the file is parsed."""
    monkeypatch.setattr(layers, "MAX_PROFILE_BYTES", 10)
    with pytest.raises(Failure, match="too large"):
        _read(tmp_path, [_event("a", 0, 1)])


def test_warm_up_calls_do_not_count() -> None:
    """The first calls of a node are left out of its median."""
    slow, fast = ([{**_row(), "dur": dur}] * 4 for dur in (1000, 10))
    [row] = layers.summarise_nodes([*slow, *fast], 4)
    assert row["calls"] == 4
    assert row["median_ns"] == pytest.approx(10_500, abs=500)


def _row() -> dict[str, Any]:
    return {"index": 0, "name": "a", "op": "Conv", "provider": "CPU", "inputs": [], "outputs": []}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.1, 5000), min_size=1, max_size=60))
def test_the_median_undoes_the_cut_to_whole_microseconds(times_us: list[float]) -> None:
    """From times cut to whole microseconds, the median comes back to within a microsecond of the true one."""
    rows = [{**_row(), "dur": int(value)} for value in times_us]
    [row] = layers.summarise_nodes(rows, 0)
    ordered = sorted(times_us)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    assert low * 1000 - 1001 <= row["median_ns"] <= high * 1000 + 1001
