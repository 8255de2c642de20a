"""What the keys of a profile say together that cannot be is found when it is read, all of it at once."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.errors import Fault, InputError
from targets.profile import TargetProfile, load_profile, profile_from

ORT = {"name": "onnxruntime"}
TRT = {"name": "tensorrt"}
RTX = {"name": "tensorrt-rtx"}
OPENVINO = {"name": "openvino"}
ARM = {"arch": "aarch64", "isa": ["asimd"]}
X86 = {"arch": "x86_64", "isa": ["avx2", "avx_vnni"]}
PLAIN = {"arch": "x86_64", "isa": ["avx2", "fma"]}
ORIN = {"arch": "aarch64", "isa": ["asimd"], "compute_capability": "8.7", "dla_cores": 2}
NANO = {"arch": "aarch64", "isa": ["asimd"], "compute_capability": "5.3"}
T4 = {**X86, "compute_capability": "7.5"}
RTX_30 = {**X86, "compute_capability": "8.6"}
CUDA = "CUDAExecutionProvider"
OPTIONS = f"engine.provider_options.{CUDA}"


def _tables(hardware: dict[str, Any], engine: dict[str, Any], scheme: str, *precisions: str) -> dict[str, Any]:
    quantization = {"scheme": scheme, "precisions": list(precisions or ("fp32",))}
    found = {"name": "p", "description": "d", "hardware": hardware, "engine": engine, "quantization": quantization}
    return copy.deepcopy(found)


def _on_dla(hardware: dict[str, Any], precision: str = "fp16", **keys: object) -> dict[str, Any]:
    """A profile whose alternative is a DLA."""
    engine = {**TRT, "device": "dla", **keys}
    dla = {"label": "dla", "engine": engine, "quantization": {"scheme": "trt", "precisions": [precision]}}
    return {**_tables(hardware, TRT, "trt"), "alternatives": [dla]}


def _provider(*names: str) -> dict[str, Any]:
    return {**ORT, "providers": [f"{name}ExecutionProvider" for name in names]}


def _faults(tables: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """What and fix, by place."""
    with pytest.raises(InputError) as caught:
        profile_from("p", tables)
    assert all(fault.what and fault.fix for fault in caught.value.faults)
    return {fault.where: (fault.what, fault.fix) for fault in caught.value.faults}


def _with(tables: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {**tables, **changes}


X86_ORT = _tables(X86, ORT, "ort-x86")
VINO = {"engine": OPENVINO, "quantization": {"scheme": "openvino"}}


def _and(*alternatives: dict[str, Any]) -> dict[str, Any]:
    return {**X86_ORT, "alternatives": list(alternatives)}


CASES = [
    # int8, fp16 and bf16 that the hardware or the engine does not compute
    (_tables(NANO, TRT, "trt", "fp32", "int8"), "quantization.precisions.1", "5.3"),
    (_tables({**NANO, "compute_capability": "6.2"}, TRT, "trt", "int8"), "quantization.precisions.0", "6.2"),
    (_tables({**X86, "compute_capability": "6.1"}, TRT, "trt", "fp32", "fp16"), "quantization.precisions.1", "6.1"),
    (_tables({**X86, "compute_capability": "7.5"}, TRT, "trt", "fp32", "bf16"), "quantization.precisions.1", "7.5"),
    (_tables(X86, _provider("CUDA", "CPU"), "trt", "fp32", "int8"), "quantization.precisions.1", "Q/DQ in float"),
    (_tables(X86, ORT, "ort-x86", "fp32", "fp16"), "quantization.precisions.1", "x86_64"),
    (_tables(X86, ORT, "ort-x86", "fp32", "bf16"), "quantization.precisions.1", "x86_64"),
    (_tables(ARM, ORT, "ort-arm64", "fp32", "fp16"), "quantization.precisions.1", "asimdhp"),
    (_tables(X86, OPENVINO, "openvino", "fp32", "fp16"), "quantization.precisions.1", "avx512_fp16"),
    (_tables(X86, TRT, "trt", "fp32", "int8-dynamic"), "quantization.precisions.1", "DynamicQuantizeLinear"),
    (_tables(X86, TRT, "trt", "fp32", "int4-weights"), "quantization.precisions.1", "MatMulNBits"),
    (_tables(X86, ORT, "ort-x86", "fp32", "int8", "fp32"), "quantization.precisions.2", "twice"),
    (_with(X86_ORT, quantization={"scheme": "ort-x86", "precisions": []}), "quantization.precisions", "nothing"),
    # dialects
    (_tables(X86, ORT, "trt"), "quantization.scheme", "'ort-x86'"),
    (_tables(ORIN, TRT, "ort-arm64"), "quantization.scheme", "'trt'"),
    (_tables(X86, ORT, "ort-arm64"), "quantization.scheme", "'ort-x86'"),
    (_tables(ARM, ORT, "ort-x86"), "quantization.scheme", "'ort-arm64'"),
    (_tables(X86, _provider("Tensorrt", "CPU"), "ort-x86"), "quantization.scheme", "'trt'"),
    (_tables(ARM, ORT, "qnn-a16"), "quantization.scheme", "16-bit activations"),
    (_tables(ARM, ORT, "qnn-a16"), "quantization.scheme", "begin with 'QNNExecutionProvider'"),
    (_tables(ARM, _provider("Xnnpack", "CPU"), "qnn-a16"), "quantization.scheme", "XnnpackExecutionProvider computes"),
    (_tables(ARM, _provider("Xnnpack", "QNN"), "qnn-a16"), "quantization.scheme", "16-bit activations"),
    (_tables(X86, ORT, "qnn-a16"), "quantization.scheme", "'ort-x86'"),
    (_tables(X86, OPENVINO, "qnn-a16"), "quantization.scheme", "'openvino'"),
    (_tables(ORIN, TRT, "qnn-a16"), "quantization.scheme", "use 'trt'"),
    (_tables(ARM, _provider("QNN", "CPU"), "trt"), "quantization.scheme", "'ort-arm64' or 'qnn-a16'"),
    (_tables(PLAIN, ORT, "ort-x86"), "quantization.scheme", "saturate"),
    (_tables({"arch": "x86_64"}, ORT, "ort-x86"), "quantization.scheme", "ort-x86-avx2"),
    (_tables(PLAIN, OPENVINO, "openvino"), "quantization.scheme", "saturate"),
    # the DLA
    (_on_dla({**ORIN, "dla_cores": 0}), "alternatives.0.engine.device", "no DLA"),
    (_on_dla(ORIN, dla_core=2), "alternatives.0.engine.dla_core", "counted from 0"),
    (_on_dla(ORIN, "fp32"), "alternatives.0.quantization.precisions.0", "fp16 and int8 only"),
    (_on_dla(ORIN, batch=[1, 4, 8]), "alternatives.0.engine.batch", "one fixed size"),
    (_on_dla(ORIN, name="tensorrt-rtx"), "alternatives.0.engine.device", "no DLA"),
    (_tables(ORIN, {**TRT, "device": "dla"}, "trt", "fp16"), "engine.device", "[[alternatives]]"),
    (_tables(ORIN, {**TRT, "dla_core": 1}, "trt"), "engine.dla_core", "dla"),
    (_tables({**X86, "compute_capability": "8.7", "dla_cores": 1}, TRT, "trt"), "hardware.dla_cores", "Orin"),
    (_tables({**ORIN, "dla_cores": 3}, TRT, "trt"), "hardware.dla_cores", "at most 2"),
    # TensorRT
    (_tables(ORIN, {**TRT, "batch": [4, 1, 8]}, "trt"), "engine.batch", "[1, 4, 8]"),
    (_tables({**ORIN, "memory_mb": 512}, TRT, "trt"), "engine.workspace_mb", "512"),
    (_tables(X86, {**TRT, "compute_capabilities": ["8.6"]}, "trt"), "engine.compute_capabilities", "tensorrt-rtx"),
    (_tables(T4, {**TRT, "hardware_compatible": True}, "trt"), "engine.hardware_compatible", "8.0"),
    (_tables({**X86, "compute_capability": "9.0"}, RTX, "trt"), "hardware.compute_capability", "9.0"),
    (_tables({**ORIN, "dla_cores": 0}, RTX, "trt"), "hardware.compute_capability", "8.7"),
    (_tables({**X86, "compute_capability": "7.5"}, RTX, "trt"), "hardware.compute_capability", "7.5"),
    (_tables(RTX_30, {**RTX, "compute_capabilities": ["8.9"]}, "trt"), "engine.compute_capabilities", "8.6"),
    (_tables(X86, {**RTX, "compute_capabilities": ["8.9", "8.9"]}, "trt"), "engine.compute_capabilities.1", "twice"),
    (_tables(X86, {**RTX, "compute_capabilities": ["9.0"]}, "trt"), "engine.compute_capabilities.0", "9.0"),
    (_tables(X86, {**RTX, "version_compatible": True}, "trt"), "engine.version_compatible", "RTX"),
    (_tables(T4, {**TRT, "sparsity": ["2:4"]}, "trt"), "engine.sparsity", "8.0"),
    # providers and plugins
    (_tables(X86, _provider("QNN", "CPU"), "ort-x86"), "engine.providers.0", "aarch64"),
    (_tables(ARM, _provider("OpenVINO", "CPU"), "ort-arm64"), "engine.providers.0", "x86_64"),
    (_tables(X86, _provider("CPU", "Xnnpack"), "ort-x86"), "engine.providers", "last"),
    (_tables(X86, _provider("CPU", "CPU"), "ort-x86"), "engine.providers.1", "twice"),
    (_tables(X86, {**ORT, "providers": []}, "ort-x86"), "engine.providers", "nothing runs"),
    (_tables(X86, {**_provider("Xnnpack", "CPU"), "format": "ort"}, "ort-x86"), "engine.format", "CPU provider"),
    (_tables(X86, {**ORT, "provider_options": {CUDA: {"a": "b"}}}, "ort-x86"), OPTIONS, "add"),
    (_tables(ARM, {**OPENVINO, "device": "GPU"}, "openvino"), "engine.device", "Intel"),
    # the machine
    (_tables({**X86, "cpus": 4}, {**ORT, "threads": 8}, "ort-x86"), "engine.threads", "at most 4"),
    (_with(X86_ORT, hardware={**X86, "cpus": 4}, device={"affinity": "2-5"}), "device.affinity", "CPU 5"),
    (_with(X86_ORT, device={"affinity": "3-1"}), "device.affinity", "1-3"),
    (_with(_tables(X86, {**ORT, "threads": 2}, "ort-x86"), device={"affinity": "1"}), "engine.threads", "affinity"),
    (_with(X86_ORT, device={"login": "pi@board"}), "device.login", "ssh"),
    (_with(X86_ORT, device={"connection": "adb", "login": "pi@board"}), "device.login", "serial"),
    (_tables({"arch": "aarch64", "isa": ["asimd", "avx2"]}, ORT, "ort-arm64"), "hardware.isa.1", "'avx2'"),
    (_tables({"arch": "x86_64", "isa": ["avx_vnni", "asimd"]}, ORT, "ort-x86"), "hardware.isa.1", "'asimd'"),
    (_tables({"arch": "x86_64", "isa": ["avx_vnni", "sse4.2"]}, ORT, "ort-x86"), "hardware.isa.1", "'sse4_2'"),
    (_tables({"arch": "x86_64", "isa": ["avx_vnni", "avx_vnni"]}, ORT, "ort-x86"), "hardware.isa.1", "twice"),
    # alternatives
    (_and({"engine": ORT, "quantization": X86_ORT["quantization"]}), "alternatives.0", "same as the first"),
    (_and({"label": "dense", **VINO}), "alternatives.0.label", "reference"),
    (_and({"label": "x-dense", **VINO}), "alternatives.0.label", "reference"),
    (_and(VINO, {**VINO, "engine": {**OPENVINO, "threads": 2}}), "alternatives.1.label", "already"),
    (_and({"label": "a", **VINO}, {"label": "b", **VINO}), "alternatives.1", "same as alternatives.0"),
]  # fmt: skip


@pytest.mark.parametrize(("tables", "where", "said"), CASES, ids=[f"{where}-{said}" for _, where, said in CASES])
def test_a_contradiction_is_named_with_its_remedy(tables: dict[str, Any], where: str, said: str) -> None:
    """Promise: it is found at the key that is wrong, and what is wrong or how to mend it says why."""
    found = _faults(tables)
    assert where in found
    assert said in " ".join(found[where])


@pytest.mark.parametrize(
    "tables",
    [
        X86_ORT,
        _tables(PLAIN, ORT, "ort-x86-avx2", "fp32", "int8"),
        _tables(X86, ORT, "ort-x86-avx2", "fp32", "int8"),
        _tables({**ARM, "isa": ["asimd", "asimdhp"]}, ORT, "ort-arm64", "fp32", "fp16", "int8"),
        _tables({**X86, "isa": ["avx512_vnni", "avx512_bf16"]}, OPENVINO, "openvino", "fp32", "bf16"),
        _tables(NANO, TRT, "trt", "fp32", "fp16"),
        _tables(ARM, _provider("QNN", "CPU"), "qnn-a16", "int8"),
        _tables({**X86, "compute_capability": "6.1"}, TRT, "trt", "fp32", "int8"),
        _tables(X86, TRT, "trt", "fp32", "fp16", "int8"),
        _tables({**X86, "compute_capability": "7.5"}, {**RTX, "compute_capabilities": ["7.5"]}, "trt"),
        _tables({**X86, "compute_capability": "12.1"}, RTX, "trt"),
        _on_dla(ORIN, dla_core=1),
        _with(_tables({**X86, "cpus": 4}, {**ORT, "threads": 2}, "ort-x86"), device={"affinity": "2-3"}),
    ],
)
def test_what_fits_together_is_accepted(tables: dict[str, Any]) -> None:
    """Promise: no rule refuses what the hardware and the engine can do."""
    assert isinstance(profile_from("p", tables), TargetProfile)


def test_contradictions_come_with_the_faults_of_single_keys() -> None:
    """Promise: one reading tells a misspelt key, a wrong type and what the other keys say against each other."""
    tables = _tables(NANO, {**TRT, "batch": [3, 2, 1]}, "ort-x86", "fp32", "int8")
    found = _faults({**tables, "prunning": {}, "pruning": {"channel_alignment": "8"}})
    assert set(found) == {
        "prunning", "pruning.channel_alignment", "quantization.scheme", "quantization.precisions.1", "engine.batch",
    }  # fmt: skip


def test_values_are_not_bent_into_other_types() -> None:
    """Promise: a number in quotes, or a fraction where a whole number is meant, is a fault."""
    found = _faults(_tables(X86, {**ORT, "threads": "4"}, "ort-x86"))
    assert set(found) == {"engine.threads"}


_WORDS = st.sampled_from(
    ["", "x", "default", "0-3", "3-1", "x86_64", "avx2", "8.7", "99.9", "trt", "int8", "\x00", "é"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 70) | st.floats() | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3),
    max_leaves=5,
)
_ENGINES = st.fixed_dictionaries(
    {"name": st.sampled_from(["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "none"])},
    optional={
        "providers": st.lists(
            st.sampled_from(["CPUExecutionProvider", "QNNExecutionProvider", "CUDAExecutionProvider"])
        ),
        "provider_options": st.dictionaries(st.sampled_from(["CUDAExecutionProvider"]), st.just({}), max_size=1),
        "threads": st.sampled_from([1, 4, 300]),
        "format": st.sampled_from(["onnx", "ort"]),
        "device": st.sampled_from(["CPU", "GPU", "gpu", "dla"]),
        "dla_core": st.integers(0, 3),
        "batch": st.lists(st.integers(0, 4), min_size=2, max_size=4),
        "workspace_mb": st.sampled_from([1, 4096]),
        "hardware_compatible": st.booleans(),
        "compute_capabilities": st.lists(st.sampled_from(["7.5", "8.6", "9.0", "13.0"]), max_size=3),
    },
)
_QUANTIZATIONS = st.fixed_dictionaries(
    {"scheme": st.sampled_from(["ort-x86", "ort-x86-avx2", "ort-arm64", "openvino", "trt", "qnn-a16", "none"])},
    optional={
        "precisions": st.lists(st.sampled_from(["fp32", "fp16", "bf16", "int8", "int8-dynamic", "fp8"]), max_size=4)
    },
)
_HARDWARE = st.fixed_dictionaries(
    {"arch": st.sampled_from(["x86_64", "aarch64", "riscv64"])},
    optional={
        "isa": st.lists(st.sampled_from(["avx2", "avx_vnni", "asimd", "asimdhp", "neon", "?"]), max_size=3),
        "cpus": st.sampled_from([1, 4, 0]),
        "memory_mb": st.sampled_from([512, 8192]),
        "compute_capability": st.sampled_from(["5.3", "6.2", "8.7", "12.0", "x"]),
        "dla_cores": st.integers(0, 4),
    },
)
_ALTERNATIVES = st.lists(
    st.fixed_dictionaries(
        {"engine": _ENGINES | _VALUES, "quantization": _QUANTIZATIONS | _VALUES},
        optional={"label": st.sampled_from(["", "a", "dense", "A"])},
    ),
    max_size=3,
)
_DEVICES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["local", "pi5", "-x"]),
        "connection": st.sampled_from(["local", "ssh", "adb", "usb"]),
        "login": st.sampled_from(["", "pi@board", "-o", "SERIAL"]),
        "affinity": st.sampled_from(["default", "0-3", "3-0", "9999", "x"]),
    },
)
_PROFILES = st.fixed_dictionaries(
    {"name": st.just("p"), "description": st.just("d")},
    optional={
        "hardware": _HARDWARE | _VALUES,
        "engine": _ENGINES | _VALUES,
        "quantization": _QUANTIZATIONS | _VALUES,
        "alternatives": _ALTERNATIVES | _VALUES,
        "device": _DEVICES | _VALUES,
        "pruning": _VALUES,
    },
)


@given(tables=_PROFILES)
@settings(max_examples=300, deadline=None)
def test_any_combination_loads_or_is_explained(tables: dict[str, Any]) -> None:
    """Promise: whatever a profile says, it loads, or every fault has place, reason and remedy; never a traceback."""
    found = _outcome(lambda: profile_from("p", tables))
    if isinstance(found, InputError):
        assert found.faults
        assert all(fault.where and fault.what and fault.fix for fault in found.faults)
    else:
        assert profile_from("p", json.loads(found.model_dump_json(exclude_none=True))) == found
        assert set(found.choices()) >= {""}
        assert len(found.choices()) == 1 + len(found.alternatives)


@given(engine=_ENGINES, hardware=_HARDWARE, quantization=_QUANTIZATIONS)
@settings(max_examples=50, deadline=None)
def test_a_file_says_what_its_tables_say(
    tmp_path_factory: pytest.TempPathFactory,
    engine: dict[str, Any],
    hardware: dict[str, Any],
    quantization: dict[str, Any],
) -> None:
    """Promise: reading a file finds just the faults of its tables."""
    tables = {"name": "p", "description": "d", "hardware": hardware, "engine": engine, "quantization": quantization}
    path = Path(tmp_path_factory.mktemp("profile"), "p.toml")
    path.write_text("\n".join(f"{key} = {_inline(value)}" for key, value in tables.items()), encoding="utf-8")

    read, made = _outcome(lambda: load_profile(str(path))), _outcome(lambda: profile_from("p", tables))
    assert _faults_of(read) == _faults_of(made)
    assert isinstance(read, InputError) or read == made


def _outcome(load: Callable[[], TargetProfile]) -> TargetProfile | InputError:
    try:
        return load()
    except InputError as error:
        return error


def _faults_of(outcome: TargetProfile | InputError) -> tuple[Fault, ...]:
    return outcome.faults if isinstance(outcome, InputError) else ()


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join(map(_inline, value)) + "]" if isinstance(value, list) else json.dumps(value)


def test_sixteen_bits_around_integers_are_tensorrts() -> None:
    """Promise: fp16 around Q/DQ is refused where no engine computes so: on CPUs, and on GPUs without fast fp16."""
    around = {"quantization": {"scheme": "ort-x86", "precisions": ["int8"], "float_type": "fp16"}}
    assert "wants float32" in _faults({**X86_ORT, **around})["quantization.float_type"][0]
    around = {"quantization": {"scheme": "trt", "precisions": ["int8"], "float_type": "fp16"}}
    slow = {**_tables({**X86, "compute_capability": "6.1"}, TRT, "trt"), **around}
    assert "no fast fp16" in _faults(slow)["quantization.float_type"][0]
    profile_from("p", {**_tables({**X86, "compute_capability": "8.6"}, TRT, "trt"), **around})
