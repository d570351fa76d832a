"""The processes that a command of ours started, however far they went from it, and their end in good order."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterable

import psutil

MARK = "HARDLAB_PROCESS_TREE"
GRACE_S = 12.0  # for a checkpoint; with the end of the hosts it stays under the 20 s that are promised
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess)


class ProcessTree:
    """Whoever carries this mark in the environment, and whoever descends from one that does.

    A training run that a notebook's cell starts leads a process group of its own and outlives its kernel; process
    groups and parents therefore do not find it, what it inherited does.
    """

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex

    def environment(self) -> dict[str, str]:
        """This process's environment with the mark added; the marks of outer trees stay."""
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
            marked |= new  # a descendant that cleared its environment
        return {pid: everybody[pid] for pid in marked}

    def end(
        self,
        hosts: Callable[[], Iterable[psutil.Process]],
        nudge: Callable[[Iterable[psutil.Process]], None],
        grace: float = GRACE_S,
    ) -> None:
        """End everybody within ``grace`` + 5 s: the work first (SIGTERM, time to save), then its hosts.

        hosts: who carries the work (papermill and the kernel; Snakemake). They are not ended before the work is;
        ``nudge`` keeps them from starting more of it.
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
