"""The device program's command line: what can be asked, and which values are refused before anything runs."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from .failure import Failure

USAGE = 2
SCENARIOS = ("latency", "paced", "throughput", "sustained", "cold")
_DAY_S = 86400.0


class Parser(argparse.ArgumentParser):
    """An argument parser that reports as the rest of the program does."""

    def error(self, message: str) -> NoReturn:
        """Raises a Failure of exit code 2."""
        raise Failure(USAGE, "the command line is not valid", message, "see `python ondevice.pyz --help`")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The checked options of one command.

    Raises:
        Failure: The command line is not valid (2).
    """
    options = _parser().parse_args(arguments)
    if options.command == "measure":
        _check_scenario(options)
    return options


def echo_of(arguments: list[str]) -> str:
    """The nonce of a command line that may not be valid, so that the answer to it is known as such."""
    place = arguments.index("--nonce") + 1 if "--nonce" in arguments else len(arguments)
    return arguments[place] if place < len(arguments) else ""


def _check_scenario(options: argparse.Namespace) -> None:
    """Refuses options that another scenario would need, and scenarios that lack one: nothing is ignored."""
    needs = {"period_ms": "paced", "duration_s": "sustained"}
    for name, scenario in needs.items():
        given = getattr(options, name) is not None
        if given != (options.scenario == scenario):
            flag = "--" + name.replace("_", "-")
            why = f"{flag} belongs to --scenario {scenario}, this is {options.scenario}"
            raise Failure(USAGE, "the command line is not valid", why, "give both, or neither of them")
    if options.scenario != "throughput" and (options.batch, options.concurrency) != (1, 1):
        why = f"--batch and --concurrency belong to --scenario throughput, this is {options.scenario}"
        raise Failure(USAGE, "the command line is not valid", why, "leave them out")
    if options.sentinel and not options.sentinel_repeats:
        why = "--sentinel needs --sentinel-repeats"
        raise Failure(USAGE, "the command line is not valid", why, "run `sentinel` once, and give its repeats")


def _parser() -> Parser:
    parser = Parser(prog="ondevice.pyz", description="Checks and measures an engine on the device it runs on.")
    commands = parser.add_subparsers(dest="command", parser_class=Parser)
    commands.required = True
    shared = Parser(add_help=False)
    shared.add_argument("--nonce", default="", help="echoed in the answer")
    shared.add_argument(
        "--limit-s", type=_limit, default=900.0, help="the kernel ends this process after so many seconds"
    )
    shared.add_argument("--sys-root", default="/", help="where /proc and /sys are read; the answer then says so")
    pinned = Parser(add_help=False)
    pinned.add_argument("--affinity", default="default", help="default, big, little, or CPUs such as 0,2-3")

    def add(name: str, text: str, *parents: Parser) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=[shared, *parents], help=text)

    add("facts", "what this device is")
    verify = add("verify", "check a bundle: hashes, then golden samples")
    verify.add_argument("folder", nargs="?", default="", help="the bundle; default: the folder this program lies in")
    infer = add("infer", "run samples through an engine")
    infer.add_argument("folder", help="the engine folder")
    infer.add_argument("--inputs", required=True, help=".npz of arrays named like the inputs")
    infer.add_argument("--out", required=True, help=".npz to write")
    infer.add_argument("--batch", type=_count, default=1)
    _add_measure(add("measure", "latency and memory of an engine", pinned))
    _add_work(add, pinned)
    _add_service(add)
    return parser


