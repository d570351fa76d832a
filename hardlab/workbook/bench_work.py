"""The process that ``bench`` times: the trainer, which takes as many steps as it is asked for and says how long.

Standard input has a line with the job as JSON, then a number of steps a line; every answer is a line of JSON.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hardlab import build, config, execution, machine, meters, run_folder, train
from hardlab.config import Run
from hardlab.logger import Logger
from hardlab.methods.base import Step
from hardlab.negatives import Around
from hardlab.session import Session
from hardlab.types import HardlabError


class Enough(Exception):
    """No more steps are asked for."""


class Timeline(meters.Epoch):
    """An ``Epoch`` that also gives each moment to the innermost part of a step, so that the parts add up to the whole.

    On a GPU the moments are CUDA events, recorded between the kernels: the host runs ahead as ever, and a part has the
    time that its kernels take, and that the device waits for their launches.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.inside = ["rest"]
        self.marks: list[tuple[str, Any]] = []

    def _mark(self) -> None:
        """Note that the innermost part lasted until now."""
        moment: Any = time.perf_counter()
        if self.device.type == "cuda":
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        self.marks.append((self.inside[-1], moment))

    def enter(self, part: str) -> None:
        self._mark()
        self.inside.append(part)

    def leave(self) -> None:
        self._mark()
        self.inside.pop()

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        self.enter(part)
        with super().time(part):
            yield
        self.leave()

    def watch(self, session: Session) -> None:
        """Make these parts of their own, whoever asks for them.

        The steps of optimisers, the rendering of views, and the loss against negatives that a strategy has replaced or
        wrapped, without the similarities that are the method's.
        """
        session.epoch = self
        for player in session.players:
            player.opt.register_step_pre_hook(lambda *_: self.enter("optimizer"))
            player.opt.register_step_post_hook(lambda *_: self.leave())
        self._inside("views", session.look, "render")
        negatives = session.method.negatives
        if negatives is None or not negatives.held():
            return
        # of the strategies of a run, one at most replaces or wraps the negatives
        self._inside(next((h.name for h in session.hard if h.owns_loss), "step"), negatives, "loss")
        if isinstance(negatives, Around):
            self._inside("step", negatives.inner, "similarities")

    def _inside(self, part: str, owner: Any, name: str) -> None:
        """Give the time inside a method of one object to ``part``."""
        called = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            self.enter(part)
            try:
                return called(*args, **options)
            finally:
                self.leave()

        setattr(owner, name, timed)

    def start(self) -> None:
        self.marks = []
        self._mark()

    def stop(self) -> dict[str, float]:
        """Seconds by part since ``start``; waits for the device."""
        self._mark()
        wait(self.device)
        seconds: dict[str, float] = defaultdict(float)
        for (_, before), (part, after) in zip(self.marks, self.marks[1:]):
            seconds[part] += before.elapsed_time(after) / 1000 if self.device.type == "cuda" else after - before
        return dict(seconds)


class Paced(Logger):
    """The logger of a run that takes as many steps as a line of standard input says, answers, and reads the next."""

    timeline: Timeline | None = None

    def begin(self) -> None:
        """Wait for the first line. Raises Enough at the end of the input."""
        line = sys.stdin.readline()
        if not line:
            raise Enough
        self.asked = self.left = int(line)
        wait(self.session.device)
        if self.timeline is not None:
            self.timeline.start()
        self.start = time.perf_counter()

    def step(self, now: Step) -> None:
        if self.timeline is None:
            super().step(now)
        else:
            with self.timeline.time("logs"):
                super().step(now)
        self.left -= 1
        if self.left == 0:
            parts = self.timeline.stop() if self.timeline is not None else {}
            wait(self.session.device)
            seconds = (time.perf_counter() - self.start) / self.asked
            peak = run_folder.peak_memory_mb(self.session.device)
            answer(seconds=seconds, peak_memory_mb=peak, parts={name: s / self.asked for name, s in parts.items()})
            self.begin()


class Job(NamedTuple):
    """What a process is to time. run: the configuration as plain values. profile: whether to time the parts."""

    run: dict[str, Any]
    device: str
    threads: int | None
    profile: bool


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def answer(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def opened(run: Run, folder: run_folder.Folder, device: str) -> tuple[Session, Path | None]:
    """The run in the middle of its training, where all parts have begun to act, and the folder of its parent."""
    silent = lambda line: None  # noqa: E731
    parent = None
    if run.parent is not None:
        parent = train.train(run.parent, folder.path.parent, device=device, say=silent)
    session = train.open(run, folder, device=device, parent=parent, say=silent)
    session.done = session.per_epoch * (run.epochs // 2)
    return session, parent


def work(job: Job) -> None:
    """Train until no more steps are asked for; the first answer says what was opened."""
    machine.keep_pages()
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    run = config.make(job.run)
    device = build.device(job.device)
    execution.check(run.execution, device)
    with tempfile.TemporaryDirectory(prefix="hardlab-bench-") as name:
        folder = run_folder.Folder(Path(name), run)
        try:
            session, parent = opened(run, folder, str(device))
            log = Paced(session, folder, None, parent, lambda line: None)
            if job.profile:
                log.timeline = Timeline(session.device)
                log.timeline.watch(session)
            commit, dirty = run_folder.commit()
            answer(
                device=torch.cuda.get_device_name(device) if device.type == "cuda" else machine.processor(),
                processor=machine.processor(), python=platform.python_version(), versions=run_folder.versions(),
                driver=run_folder.driver() if device.type == "cuda" else None, commit=commit, dirty=dirty,
                date=run_folder.now(), precision=session.precision, threads=torch.get_num_threads(),
                data=session.data.name, strategies=[h.name for h in session.hard],
                players=[p.name for p in session.players[1:]],
                clock="CUDA events" if device.type == "cuda" else "the host's clock",
            )  # fmt: skip
            log.begin()
            train.loop(session, log)
        except Enough:
            pass
        finally:
            folder.close()


if __name__ == "__main__":
    try:
        work(Job(**json.loads(sys.stdin.readline())))
    except HardlabError as e:
        answer(error=str(e))
    except BrokenPipeError:
        pass  # nobody asks any more
