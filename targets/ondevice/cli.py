"""The device program's commands; exactly one JSON document on stdout, one line for people on stderr."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from . import VERSION
from .failure import ENVIRONMENT, OWN_BUG, Failure

_USAGE = 2
GOLDEN = "golden.npz"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Failure(_USAGE, "the command line is not valid", message, "see `python ondevice.pyz --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ondevice.pyz", description="Checks and measures an engine on the device it runs on.")
    commands = parser.add_subparsers(dest="command", parser_class=_Parser)
    commands.required = True
    shared = _Parser(add_help=False)
    shared.add_argument("--nonce", default="", help="echoed in the answer")

    commands.add_parser("facts", parents=[shared], help="what this device is")

    verify = commands.add_parser("verify", parents=[shared], help="check a bundle: hashes, then golden samples")
    verify.add_argument("folder", nargs="?", default="", help="the bundle; default: the folder this program lies in")

    infer = commands.add_parser("infer", parents=[shared], help="run samples through an engine")
    infer.add_argument("folder", help="the engine folder")
    infer.add_argument("--inputs", required=True, help=".npz of arrays named like the inputs")
    infer.add_argument("--out", required=True, help=".npz to write")
    infer.add_argument("--batch", type=_positive_int, default=1)

    measure = commands.add_parser("measure", parents=[shared], help="latency and memory of an engine")
    measure.add_argument("folder", nargs="?", default="", help="the engine; default: the folder this program lies in")
    measure.add_argument("--samples", default="", help=".npz of real samples; default: the bundle's golden.npz")
    measure.add_argument("--engine-sha256", default="", help="refuse any other engine")
    measure.add_argument("--expected", default="", help=".npz of expected outputs (output.<name>)")
    measure.add_argument("--warmup-s", type=_seconds, default=0.5)
    measure.add_argument("--min-s", type=_seconds, default=1.5)
    measure.add_argument("--min-iterations", type=_positive_int, default=100)
    measure.add_argument("--cap-s", type=_seconds, default=30.0)
    return parser


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:  # noqa: PLR2004 - an hour; also refuses NaN
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600 seconds")
    return value


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns 0, 2 usage, 3 input, 4 refused, 5 environment, 6 device or 70 own bug."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    arguments = sys.argv[1:] if argv is None else argv
    # Native libraries may write to descriptor 1; only the JSON document goes there.
    sys.stdout.flush()
    answer = os.dup(1)
    os.dup2(2, 1)
    document: dict[str, Any] = {"program": "ondevice", "version": VERSION, "command": None, "nonce": ""}
    try:
        code = _answer(arguments, document)
        text = json.dumps(document, allow_nan=False, sort_keys=True) + "\n"
        with os.fdopen(os.dup(answer), "w", encoding="utf-8") as stream:
            stream.write(text)
    finally:
        sys.stdout.flush()
        os.dup2(answer, 1)
        os.close(answer)
    return code


def _answer(arguments: list[str], document: dict[str, Any]) -> int:
    try:
        options = _parser().parse_args(arguments)
        document.update(command=options.command, nonce=options.nonce)
        document["result"] = _run(options)
    except Failure as failure:
        _describe(document, failure)
        return failure.exit_code
    except MemoryError:
        short = Failure(ENVIRONMENT, "out of memory", "an allocation failed", "free memory, or build a smaller engine")
        _describe(document, short)
        return short.exit_code
    except Exception as error:  # noqa: BLE001 - the process border: even our own bug answers in JSON
        traceback.print_exc()
        document["error"] = {"what": "a bug in the device program", "why": repr(error)[:500], "fix": "report it"}
        return OWN_BUG
    return 0


def _describe(document: dict[str, Any], failure: Failure) -> None:
    document["error"] = {"what": failure.what, "why": failure.why, "fix": failure.fix}
    sys.stderr.write(f"FAILED: {failure.what}\n{failure.why}\n{failure.fix}\n")


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.command == "facts":
        return _facts()
    try:
        import numpy  # noqa: F401, ICN001 - only to say clearly that it is missing
    except ImportError as error:
        raise Failure(
            ENVIRONMENT, "numpy is not installed here", str(error), "pip install numpy onnxruntime"
        ) from error
    if options.command == "verify":
        return _verify(options)
    if options.command == "infer":
        from .infer import infer_file

        return infer_file(Path(options.folder), options.inputs, options.out, options.batch)
    return _measure(options)


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from .measure import Limits, measure_engine

    folder = _folder(options)
    limits = Limits(
        warmup_s=options.warmup_s,
        warmup_cap_s=max(10.0, options.warmup_s),
        min_s=options.min_s,
        min_iterations=options.min_iterations,
        cap_s=max(options.cap_s, options.min_s),
    )
    result = measure_engine(
        folder,
        options.samples or str(folder / GOLDEN),
        limits,
        engine_sha256=options.engine_sha256,
        expected=options.expected,
    )
    peak = result["mem"]["run_peak"]
    sys.stderr.write(
        "median {:.4g} ms, p90 {:.4g} ms over {} inferences in this one process{}\n".format(
            result["median_ns"] / 1e6,
            result["p90_ns"] / 1e6,
            result["n"] * result["inner_loops"],
            "" if peak is None else f"; peak memory {peak / 1e6:.1f} MB above the interpreter",
        )
    )
    return result


def _folder(options: argparse.Namespace) -> Path:
    """The folder asked for, else the one this program lies in; not resolved: a linked program's bundle is refused."""
    return Path(options.folder or os.path.dirname(os.path.abspath(sys.argv[0])))  # noqa: PTH100, PTH120


def _facts() -> dict[str, Any]:
    from .system import machine_facts

    facts = machine_facts()
    try:
        import numpy as np

        facts["numpy"] = np.__version__
    except ImportError:
        facts["numpy"] = None
    try:
        import onnxruntime

        facts["onnxruntime"] = onnxruntime.__version__
        facts["providers"] = onnxruntime.get_available_providers()
    except ImportError:
        facts.update(onnxruntime=None, providers=[])
    return facts


def _verify(options: argparse.Namespace) -> dict[str, Any]:
    from .verify import verify_bundle

    result = verify_bundle(_folder(options))
    worst = max(item["worst_error"] for item in result["outputs"].values())
    sys.stderr.write(
        "OK: {} files as listed, {} golden samples reproduced, worst error {:.3g} (onnxruntime {})\n".format(
            result["files"], result["samples"], worst, result["runtime_version"]
        )
    )
    return result