def _add_measure(measure: argparse.ArgumentParser) -> None:
    measure.add_argument("folder", nargs="?", default="", help="the engine; default: the folder this program lies in")
    measure.add_argument("--samples", default="", help=".npz of real samples; default: the bundle's golden.npz")
    measure.add_argument("--engine-sha256", default="", help="refuse any other engine")
    measure.add_argument("--expected", default="", help=".npz of expected outputs (output.<name>)")
    measure.add_argument("--warmup-s", type=_seconds, default=0.5)
    measure.add_argument("--min-s", type=_seconds, default=1.5)
    measure.add_argument("--min-iterations", type=_count, default=100)
    measure.add_argument("--cap-s", type=_seconds, default=30.0)
    measure.add_argument("--scenario", choices=SCENARIOS, default="latency")
    measure.add_argument("--period-ms", type=_period, help="paced: time from one scheduled start to the next")
    measure.add_argument("--batch", type=_count, default=1, help="throughput: samples in a call")
    measure.add_argument("--concurrency", type=_count, default=1, help="throughput: calls at the same time")
    measure.add_argument("--duration-s", type=_limit, help="sustained: how long in all")
    measure.add_argument("--memory-limit-mb", type=_count, help="limit of the address space, in 10^6 bytes")
    measure.add_argument("--sentinel", type=_sentinel, default=(), help="before, after, or before,after")
    measure.add_argument("--sentinel-repeats", type=_count, help="as `sentinel` gave them")


def _add_work(add: Any, pinned: Parser) -> None:  # noqa: ANN401 - a local function that adds a command
    sentinel = add("sentinel", "time of a fixed piece of arithmetic")
    sentinel.add_argument("--repeats", type=_count, help="one pass of so many; default: finds how many take 100 ms")
    layers = add("layers", "time of each node of an engine", pinned)
    layers.add_argument("folder", help="the engine folder")
    layers.add_argument("--samples", required=True, help=".npz of real samples")
    layers.add_argument("--iterations", type=_count, default=50)
    placement = add("placement", "which execution provider runs how many nodes of an engine")
    placement.add_argument("folder", help="the engine folder")
    placement.add_argument("--samples", default="", help=".npz of real samples; default: zeros")
    calibrate = add("calibrate", "what this device's arithmetic and memory can do", pinned)
    calibrate.add_argument("folder", help="the folder of probe models")
    calibrate.add_argument("--threads", type=_count, default=1)
    energy = add("energy", "energy of an engine, from a sensor of this device", pinned)
    energy.add_argument("folder", help="the engine folder")
    energy.add_argument("--samples", required=True, help=".npz of real samples")
    energy.add_argument("--windows", type=_count, default=5)
    energy.add_argument("--window-s", type=_limit, default=10.0)
    energy.add_argument("--idle-s", type=_limit, default=10.0)
    energy.add_argument("--period-ms", type=_period, help="inferences at this pace; default: back to back")
    build = add("build", "build a TensorRT engine on this device")
    build.add_argument("folder", help="the folder with model.onnx and build.json")


def _add_service(add: Any) -> None:  # noqa: ANN401 - a local function that adds a command
    lock = add("lock", "exclusive use of this device")
    lock.add_argument("action", choices=("take", "renew", "release"))
    lock.add_argument("--token", required=True, help="names who holds it")
    lock.add_argument("--holder", default="", help="who that is, for people")
    lock.add_argument("--lease-s", type=_limit, default=60.0, help="it is free again after so many seconds")
    lock.add_argument("--work", required=True, help="the folder that the device keeps for edgepress")
    watch = add("watch", "sample this device's sensors (started by `measure`)")
    watch.add_argument("--period-s", type=_limit, default=0.1)
    watch.add_argument("--out", required=True, help="the file to write samples to")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _seconds(text: str) -> float:
    return _between(text, 0.0, 3600.0, "seconds")


def _limit(text: str) -> float:
    return _between(text, 0.001, _DAY_S, "seconds")


def _period(text: str) -> float:
    return _between(text, 0.01, 60000.0, "milliseconds")


def _between(text: str, low: float, high: float, unit: str) -> float:
    value = float(text)
    if not low <= value <= high:  # also refuses NaN
        raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g} {unit}")
    return value


def _sentinel(text: str) -> tuple[str, ...]:
    when = tuple(text.split(","))
    if not set(when) <= {"before", "after"} or len(set(when)) != len(when):
        raise argparse.ArgumentTypeError(f"{text!r} is not before, after or before,after")
    return when
