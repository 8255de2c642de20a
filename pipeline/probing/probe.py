"""Probes a machine: builds, measures, decides, and gives the profile that follows."""

from __future__ import annotations

import datetime as dt
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.probing.decide import Decision, decide
from pipeline.probing.measure import NetTimes, Score, scores_of, time_net
from pipeline.probing.nets import own_net, synthetic_nets
from pipeline.probing.prepare import prepare
from pipeline.probing.trials import Machine, machine_of, trials_for
from pipeline.probing.write import Written, profile_text
from targets.errors import DeviceError, UsageError
from targets.files import disk_guard
from targets.profile import profile_from

if TYPE_CHECKING:
    from pipeline.benchmarking.request import Progress
    from targets.devices.base import Device

SHORTEST_S: Final = 20.0
_LEAST_S: Final = 8.0  # of measuring a net, however long building took


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOptions:
    """How to probe.

    Attributes:
        name: Of the profile to write.
        budget_s: Wall clock of all of it, engines that are built on the device not counted; when building took most of
            it, each net is still measured for some seconds.
        model: The user's float ONNX model to measure instead of the two nets.
        threads: To measure with; one a core when None.
        command: How this probe was asked for, for the profile's first line.
    """

    name: str
    budget_s: float = 120.0
    model: Path | None = None
    threads: int | None = None
    command: str = "edgepress targets probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a probe found: the profile as TOML, and what it rests on."""

    text: str
    machine: Machine
    nets: tuple[NetTimes, ...]
    scores: tuple[Score, ...]
    decision: Decision

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "profile": tomllib.loads(self.text),
            "scores": {
                score.trial.name: {
                    "ratio": score.ratio,
                    "nets": {
                        net: {
                            "latency_ms": t.latency_ms,
                            "ratio": t.ratio,
                            "ci95": None if t.low is None else [t.low, t.high],
                        }
                        for net, t in score.times.items()
                    },
                }
                for score in self.scores
            },
            "dropped": {net.net: dict(net.dropped) for net in self.nets},
            "grades": {net.net: net.grade for net in self.nets},
        }


def probe(
    device: Device,
    options: ProbeOptions,
    *,
    state: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Probed:
    """Measures every engine that the machine has, in float and in each int8 dialect that its CPU computes rightly.

    Args:
        device: The machine; it is ours alone while it is measured.
        options: How.
        state: A private folder for what is known of devices and of interrupted campaigns; None keeps nothing.
        on_progress: Told before each process of a campaign.
        on_note: Told what else goes on.

    Raises:
        UsageError: The budget is too short.
        InputError: The user's model cannot be quantised or built.
        DeviceError: The machine has no runtime, or failed.
    """
    if not options.budget_s >= SHORTEST_S:
        raise UsageError(
            f"{options.budget_s:g} s are too short for a probe",
            "engines are built first",
            f"give {SHORTEST_S:g} or more",
        )
    end_s = time.monotonic() + options.budget_s
    on_note("asking what it is")
    machine = machine_of(device.name, device.kind, device.facts(), threads=options.threads)
    trials = trials_for(machine)
    with disk_guard("preparing the probe"), tempfile.TemporaryDirectory(prefix="edgepress-") as scratch:
        folder = Path(scratch)
        nets = (own_net(options.model),) if options.model is not None else synthetic_nets(folder)
        prepared = []
        for net in nets:
            (folder / net.name).mkdir()
            prepared.append(prepare(net, trials, machine, folder / net.name, on_note))
        timed = []
        for index, item in enumerate(prepared):
            on_note(f"measuring {item.net.name}")
            share_s = max(_LEAST_S, (end_s - time.monotonic()) / (len(prepared) - index))
            timed.append(time_net(item, device, budget_s=share_s, state=state, on_progress=on_progress))
    return conclude(machine, tuple(timed), scores_of(trials, timed), options)


def conclude(machine: Machine, nets: tuple[NetTimes, ...], scores: tuple[Score, ...], options: ProbeOptions) -> Probed:
    """The profile that follows from the times; loaded once, so that what is written is valid.

    Raises:
        DeviceError: No engine has a time on every net.
    """
    if not scores:
        raise DeviceError(
            f"nothing could be measured on device {machine.device!r}",
            "; ".join(why for net in nets for why in net.dropped.values()) or "every engine gave wrong outputs",
            "mend what is named, then probe again",
        )
    decision = decide(scores)
    day = dt.datetime.now(dt.UTC).date().isoformat()
    text = profile_text(
        Written(
            name=options.name,
            utc=day,
            command=options.command,
            machine=machine,
            nets=nets,
            scores=scores,
            decision=decision,
        )
    )
    profile_from("the probe's profile", _tables(text))
    return Probed(text=text, machine=machine, nets=nets, scores=scores, decision=decision)


def _tables(text: str) -> Mapping[str, Any]:
    return tomllib.loads(text)
