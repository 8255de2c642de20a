"""The campaign against a synthetic device with its own clock: order, stop, budget, repetition, noise, honesty."""

from __future__ import annotations

import ast
import datetime as dt
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.benchmarking import blocks, campaign, raw
from pipeline.benchmarking.analysis import find_comparison
from pipeline.benchmarking.campaign import TWIN, CampaignOptions, Entrant, Scenario, run_campaign
from pipeline.benchmarking.known import Noise, recall_noise, remember_noise
from pipeline.benchmarking.modes import MODES
from targets.errors import DeviceError, InputError, RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

Make = Any  # the fixture that makes a synthetic device
Clock = Any  # its time
OWN = ("blocks", "campaign", "document", "journal", "known", "preflight", "raw", "request", "rows", "staging")
WALL_CLOCKS = {"now", "utcnow", "today", "time_ns", "time", "localtime", "gmtime"}
LONG = CampaignOptions(budget_s=1000, seed=1)
TODAY = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)


def _noisy(name: str, block: int) -> float:
    return {"fp32": 2e6, "int8": 1e6}[name] * (1 + 0.2 * (block % 3))


def _know(state: Path, utc: dt.datetime | None = None) -> Path:
    """A state folder in which the synthetic device's noise is known."""
    when = (utc or dt.datetime.now(dt.UTC)).isoformat(timespec="seconds")
    remember_noise(state, "f", Noise(low=0.995, high=1.004, ratio=1.0, blocks=7, utc=when))
    return state


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return _know(tmp_path / "state")


def test_it_stops_when_the_interval_is_reached(synthetic: Make, entrants: list[Entrant]) -> None:
    """A steady machine needs seven blocks, says that the interval was reached, and gives the verdict both ways."""
    found = run_campaign(entrants, synthetic(), LONG)
    assert found["campaign"]["blocks"] == 7
    assert found["campaign"]["stop"] == "interval"
    assert found["quality"]["grade"] == "A"
    assert found["results"]["int8"]["latency_ms"]["value"] == pytest.approx(1.001, rel=1e-3)
    comparison = find_comparison(found, "int8", "fp32")
    assert (comparison["verdict"], comparison["ratio"]) == ("faster", pytest.approx(0.5))
    mirrored = find_comparison(found, "fp32", "int8")
    assert (mirrored["verdict"], mirrored["ratio"]) == ("slower", pytest.approx(2.0))
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("budget_s", [3.0, 6.0, 20.0, 45.0])
def test_the_budget_holds(clock: Clock, synthetic: Make, entrants: list[Entrant], budget_s: float) -> None:
    """On a noisy machine no process starts after the budget, and the campaign says that the budget ended it."""
    begin, latest = clock.now_s, []

    def note(command: list[str]) -> None:
        if command[0] == "measure":
            latest.append(clock.now_s - begin)

    device = synthetic(_noisy)
    device.before = note
    found = run_campaign(entrants, device, CampaignOptions(budget_s=budget_s, seed=1))
    assert max(latest) < budget_s
    assert found["campaign"]["stop"] == "budget"
    assert found["campaign"]["blocks"] == len(found["campaign"]["order"]) >= 1
    assert {run["block"] for run in found["runs"] if "discarded" not in run} == set(range(found["campaign"]["blocks"]))


@pytest.mark.parametrize("period_ms", [33.3, 1000.0])
def test_the_budget_holds_within_a_process(
    clock: Clock, synthetic: Make, entrants: list[Entrant], period_ms: float
) -> None:
    """At a slow pace the longest that each timed loop may take still fits into what is left of the budget."""
    begin, ends = clock.now_s, []

    def take_the_longest(command: list[str]) -> None:
        if command[0] == "measure":
            options = dict(zip(command[2::2], command[3::2], strict=False))
            warm_s, cap_s = float(options["--warmup-s"]), float(options["--cap-s"])
            clock.now_s += warm_s + cap_s - float(options["--min-s"])  # the pace is warmed up to as well
            ends.append(clock.now_s + 0.5 + warm_s + float(options["--min-s"]) - begin)

    device = synthetic(scenario_result={"period_ns": 1, "late_n": 0, "latency_from_schedule": True})
    device.before = take_the_longest
    options = CampaignOptions(budget_s=12, mode="quick", scenario=Scenario(kind="paced", period_ms=period_ms))
    found = run_campaign(entrants, device, options)
    assert max(ends) <= 12
    assert found["campaign"]["blocks"] == 3


