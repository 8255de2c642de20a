"""The program's commands, end to end: one JSON document each, the question echoed, an end to what hangs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.ondevice.failure import Failure
from targets.ondevice.options import SCENARIOS, echo_of, parse
from targets.ondevice_pack import FILE_NAME

if TYPE_CHECKING:
    from pathlib import Path

Program = Callable[..., tuple[int, dict[str, Any], str]]
SOFTMAX = (
    '<ir_version: 10, opset_import: ["" : 18]> soft (float[batch, 64] x) => (float[batch, 64] y) { y = Softmax(x) }'
)
FIXED = '<ir_version: 10, opset_import: ["" : 18]> fixed (float[1, 8] x) => (float[1, 8] y) { y = Softmax(x) }'
ENDLESS = """
<ir_version: 10, opset_import: ["" : 18]>
endless (float[1] x) => (float[1] y) <int64 n = {1000000000000}, bool go = {1}>
{
    y = Loop <body = b (int64 i, bool c, float[1] s) => (bool d, float[1] t) { d = Identity(c) t = Sin(s) }> (n, go, x)
}
"""
SUBNORMAL = """
<ir_version: 10, opset_import: ["" : 18]>
tiny (float[batch, 4] x) => (float[batch, 4] y) <float w = {1e-40}, float up = {1e38}>
{
    small = Mul(x, w)
    y = Mul(small, up)
}
"""
SHORT = ("--warmup-s", "0.01", "--min-s", "0.02", "--min-iterations", "5", "--cap-s", "5")
SHAPES = {
    "latency": SHORT,
    "paced": (*SHORT, "--scenario", "paced", "--period-ms", "2"),
    "throughput": (*SHORT, "--scenario", "throughput", "--batch", "3", "--concurrency", "2"),
    "sustained": (*SHORT, "--scenario", "sustained", "--duration-s", "0.2"),
    "cold": ("--scenario", "cold"),
}
FIELDS = {
    "pid", "n", "inner_loops", "of_batches", "median_ns", "p90_ns", "p95_ns", "p99_ns", "min_ns", "max_ns", "mean_ns",
    "mad_ns", "iqr_ns", "rho1", "outliers", "samples_sum_ns", "loop_wall_ns", "cpu_ns", "overhead_ns", "invol_ctx",
    "steal_ticks", "psi_before", "psi_after", "raw", "raw_stride", "engine_sha256", "runtime_version", "import_ns",
    "load_ns", "first_ns", "warmup_n", "warmup_median_ns", "n_distinct", "mem", "outputs_sha256", "outputs_ok",
    "scenario", "scenario_result", "affinity", "minor_faults", "major_faults", "swap_bytes", "sentinel", "providers",
    "telemetry",
}  # fmt: skip


@pytest.fixture
def soft(make_engine: Callable[..., Path]) -> Path:
    data = np.random.default_rng(0).normal(size=(7, 64)).astype(np.float32)
    folder = make_engine(SOFTMAX, "soft", x=data)
    power = np.exp(data.astype(np.float64))
    np.savez(folder.parent / "expected.npz", **{"output.y": power / power.sum(axis=1, keepdims=True)})
    return folder


@pytest.mark.parametrize("kind", SCENARIOS)
def test_every_scenario_gives_a_whole_row(bundle: Path, program: Program, soft: Path, kind: str) -> None:
    """Each scenario's row has every field, right outputs for every sample, and its own result."""
    code, document, stderr = program(
        bundle, "measure", "soft", "--samples", "soft.npz", "--expected", "expected.npz", "--nonce", "abc",
        *SHAPES[kind], cwd=soft.parent,
    )  # fmt: skip
    assert code == 0, document
    row = document["result"]
    assert set(row) == FIELDS
    assert (document["nonce"], row["scenario"], row["affinity"]) == ("abc", kind, None)
    assert row["outputs_ok"] is True
    assert row["n"] == len(row["raw"]) > 0
    assert row["providers"] == ["CPUExecutionProvider"]
    assert row["sentinel"] == {"before": None, "after": None}
    assert stderr.startswith("median")
    result = row["scenario_result"]
    if kind == "latency":
        assert result is None
    elif kind == "paced":
        assert result["period_ns"] == 2_000_000
    elif kind == "throughput":
        assert result["ips"] == pytest.approx(result["inferences"] * 1e9 / result["wall_ns"])
        assert result["inferences"] == 3 * row["n"]
    elif kind == "sustained":
        assert row["loop_wall_ns"] >= 200_000_000
    else:
        assert row["raw"] == [result["load_ns"] + result["first_ns"]] == [row["load_ns"] + row["first_ns"]]
        assert result["page_cache"] in {"dropped", "warm"}


