"""From times to a profile: the fastest engine and dialect stand first, with what was measured beside them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.probing.decide import decide
from pipeline.probing.measure import NetTimes, Score, Timing, scores_of, times_of
from pipeline.probing.probe import Probed, ProbeOptions, conclude
from pipeline.probing.trials import Machine, Trial, trials_for
from targets.errors import DeviceError
from targets.profile import load_profile

VNNI = Machine(
    device="local", kind="local", arch="x86_64", isa=("avx2", "avx512f", "avx512_vnni"), cpu='CPU "X"\n', cpus=8,
    threads=4, memory_mb=8000, runtimes={"onnxruntime": "1.32.0", "openvino": "2026.4.1"}, providers=(),
)  # fmt: skip
EQUAL = {
    "onnxruntime fp32": 1.0, "onnxruntime ort-x86": 0.4, "onnxruntime ort-x86-avx2": 0.4, "openvino fp32": 1.0,
    "openvino openvino": 0.4,
}  # fmt: skip


def _nets(*ratios: Mapping[str, float]) -> tuple[NetTimes, ...]:
    timed = [{name: _timing(ratio) for name, ratio in item.items()} for item in ratios]
    return tuple(NetTimes(net=f"net{i}", times=times, dropped={}, grade="A") for i, times in enumerate(timed))


def _timing(ratio: float) -> Timing:
    return Timing(latency_ms=2 * ratio, ratio=ratio, low=ratio * 0.9, high=ratio * 1.1)


def _concluded(*ratios: Mapping[str, float], machine: Machine = VNNI) -> Probed:
    nets = _nets(*ratios)
    return conclude(machine, nets, scores_of(trials_for(machine), nets), ProbeOptions(name="mine"))


def _with(**changes: float) -> dict[str, float]:
    return {**EQUAL, **{name.replace("_", " ", 1).replace("_", "-"): value for name, value in changes.items()}}


def test_among_equals_the_first_tried_wins() -> None:
    """Promise: equal speed gives ONNX Runtime with all 8 bits of the weights, and OpenVINO as the alternative."""
    first, other = _concluded(EQUAL, EQUAL).decision.kept
    assert (first.label, first.scheme, first.precisions) == ("onnxruntime", "ort-x86", ("fp32", "int8"))
    assert (other.label, other.scheme) == ("openvino", "openvino")


def test_a_faster_engine_comes_first() -> None:
    """Promise: what is over 3 % faster over both nets is the first choice."""
    faster = _with(openvino_openvino=0.3)
    assert _concluded(faster, faster).decision.kept[0].label == "openvino"
    little = _with(openvino_openvino=0.395)
    assert _concluded(little, little).decision.kept[0].label == "onnxruntime"


def test_both_nets_count_alike() -> None:
    """Promise: the geometric mean decides, so that winning one net by what was lost on the other is no win."""
    found = _concluded(_with(openvino_openvino=0.2), _with(openvino_openvino=0.8)).scores
    assert found[-1].ratio == pytest.approx(0.4)
    assert decide(found).kept[0].label == "onnxruntime"


def test_fewer_bits_must_pay() -> None:
    """Promise: 7-bit weights, which cost accuracy, are chosen only where they are over 3 % faster."""
    assert _concluded(_with(onnxruntime_ort_x86_avx2=0.39)).decision.kept[0].scheme == "ort-x86"
    assert _concluded(_with(onnxruntime_ort_x86_avx2=0.3)).decision.kept[0].scheme == "ort-x86-avx2"


def test_int8_that_does_not_pay_is_left_out() -> None:
    """Promise: an engine whose int8 is no faster than its float is asked for float only, and the file says why."""
    times = {"onnxruntime fp32": 1.0, "onnxruntime ort-x86": 1.1, "onnxruntime ort-x86-avx2": 0.98}
    found = _concluded(times)
    assert found.decision.kept[0].precisions == ("fp32",)
    assert "onnxruntime ort-x86, onnxruntime ort-x86-avx2: no faster than fp32" in found.text


def test_engines_far_behind_are_no_alternatives() -> None:
    """Promise: one that takes over 1.25 times as long on every net is named in a comment only."""
    slow = _with(openvino_fp32=2.0, openvino_openvino=0.9)
    found = _concluded(slow, slow)
    assert [choice.label for choice in found.decision.kept] == ["onnxruntime"]
    assert "Left out: openvino" in found.text
    assert "alternatives" not in tomllib.loads(found.text)
    assert len(_concluded(slow, EQUAL).decision.kept) == 2


def test_what_is_written_loads_as_a_profile(tmp_path: Path) -> None:
    """Promise: the file is a valid profile of that machine, whatever its CPU calls itself."""
    path = tmp_path / "mine.toml"
    path.write_text(_concluded(EQUAL).text, encoding="utf-8")
    profile = load_profile(str(path))
    assert profile.name == "mine"
    assert (profile.hardware.arch, profile.hardware.isa, profile.hardware.cpus) == ("x86_64", VNNI.isa, 8)
    assert (profile.hardware.memory_mb, profile.engine.threads) == (8000, 4)
    assert profile.pruning.channel_alignment == 16
    assert list(profile.choices()) == ["", "openvino"]


def test_what_was_measured_stands_in_the_file() -> None:
    """Promise: each time with its ratio and interval, a bad grade, and why something was not measured."""
    nets = _nets(EQUAL)
    rough = NetTimes(net="net0", times=nets[0].times, dropped={"cuda fp32": "no GPU\nhere"}, grade="D")
    text = conclude(VNNI, (rough,), scores_of(trials_for(VNNI), (rough,)), ProbeOptions(name="mine")).text
    assert "0.800 ms (0.40 0.36-0.44)" in text
    assert "grade D" in text
    assert "Not measured on net0: cuda fp32: no GPU here" in text


def test_a_trial_counts_only_with_a_time_on_every_net() -> None:
    """Promise: an engine that failed on one net is no candidate, and one that failed everywhere ends the probe."""
    partly = {name: ratio for name, ratio in EQUAL.items() if name != "openvino openvino"}
    assert "openvino openvino" not in {score.trial.name for score in _concluded(EQUAL, partly).scores}
    with pytest.raises(DeviceError, match="nothing could be measured"):
        _concluded({})


def test_tensorrt_alone_is_a_profile() -> None:
    """Promise: a Jetson without ONNX Runtime gets TensorRT's dialect, and half precision where it pays."""
    jetson = Machine(
        device="nx", kind="ssh", arch="aarch64", isa=("asimd",), cpu="Orin", cpus=6, threads=6, memory_mb=None,
        runtimes={"tensorrt": "10.3.0"}, providers=(),
    )  # fmt: skip
    found = _concluded({"tensorrt fp32": 1.0, "tensorrt fp16": 0.5, "tensorrt trt": 0.6}, machine=jetson)
    (choice,) = found.decision.kept
    assert (choice.scheme, choice.precisions) == ("trt", ("fp32", "fp16", "int8"))
    assert tomllib.loads(found.text)["device"] == {"name": "nx", "connection": "ssh"}