@pytest.mark.parametrize("budget_s", [20, 60])
def test_a_small_budget_holds_the_first_look(synthetic: Make, entrants: list[Entrant], budget_s: float) -> None:
    """The lengths of a process are fitted to the budget: 20 s hold the seven blocks of two engines."""
    found = run_campaign(entrants, synthetic(), CampaignOptions(budget_s=budget_s, seed=1))
    assert found["campaign"]["blocks"] == 7
    assert found["campaign"]["stop"] == "interval"
    assert found["campaign"]["noise_learnt"] is (budget_s == 60)


def test_few_blocks_give_no_verdict(synthetic: Make, entrants: list[Entrant]) -> None:
    """Below three blocks nothing is claimed, however large the difference, and a warning says why."""
    found = run_campaign(entrants, synthetic(), CampaignOptions(budget_s=3, seed=1))
    assert found["campaign"]["blocks"] < 3
    assert find_comparison(found, "int8", "fp32")["verdict"] == "not shown"
    assert "W-FEW" in {warning["code"] for warning in found["warnings"]}


def test_a_budget_below_one_block_gives_one_block(synthetic: Make, entrants: list[Entrant]) -> None:
    """However small the budget, each engine runs once: figures without an interval, no verdict, and it says so."""
    found = run_campaign(entrants, synthetic(), CampaignOptions(budget_s=0.5, seed=1))
    assert found["campaign"]["blocks"] == 1
    assert found["campaign"]["stop"] == "budget"
    assert found["results"]["int8"]["latency_ms"]["ci95"] is None
    assert find_comparison(found, "int8", "fp32")["verdict"] == "not shown"
    assert "W-FEW" in {warning["code"] for warning in found["warnings"]}


def test_order_is_random_balanced_and_seeded(synthetic: Make, entrants: list[Entrant], known: Path) -> None:
    """Every block runs each engine once; each second block reverses the one before; the seed decides."""
    three = [*entrants, Entrant(name="again", folder=entrants[0].folder, samples=entrants[0].samples)]

    def order(seed: int) -> list[list[str]]:
        options = CampaignOptions(budget_s=1000, seed=seed)
        found: list[list[str]] = run_campaign(three, synthetic(_noisy), options, state=known)["campaign"]["order"]
        return found

    first = order(1)
    assert len(first) == MODES["default"].looks[-1]
    assert all(sorted(block) == ["again", "fp32", "int8"] for block in first)
    assert all(first[i + 1] == first[i][::-1] for i in range(0, len(first), 2))
    assert order(1) == first
    assert order(2) != first
    assert len({tuple(block) for block in first}) > 2


def test_changing_outputs_void_the_engine(synthetic: Make, entrants: list[Entrant]) -> None:
    """An engine whose outputs differ between processes gets grade F and no comparison."""
    device = synthetic(outputs_sha256=lambda name, block: f"{name}{block if name == 'int8' else 0}")
    found = run_campaign(entrants, device, LONG)
    assert found["quality"]["grade"] == "F"
    assert found["results"]["int8"]["outputs_ok"] is False
    with pytest.raises(InputError, match="not compared"):
        find_comparison(found, "int8", "fp32")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"invol_ctx": 100}, "W-NOISY-CPU"),
        ({"psi_after": 30.0}, "W-NOISY-CPU"),
        ({"cpu_ns": 10**8}, "W-NOISY-CPU"),
        ({"iqr_ns": 10**6}, "W-DISPERSION"),
        ({"raw": [1000] * 100 + [1300] * 100}, "W-UNSTEADY"),
        ({"n_distinct": 3}, "W-SAME-INPUT"),
        ({"outputs_ok": False}, "W-OUTPUT"),
    ],
)
def test_each_condition_has_its_warning(
    synthetic: Make, entrants: list[Entrant], changes: dict[str, Any], code: str
) -> None:
    """A steady campaign has no warning; a disturbed row brings the one that names it, with evidence and fix."""
    assert run_campaign(entrants, synthetic(), LONG)["warnings"] == []
    found = run_campaign(entrants, synthetic(**changes), LONG)
    assert code in {warning["code"] for warning in found["warnings"]}
    assert all(warning["evidence"] and warning["fix"] for warning in found["warnings"])
    assert TWIN not in {warning["engine"] for warning in found["warnings"]}


