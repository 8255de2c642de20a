"""Which hardware trains, in which precision and in how many processes: Lightning Fabric, asked for what is there."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from targets.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.training.config import TrainConfig

_PRECISIONS: Final[dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


_TORCHRUN: Final = "TORCHELASTIC_RUN_ID"
_PATIENCE: Final = timedelta(days=7)  # others wait while the first one scores; one that dies is noticed at once


def join_others(rendezvous: Path, *, rank: int, processes: int, device: Literal["cpu", "cuda"]) -> None:
    """Makes this process one of several that train together: gloo on CPUs, NCCL on GPUs.

    Args:
        rendezvous: A file that all of them name, not there yet: they find each other through it, not over a network.
        rank: Which of them this is, from 0.
        processes: How many there are.
        device: Where they train.

    Raises:
        InputError: There are not as many GPUs.
    """
    _check_device(device, processes)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), _TORCHRUN: "edgepress",
    }  # fmt: skip
    if device == "cuda":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=processes,
        timeout=_PATIENCE,
    )


def make_fabric(config: TrainConfig) -> Fabric:
    """A launched Fabric.

    With ``processes`` above 1 this process is one of those that `join_others` or `torchrun` brought together.

    Raises:
        InputError: The device is not there, has no such precision, or `torchrun` started another number of processes.
    """
    _check(config)
    if config.processes == 1:
        return Fabric(accelerator=config.device, devices=1, precision=_PRECISIONS[config.precision])
    fabric = Fabric(
        accelerator=config.device,
        devices=config.processes,
        # Which weights the loss reaches is the same in every step, and need not be all. Accumulated batches are each
        # summed up over the processes: with a static graph none can wait for the last.
        strategy=DDPStrategy(static_graph=True),
        precision=_PRECISIONS[config.precision],
    )
    fabric.launch()
    return fabric


def started_processes() -> int:
    """How many processes were started together with this one; 1 for one alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) if _TORCHRUN in os.environ else 1


def _check(config: TrainConfig) -> None:
    started = started_processes()
    if config.processes != started:
        raise InputError(
            f"processes = {config.processes}, and {started} were started",
            "another number of processes gives other weights, so it is part of the recipe",
            f"start it with `torchrun --nproc-per-node {config.processes} ...`"
            if config.processes > 1
            else f"set processes = {started}, or start it without torchrun",
        )
    _check_device(config.device, config.processes)
    if config.precision == "fp16" and config.device == "cpu":
        raise InputError(
            'precision = "fp16" needs a GPU',
            "CPUs have no mixed precision of that kind",
            'set precision = "fp32" or "bf16", or device = "cuda"',
        )
    if config.precision == "bf16" and config.device == "cuda" and not _has_bf16():
        raise InputError(
            'precision = "bf16" is not there',
            f"{torch.cuda.get_device_name()} has no bfloat16 arithmetic",
            'set precision = "fp16" or "fp32"',
        )


def _check_device(device: str, processes: int) -> None:
    if device != "cuda":
        return
    if not torch.cuda.is_available():
        raise InputError(
            'device = "cuda", and there is none',
            "this torch finds no NVIDIA GPU" if torch.version.cuda else "this torch was built for CPUs only",
            'set device = "cpu", or train on a machine with a GPU and a CUDA build of torch',
        )
    if torch.cuda.device_count() < processes:
        raise InputError(
            f'processes = {processes} with device = "cuda", and there are {torch.cuda.device_count()} GPUs',
            "each process trains on a GPU of its own",
            f"set processes = {torch.cuda.device_count()}, or make more GPUs visible (CUDA_VISIBLE_DEVICES)",
        )


def _has_bf16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))
