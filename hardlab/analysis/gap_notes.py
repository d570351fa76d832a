"""The commands whose runs fill the gaps of a figure, noted while it is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_GAPS: ContextVar[dict[str, dict[str, None]] | None] = ContextVar("gaps", default=None)


@contextmanager
def noting() -> Iterator[dict[str, dict[str, None]]]:
    """What fills the gaps of the figures made inside: a training, "" where the runs are there -> its evaluations."""
    found: dict[str, dict[str, None]] = {}
    token = _GAPS.set(found)
    try:
        yield found
    finally:
        _GAPS.reset(token)


def gap(train: str, evaluate: str = "") -> None:
    """Note the commands that fill a gap of the figure that is being made."""
    found = _GAPS.get()
    if found is not None:
        found.setdefault(train, {}).update({evaluate: None} if evaluate else {})
