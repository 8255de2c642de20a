"""What of the target a search may vary: options of its engines, measured beside the engine as the target has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from targets.errors import Fault, faults_error, nearest
from targets.faults import faults_of

if TYPE_CHECKING:
    from targets.profile import TargetProfile

PREFIX: Final = "target.engine."
TUNED: Final = "tuned"
"""Label of an engine with other options: its candidates are ``tuned-int8``, ``tuned-openvino-int8``, ..."""


def is_of_target(key: str) -> bool:
    """Whether a key of the space is no recipe's."""
    return key.startswith("target.")


def profile_at(profile: TargetProfile, point: Mapping[str, Any]) -> TargetProfile:
    """The target with the engine options of a point.

    The engine of first choice stays as it is: the uncompressed reference runs on it, so that ratios of different points
    compare. Every engine that has all of the options competes with them set, in place of the target's alternatives.

    Args:
        profile: The target.
        point: Keys ``target.engine.<option>``; others are passed over.

    Raises:
        InputError: No engine of the target has such an option, or takes such a value.
    """
    from pydantic import ValidationError

    from targets.sections import Alternative

    options = {key.removeprefix(PREFIX): value for key, value in point.items() if is_of_target(key)}
    if not options:
        return profile
    plain = profile.choices()
    able = {
        label: one for label, one in plain.items() if options.keys() <= set(type(one.engine).model_fields) - {"name"}
    }
    if not able:
        raise faults_error(f"target {profile.name!r}", [_unknown(options, plain)])
    tuned = []
    for label, one in able.items():
        try:
            engine = type(one.engine).model_validate({**one.engine.model_dump(), **options})
        except ValidationError as error:
            raise faults_error(f"target {profile.name!r}", faults_of(error, type(one.engine))) from error
        if engine != one.engine:
            name = f"{TUNED}-{label}" if label else TUNED
            tuned.append(Alternative(label=name, engine=engine, quantization=one.quantization))
    return profile.model_copy(update={"alternatives": tuple(tuned)}) if tuned else profile


def _unknown(options: Mapping[str, Any], choices: Mapping[str, TargetProfile]) -> Fault:
    known = sorted({name for one in choices.values() for name in type(one.engine).model_fields} - {"name"})
    wrong = next((name for name in options if name not in known), next(iter(options)))
    return Fault(where=f"{PREFIX}{wrong}", what="no engine of this target has that option", fix=nearest(wrong, known))
