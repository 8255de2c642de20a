"""The packed program end to end: its commands, its one JSON document, its exit codes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from targets.engines import engine
from targets.profile import load_profile

if TYPE_CHECKING:
    from pathlib import Path

Program = Callable[..., tuple[int, dict[str, Any], str]]
BIG_INTERMEDIATE = """
<ir_version: 10, opset_import: ["" : 18]>
big (float[batch, 1] x) => (float[batch, 1] y) <int64[2] shape = {1, 16777216}, int64[1] axis = {1}>
{
    wide = Expand(x, shape)
    y = ReduceMax(wide, axis)
}
"""


def test_facts(bundle: Path, program: Program) -> None:
    """`facts` says what the device is and echoes the nonce."""
    code, document, _ = program(bundle, "facts", "--nonce", "n1")
    assert code == 0
    assert (document["command"], document["nonce"]) == ("facts", "n1")
    assert document["result"]["cores"] >= 1
    assert document["result"]["onnxruntime"]


def test_verify_without_arguments(bundle: Path, program: Program) -> None:
    """`python ondevice.pyz verify` checks the folder the program lies in, from any working folder."""
    code, document, stderr = program(bundle, "verify")
    assert code == 0, document
    result = document["result"]
    assert result["files"] == 5
    assert result["samples"] == 4
    assert result["outputs"]["y"]["worst_error"] <= 1e-5
    assert result["outputs"]["y"]["argmax_agreement_ratio"] == 1.0
    assert stderr.startswith("OK: 5 files")
    assert len(stderr.splitlines()) == 1


def test_measure_without_arguments(bundle: Path, program: Program) -> None:
    """`python ondevice.pyz measure` measures the bundle the program lies in, on its golden samples."""
    code, document, stderr = program(bundle, "measure", "--warmup-s", "0.01", "--min-s", "0.01")
    assert code == 0, document
    assert document["result"]["n_distinct"] == 4
    assert "median" in stderr
    assert len(stderr.splitlines()) == 1


def test_verify_leaves_no_trace(bundle: Path, program: Program) -> None:
    """Verifying writes nothing into the bundle, so it can be verified again."""
    before = sorted(path.name for path in bundle.rglob("*"))
    program(bundle, "verify", flags=())
    code, _, _ = program(bundle, "verify", flags=())
    assert code == 0
    assert sorted(path.name for path in bundle.rglob("*")) == before


@pytest.mark.parametrize("name", ["engine.onnx", "golden.npz", "engine.json", "inspect.json"])
def test_a_flipped_bit_is_refused(bundle: Path, program: Program, name: str) -> None:
    """One bit flipped in any file: exit code 4, the file named."""
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 3] ^= 4
    (bundle / name).write_bytes(data)
    code, document, stderr = program(bundle, "verify")
    assert code == 4
    assert name in document["error"]["what"]
    assert stderr.splitlines()[0] == f"FAILED: {document['error']['what']}"


def test_wrong_golden_outputs_fail(bundle: Path, program: Program, reseal: Callable[[Path], None]) -> None:
    """Outputs that the engine does not give end in exit code 6, with the sample and both errors named."""
    golden = dict(np.load(bundle / "golden.npz"))
    golden["output.y"][2, 1] += 0.01
    np.savez(bundle / "golden.npz", **golden)
    reseal(bundle)
    code, document, _ = program(bundle, "verify")
    assert code == 6
    assert "'y'" in document["error"]["what"]
    assert "sample 2 is off by 0.01" in document["error"]["why"]


def test_infer_writes_what_the_engine_gives(bundle: Path, program: Program, tmp_path: Path) -> None:
    """`infer` runs every sample, in batches, and its outputs are the golden ones."""
    golden = np.load(bundle / "golden.npz")
    np.savez(tmp_path / "in.npz", x=golden["input.x"])
    code, document, _ = program(
        bundle, "infer", str(bundle), "--inputs", "in.npz", "--out", "out.npz", "--batch", "3", cwd=tmp_path
    )
    assert code == 0, document
    assert document["result"]["samples"] == 4
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["y"], golden["output.y"], rtol=1e-5)


def test_peak_memory_of_the_run_is_seen_and_not_billed_to_the_load(
    bundle: Path, program: Program, tmp_path: Path
) -> None:
    """64 MiB touched for one operator are in run_peak, and not in load_peak."""
    onnx.save(onnx.parser.parse_model(BIG_INTERMEDIATE), str(tmp_path / "big.onnx"))
    engine("onnxruntime").build(tmp_path / "big.onnx", load_profile("host"), tmp_path / "e", precision="fp32")
    np.savez(tmp_path / "in.npz", x=np.ones((2, 1), np.float32))
    code, document, _ = program(
        bundle, "measure", "e", "--samples", "in.npz", "--warmup-s", "0", "--min-s", "0", "--min-iterations", "3",
        cwd=tmp_path,
    )  # fmt: skip
    assert code == 0, document
    memory = document["result"]["mem"]
    if not memory["peaks_split"]:
        pytest.skip("this kernel does not let a process reset its peak")
    assert memory["load_peak"] < 60 << 20
    assert memory["run_peak"] > memory["load_peak"] + (50 << 20)


def test_a_very_short_engine_is_timed_in_batches(bundle: Path, program: Program, tmp_path: Path) -> None:
    """Where one call is too short for the clock, a sample holds several calls and says so."""
    np.savez(tmp_path / "in.npz", x=np.ones((2, 3), np.float32))
    code, document, _ = program(
        bundle, "measure", str(bundle), "--samples", "in.npz", "--warmup-s", "0.01", "--min-s", "0.01",
        "--min-iterations", "5", cwd=tmp_path,
    )  # fmt: skip
    run = document["result"]
    assert code == 0
    assert run["of_batches"] is (run["inner_loops"] > 1)
    assert run["median_ns"] * run["inner_loops"] >= 50 * run["overhead_ns"] * 0.5


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["measure", "e", "--min-s", "-1"], ["infer", "e", "--inputs", "a", "--out", "b", "--batch", "0"]],
)
def test_a_wrong_command_line_answers_in_json(bundle: Path, program: Program, arguments: list[str]) -> None:
    """Wrong usage is exit code 2 and still one JSON document."""
    code, document, _ = program(bundle, *arguments)
    assert code == 2
    assert set(document["error"]) == {"what", "why", "fix"}


def test_without_the_runtime_the_pip_line_is_told(bundle: Path, program: Program) -> None:
    """Where numpy and onnxruntime are missing, exit code 6 and the line to type."""
    code, document, _ = program(bundle, "verify", flags=("-I", "-S"))
    assert code == 6
    assert document["error"]["fix"].startswith("pip install numpy onnxruntime")


def test_the_answer_is_the_only_thing_on_stdout(bundle: Path, program: Program, tmp_path: Path) -> None:
    """An engine that cannot be opened gives one JSON document, however much the runtime complains."""
    spec = json.loads((bundle / "engine.json").read_text())
    (bundle / "engine.onnx").write_bytes(b"\x08\x0a not a model")
    spec["sha256"] = hashlib.sha256((bundle / "engine.onnx").read_bytes()).hexdigest()
    (bundle / "engine.json").write_text(json.dumps(spec))
    np.savez(tmp_path / "in.npz", x=np.ones((2, 3), np.float32))
    code, document, _ = program(bundle, "measure", str(bundle), "--samples", "in.npz", cwd=tmp_path)
    assert code == 6
    assert f"onnxruntime=={spec['runtime_version']}" in document["error"]["fix"]


def test_no_telemetry_is_written(
    bundle: Path, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program switches the runtime's telemetry off by itself: nothing appears in the user's home."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("HOME", str(home))
    code, _, _ = program(bundle, "verify")
    assert code == 0
    assert list(home.iterdir()) == []