def test_a_busy_virtual_machine_is_named(clock: Clock, synthetic: Make, entrants: list[Entrant]) -> None:
    """A device that never gets quiet is waited for at most 5 s, measured all the same, and marked."""
    device = synthetic()
    device.facts_raw.update(psi_cpu_some_avg10=60.0, virtualised=True, governor="powersave")
    found = run_campaign(entrants, device, LONG)
    assert found["campaign"]["quiet_at_start"] is False
    assert 2 < sum(clock.slept_s) <= 5
    assert {"W-VIRTUAL", "W-GOVERNOR"} <= {warning["code"] for warning in found["warnings"]}
    assert found["quality"]["grade"] == "B"


@pytest.mark.parametrize(
    ("facts", "words"),
    [({"battery_pct": 12}, "battery"), ({"thermal_critical": True, "temp_c": 101.0}, "critically hot")],
)
def test_hard_faults_refuse(synthetic: Make, entrants: list[Entrant], facts: dict[str, Any], words: str) -> None:
    """A device that must not be measured now is refused before any engine runs."""
    device = synthetic()
    device.facts_raw.update(facts)
    with pytest.raises(DeviceError, match=words):
        run_campaign(entrants, device, LONG)
    assert device.measured == []


def test_another_engine_file_is_refused(synthetic: Make, entrants: list[Entrant]) -> None:
    """An engine file that is not the one that was built is never sent to a device."""
    (entrants[1].folder / "engine.onnx").write_bytes(b"something else")
    device = synthetic()
    with pytest.raises(RefusedError, match="not the one that was built"):
        run_campaign(entrants, device, LONG)
    assert device.files == set()


def test_raw_samples_round_trip(synthetic: Make, entrants: list[Entrant], tmp_path: Path, known: Path) -> None:
    """The side file holds every sample; benchmark.json holds none; a damaged side file is an input error."""
    path = tmp_path / "raw.json.gz"
    device = synthetic(raw=lambda name, block: [3, 1, 2 + block])
    found = run_campaign(entrants, device, LONG, raw_path=path, state=known)
    rows = raw.read_raw(path)
    assert len(rows) == len(found["runs"]) == 14
    assert [row["raw_ns"] for row in rows] == [[3, 1, 2 + row["block"]] for row in rows]
    assert not any("raw" in run for run in found["runs"])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"raw\.json\.gz"):
        raw.read_raw(path)


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        (Scenario(kind="paced", period_ms=1e-6), r"1e-06 is out of reach"),
        (Scenario(kind="paced", period_ms=1e6), r"1e\+06 is out of reach"),
        (Scenario(kind="throughput", concurrency=100_000), "give 256 or less"),
        (Scenario(kind="throughput", batch=10**8), "give 65536 or less"),
    ],
)
def test_absurd_scenarios_are_refused(synthetic: Make, entrants: list[Entrant], scenario: Scenario, words: str) -> None:
    """What no device could do is an input error at once, not a fault of the device minutes later."""
    device = synthetic()
    with pytest.raises(InputError, match=words):
        run_campaign(entrants, device, CampaignOptions(scenario=scenario))
    assert device.commands == []


