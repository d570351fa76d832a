"""The commands whose runs fill the gaps of a figure, noted while it is made."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_GAPS: ContextVar[dict[str, dict[str, None]] | None] = ContextVar("gaps", default=None)


@contextmanager
def noting() -> Iterator[dict[str, dict[str, None]]]:
    """What fills the gaps of the figures made inside: a training, "" where the runs are there -> its evaluations."""
    notes: dict[str, dict[str, None]] = {}
    token = _GAPS.set(notes)
    try:
        yield notes
    finally:
        _GAPS.reset(token)


def gap(train: str, evaluate: str = "") -> None:
    """Note the commands that fill a gap of the figure that is being made."""
    notes = _GAPS.get()
    if notes is not None:
        notes.setdefault(train, {}).update({evaluate: None} if evaluate else {})


def evaluate_command(runs: Iterable[str], *options: Mapping[str, str]) -> str:
    """The command that evaluates these runs, quoted for a shell; without any, RUN stands in their place.

    options: values by option, empty ones left out; of several mappings, one after the other.
    """
    where = [f"runs/{name}" for name in runs] or ["RUN"]
    words = [word for each in options for key, value in each.items() if value for word in (f"--{key}", value)]
    return shlex.join(["hardlab", "evaluate", *where, *words])
