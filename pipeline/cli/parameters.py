"""Values of options and arguments: what is misspelt gets its nearest names, and a shell completes what is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, final

import click
from click.shell_completion import CompletionItem


@final
class Choice(click.Choice[str]):
    """One of several words."""

    def get_invalid_choice_message(self, value: object, ctx: click.Context | None) -> str:
        """Which there are, and which was meant."""
        from targets.errors import did_you_mean

        return _sentences(super().get_invalid_choice_message(value, ctx), did_you_mean(str(value), self.choices))


@final
class ExistingPath(click.Path):
    """A file or folder that is there."""

    def __init__(self, *, dir_okay: bool = True) -> None:
        super().__init__(path_type=Path, exists=True, dir_okay=dir_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """The path; a missing one is told with what lies there."""
        from targets.errors import nearest_path

        if not Path(value).exists() and (near := nearest_path(Path(value))):
            self.fail(_sentences(f"Path {str(value)!r} does not exist.", near), param, ctx)
        return super().convert(value, param, ctx)


@final
class Name(click.ParamType[str]):
    """A word that is checked where it is used, since that may be a file of the user's too.

    Args:
        known: Names that a shell completes; asked for only then.
        files: Whether a path may stand there instead.
    """

    name = "text"

    def __init__(self, known: Callable[[], Iterable[str]], *, files: bool = False) -> None:
        self._known, self._files = known, files

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so, else files: bash forgets what comes before an item that stands for files."""
        del ctx, param
        files = [CompletionItem(incomplete, type="file")] if self._files else []
        return files + [CompletionItem(name) for name in self._known() if name.startswith(incomplete)]


def _sentences(first: str, then: str) -> str:
    return f"{first} {then[:1].upper()}{then[1:]}".strip()


def _targets() -> Iterable[str]:
    from targets.profile import profile_names

    return profile_names()


def _devices() -> Iterable[str]:
    from targets.devices.registry import Registry

    return ("local", *sorted(Registry().entries()))


def _codes() -> Iterable[str]:
    from pipeline.assist.explain import codes

    return codes()


TARGET: Final = Name(_targets, files=True)
DEVICE: Final = Name(_devices)
CODE: Final = Name(_codes)