def test_what_cannot_be_done_is_refused_with_every_fault(synthetic: Make, entrants: list[Entrant]) -> None:
    """Nothing to measure, names that clash and options that do not fit are input errors, before a device is touched."""
    device = synthetic()
    with pytest.raises(InputError, match="nothing to measure"):
        run_campaign([], device, LONG)
    clash = [entrants[0], entrants[0], Entrant(name=TWIN, folder=entrants[1].folder, samples=entrants[1].samples)]
    options = CampaignOptions(budget_s=-1, affinity="fast; rm", scenario=Scenario(kind="paced", batch=2))
    with pytest.raises(InputError) as error:
        run_campaign(clash, device, options)
    assert {fault.where for fault in error.value.faults} == {
        "engines", "budget_s", "affinity", "scenario.period_ms", "scenario.batch",
    }  # fmt: skip
    with pytest.raises(UsageError, match="rigorous"):
        run_campaign(entrants, device, CampaignOptions(mode="rigourous"))  # type: ignore[arg-type]
    assert device.files == set()


def _slow_sentinel(factor: float, passes: set[int]) -> Callable[[str, int], dict[str, Any]]:
    """A sentinel that is slower by ``factor`` in the passes of those numbers."""

    def sentinel(name: str, finished: int) -> dict[str, Any]:
        wall = round(1e8 * (factor if finished in passes else 1.0))
        return {"before": {"wall_ns": wall, "cpu_ns": wall}, "after": None}

    return sentinel


def test_a_disturbed_block_is_repeated(clock: Clock, synthetic: Make, entrants: list[Entrant], known: Path) -> None:
    """A block whose sentinel is over 10 % slow is repeated after a pause; the disturbed attempt stays visible."""
    found = run_campaign(entrants, synthetic(sentinel=_slow_sentinel(1.2, {2})), LONG, state=known)
    discarded = [run for run in found["runs"] if "discarded" in run]
    assert [(run["block"], run["attempt"], run["discarded"]) for run in discarded] == [(2, 0, "sentinel")] * 2
    again = [run for run in found["runs"] if run["block"] == 2 and "discarded" not in run]
    assert [run["attempt"] for run in again] == [1, 1]
    assert found["campaign"]["blocks"] == 7
    assert found["campaign"]["repeated"] == {"sentinel": 1, "warmup": 0}
    assert clock.slept_s == [30.0]
    assert found["results"]["fp32"]["latency_ms"]["k"] == 7


def test_a_block_is_repeated_twice_at_most(clock: Clock, synthetic: Make, entrants: list[Entrant], known: Path) -> None:
    """A device that stays slow is measured all the same: each block two repeats, then kept and marked, and warned."""
    device = synthetic(sentinel=_slow_sentinel(1.2, set(range(1000))))
    found = run_campaign(entrants, device, CampaignOptions(budget_s=10_000, seed=1), state=known)
    assert found["campaign"]["blocks"] == 7
    assert found["campaign"]["repeated"]["sentinel"] == 14
    assert all(run["marked"] == "sentinel" for run in found["runs"] if "discarded" not in run)
    assert max(clock.slept_s) <= 30
    assert "W-THROTTLE" in {warning["code"] for warning in found["warnings"]}


def test_repeats_never_cost_the_first_look(clock: Clock, synthetic: Make, entrants: list[Entrant], known: Path) -> None:
    """Within a small budget a block is repeated only while the budget still holds the seven blocks."""
    device = synthetic(sentinel=_slow_sentinel(1.2, set(range(1000))))
    begin = clock.now_s
    found = run_campaign(entrants, device, CampaignOptions(budget_s=30, seed=1), state=known)
    assert found["campaign"]["blocks"] >= 7
    assert clock.now_s - begin < 31


def test_a_tenth_is_not_slow(synthetic: Make, entrants: list[Entrant], known: Path) -> None:
    """A sentinel 10 % slower than at the start is no disturbance."""
    found = run_campaign(entrants, synthetic(sentinel=_slow_sentinel(1.1, {0, 3})), LONG, state=known)
    assert found["campaign"]["repeated"]["sentinel"] == 0


