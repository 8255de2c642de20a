"""Who works at a study, so that what a dead worker had under way is known to be free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from targets.devices.holder import has_ended, this_process
from targets.files import sha256_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

_WORKER: Final = "worker"
_NOBODY: Final = ""
_JOINED: Final = "joined "


def join(study: Study) -> None:
    """Notes that this process works at the study."""
    me = this_process()
    key = f"{_JOINED}{sha256_bytes(me.encode())[:16]}"
    if key not in study.user_attrs:
        study.set_user_attr(key, me)


def mark(trial: Trial) -> None:
    """Notes that this process tries the candidate."""
    trial.set_user_attr(_WORKER, this_process())


def give_back(trial: Trial) -> None:
    """Notes that nobody does."""
    trial.set_user_attr(_WORKER, _NOBODY)


def is_marked(trial: FrozenTrial) -> bool:
    """Whether its drawing was finished, so that somebody tried it or gave it back."""
    return _WORKER in trial.user_attrs


def is_left(trial: FrozenTrial, notes: Mapping[str, str]) -> bool:
    """Whether nobody tries a candidate that is under way.

    One without a mark was left in the instant between its drawing and its mark, if all others that joined have ended.

    Args:
        trial: The candidate.
        notes: The study's user attributes.
    """
    worker = trial.user_attrs.get(_WORKER)
    if worker is not None:
        return worker == _NOBODY or has_ended(worker)
    others = {note for key, note in notes.items() if key.startswith(_JOINED)} - {this_process()}
    return all(has_ended(other) for other in others)
