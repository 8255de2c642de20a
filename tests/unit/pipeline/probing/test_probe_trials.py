"""What is tried on a machine follows from what it says it is."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.probing.trials import machine_of, profile_of, trials_for
from targets.devices.answers import DeviceFacts
from targets.errors import DeviceError
from targets.profile import profile_from


def _facts(arch: str, features: list[str], **raw: Any) -> DeviceFacts:  # noqa: ANN401 - facts are of any type
    return DeviceFacts(
        fingerprint="f", arch=arch, cpu_model="a CPU", cores=8, mem_total_bytes=4 << 30, virtualised=False,
        governor=None, runtime_version=raw.pop("onnxruntime", "1.32.0"), wall_s=0.1,
        raw={"cpu_features": features, **raw},
    )  # fmt: skip


def _names(arch: str, features: list[str], **raw: Any) -> list[str]:  # noqa: ANN401
    return [trial.name for trial in trials_for(machine_of("d", "ssh", _facts(arch, features, **raw)))]


def test_x86_with_vnni_tries_both_weights_and_openvino() -> None:
    """Promise: 8 and 7 bits of ONNX Runtime, OpenVINO where it is installed; ONNX Runtime's float first."""
    assert _names("x86_64", ["avx2", "avx512_vnni"], openvino="2026.4.1") == [
        "onnxruntime fp32", "onnxruntime ort-x86", "onnxruntime ort-x86-avx2", "openvino fp32", "openvino openvino",
    ]  # fmt: skip


def test_x86_without_vnni_is_never_offered_8_bits() -> None:
    """Promise: a dialect whose sums saturate on this CPU is not tried, however fast it is."""
    assert _names("x86_64", ["avx2", "avx512f"], openvino="2026.4.1") == [
        "onnxruntime fp32", "onnxruntime ort-x86-avx2", "openvino fp32", "openvino ort-x86-avx2",
    ]  # fmt: skip


def test_arm_tries_its_dialect_and_its_providers() -> None:
    """Promise: each provider that ONNX Runtime has there gets the same dialect."""
    providers = ["XnnpackExecutionProvider", "CPUExecutionProvider"]
    assert _names("aarch64", ["asimd"], providers=providers) == [
        "onnxruntime fp32", "onnxruntime ort-arm64", "xnnpack fp32", "xnnpack ort-arm64",
    ]  # fmt: skip


def test_a_jetson_tries_tensorrt() -> None:
    """Promise: float, half and int8 in TensorRT's own dialect, also without ONNX Runtime."""
    assert _names("aarch64", ["asimd"], onnxruntime=None, tensorrt="10.3.0") == [
        "tensorrt fp32", "tensorrt fp16", "tensorrt trt",
    ]  # fmt: skip


def test_cuda_gets_no_int8() -> None:
    """Promise: a provider that computes Q/DQ in float is not asked for int8."""
    found = _names("x86_64", ["avx2"], providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert [name for name in found if name.startswith("cuda")] == ["cuda fp32"]


@pytest.mark.parametrize(("arch", "runtime", "said"), [("riscv64", "1.32", "riscv64"), ("x86_64", None, "neither")])
def test_what_cannot_be_probed_is_refused(arch: str, runtime: str | None, said: str) -> None:
    """Promise: a machine that edgepress builds nothing for, or that has no runtime, is told why."""
    with pytest.raises(DeviceError, match=said):
        _names(arch, [], onnxruntime=runtime)


def test_threads_are_one_a_core() -> None:
    """Promise: two hardware threads of a core count once, and the user's number wins."""
    assert machine_of("d", "ssh", _facts("x86_64", [], smt=True)).threads == 4
    assert machine_of("d", "ssh", _facts("x86_64", [], smt=None)).threads == 8
    assert machine_of("d", "ssh", _facts("x86_64", [], smt=True), threads=3).threads == 3


@pytest.mark.parametrize(
    ("arch", "features"),
    [
        ("x86_64", ["avx2"]),
        ("x86_64", ["avx2", "fma", "avx_vnni"]),
        ("x86_64", ["avx2", "amx_int8"]),
        ("aarch64", ["asimd"]),
    ],
)
def test_every_trial_is_a_profile_without_contradictions(arch: str, features: list[str]) -> None:
    """Promise: nothing is tried that a profile may not say."""
    providers = ["XnnpackExecutionProvider", "CUDAExecutionProvider"]
    providers += ["QNNExecutionProvider", "NnapiExecutionProvider"] if arch == "aarch64" else []
    machine = machine_of("d", "ssh", _facts(arch, features, openvino="1", tensorrt="10.3", providers=providers))
    for trial in trials_for(machine):
        profile = profile_of(trial, machine)
        assert profile_from("p", profile.model_dump(mode="json", exclude_none=True)) == profile