def _ramp(name: str, finished: int) -> list[int]:
    warm = 1000 if name == "fp32" else 500
    return [2 * warm] * 60 + [warm] * 140


def test_a_ramp_lengthens_the_warm_up_of_all(synthetic: Make, entrants: list[Entrant], known: Path) -> None:
    """When one engine is still warming up in the first block, that block is repeated with twice the warm-up for all."""
    flat = [1000] * 200
    device = synthetic(raw=lambda name, finished: _ramp(name, 0) if name == "int8" and finished == 0 else flat)
    found = run_campaign(entrants, device, LONG, state=known)
    given = [float(command[command.index("--warmup-s") + 1]) for command in device.commands]
    assert given[:2] == [given[0]] * 2
    assert given[2:] == [2 * given[0]] * (len(given) - 2)
    assert found["campaign"]["repeated"] == {"sentinel": 0, "warmup": 1}
    assert found["campaign"]["warmup_s"] == 2 * given[0]
    first = [run for run in found["runs"] if run.get("discarded") == "warmup"]
    assert {run["engine"]: run["class"] for run in first} == {"fp32": "flat", "int8": "warmup"}


def test_warm_up_is_lengthened_twice_at_most(synthetic: Make, entrants: list[Entrant], known: Path) -> None:
    """An engine that never settles is kept after two repeats, and warned of."""
    found = run_campaign(entrants, synthetic(raw=_ramp), LONG, state=known)
    assert found["campaign"]["repeated"]["warmup"] == 2
    assert found["campaign"]["warmup_s"] == 4 * MODES["default"].warmup_s
    assert "W-UNSTEADY" in {warning["code"] for warning in found["warnings"]}


def test_noise_is_learnt_once_and_hidden(synthetic: Make, entrants: list[Entrant], tmp_path: Path) -> None:
    """The first campaign on a device runs an engine against itself; it shows under noise only, and is remembered."""
    state = tmp_path / "state"
    varied = {"fp32": 1.0, "int8": 0.5}
    device = synthetic(lambda name, finished: 2e6 * varied[name] * (1 + 0.001 * (len(device.measured) % 3)))
    first = run_campaign(entrants, device, LONG, state=state)
    assert first["campaign"]["noise_learnt"] is True
    assert all(sorted(block) == [TWIN, "fp32", "int8"] for block in first["campaign"]["order"])
    assert set(first["results"]) == {"fp32", "int8"} == set(first["engines"])
    assert {(item["a"], item["b"]) for item in first["comparison"]} == {("int8", "fp32")}
    assert recall_noise(state, "f", dt.datetime.now(dt.UTC)) is not None
    second = run_campaign(entrants, device, LONG, state=state)
    assert second["campaign"]["noise_learnt"] is False
    assert all(sorted(block) == ["fp32", "int8"] for block in second["campaign"]["order"])
    assert second["noise"]["aa_ratio_ci"] == first["noise"]["aa_ratio_ci"] != [1.0, 1.0]


def test_noise_of_a_busy_device_is_not_remembered(synthetic: Make, entrants: list[Entrant], tmp_path: Path) -> None:
    """What was learnt while the device was not quiet serves that campaign only."""
    device = synthetic()
    device.facts_raw.update(psi_cpu_some_avg10=60.0)
    assert run_campaign(entrants, device, LONG, state=tmp_path)["campaign"]["noise_learnt"] is True
    assert recall_noise(tmp_path, "f", dt.datetime.now(dt.UTC)) is None


