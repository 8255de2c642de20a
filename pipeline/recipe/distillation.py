"""`[distill]`: learning from one teacher or several, by any weighted sum of losses."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from pipeline.recipe.base import PositiveFloat, Section
from pipeline.recipe.training import LearningSection, Rate

Axis = Annotated[int | None, Field(description="axis of the channels, 0 being the batch; by default as the shapes say")]
Resize = Annotated[bool, Field(description="bring the teacher's map to the student's resolution")]
Temperature = Annotated[PositiveFloat, Field(description="softens both sides")]


class LabelsLoss(Section):
    """The task's own loss."""

    kind: Literal["labels"]
    weight: PositiveFloat = 1.0


class TaughtLoss(Section):
    """Any loss between student and teacher."""

    weight: PositiveFloat = 1.0
    student: Annotated[str, Field(description="module path to tap; empty: what the model answers")] = ""
    teacher: Annotated[str, Field(description="the same in the teacher (ONNX: a tensor); empty: as the student's")] = ""
    of: Annotated[str, Field(description="name of the teacher; empty: the only one, or for answers their mean")] = ""


class SoftTargetsLoss(TaughtLoss):
    """The teacher's softened probabilities (Hinton et al., arXiv 1503.02531)."""

    kind: Literal["soft-targets"]
    temperature: Temperature = 4.0
    axis: Annotated[int, Field(description="axis of the classes")] = 1


class DecoupledLoss(TaughtLoss):
    """Soft targets in two parts (Zhao et al., arXiv 2203.08679)."""

    kind: Literal["decoupled"]
    temperature: Temperature = 4.0
    target: Annotated[float, Field(ge=0, allow_inf_nan=False, description="weight of the right class' part")] = 1.0
    others: Annotated[float, Field(ge=0, allow_inf_nan=False, description="weight of the other classes' part")] = 8.0


class SquaredErrorLoss(TaughtLoss):
    """The sum of squared differences of answers (Ba, Caruana, arXiv 1312.6184)."""

    kind: Literal["squared-error"]
    over_batch: Annotated[Literal["mean", "sum"], Field(description="of the samples' sums")] = "mean"


class HintLoss(TaughtLoss):
    """Features, projected where widths differ (Romero et al., arXiv 1412.6550)."""

    kind: Literal["hint"]
    axis: Axis = None
    resize: Resize = False


class AttentionLoss(TaughtLoss):
    """Where a layer looks (Zagoruyko, Komodakis, arXiv 1612.03928)."""

    kind: Literal["attention"]
    axis: Axis = None
    resize: Resize = False


class DistanceLoss(TaughtLoss):
    """Distances between the samples of a batch (Park et al., arXiv 1904.05068)."""

    kind: Literal["relational-distance"]


class AngleLoss(TaughtLoss):
    """Angles between the samples of a batch (Park et al., arXiv 1904.05068)."""

    kind: Literal["relational-angle"]


class SimilarityLoss(TaughtLoss):
    """Similarities between the samples of a batch (Tung, Mori, arXiv 1907.09682)."""

    kind: Literal["similarity"]


LossSection: TypeAlias = Annotated[
    LabelsLoss
    | SoftTargetsLoss
    | DecoupledLoss
    | SquaredErrorLoss
    | HintLoss
    | AttentionLoss
    | DistanceLoss
    | AngleLoss
    | SimilarityLoss,
    Field(discriminator="kind"),
]


class TeacherSection(Section):
    """Who teaches: the dense model, another one by factory and weights, or an ONNX file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", description="what losses and reports call it")]
    dense: Annotated[bool, Field(description="the recipe's own model, before anything was removed")] = False
    factory: Annotated[
        str, Field(description="`file.py:function` or `package.module:function` that returns an nn.Module")
    ] = ""
    args: Annotated[dict[str, Any], Field(description="keyword arguments of the factory")] = {}
    weights: Annotated[str, Field(description="its trained weights: .safetensors, .pt or .pth")] = ""
    onnx: Annotated[str, Field(description="a float ONNX file instead of a factory")] = ""


class StudentSection(Section):
    """Another model that learns, in place of the recipe's own; it goes on to export."""

    factory: Annotated[
        str,
        Field(min_length=1, description="`file.py:function` or `package.module:function` that returns an nn.Module"),
    ]
    args: Annotated[dict[str, Any], Field(description="keyword arguments of the factory")] = {}
    weights: Annotated[str, Field(description="weights to start from; without them it starts untrained")] = ""


class DistillSection(LearningSection):
    """Training of the pruned net, or of another student, with its dense parent or others as teachers."""

    learning_rate: Rate = 0.02
    temperature: Annotated[PositiveFloat, Field(description="of the soft targets, without [[distill.losses]]")] = 4.0
    alpha: Annotated[
        float,
        Field(ge=0, le=1, description="weight of the labels, 1 - alpha the teacher's, without [[distill.losses]]"),
    ] = 0.3
    losses: Annotated[list[LossSection], Field(description="their weighted sum is what is trained")] = []
    teachers: Annotated[list[TeacherSection], Field(description="by default the dense model alone")] = []
    average: Annotated[
        Literal["probabilities", "logits"], Field(description="what several teachers' answers are averaged as")
    ] = "probabilities"
    student: StudentSection | None = None
    cache_mb: Annotated[
        int, Field(ge=0, description="a teacher's answers up to that size are kept, where nothing random is added")
    ] = 1024
