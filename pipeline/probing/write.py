"""The profile that a probe writes: what was measured stands beside each choice, as comments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.probing.decide import Choice, Decision
from pipeline.probing.measure import NetTimes, Score
from pipeline.probing.trials import Machine
from targets.options import OnnxRuntimeOptions, TensorRtOptions

_WIDEST: Final = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a probe found.

    Attributes:
        name: Of the profile.
        utc: The day it was made.
        command: How to repeat it.
        machine: What was probed.
        nets: What was measured.
        scores: The trials that have a time on every net.
        decision: What follows.
    """

    name: str
    utc: str
    command: str
    machine: Machine
    nets: Sequence[NetTimes]
    scores: Sequence[Score]
    decision: Decision


def profile_text(found: Written) -> str:
    """The profile as TOML."""
    first, *others = found.decision.kept
    machine = found.machine
    runtimes = ", ".join(f"{name} {version}" for name, version in sorted(machine.runtimes.items()))
    lines = [
        f"# Measured on {found.utc} by `{_plain(found.command)}`.",
        f"# {_plain(machine.cpu)}; {_plain(runtimes)}; {machine.threads} thread{'s' * (machine.threads > 1)}, batch 1.",
        "#",
        *(f"# {line}".rstrip() for line in _table(found)),
        f"name = {_text(found.name)}",
        f"description = {_text(f'{_plain(machine.cpu)}, as measured')}",
        "",
        "[hardware]",
        f"arch = {_text(machine.arch)}",
        f"isa = {_list(machine.isa)}",
    ]
    lines += [f"cpus = {machine.cpus}"] if machine.cpus else []
    lines += (
        [f"memory_mb = {machine.memory_mb}  # all of it: lower it to what may be used"] if machine.memory_mb else []
    )
    lines += ["", *_engine("", first, found.scores)]
    for choice in others:
        lines += [
            "",
            "[[alternatives]]",
            f"label = {_text(choice.label)}",
            *_engine("alternatives.", choice, found.scores),
        ]
    width, why = channel_alignment(machine, first)
    lines += ["", "[pruning]", f"channel_alignment = {width}  # {why}", "", "[device]"]
    lines += [f"name = {_text(machine.device)}", f"connection = {_text(machine.kind)}"]
    return "\n".join(lines) + "\n"


def _table(found: Written) -> Iterator[str]:
    """Every engine that was measured, and why others were not."""
    names = [score.trial.name for score in found.scores]
    wide = max(map(len, names))
    yield f"{'':{wide}}  " + "  ".join(f"{net.net:>27}" for net in found.nets)
    for score in found.scores:
        yield f"{score.trial.name:{wide}}  " + "  ".join(_cell(score, net.net) for net in found.nets)
    yield "Time of one inference; in brackets: to the first line's, with its 95 % interval where there is one."
    for net in found.nets:
        if net.grade > "B":
            yield f"The measurement on {net.net} has grade {net.grade} (A is best): repeat it on a quiet machine."
    for choice in found.decision.slow:
        yield f"Left out: {choice.label} (on every net over 1.25 times the time of {found.decision.kept[0].label})."
    for net in found.nets:
        for name, why in net.dropped.items():
            yield _plain(f"Not measured on {net.net}: {name}: {why}")[:_WIDEST]


def _cell(score: Score, net: str) -> str:
    timing = score.times[net]
    around = "" if timing.low is None or timing.high is None else f" {timing.low:.2f}-{timing.high:.2f}"
    return f"{f'{timing.latency_ms:.3f} ms ({timing.ratio:.2f}{around})':>27}"


def _engine(at: str, choice: Choice, scores: Sequence[Score]) -> Iterator[str]:
    engine = choice.engine
    yield f"[{at}engine]"
    yield f"name = {_text(engine.name)}"
    if isinstance(engine, OnnxRuntimeOptions):
        yield f"providers = {_list(engine.providers)}"
    if not isinstance(engine, TensorRtOptions):
        yield f"threads = {engine.threads}"
    yield ""
    yield f"[{at}quantization]"
    yield f"scheme = {_text(choice.scheme)}"
    own = [score for score in scores if score.trial.label == choice.label]
    left = [score for score in own[1:] if score.trial.precision not in choice.precisions]
    why = f"  # {', '.join(score.trial.name for score in left)}: no faster than fp32" if left else ""
    yield f"precisions = {_list(choice.precisions)}{why}"


def channel_alignment(machine: Machine, first: Choice) -> tuple[int, str]:
    """Channels that fill the vector units, and which units."""
    isa = set(machine.isa)
    if isinstance(first.engine, TensorRtOptions):
        return 16, "tensor cores read 16 bytes at a time"
    widths: Mapping[str, tuple[int, str]] = {
        "avx512f": (16, "one 512-bit register of floats"),
        "avx2": (8, "one 256-bit register of floats"),
        "asimddp": (16, "one udot/sdot works on 16 bytes"),
    }
    found = next((width for feature, width in widths.items() if feature in isa), None)
    return found or ((8, "one umlal works on 8 bytes") if machine.arch == "aarch64" else (4, "128 bits of floats"))


def _plain(text: str) -> str:
    """One line without anything that ends a comment or a text."""
    return "".join(char if char.isprintable() else " " for char in text)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a TOML basic string takes the same escapes


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(_text(value) for value in values)}]"
