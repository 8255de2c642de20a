"""Which engines compete, by name, in the order in which they challenge each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.candidates import content, offers, profile_of, runtime_version
from pipeline.compose import compose
from pipeline.recipe import Recipe, load_recipe
from targets.errors import Fault, InputError
from targets.options import OnnxRuntimeOptions, OpenVinoOptions, TensorRtOptions
from targets.profile import Alternative, Quantization, TargetProfile, load_profile

if TYPE_CHECKING:
    from pathlib import Path

    from targets.options import Precision

ONNX = 'task = "fidelity"\n[model]\nonnx = "net.onnx"\n[data]\nnpz = "data.npz"\n'


def profile(*precisions: Precision, others: tuple[Alternative, ...] = ()) -> TargetProfile:
    plain = load_profile("x86-64-vnni").choices()[""]
    first = Quantization(scheme="ort-x86", precisions=precisions or ("fp32", "int8"))
    return plain.model_copy(update={"quantization": first, "alternatives": others})


SAME = Alternative(engine=OpenVinoOptions(name="openvino"), quantization=Quantization(scheme="ort-arm64"))
OPENVINO = Alternative(engine=OpenVinoOptions(name="openvino"), quantization=Quantization(scheme="openvino"))
TENSORRT = Alternative(
    label="trt",
    engine=TensorRtOptions(name="tensorrt"),
    quantization=Quantization(scheme="trt", precisions=("fp16", "int8")),
)
AVX2 = Alternative(
    label="old",
    engine=OnnxRuntimeOptions(name="onnxruntime"),
    quantization=Quantization(scheme="ort-x86-avx2", precisions=("int8", "int8-dynamic")),
)


def recipe(tmp_path: Path, *overrides: str) -> Recipe:
    (tmp_path / "net.onnx").write_bytes(b"any")
    (tmp_path / "data.npz").write_bytes(b"any")
    (tmp_path / "recipe.toml").write_text(ONNX, encoding="utf-8")
    return load_recipe(tmp_path, overrides)


def found(given: Recipe, target: TargetProfile, *, compressed: bool = False) -> list[str]:
    made = offers(given, target, compressed=compressed)
    assert not isinstance(made, Fault), made
    return [offer.name for offer in made]


def test_floats_challenge_before_integers_and_first_choice_before_others(tmp_path: Path) -> None:
    """Each engine with each precision that it offers; the uncompressed reference once, and first."""
    names = found(recipe(tmp_path), profile("fp16", "int8", others=(OPENVINO, TENSORRT)), compressed=True)
    assert names == [
        "dense-fp32", "fp32", "fp16", "openvino-fp32", "trt-fp16", "int8", "openvino-int8", "trt-int8"
    ]  # fmt: skip


def test_only_references_are_mandatory(tmp_path: Path) -> None:
    """What an engine lacks must not stop the others."""
    made = offers(recipe(tmp_path), profile(others=(OPENVINO,)), compressed=True)
    assert not isinstance(made, Fault)
    assert [offer.name for offer in made if offer.mandatory] == ["dense-fp32", "fp32"]


def test_named_candidates_are_mandatory_and_no_others_are_made(tmp_path: Path) -> None:
    """Beside them only the reference, by which all are judged."""
    given = recipe(tmp_path, 'build.candidates=["openvino-int8"]')
    made = offers(given, profile(others=(OPENVINO,)), compressed=False)
    assert not isinstance(made, Fault)
    assert [(offer.name, offer.mandatory) for offer in made] == [("fp32", True), ("openvino-int8", True)]
    assert found(given, profile(others=(OPENVINO,)), compressed=True) == ["dense-fp32", "openvino-int8"]


def test_an_unknown_candidate_is_a_fault_with_the_nearest(tmp_path: Path) -> None:
    """Before anything runs, with the recipe's key."""
    given = recipe(tmp_path, 'build.candidates=["openvino-int"]')
    with pytest.raises(InputError, match=r"build\.candidates: 'openvino-int' is no candidate on x86-64-vnni") as caught:
        compose(given, profile(others=(OPENVINO,)))
    assert "'openvino-int8'" in caught.value.fix