def test_wrong_outputs_show_in_every_stream(bundle: Path, program: Program, soft: Path) -> None:
    """One wrong value of one expected sample makes `outputs_ok` false, in batches and streams, too."""
    expected = dict(np.load(soft.parent / "expected.npz"))
    expected["output.y"][6, 3] += 0.01
    np.savez(soft.parent / "expected.npz", **expected)
    for kind in ("latency", "throughput"):
        code, document, _ = program(
            bundle, "measure", "soft", "--samples", "soft.npz", "--expected", "expected.npz", *SHAPES[kind],
            cwd=soft.parent,
        )  # fmt: skip
        assert (code, document["result"]["outputs_ok"]) == (0, False)


def test_the_sentinel_runs_when_asked(bundle: Path, program: Program, soft: Path) -> None:
    """`--sentinel before,after` gives both passes; calibrating gives the repeats to ask with."""
    code, document, _ = program(bundle, "sentinel")
    assert code == 0
    repeats = str(document["result"]["repeats"])
    code, document, _ = program(
        bundle, "measure", "soft", "--samples", "soft.npz", *SHORT, "--sentinel", "before,after", "--sentinel-repeats",
        repeats, cwd=soft.parent,
    )  # fmt: skip
    assert code == 0, document
    for when in ("before", "after"):
        assert document["result"]["sentinel"][when]["wall_ns"] > 0
        assert document["result"]["sentinel"][when]["cpu_ns"] > 0


def test_a_pinned_run_says_where(bundle: Path, program: Program, soft: Path) -> None:
    """With `--affinity` the row names the CPUs; one that does not exist is exit code 6."""
    last = max(os.sched_getaffinity(0))
    command = ("measure", "soft", "--samples", "soft.npz", *SHORT, "--affinity")
    code, document, _ = program(bundle, *command, str(last), cwd=soft.parent)
    assert (code, document["result"]["affinity"]) == (0, [last])
    code, document, _ = program(bundle, *command, "4000", cwd=soft.parent)
    assert code == 6
    assert "4000" in document["error"]["what"]


def test_a_fixed_batch_size_is_not_bent(bundle: Path, program: Program, make_engine: Callable[..., Path]) -> None:
    """An engine of batch size 1 refuses to be measured in batches of 3."""
    folder = make_engine(FIXED, "fixed", x=np.ones((4, 8), np.float32))
    command = ("measure", "fixed", "--samples", "fixed.npz")
    code, document, _ = program(bundle, *command, *SHAPES["throughput"], cwd=folder.parent)
    assert (code, document["error"]["what"]) == (3, "the engine's batch size is fixed")
    assert program(bundle, *command, *SHORT, cwd=folder.parent)[0] == 0


@pytest.mark.parametrize("limit_mb", [10, 140, 175])
def test_a_memory_limit_holds(bundle: Path, program: Program, soft: Path, limit_mb: int) -> None:
    """Under a limit that does not suffice the program still answers in JSON, as a matter of memory, not as a bug."""
    code, document, _ = program(
        bundle, "measure", "soft", "--samples", "soft.npz", *SHORT, "--memory-limit-mb", str(limit_mb), cwd=soft.parent
    )
    if limit_mb == 10:
        assert "too small" in document["error"]["what"]
    assert code in {0, 5}
    assert ("error" in document) == (code == 5)


@pytest.mark.parametrize("flush", [False, True])
def test_subnormal_arithmetic_is_the_engine_s_own_choice(
    bundle: Path, program: Program, make_engine: Callable[..., Path], *, flush: bool
) -> None:
    """Subnormals are kept or flushed as engine.json says, also after the sentinel: one session decides a process."""
    data = np.ones((2, 4), np.float32)
    folder = make_engine(SUBNORMAL, "tiny", {"denormal_as_zero": flush}, x=data)
    np.savez(folder.parent / "expected.npz", **{"output.y": np.full((2, 4), 0.0 if flush else 0.01)})
    code, document, _ = program(
        bundle, "measure", "tiny", "--samples", "tiny.npz", "--expected", "expected.npz", *SHORT,
        "--sentinel", "before", "--sentinel-repeats", "2", cwd=folder.parent,
    )  # fmt: skip
    assert code == 0, document
    assert document["result"]["outputs_ok"] is True