def test_noise_is_learnt_again(synthetic: Make, entrants: list[Entrant], tmp_path: Path) -> None:
    """Noise learnt over 30 days ago does not count, and a rigorous campaign always learns it anew."""
    now = dt.datetime.now(dt.UTC)
    old = _know(tmp_path / "old", now - dt.timedelta(days=31))
    assert run_campaign(entrants, synthetic(), LONG, state=old)["campaign"]["noise_learnt"] is True
    fresh = _know(tmp_path / "fresh", now - dt.timedelta(days=29))
    assert run_campaign(entrants, synthetic(), LONG, state=fresh)["campaign"]["noise_learnt"] is False
    rigorous = CampaignOptions(budget_s=1000, mode="rigorous")
    assert run_campaign(entrants, synthetic(), rigorous, state=fresh)["campaign"]["noise_learnt"] is True


@pytest.mark.parametrize("mode", ["quick", "default", "rigorous"])
def test_modes(synthetic: Make, entrants: list[Entrant], known: Path, mode: str) -> None:
    """Each mode runs its blocks, iterations and lengths; quick gives no verdict."""
    options = CampaignOptions(budget_s=1000, mode=mode)  # type: ignore[arg-type]
    device = synthetic()
    found = run_campaign(entrants, device, options, state=known)
    spec = MODES[mode]
    assert found["campaign"]["blocks"] == spec.looks[0]
    command = device.commands[-1]
    given = {key: float(command[command.index(f"--{key}") + 1]) for key in ("warmup-s", "min-s", "min-iterations")}
    assert given == {"warmup-s": spec.warmup_s, "min-s": spec.timed_s, "min-iterations": spec.min_iterations}
    verdict = find_comparison(found, "int8", "fp32")["verdict"]
    assert verdict == ("not shown" if mode == "quick" else "faster")


def test_long_measurements_are_not_cut_short(synthetic: Make, entrants: list[Entrant]) -> None:
    """A budget that cannot hold a rigorous or sustained campaign is refused, with the budget to set."""
    device = synthetic()
    with pytest.raises(InputError, match=r"budget_s to at least 378"):
        run_campaign(entrants, device, CampaignOptions(budget_s=60, mode="rigorous"))
    sustained = Scenario(kind="sustained", duration_s=100)
    with pytest.raises(InputError, match=r"budget_s to at least 215"):
        run_campaign(entrants, device, CampaignOptions(budget_s=60, scenario=sustained))
    assert device.measured == []


@pytest.mark.parametrize(
    ("scenario", "words", "count"),
    [
        (Scenario(kind="paced", period_ms=33.3), "--scenario paced --warmup-s 0.5 --period-ms 33.3", 7),
        (Scenario(kind="throughput", batch=4, concurrency=2), "--batch 4 --concurrency 2", 7),
        (Scenario(kind="sustained", duration_s=100), "--scenario sustained --warmup-s 0.5 --duration-s 100", 1),
        (Scenario(kind="cold"), "--scenario cold", 7),
    ],
)
def test_scenarios(synthetic: Make, entrants: list[Entrant], scenario: Scenario, words: str, count: int) -> None:
    """Every scenario runs in interleaved blocks with its own options; only latency is measured against itself."""
    wanted = {
        "paced": {"period_ns": 33_300_000, "late_n": 0, "latency_from_schedule": True},
        "throughput": {"batch": 4, "concurrency": 2, "inferences": 800, "wall_ns": 10**9, "ips": 800.0},
        "sustained": {
            "first_minute_median_ns": 10**6, "last_minute_median_ns": 10**6, "throttled_after_s": None,
        },
        "cold": {"page_cache": "warm", "load_ns": 5 * 10**6, "first_ns": 2 * 10**6},
    }  # fmt: skip
    device = synthetic(scenario_result=wanted[scenario.kind])
    options = CampaignOptions(budget_s=1000, scenario=scenario, affinity="0-1", memory_limit_mb=500)
    found = run_campaign(entrants, device, options)
    assert found["campaign"]["blocks"] == count
    assert found["campaign"]["noise_learnt"] is False
    assert found["scenario"]["kind"] == scenario.kind
    assert all(words in " ".join(command) for command in device.commands)
    assert all("--affinity 0-1 --memory-limit-mb 500" in " ".join(command) for command in device.commands)


