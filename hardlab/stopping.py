"""Stopping on SIGINT, SIGTERM and SIGUSR1, always between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 75  # exit status of a process that stopped on request and can continue (EX_TEMPFAIL)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # batch systems send the last


class Stopped(Exception):
    """The run stopped on request, and its state is saved."""


@contextmanager
def requests() -> Iterator[list[int]]:
    """Collect the signals that ask this process to stop in a list; outside the main thread it stays empty."""
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
