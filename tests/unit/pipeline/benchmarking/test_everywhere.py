"""Several devices at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.benchmarking import everywhere
from pipeline.benchmarking.everywhere import Wanted, measure_everywhere
from pipeline.benchmarking.request import CampaignOptions, Progress
from targets.errors import DeviceLost

Fake = Callable[..., dict[str, Any]]


def bundle(arch: str = "x86_64", isa: tuple[str, ...] = ()) -> Any:  # noqa: ANN401
    manifest = SimpleNamespace(profile={"hardware": {"arch": arch, "isa": list(isa)}}, target="board")
    return SimpleNamespace(name="int8", folder=Path(), entrant="the entrant", manifest=manifest)


def wanted(**changes: Any) -> Wanted:  # noqa: ANN401
    return Wanted(
        **{"bundles": [bundle()], "options": CampaignOptions(), "reproduce": "again --device {device}", **changes}
    )


def devices(*names: str) -> list[Any]:
    return [SimpleNamespace(name=name) for name in names]


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fake], None]:
    """Replaces the campaign."""
    return lambda fake: monkeypatch.setattr(everywhere, "run_campaign", fake)


def document(device: str) -> dict[str, Any]:
    facts = {"id": device, "arch": "x86_64", "cpu_features": ["avx2"]}
    return {"device": facts, "warnings": [], "results": {"int8": {}}}


def test_devices_are_measured_at_the_same_time(campaign: Callable[[Fake], None], tmp_path: Path) -> None:
    """Each campaign waits for the other here: one after the other would never end."""
    meet = threading.Barrier(3, timeout=20)

    def run(entrants: Any, device: Any, options: Any, **_: Any) -> dict[str, Any]:  # noqa: ANN401
        meet.wait()
        return document(device.name)

    campaign(run)
    found = measure_everywhere(devices("a", "b", "c"), wanted(), tmp_path, state=None)
    assert [(item.device, item.document and item.document["reproduce"]) for item in found] == [
        ("a", "again --device a"),
        ("b", "again --device b"),
        ("c", "again --device c"),
    ]


def test_one_lost_device_does_not_end_the_others(campaign: Callable[[Fake], None], tmp_path: Path) -> None:
    """Its error is kept beside the results of the rest."""

    def run(entrants: Any, device: Any, options: Any, **_: Any) -> dict[str, Any]:  # noqa: ANN401
        if device.name == "b":
            raise DeviceLost("device 'b' was lost", "after block 4 of 7", "reconnect it")
        return document(device.name)

    campaign(run)
    first, second = measure_everywhere(devices("a", "b"), wanted(), tmp_path, state=None)
    assert first.document is not None
    assert second.document is None
    assert isinstance(second.error, DeviceLost)


def test_an_interrupt_ends_every_campaign_before_its_next_process(
    campaign: Callable[[Fake], None], tmp_path: Path
) -> None:
    """The journal keeps what was finished; nothing runs on in the background."""
    ended = threading.Event()

    def run(entrants: Any, device: Any, options: Any, **more: Any) -> dict[str, Any]:  # noqa: ANN401
        if device.name == "a":
            raise KeyboardInterrupt
        for _ in range(2000):
            threading.Event().wait(0.01)
            try:
                more["on_progress"](Progress(block=0, engine="int8", elapsed_s=1, budget_s=9))
            except BaseException:
                ended.set()
                raise
        return document(device.name)

    campaign(run)
    with pytest.raises(KeyboardInterrupt):
        measure_everywhere(devices("a", "b"), wanted(), tmp_path, state=None)
    assert ended.is_set()


@pytest.mark.parametrize(
    ("other", "evidence"), [(bundle("aarch64"), "built for aarch64"), (bundle(isa=("avx512f",)), "no avx512f")]
)
def test_a_bundle_on_other_hardware_is_said(
    other: Any,  # noqa: ANN401
    evidence: str,
    campaign: Callable[[Fake], None],
    tmp_path: Path,
) -> None:
    """It is measured, and a warning tells that the target is another one."""
    campaign(lambda entrants, device, options, **_: document(device.name))
    (found,) = measure_everywhere(devices("a"), wanted(bundles=[other]), tmp_path, state=None)
    assert found.document is not None
    (warning,) = found.document["warnings"]
    assert warning["code"] == "W-OTHER-TARGET"
    assert evidence in warning["evidence"]
