"""Recipe and target profile to a plan: which stages run, in which order, on what."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.building import Building, building
from pipeline.candidates import offers
from pipeline.chain import Chain, chain_faults
from pipeline.data.find import find_data
from pipeline.data.source import DataSource, FileRef, find_file
from pipeline.measuredon import AskDevice, device_name, measured_on
from pipeline.plan import Chosen, Drops, Lineage, Node, Plan, Source
from pipeline.recipe import Recipe
from pipeline.stages.allocate import AllocateStage
from pipeline.stages.base import Stage
from pipeline.stages.benchmark import BenchmarkStage
from pipeline.stages.bundle import BundleStage
from pipeline.stages.data import DataStage
from pipeline.stages.gate import GateStage
from pipeline.stages.import_onnx import ImportStage, external_files
from pipeline.stages.latency_table import LatencyTableStage
from pipeline.stages.layers import LayersStage
from pipeline.stages.report import ReportStage
from pipeline.tasks import Task, find_task
from pipeline.teaching import Participants, find_participants
from pipeline.usercode import FactoryRef, find_factory
from targets.errors import Fault, UsageError, faults_error
from targets.profile import LOCAL, DeviceSection, TargetProfile

_ON_DEVICE: Final = (BenchmarkStage, LayersStage, LatencyTableStage, AllocateStage)
_REPORTED: Final = {"name", "task", "seed", "threads", "budget"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sources:
    """The user's files and functions, found and hashed."""

    data: DataSource
    task: Task
    model: FactoryRef | FileRef  # a factory, or an ONNX file
    weights: FileRef | None
    external: tuple[FileRef, ...]  # of an ONNX file
    participants: Participants


def compose(recipe: Recipe, profile: TargetProfile, *, until: str | None = None, ask: AskDevice | None = None) -> Plan:
    """The plan of ``recipe`` on ``profile``, without running any of the user's code.

    A plan that measures elsewhere asks that device what it is: its answer is part of the measurement's key.

    Args:
        recipe: What to do.
        profile: For which hardware.
        until: Name of a stage: the plan holds what that stage needs, itself included. All stages when None.
        ask: Gives the facts of a registered device; that device itself when None.

    Raises:
        InputError: Files, functions or the device that the recipe names are not there (all faults at once).
        DeviceError: The device does not answer, or cannot stand in for the target.
        UsageError: torchrun started this process.
    """
    _refuse_torchrun()
    device, anywhere = device_name(recipe.benchmark, profile), _wherever(profile)
    plan = _all_stages(recipe, profile, anywhere)
    plan = plan if until is None else plan.until(until)
    if not any(isinstance(node.stage, _ON_DEVICE) for node in plan.nodes):
        return plan
    on = measured_on(device, profile, ask)
    return Plan(nodes=tuple(_bound(node, on.fingerprint) for node in plan.nodes))


def _refuse_torchrun() -> None:
    """Several runs of one recipe at once would wait for each other's stages."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UsageError(
            "torchrun cannot start edgepress",
            "it starts whole runs, and only what trains is done in several processes, which edgepress starts itself",
            f"set processes = {os.environ.get('WORLD_SIZE', '2')} in the section that trains, and run without torchrun",
        )


def _bound(node: Node, fingerprint: str) -> Node:
    """The node, measuring on that very device."""
    if not isinstance(node.stage, _ON_DEVICE):
        return node
    return replace(node, stage=replace(node.stage, fingerprint=fingerprint))


def _wherever(profile: TargetProfile) -> TargetProfile:
    """The profile without its device: the same engine is built wherever it is measured."""
    return profile.model_copy(update={"device": DeviceSection()})


def _all_stages(recipe: Recipe, profile: TargetProfile, anywhere: TargetProfile) -> Plan:
    if faults := chain_faults(recipe, anywhere):
        raise faults_error(f"recipe {recipe.name!r}", faults)
    sources = _find_sources(recipe)
    nodes = [_data_node(recipe, sources)]
    floats = _onnx_nodes(sources) if recipe.model.onnx else _torch_nodes(recipe, sources, profile)
    nodes += floats
    reference, best = _float_models(nodes)
    offered = offers(recipe, anywhere, compressed=reference != best)
    if isinstance(offered, Fault):
        raise faults_error(f"recipe {recipe.name!r}", [offered])
    device = device_name(recipe.benchmark, profile)
    built = building(recipe, sources.data, sources.task, offered, model=best, reference=reference, device=device)
    told = tuple(node.name for node in nodes)
    closing = _closing_nodes(recipe, sources, profile, built, reference, told=told)
    return Plan(nodes=(*nodes, *built.nodes, *closing))


def _find_sources(recipe: Recipe) -> _Sources:
    faults: list[Fault] = []
    data, task = find_data(recipe), find_task(recipe)
    model: FactoryRef | FileRef | Fault
    if recipe.model.onnx:
        model = find_file(recipe.resolve(recipe.model.onnx), "model.onnx")
    else:
        model = find_factory(recipe.model.factory, recipe.folder, recipe.model.args, "model.factory")
    weights = find_file(recipe.resolve(recipe.model.weights), "model.weights") if recipe.model.weights else None
    faults += [item for item in (model, weights) if isinstance(item, Fault)]
    participants = find_participants(recipe)
    faults += [fault for found in (data, task, participants) if isinstance(found, list) for fault in found]
    if isinstance(data, list) or isinstance(task, list) or isinstance(participants, list):
        raise faults_error(f"recipe {recipe.name!r}", faults)
    if isinstance(model, Fault) or isinstance(weights, Fault):
        raise faults_error(f"recipe {recipe.name!r}", faults)
    external = _external_data(model) if isinstance(model, FileRef) else ()
    return _Sources(data=data, task=task, model=model, weights=weights, external=external, participants=participants)


def _external_data(model: FileRef) -> tuple[FileRef, ...]:
    """The files beside an ONNX file that hold its weights: their content counts as the file's own does."""
    found = [find_file(path, "model.onnx") for path in external_files(model.path)]
    if faults := [item for item in found if isinstance(item, Fault)]:
        raise faults_error("the external data of model.onnx", faults)
    return tuple(item for item in found if isinstance(item, FileRef))


