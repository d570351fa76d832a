"""Finds all processes that a command started, directly or indirectly, and ends them in order."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterable

import psutil

MARK = "HARDLAB_PROCESS_TREE"
GRACE_S = 12.0  # for a checkpoint; including the end of the hosts, less than the promised 20 s
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess)


class ProcessTree:
    """All processes with a mark in their environment, and their descendants.

    A training run that a notebook's cell starts leads its own process group and outlives its kernel, so it is found by
    its inherited environment, not by process group or parent.
    """

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex

    def environment(self) -> dict[str, str]:
        """The environment of this process with the mark added; marks of outer trees stay."""
        return os.environ | {MARK: ":".join(filter(None, [os.environ.get(MARK), self.mark]))}

    def members(self) -> dict[int, psutil.Process]:
        """All living members by process id."""
        everybody, marked = {}, set()
        for p in psutil.process_iter(["ppid", "status"]):
            if p.info["status"] == psutil.STATUS_ZOMBIE:
                continue
            everybody[p.pid] = p
            with contextlib.suppress(*_GONE):
                if self.mark in p.environ().get(MARK, ""):
                    marked.add(p.pid)
        while new := {pid for pid, p in everybody.items() if p.info["ppid"] in marked} - marked:
            marked |= new  # descendants may have cleared their environment
        return {pid: everybody[pid] for pid in marked}

    def end(
        self,
        hosts: Callable[[], Iterable[psutil.Process]],
        nudge: Callable[[Iterable[psutil.Process]], None],
        grace: float = GRACE_S,
    ) -> None:
        """End all processes within ``grace`` + 5 s: first the work (SIGTERM, time to save), then its hosts.

        hosts: the processes that run the work (papermill and the kernel; Snakemake), which end last. nudge: keeps the
        hosts from starting more work.
        """
        signalled: set[int] = set()
        nudge(hosts())
        until = time.monotonic() + grace
        while work := self._work(hosts):
            for pid, p in work.items():
                with contextlib.suppress(*_GONE):
                    if time.monotonic() > until:
                        p.kill()
                    # a loader's worker that gets the signal itself would take its trainer down before it has saved
                    elif pid not in signalled and p.ppid() not in work:
                        signalled.add(pid)
                        p.terminate()
            time.sleep(0.2)
            if time.monotonic() > until + 1:
                break
        # nudged again and again, as one time can be missed: a kernel ignores SIGINT between two cells. Not before, as
        # the second one would break off a cell that waits for its training run to save.
        until = time.monotonic() + 3
        while left := self.members():
            nudge(hosts())
            for p in left.values() if time.monotonic() > until else self._work(hosts).values():
                with contextlib.suppress(*_GONE):
                    p.kill()
            if time.monotonic() > until + 2:
                return
            time.sleep(0.4)

    def _work(self, hosts: Callable[[], Iterable[psutil.Process]]) -> dict[int, psutil.Process]:
        carriers = {p.pid for p in hosts()}
        return {pid: p for pid, p in self.members().items() if pid not in carriers}