def test_no_candidates_at_all_is_a_fault_of_the_recipe(tmp_path: Path) -> None:
    """An empty list is a slip: nothing would be compared."""
    with pytest.raises(InputError, match=r"build\.candidates"):
        recipe(tmp_path, "build.candidates=[]")


def test_a_list_of_formats_is_taken_at_its_word(tmp_path: Path) -> None:
    """For the engine of first choice whatever its profile says, for others where theirs does; [] is none."""
    target = profile("int8-weights", others=(TENSORRT,))
    assert found(recipe(tmp_path, 'quantize.formats=["fp16"]'), target) == ["fp32", "fp16", "trt-fp16", "trt-int8"]
    assert found(recipe(tmp_path, "quantize.formats=[]"), target) == ["fp32", "trt-int8"]
    with pytest.raises(InputError, match=r"quantize\.formats"):
        recipe(tmp_path, 'quantize.formats=["fp8"]')


def nodes(given: Recipe, target: TargetProfile) -> dict[str, tuple[object, bool]]:
    """Model and whether it is optional, of each node from the float model to the engines."""
    plan = compose(given, target, until="build").nodes
    return {node.name: (node.inputs["model"], node.optional) for node in plan if "model" in node.inputs}


def test_schemes_of_equal_content_share_one_int8_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One calibration, one quantisation for what gives the same file, and as many builds as candidates."""
    monkeypatch.setattr("pipeline.candidates.COSTS", {})
    made = nodes(recipe(tmp_path), profile(others=(SAME, TENSORRT)))
    assert list(made) == [
        "convert:fp16", "calibrate", "quantize", "quantize:trt",
        "build:fp32", "build:openvino-fp32", "build:trt-fp16", "build:int8", "build:openvino-int8", "build:trt-int8",
    ]  # fmt: skip
    assert made["build:openvino-int8"] == ("quantize", True)
    assert made["build:trt-int8"] == ("quantize:trt", True)
    assert made["build:openvino-fp32"] == ("import", True)
    assert made["build:trt-fp16"] == ("convert:fp16", True)
    assert (made["calibrate"][1], made["build:fp32"][1]) == (True, False)
    assert content("ort-arm64") == content("ort-x86") != content("trt")
    assert content("openvino") != content("ort-x86")


def test_calibration_is_as_mandatory_as_what_needs_it(tmp_path: Path) -> None:
    """Promise: a calibration that fails takes int8 with it and no more, unless the recipe names int8 or asks for it."""
    named = recipe(tmp_path, 'build.candidates=["fp32", "int8"]')
    assert nodes(named, profile())["calibrate"][1] is False
    assert "calibrate" not in nodes(recipe(tmp_path, 'build.candidates=["fp32"]'), profile())
    for stage in ("calibrate", "quantize"):
        plan = compose(recipe(tmp_path), profile(), until=stage)
        assert {node.name: node.optional for node in plan.nodes}["calibrate"] is False


def test_other_costs_are_another_int8_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which layers stay float depends on what they cost on that engine."""
    monkeypatch.setattr("pipeline.candidates.COSTS", {"ort-x86": "figures"})
    made = nodes(recipe(tmp_path), profile(others=(SAME,)))
    assert made["build:int8"] == ("quantize", True)
    assert made["build:openvino-int8"] == ("quantize:ort-arm64", True)


def test_dynamic_int8_has_the_bits_of_its_cpu(tmp_path: Path) -> None:
    """Where products of eight bits saturate, weights have seven: another file."""
    made = nodes(recipe(tmp_path), profile("int8-dynamic", others=(AVX2,)))
    assert made["build:int8-dynamic"][0] == "convert:int8-dynamic"
    assert made["build:old-int8-dynamic"][0] == "convert:int8-dynamic-7"