def test_ratios_come_from_the_campaigns_comparisons() -> None:
    """Promise: paired by block, with their interval; an engine whose outputs were wrong has no time."""
    results = {name: {"latency_ms": {"value": value}} for name, value in (("a", 2.0), ("b", 1.0), ("wrong", 0.1))}
    comparison = [{"a": "b", "b": "a", "metric": "latency_ms", "ratio": 0.51, "ci95": [0.5, 0.52], "verdict": "faster"}]
    assert times_of({"results": results, "comparison": comparison}, "a") == {
        "a": Timing(latency_ms=2.0, ratio=1.0),
        "b": Timing(latency_ms=1.0, ratio=0.51, low=0.5, high=0.52),
    }


def test_plain_data_tells_everything() -> None:
    """Promise: `--json` has the profile, the times and the reasons."""
    told = _concluded(EQUAL).to_json()
    assert told["profile"]["name"] == "mine"
    assert told["scores"]["openvino openvino"]["nets"]["net0"]["ratio"] == 0.4
    assert told["grades"] == {"net0": "A"}


def test_scores_keep_the_order_of_the_trials() -> None:
    """Promise: preference is the order in which trials were listed, not the order of a campaign's results."""
    trials = trials_for(VNNI)
    turned = NetTimes(net="n", times=dict(reversed(_nets(EQUAL)[0].times.items())), dropped={}, grade="A")
    found: tuple[Score, ...] = scores_of(trials, (turned,))
    assert [score.trial for score in found] == list[Trial](trials)