def _node(name: str, title: str, stage: Stage[Any], **inputs: Source) -> Node:
    return Node(name=name, title=title, stage=stage, inputs=inputs)


def _data_node(recipe: Recipe, sources: _Sources) -> Node:
    needed = ("train", "validation") if recipe.learning or (recipe.prune and recipe.prune.learns) else ("validation",)
    stage = DataStage(source=sources.data, task=sources.task.alone, splits=needed, duplicates=recipe.data.duplicates)
    return _node("data", "check the data", stage)


def _onnx_nodes(sources: _Sources) -> list[Node]:
    assert isinstance(sources.model, FileRef)
    stage = ImportStage(onnx=sources.model, external=sources.external, source=sources.data, task=sources.task)
    return [_node("import", "check the ONNX model", stage, data="data")]


def _torch_nodes(recipe: Recipe, sources: _Sources, profile: TargetProfile) -> list[Node]:
    assert isinstance(sources.model, FactoryRef)
    chain = Chain(
        recipe=recipe,
        profile=_wherever(profile),
        measured=profile,
        data=sources.data,
        task=sources.task.alone,
        factory=sources.model,
        weights=sources.weights,
        participants=sources.participants,
    )
    return list(chain.nodes())


def _float_models(nodes: list[Node]) -> tuple[str, str]:
    """Names of the nodes that make the uncompressed float model and the one to quantise."""
    names = [node.name for node in nodes]
    if "import" in names:
        return "import", "import"
    return ("export:dense" if "export:dense" in names else "export"), "export"


def _ceilings(recipe: Recipe, profile: TargetProfile) -> tuple[str, ...]:
    """What recipe or target limit beside accuracy and latency."""
    limits = {
        "memory": (recipe.budget.memory_mb, profile.hardware.memory_mb),
        "size": (recipe.budget.size_mb, profile.hardware.storage_mb),
        "tail": (recipe.budget.latency_p95_ms,),
        "energy": (recipe.budget.energy_mj,),
    }
    return tuple(name for name, found in limits.items() if any(limit is not None for limit in found))


def _closing_nodes(
    recipe: Recipe,
    sources: _Sources,
    profile: TargetProfile,
    built: Building,
    reference: str,
    *,
    told: tuple[str, ...],
) -> tuple[Node, ...]:
    """Measure, decide, bundle, report; ``told`` names the nodes before the builds, whose figures are reported too."""
    builds = built.builds
    measured: tuple[str, ...] = ("benchmark",) if recipe.benchmark.measure else ()
    anywhere = _wherever(profile)
    wanted = recipe.benchmark
    name = device_name(wanted, profile)
    benchmark = BenchmarkStage(
        source=sources.data,
        profile=profile,
        task=sources.task,
        device=name,
        fingerprint="",
        mode=wanted.mode,
        budget_s=wanted.budget_s,
        accuracy_on_device=name != LOCAL if wanted.accuracy_on_device is None else wanted.accuracy_on_device,
        seed=recipe.seed,
        required=tuple(recipe.build.candidates or ()),
        ceilings=_ceilings(recipe, profile),
        energy=recipe.budget.energy_mj is not None,
    )
    gate = GateStage(budget=recipe.budget, profile=anywhere)
    unnamed = profile.model_copy(update={"device": profile.device.model_copy(update={"name": LOCAL})})
    bundle = BundleStage(recipe_name=recipe.name, profile=unnamed, source=sources.data, task=sources.task)
    layers = LayersStage(source=sources.data, profile=profile, device=name, fingerprint="")
    timed: tuple[str, ...] = ("layers",) if wanted.times_layers else ()
    title = "time each layer of what ships"
    report = ReportStage(
        recipe=recipe.model_dump(mode="json", include=_REPORTED),
        profile=profile,
        source=sources.data,
        task=sources.task,
        models=built.models,
    )
    chosen = Chosen(verdict="gate", among=builds)
    opening = [_node("benchmark", "measure all candidates, interleaved", benchmark, data="data", builds=builds)]
    return (
        *(opening if measured else []),
        _node("gate", "decide what ships", gate, measurement=measured, builds=builds),
        _node("bundle", "bundle and verify", bundle, data="data", build=chosen, lineage=Lineage(of=chosen)),
        *(_node(name, title, layers, data="data", measurement="benchmark", build=chosen) for name in timed),
        _node(
            "report",
            "write the report",
            report,
            data="data",
            reference=reference,
            stages=(*told, *(node.name for node in built.nodes), *measured, "gate", "bundle", *timed),
            dropped=Drops(among=tuple(node.name for node in built.nodes)),
            measurement=measured,
            layers=timed,
            verdict="gate",
            builds=builds,
            bundle="bundle",
        ),
    )