@pytest.mark.parametrize(
    "changes",
    [{"raw": []}, {"raw": [1, -1]}, {"median_ns": "fast"}, {"mem": {}}, {"outputs_ok": 1}, {"n": 0}, {"raw": [True]}],
)
def test_garbage_is_an_error_of_the_device(synthetic: Make, entrants: list[Entrant], changes: dict[str, Any]) -> None:
    """A row that lacks a figure, or has one that cannot be, is refused and named; nothing is computed with it."""
    with pytest.raises(DeviceError, match=next(iter(changes))):
        run_campaign(entrants, synthetic(**changes), LONG)


def test_an_answer_for_another_engine_is_refused(synthetic: Make, entrants: list[Entrant]) -> None:
    """A device that measured something else than asked gives no result."""
    with pytest.raises(RefusedError, match="another engine"):
        run_campaign(entrants, synthetic(engine_sha256="0" * 64), LONG)


def test_it_says_when_it_began(clock: Clock, synthetic: Make, entrants: list[Entrant]) -> None:
    """The monotonic time in a document is that of its beginning; with the wall time it gives the end."""
    begin_s = clock.monotonic()
    about = run_campaign(entrants, synthetic(), LONG)["campaign"]
    assert about["monotonic_s"] == pytest.approx(begin_s, abs=0.01)
    assert about["monotonic_s"] + about["wall_s"] == pytest.approx(clock.monotonic(), abs=0.01)


def test_wall_clock_is_read_once(synthetic: Make, entrants: list[Entrant], monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock dates a campaign and enters nothing else: stepped by years, all figures stay the same."""
    read: list[int] = []

    def jumping(start: int) -> type:
        class Jumping(dt.datetime):
            @classmethod
            def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
                read.append(start)
                return TODAY + dt.timedelta(days=365 * start * len(read))

        return Jumping

    found = []
    for start in (1, -1):
        monkeypatch.setattr(campaign.dt, "datetime", jumping(start))
        found.append(run_campaign(entrants, synthetic(), LONG))
    assert len(read) == 2
    for document in found:
        for key in ("utc_start", "id", "monotonic_s"):
            del document["campaign"][key]
        document["noise"] = None
    assert found[0] == found[1]


def test_no_other_wall_clock() -> None:
    """Promise of the source: measuring knows one reading of the wall clock, in `campaign`."""
    readings = []
    for name in OWN:
        path = Path(blocks.__file__).with_name(f"{name}.py")
        nodes = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Attribute)]
        readings += [(path.stem, ast.unparse(node)) for node in nodes if node.attr in WALL_CLOCKS]
    assert readings == [("campaign", "dt.datetime.now")]


def test_campaigns_run_side_by_side(synthetic: Make, entrants: list[Entrant], tmp_path: Path) -> None:
    """Campaigns in threads, each on its own device and all with one state folder, disturb each other in nothing."""
    found: dict[int, Any] = {}

    def measure(index: int) -> None:
        device = synthetic(lambda name, finished: index * {"fp32": 2e6, "int8": 1e6}[name])
        device.facts_raw["fingerprint"] = f"device {index}"
        found[index] = run_campaign(entrants, device, LONG, state=tmp_path)

    threads = [threading.Thread(target=measure, args=(index,)) for index in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: found[i]["results"]["int8"]["latency_ms"]["value"] for i in found} == {
        i: pytest.approx(float(i)) for i in (1, 2, 3)
    }
    assert list((tmp_path / "campaigns").iterdir()) == []


def test_samples_are_cut_and_shared(synthetic: Make, entrants: list[Entrant], tmp_path: Path) -> None:
    """At most 64 samples travel; engines with the same samples share one file."""
    np.savez(tmp_path / "many.npz", x=np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32))
    both = [Entrant(name=e.name, folder=e.folder, samples=tmp_path / "many.npz") for e in entrants]
    device = synthetic()
    found = run_campaign(both, device, LONG)
    assert found["inputs"]["n_distinct"] == 64
    assert len([name for name in device.files if name.startswith("samples")]) == 1
