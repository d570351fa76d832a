"""Stopping on SIGINT, SIGTERM and SIGUSR1, between two steps and never within one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 75  # exit status of a process that was asked to stop and can go on (EX_TEMPFAIL)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last as batch systems send it


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


@contextmanager
def requests() -> Iterator[list[int]]:
    """A list that fills with the signals which ask this process to stop; untouched outside the main thread."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    previous = {}
    try:
        for s in SIGNALS:
            previous[s] = signal.signal(s, note)
    except ValueError:  # only the main thread may set handlers
        pass
    try:
        yield asked
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)
