"""What surgery, depth and sparsity did reaches people as lines."""

from __future__ import annotations

from pipeline.reporting.changes import change_lines


def test_every_kind_of_change_has_its_line() -> None:
    """Promise: what was removed, cut, replaced, dropped at which cost, and set to zero, in the order it was done."""

    def block(name: str, cost: float | None, order: int | None) -> dict[str, object]:
        after = cost if order else None
        return {
            "block": name, "loss_change": cost, "output_change": cost, "dropped": order,
            "after_loss_change": after, "after_output_change": after,
        }  # fmt: skip

    lines = change_lines(
        {
            "surgery": {
                "removed": ["layer3.1"],
                "widths": [{"module": "stem", "before": 8, "after": 5}],
                "replaced": [{"operator": "silu", "by": "relu", "count": 3}],
            },
            "depth": {
                "blocks": [block("a", 0.5, 2), block("b", 0.1, 1), block("c", 0.7, None), block("d", None, None)]
            },
            "sparsify": {
                "zeros": [
                    {"weight": "fc.weight", "elements": 10, "zeros": 5, "dense": False},
                    {"weight": "stem.weight", "elements": 10, "zeros": 0, "dense": True},
                ]
            },
        }
    )
    assert lines == [
        "surgery removed layer3.1",
        "surgery cut stem from 8 to 5 channels",
        "surgery replaced 3 silu by relu",
        (
            "depth dropped 2 of 4 residual blocks, the model without each: "
            "b (outputs move by 10.0%, loss +0.1), a (outputs move by 50.0%, loss +0.5)"
        ),
        "depth kept 1; without c alone: outputs move by 70.0%, loss +0.7",
        "sparsify set 5 of 20 weights to zero (25.0%); dense stay stem.weight",
    ]


def test_a_run_without_changes_says_nothing() -> None:
    """Promise: no section, no line."""
    assert change_lines({"train": {"accuracy": 1.0}}) == []


def _told(*steps: dict[str, object], accuracy: float) -> dict[str, object]:
    return {"recovery": list(steps), "accuracy": accuracy, "accuracy_floor": 0.9, "metric": "f1"}


def test_what_saved_int8_has_its_line() -> None:
    """Promise: an int8 file below the floor, what each step brought it, its float layers, and whether that helped."""
    qat = {"step": "qat", "accuracy_before": 0.7, "accuracy": 0.8, "kept": True}
    mixed = {"step": "mixed_precision", "accuracy": 0.91, "kept": True, "float_layers": ["stem.0", "blocks.1.conv"]}
    lines = change_lines({"quantize": _told(qat, mixed, accuracy=0.91)})
    assert lines == [
        (
            "int8, f1 0.7000, missed the floor of 0.9000: training brought f1 0.8000; "
            "mixed precision brought f1 0.9100 with 2 layers in float (stem.0, blocks.1.conv)"
        )
    ]
    lost = {"step": "mixed_precision", "accuracy_before": 0.7, "accuracy": 0.75, "kept": False, "float_layers": []}
    (line,) = change_lines({"quantize:openvino": _told(lost, accuracy=0.7)})
    assert line == (
        "int8 for openvino, f1 0.7000, missed the floor of 0.9000: mixed precision reached 0.7500, not kept; "
        "it stays below the floor"
    )
    why = {"step": "qat", "accuracy_before": 0.7, "kept": False, "reason": "the float model itself is below the floor"}
    (line,) = change_lines({"quantize": _told(why, accuracy=0.7)})
    assert "no training, for the float model itself is below the floor" in line
    (line,) = change_lines({"quantize": _told(why, why | {"step": "mixed_precision"}, accuracy=0.7)})
    assert line.endswith("nothing was tried, for the float model itself is below the floor")
    short = qat | {"epochs_run": 2, "epochs": 6, "stopped": "patience"}
    (line,) = change_lines({"quantize": _told(short, accuracy=0.95)})
    assert line.endswith("training brought f1 0.8000 in 2 of 6 epochs (patience)")
