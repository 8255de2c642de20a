"""`[train]`, `[finetune]`, and what every section that trains has in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from pipeline.recipe.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section, Share

NonNegativeInt = Annotated[int, Field(ge=0)]
Rate = Annotated[
    Annotated[PositiveFloat, Tag("number")] | Annotated[Literal["find"], Tag("text")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "number"),
    Field(description="the peak; find: by a range test before training"),
]
Chance = Annotated[float, Field(ge=0, le=1)]


class AugmentSection(Section):
    """Random changes of the training samples; nothing by default."""

    pad_crop: Annotated[NonNegativeInt, Field(description="pictures: pad by that many pixels, cut the old size")] = 0
    flip: Annotated[Chance, Field(description="pictures: share that is mirrored left to right")] = 0.0
    cutout: Annotated[NonNegativeInt, Field(description="pictures: side of a square of zeros, in pixels")] = 0
    mixup: Annotated[NonNegativeFloat, Field(description="alpha of the Beta distribution that mixes two samples")] = 0.0
    shift: Annotated[NonNegativeInt, Field(description="signals: most steps along the last axis")] = 0
    noise: Annotated[NonNegativeFloat, Field(description="signals: standard deviation, in units of the input")] = 0.0
    time_masks: Annotated[NonNegativeInt, Field(description="SpecAugment: bands of zeros along the last axis")] = 0
    time_width: Annotated[NonNegativeInt, Field(description="their largest width")] = 0
    frequency_masks: Annotated[NonNegativeInt, Field(description="the same along the axis before it")] = 0
    frequency_width: Annotated[NonNegativeInt, Field(description="their largest width")] = 0
    token_dropout: Annotated[float, Field(ge=0, lt=1, description="texts: share of tokens that are replaced")] = 0.0
    token_mask: Annotated[int, Field(description="what they are replaced by")] = 0
    token_keep: Annotated[list[int], Field(description="tokens that stay, such as padding")] = []
    inputs: Annotated[list[str], Field(description="inputs that are changed; all that fit by default")] = []


class LearningSection(Section):
    """How to train: the keys of every section that does (`pipeline.training.train_config` makes a configuration)."""

    epochs: PositiveInt
    samples: Annotated[
        PositiveInt | None, Field(description="training samples used, drawn by the seed; by default all")
    ] = None
    batch_size: Annotated[PositiveInt, Field(description="samples a batch")] = 64
    accumulate: Annotated[PositiveInt, Field(description="batches whose gradients make one step")] = 1
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: Rate = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1, description="of sgd")] = 0.9
    nesterov: Annotated[bool, Field(description="Nesterov's form of it")] = True
    weight_decay: Annotated[NonNegativeFloat, Field(description="L2, on weights of two or more dimensions")] = 5e-4
    l1: Annotated[NonNegativeFloat, Field(description="L1, on the same weights")] = 0.0
    schedule: Literal["constant", "step", "exponential", "cosine", "one-cycle"] = "cosine"
    warmup_epochs: Annotated[
        NonNegativeFloat | None, Field(description="linear rise; by default a tenth of the training")
    ] = None
    milestones: Annotated[
        list[PositiveFloat] | None, Field(min_length=1, description="step: epochs after which the rate falls")
    ] = None
    decay_factor: Annotated[
        Share | None, Field(description="step: at each milestone, 0.1; exponential: in each epoch, 0.9")
    ] = None
    final_ratio: Annotated[float, Field(ge=0, lt=1, description="cosine: where it ends, as a share of the peak")] = 0.0
    decay_from_epoch: Annotated[
        NonNegativeFloat | None, Field(description="cosine, exponential: where the rate begins to fall")
    ] = None
    decay_until_epoch: Annotated[
        PositiveFloat | None, Field(description="cosine, exponential: where it stops falling")
    ] = None
    clip_norm: Annotated[PositiveFloat | None, Field(description="largest norm of all gradients together")] = None
    clip_value: Annotated[PositiveFloat | None, Field(description="largest number in a gradient")] = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema_decay: Annotated[Share | None, Field(description="of an average of the weights, which is then kept")] = None
    patience: Annotated[
        PositiveInt | None, Field(description="stop after that many epochs without a better validation score")
    ] = None
    keep: Annotated[
        Literal["last", "best"] | None,
        Field(description="which epoch's weights; by default the last, with patience the best"),
    ] = None
    train_only: Annotated[
        list[str], Field(description="module or parameter paths (globs) that learn; by default all")
    ] = []
    rates: Annotated[
        dict[str, NonNegativeFloat], Field(description="path (glob) = factor of the learning rate; 0 freezes")
    ] = {}
    batch_norm: Annotated[
        Literal["train", "frozen"], Field(description="frozen: statistics of normalisations stay")
    ] = "train"
    precision: Annotated[Literal["fp32", "bf16", "fp16"], Field(description="mixed, weights stay fp32")] = "fp32"
    device: Literal["cpu", "cuda"] = "cpu"
    processes: Annotated[
        int, Field(ge=1, le=64, description="that share each batch (DDP); on GPUs each has its own")
    ] = 1
    augment: AugmentSection = AugmentSection()


class TrainSection(LearningSection):
    """One training from scratch, when there are no weights yet."""


class FinetuneSection(LearningSection):
    """Training that starts from `model.weights`: of everything, of a new head, or of named modules."""

    learning_rate: Rate = 0.01
    fresh: Annotated[
        list[str],
        Field(description="module paths (globs) that start anew: what the file has for them is not read"),
    ] = []


class QatSection(LearningSection):
    """Training of the int8 file, against its float parent; keeps the best epoch, the start included."""

    epochs: PositiveInt = 3
    batch_size: Annotated[PositiveInt, Field(description="samples a batch")] = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    learning_rate: Annotated[PositiveFloat, Field(description="the peak, in integer steps of a weight")] = 0.005
    weight_decay: Annotated[float, Field(ge=0, le=0, description="integers do not decay")] = 0.0
    scale_ratio: Annotated[NonNegativeFloat, Field(description="rate of scales over that; 0 keeps them")] = 0.2
    loss: Annotated[
        Literal["mse", "kl"],
        Field(description="against the float outputs: relative squared error, or divergence of class probabilities"),
    ] = "mse"
    temperature: PositiveFloat = 1.0
    inner_weight: Annotated[NonNegativeFloat, Field(description="weight of the error of inner tensors")] = 1.0
    label_weight: Annotated[NonNegativeFloat, Field(description="weight of the task's own loss")] = 0.0
