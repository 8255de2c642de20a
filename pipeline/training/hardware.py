"""Which hardware trains, in which precision and in how many processes: Lightning Fabric, asked for what is there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Literal

import torch
from lightning_fabric import Fabric

from targets.errors import InputError

if TYPE_CHECKING:
    from pipeline.training.config import TrainConfig

_PRECISIONS: Final[dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


def make_fabric(config: TrainConfig) -> Fabric:
    """A launched Fabric.

    With ``processes`` above 1 this process is one of those that `torchrun` started.

    Raises:
        InputError: The device is not there, has no such precision, or `torchrun` started another number of processes.
    """
    _check(config)
    if config.processes == 1:
        return Fabric(accelerator=config.device, devices=1, precision=_PRECISIONS[config.precision])
    fabric = Fabric(
        accelerator=config.device, devices=config.processes, strategy="ddp", precision=_PRECISIONS[config.precision]
    )
    fabric.launch()
    return fabric


def started_processes() -> int:
    """How many processes `torchrun` started together with this one; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


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
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            'device = "cuda", and there is none',
            "this torch finds no NVIDIA GPU" if torch.version.cuda else "this torch was built for CPUs only",
            'set device = "cpu", or train on a machine with a GPU and a CUDA build of torch',
        )
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


def _has_bf16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))