def test_a_hung_engine_is_ended_by_the_kernel(bundle: Path, tmp_path: Path) -> None:
    """An engine that never returns from C code is ended by `--limit-s`, with nothing on stdout."""
    folder = tmp_path / "endless"
    folder.mkdir()
    onnx.save(onnx.parser.parse_model(ENDLESS), str(folder / "engine.onnx"))
    spec = json.loads((bundle / "engine.json").read_text())
    spec["sha256"] = hashlib.sha256((folder / "engine.onnx").read_bytes()).hexdigest()
    spec["inputs"][0]["shape"] = [1]
    (folder / "engine.json").write_text(json.dumps(spec))
    np.savez(tmp_path / "endless.npz", x=np.ones(1, np.float32))
    done = subprocess.run(
        [sys.executable, "-I", str(bundle / FILE_NAME), "measure", "endless", "--samples", "endless.npz",
         "--limit-s", "3"],
        capture_output=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == -signal.SIGALRM
    assert done.stdout == b""


def test_waiting_for_a_file_is_ended_too(bundle: Path, tmp_path: Path) -> None:
    """A file that never opens (a pipe nobody writes to) ends the same way, even where the alarm was ignored before."""
    os.mkfifo(tmp_path / "in.npz")
    done = subprocess.run(
        ["/bin/sh", "-c", "trap '' ALRM; exec \"$@\"", "sh", sys.executable, "-I", str(bundle / FILE_NAME), "infer",
         str(bundle), "--inputs", "in.npz", "--out", "out.npz", "--limit-s", "1"],
        capture_output=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == -signal.SIGALRM


@pytest.mark.parametrize(
    "arguments",
    [
        ["facts"],
        ["facts", "--sys-root", "nowhere"],
        ["sentinel", "--repeats", "1"],
        ["verify"],
        ["verify", "absent"],
        ["infer", "absent", "--inputs", "x", "--out", "y"],
        ["measure", "absent"],
        ["layers", "absent", "--samples", "x"],
        ["calibrate", "absent", "--threads", "1"],
        ["energy", "absent", "--samples", "x"],
        ["build", "absent"],
        ["lock", "release", "--token", "0123456789abcdef", "--work", "absent"],
        ["fly"],
        ["measure", "e", "--period-ms", "3"],
    ],
    ids=" ".join,
)
def test_every_command_answers_once(bundle: Path, program: Program, tmp_path: Path, arguments: list[str]) -> None:
    """Every command, right or wrong, answers with one JSON document that echoes the nonce, and is no bug."""
    code, document, _ = program(bundle, *arguments, "--nonce", "c0ffee", cwd=tmp_path)
    assert document["nonce"] == "c0ffee"
    assert code in {0, 2, 3, 4, 5, 6}, document
    assert ("result" in document) == (code == 0)
    if code != 2:
        assert document["command"] == arguments[0]
    if "--sys-root" in arguments:
        assert document["result"]["sys_root"] == "nowhere"


def test_facts_name_every_runtime(bundle: Path, program: Program) -> None:
    """`facts` has a version or null for each runtime an engine may need, and no `sys_root` on a real machine."""
    facts = program(bundle, "facts")[1]["result"]
    assert {"onnxruntime", "numpy", "tensorrt", "tensorrt_rtx", "openvino"} <= set(facts)
    assert "sys_root" not in facts


@pytest.mark.parametrize(
    "arguments",
    [
        ["--scenario", "paced"],
        ["--scenario", "sustained"],
        ["--scenario", "latency", "--duration-s", "3"],
        ["--batch", "2"],
        ["--concurrency", "2"],
        ["--sentinel", "before"],
        ["--sentinel", "sometimes", "--sentinel-repeats", "1"],
        ["--sentinel", "before,before", "--sentinel-repeats", "1"],
        ["--limit-s", "0"],
        ["--limit-s", "nan"],
        ["--memory-limit-mb", "0"],
        ["--scenario", "paced", "--period-ms", "inf"],
    ],
    ids=" ".join,
)
def test_options_that_would_be_ignored_are_refused(arguments: list[str]) -> None:
    """An option that the scenario does not use, or one it lacks, is wrong usage: nothing is ignored or assumed."""
    with pytest.raises(Failure) as caught:
        parse(["measure", "e", *arguments])
    assert caught.value.exit_code == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=5)), st.text(min_size=1))
def test_the_nonce_is_found_in_any_command_line(rest: list[str], nonce: str) -> None:
    """Property: whatever else was typed, the nonce that follows the first --nonce is found; a missing one is empty."""
    rest = [word for word in rest if word != "--nonce"]
    assert echo_of([*rest, "--nonce", nonce, *rest]) == nonce
    assert echo_of(rest) == echo_of([*rest, "--nonce"]) == ""


def test_a_full_disk_is_no_bug(bundle: Path, tmp_path: Path) -> None:
    """When outputs cannot be written for want of space, exit code 5 and how much to free."""
    code = (
        "import errno, os, sys; from targets.ondevice import arrays, cli\n"
        "def full(*_, **__): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "arrays.np.savez = full\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "infer", str(bundle), "--inputs", str(bundle / "golden.npz"), "--out", "o.npz"],
        capture_output=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 5
    assert error["what"] == "the disk is full"
    assert "No space left on device" in error["why"]
    assert "free" in error["fix"]
    assert list(tmp_path.glob("o.npz*")) == []


def test_the_limit_ends_with_the_answer() -> None:
    """Where the program runs inside another process, no alarm is left behind."""
    code = (
        "import signal; from targets.ondevice import cli\n"
        "assert cli.main(['facts', '--limit-s', '50']) == 0\n"
        "assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