def test_what_a_named_candidate_is_made_of_is_mandatory_too(tmp_path: Path) -> None:
    """And built even where nothing is to be gained."""
    given = recipe(tmp_path, 'build.candidates=["int8-dynamic", "openvino-int8"]')
    target = profile("int8", "int8-dynamic", others=(OPENVINO,))
    made = nodes(given, target)
    assert not any(optional for _, optional in made.values())
    plan = compose(given, target, until="build")
    (convert,) = [node.stage for node in plan.nodes if node.name == "convert:int8-dynamic"]
    assert convert.asked  # type: ignore[attr-defined]


def test_another_engine_changes_no_key_of_the_first(tmp_path: Path) -> None:
    """What is built for one engine does not depend on which others are tried."""
    from pipeline.stages.base import configuration

    plans = [compose(recipe(tmp_path), profile(others=others), until="build") for others in ((), (OPENVINO, TENSORRT))]
    keys = [{node.name: configuration(node.stage) for node in plan.nodes} for plan in plans]
    assert all(keys[1][name] == key for name, key in keys[0].items())


@pytest.mark.parametrize(
    ("name", "precision", "engine"),
    [
        ("dense-fp32", "fp32", "onnxruntime"),
        ("int8-dynamic", "int8-dynamic", "onnxruntime"),
        ("openvino-int8", "int8", "openvino"),
        ("trt-int8", "int8", "tensorrt"),
    ],
)
def test_a_candidate_s_name_leads_to_its_engine(name: str, precision: str, engine: str) -> None:
    """A plain profile: one engine, no others."""
    own = profile_of(name, precision, profile(others=(OPENVINO, TENSORRT)))
    assert own.engine.name == engine
    assert own.alternatives == ()


def test_a_runtime_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan is made all the same; the build says what is missing."""
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert runtime_version("openvino") == ""
    assert runtime_version("onnxruntime") == ""


def test_what_is_built_for_a_gpu_is_bound_to_it_and_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: after a swap of the GPU or an update of its driver no old engine or accuracy of one is reused."""
    from pipeline import candidates
    from targets.options import OnnxRuntimeOptions, OpenVinoOptions, TensorRtOptions

    cuda = OnnxRuntimeOptions(name="onnxruntime", providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    on_units = [
        TensorRtOptions(name="tensorrt"),
        TensorRtOptions(name="tensorrt-rtx", compute_capabilities=("8.6",)),
        cuda,
        OpenVinoOptions(name="openvino", device="GPU"),
    ]
    on_cpus = [OnnxRuntimeOptions(name="onnxruntime"), OpenVinoOptions(name="openvino")]
    told = []
    for line in ("driver 1; NVIDIA L4", "driver 2; NVIDIA L4"):
        monkeypatch.setattr(candidates, "accelerators", lambda line=line: line)
        told.append([candidates.built_with(engine) for engine in (*on_units, *on_cpus)])
    assert all(one != other for one, other in zip(told[0][:4], told[1][:4], strict=True))
    assert told[0][4:] == told[1][4:]


def test_int8_for_tensorrt_has_16_bits_around_it_where_the_profile_says_so(tmp_path: Path) -> None:
    """Promise: the Q/DQ file is made once; the candidate that wants fp16 around it is built from its 16-bit form."""
    halved = TENSORRT.model_copy(
        update={"quantization": TENSORRT.quantization.model_copy(update={"float_type": "fp16"})}
    )
    made = nodes(recipe(tmp_path), profile(others=(halved,)))
    assert made["build:trt-int8"] == ("halve:trt", True)
    assert made["halve:trt"] == ("quantize:trt", True)
    assert made["build:int8"] == ("quantize", True)
    assert "halve" not in nodes(recipe(tmp_path), profile(others=(TENSORRT,)))
