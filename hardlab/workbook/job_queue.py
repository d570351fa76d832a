"""Schedules runs side by side on one machine, each in its own process, and ends those that are late.

This module imports the standard library alone: ``benchmarks.lease`` uses it where little else is installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardlab.config import Run

STOPPED = 75  # exit status after a request to stop, as in the command line
GRACE_S = 15.0  # from SIGTERM to SIGKILL, in which a run saves a checkpoint
HEAVY = {"gpu": 4, "paper": 8}  # rung -> places that a run takes on a GPU: one ResNet-18 uses a third of it


@dataclass(frozen=True)
class Job:
    """A run to train and evaluate: its configuration, and the facts that decide when it starts.

    id: of the run.
    line: its description in messages.
    rate: its key in the table of rates, ``<rung>/<recipe>``.
    images: number of images that it trains on, over all epochs.
    config: its whole configuration.
    protocols: of its evaluation, each with ``@<data set>`` if that is not the run's own.
    parent: the id of the run that must be trained before.
    weight: number of the machine's places that it takes.
    """

    id: str
    line: str
    rate: str
    images: int
    config: dict[str, Any]
    protocols: tuple[str, ...] = ()
    parent: str | None = None
    weight: int = 1

    @classmethod
    def of(cls, run: Run, line: str, rung: str, count: int, protocols: Sequence[str] = ()) -> Job:
        """The job of a run on a data set of ``count`` images; a GAN has no features to evaluate."""
        images = run.epochs * (count // run.batch_size) * run.batch_size
        evaluations = () if run.recipe == "gan" else tuple(protocols)
        parent = None if run.parent is None else run.parent.id
        return cls(run.id, line, f"{rung}/{run.recipe}", images, run.model_dump(mode="json"), evaluations, parent,
                   HEAVY.get(rung, 1))  # fmt: skip


@dataclass
class Child:
    """A running job, and the time from which it is late."""

    job: Job
    process: subprocess.Popen[bytes]
    started: float
    late: float


@dataclass
class Machine:
    """The limits of runs side by side: places (one per available core), and memory of the device in MB."""

    places: int
    memory_mb: float

    @classmethod
    def here(cls, gpu: bool) -> Machine:
        """The limits of this machine: all cores and memory; with a GPU, three of four cores and its free memory."""
        cores = os.cpu_count() or 1
        if not gpu:
            return cls(cores, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20)
        import torch

        return cls(max(1, cores * 3 // 4), torch.cuda.mem_get_info()[0] / 2**20)


class Estimate:
    """Estimates the seconds of a job from the table of rates, then from the jobs that have ended on this machine.

    rates: ``<rung>/<recipe>`` -> {images_per_s, peak_memory_mb}; a recipe that was not measured gets the slowest rate
        of its rung.
    overhead: seconds of a process besides training: its start and its evaluation.
    context_mb: memory of a process besides that of the run.
    """

    def __init__(self, rates: dict[str, dict[str, Any]], overhead: float = 20.0, context_mb: float = 600.0) -> None:
        self.rates, self.overhead, self.context_mb = rates, overhead, context_mb
        self.took: dict[str, list[float]] = {}  # rate key -> seconds per image of the runs that ended
        self.slower: list[float] = []  # ratios of their time to the estimate for a run alone

    def _row(self, job: Job) -> dict[str, Any] | None:
        if job.rate in self.rates:
            return self.rates[job.rate]
        rung = job.rate.partition("/")[0]
        rows = {row["images_per_s"]: row for key, row in self.rates.items() if key.partition("/")[0] == rung}
        return rows[min(rows)] if rows else None  # the slowest

    def alone(self, job: Job) -> float | None:
        row = self._row(job)
        return None if row is None else self.overhead + job.images / row["images_per_s"]

    def seconds(self, job: Job) -> float | None:
        """The estimate, or None if nothing is known; the queue tries such a job."""
        if job.rate in self.took:
            return self.overhead + job.images * max(self.took[job.rate][-3:])
        alone = self.alone(job)
        return None if alone is None else alone * (statistics.median(self.slower[-8:]) if self.slower else 1.5)

    def memory_mb(self, job: Job) -> float:
        row = self._row(job)
        return self.context_mb + 1.3 * (row["peak_memory_mb"] if row else 1000.0)

    def learn(self, job: Job, seconds: float) -> None:
        alone = self.alone(job)
        if alone is not None:
            self.slower.append(max(1.0, seconds / alone))
        if job.images:
            self.took.setdefault(job.rate, []).append(max(0.0, seconds - self.overhead) / job.images)


@dataclass
class Queue:
    """Runs jobs side by side in their order, skipping those that cannot end before the deadline.

    jobs: in their order; a parent comes before the runs that start from it.
    machine: the limits of runs side by side.
    estimate: of the time and memory of jobs; it learns from each job that ends.
    launch: starts the process of a job.
    say: prints progress lines.
    grace: seconds from SIGTERM to SIGKILL.
    resumes: whether to start a job that cannot end in time once no other can; it saves a checkpoint and resumes later.
    running: the jobs at work.
    state: id -> done, failed, hung or stopped; absent if not started.
    """

    jobs: Sequence[Job]
    machine: Machine
    estimate: Estimate
    launch: Callable[[Job], subprocess.Popen[bytes]]
    say: Callable[[str], None] = print
    grace: float = GRACE_S
    resumes: bool = False
    running: list[Child] = field(default_factory=list)
    state: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.all = {job.id: job for job in self.jobs}  # a parent that is not among them exists, or its child trains it

    def next(self, left: float) -> Job | None:
        """The first job that may start and can end in ``left`` seconds; None if there is none, or no room for it."""
        busy, late = {c.job.id for c in self.running}, None
        for job in self.jobs:
            if job.id in self.state or job.id in busy:
                continue
            if job.parent in self.all and self.state.get(job.parent) != "done":
                continue  # it waits for its parent, and never starts if that failed
            seconds = self.estimate.seconds(job)
            if seconds is not None and seconds > left:
                late = late or job
                continue
            return job if self._room(job) else None
        return late if late and self.resumes and left > self.estimate.overhead and self._room(late) else None

    def _room(self, job: Job) -> bool:
        if not self.running:
            return True  # a job alone may take the whole machine
        places = sum(c.job.weight for c in self.running) + job.weight
        memory = sum(self.estimate.memory_mb(c.job) for c in self.running) + self.estimate.memory_mb(job)
        return places <= self.machine.places and memory <= 0.85 * self.machine.memory_mb

    def run(self, deadline: float, asked: Callable[[], bool], tick: Callable[[], None] = lambda: None) -> None:
        """Run jobs until no other can end by ``deadline`` (time.monotonic), or ``asked`` is true; then end the rest."""
        try:
            while not asked() and time.monotonic() < deadline:
                self._reap()
                while (job := self.next(deadline - time.monotonic())) is not None:
                    self._start(job)
                if not self.running:
                    return
                tick()
                time.sleep(0.1)
        finally:
            self._end(list(self.running), "stopped")

    def _start(self, job: Job) -> None:
        seconds, now = self.estimate.seconds(job), time.monotonic()
        late = now + max(60.0, 4 * seconds) if seconds is not None else math.inf
        self.running.append(Child(job, self.launch(job), now, late))
        expected = f", about {seconds:.0f} s" if seconds is not None else ""
        self.say(f"started {job.line} as {job.id}{expected}; {len(self.running)} side by side")

    def _reap(self) -> None:
        now = time.monotonic()
        for child in list(self.running):
            status = child.process.poll()
            if status is not None:
                self.running.remove(child)
                self.state[child.job.id] = {0: "done", STOPPED: "stopped"}.get(status, "failed")
                if status == 0:
                    self.estimate.learn(child.job, now - child.started)
                self.say(f"{self.state[child.job.id]} {child.job.id} after {now - child.started:.0f} s")
        hung = [c for c in self.running if now > c.late]
        if hung:
            self._end(hung, "hung")

    def _end(self, children: list[Child], state: str) -> None:
        end([c.process for c in children], self.grace)
        for child in children:
            self.running.remove(child)
            # it may have ended by itself in the meantime
            self.state[child.job.id] = "done" if child.process.returncode == 0 else state
            self.say(f"{self.state[child.job.id]} {child.job.id} after {time.monotonic() - child.started:.0f} s")


def end(processes: Iterable[subprocess.Popen[bytes]], grace: float = GRACE_S) -> None:
    """Send SIGTERM to the groups of all processes, and SIGKILL to those that live after ``grace`` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = [p for p in processes if p.poll() is None]
        for p in alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(p.pid, number)
        until = time.monotonic() + grace
        for p in alive:
            with contextlib.suppress(subprocess.TimeoutExpired):
                p.wait(max(0.0, until - time.monotonic()))


