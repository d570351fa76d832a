"""The processes that a command of ours started, however far they went from it, and their end in good order."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator

import psutil

MARK = "HARDLAB_FAMILY"
GRACE_S = 14.0  # for a checkpoint; with the end of the hosts it stays under the 20 s that are promised
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess)


class Family:
    """Whoever carries this mark in the environment, and whoever descends from one that does.

    A training run that a notebook's cell starts leads a process group of its own and outlives its kernel; process
    groups and parents therefore do not find it, what it inherited does.
    """

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex

    def environment(self) -> dict[str, str]:
        """This process's environment with the mark added; the marks of outer families stay."""
        return os.environ | {MARK: ":".join(filter(None, [os.environ.get(MARK), self.mark]))}

    def members(self) -> dict[int, psutil.Process]:
        """All living members by process id."""
        found: dict[int, psutil.Process] = {}
        for p in psutil.process_iter():
            with contextlib.suppress(*_GONE):
                if self.mark in p.environ().get(MARK, ""):
                    found |= {q.pid: q for q in [p, *p.children(recursive=True)]}
        return {pid: p for pid, p in found.items() if _alive(p)}

    def end(
        self,
        hosts: Callable[[], Iterable[psutil.Process]],
        nudge: Callable[[Iterable[psutil.Process]], None],
        grace: float = GRACE_S,
    ) -> None:
        """End everybody within ``grace`` + 4 s: the work first (SIGTERM, time to save), then its hosts.

        hosts: who carries the work (papermill and the kernel; Snakemake). They are not ended before the work is;
        ``nudge`` keeps them from starting more of it.
        """
        told: set[int] = set()
        nudge(hosts())
        until = time.monotonic() + grace
        while time.monotonic() < until:
            carriers = {p.pid for p in hosts()}
            work = {pid: p for pid, p in self.members().items() if pid not in carriers}
            if not work:
                break
            for pid, p in work.items():
                with contextlib.suppress(*_GONE):
                    # a loader's worker that gets the signal itself would take its trainer down before it has saved
                    if pid not in told and p.ppid() not in work:
                        told.add(pid)
                        p.terminate()
            time.sleep(0.1)
        # nudged again and again, as one time can be missed: a kernel ignores SIGINT between two cells. Not before, as
        # the second one would break off a cell that waits for its training run to save.
        for _ in range(6):
            if not self.members():
                return
            nudge(hosts())
            time.sleep(0.5)
        for _ in range(40):
            if not (left := self.members()):
                return
            for p in left.values():
                with contextlib.suppress(*_GONE):
                    p.kill()
            time.sleep(0.05)


def _alive(p: psutil.Process) -> bool:
    try:
        return p.is_running() and p.status() != psutil.STATUS_ZOMBIE
    except _GONE:
        return False


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGTERM, SIGINT and SIGUSR1 (as batch systems send it) in a list instead of dying of them."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield seen
        return
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {s: signal.signal(s, lambda number, _: seen.append(number)) for s in wanted}
    try:
        yield seen
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
