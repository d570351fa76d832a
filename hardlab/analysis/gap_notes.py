"""Records the commands that fill the gaps of a figure while the figure is made."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_GAPS: ContextVar[dict[str, dict[str, None]] | None] = ContextVar("gaps", default=None)


@contextmanager
def noting() -> Iterator[dict[str, dict[str, None]]]:
    """Record the gaps of figures made inside: training command -> evaluation commands; "" if the runs exist."""
    notes: dict[str, dict[str, None]] = {}
    token = _GAPS.set(notes)
    try:
        yield notes
    finally:
        _GAPS.reset(token)


def gap(train: str, evaluate: str = "") -> None:
    """Record the commands that fill a gap of the figure that is being made."""
    notes = _GAPS.get()
    if notes is not None:
        notes.setdefault(train, {}).update({evaluate: None} if evaluate else {})


def evaluate_command(runs: Iterable[str], *options: Mapping[str, str]) -> str:
    """The command that evaluates these runs, quoted for a shell; without runs it says RUN.

    options: option -> value, in order; empty values are left out.
    """
    folders = [f"runs/{name}" for name in runs] or ["RUN"]
    words = [word for settings in options for key, value in settings.items() if value for word in (f"--{key}", value)]
    return shlex.join(["hardlab", "evaluate", *folders, *words])