def _orphaned() -> None:
    """Let this child process end with its parent, even if the parent is killed by SIGKILL."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def command(job: Job, runs: Path, *, device: str = "auto", threads: int = 1, root: Path | None = None) -> list[str]:
    """The command that trains and evaluates a job's run; it reads the configuration from standard input."""
    words = [sys.executable, "-m", "hardlab.process", "--runs", str(runs), "--device", device]
    words += ["--threads", str(threads), "--wait", *(["--root", str(root)] if root is not None else [])]
    words += [word for protocol in job.protocols for word in ("--protocol", protocol)]
    # raw pixels, with which networks are compared, are measured once, with the untrained networks
    return words + (["--pixels"] if job.protocols and job.config["recipe"] == "untrained" else [])


def start(
    words: Sequence[str], log: Path, env: Mapping[str, str], *, cwd: Path | None = None, config: Any = None
) -> subprocess.Popen[bytes]:
    """Start a process in its own group, which ends with this process and appends its output to ``log``.

    config: passed to its standard input as JSON.
    """
    configuration = None
    if config is not None:
        configuration = log.with_suffix(".json")
        configuration.write_text(json.dumps(config))
    with open(log, "ab") as output, open(configuration or os.devnull, "rb") as read:
        process = subprocess.Popen(words, cwd=cwd, env=dict(env), stdout=output, stderr=output, stdin=read,
                                   process_group=0, preexec_fn=_orphaned)  # fmt: skip
    if configuration is not None:
        configuration.unlink()
    return process
