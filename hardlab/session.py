"""A run in memory: what a step reads, and everything that it changes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardlab import build, checkpoint, health, machine, meters, optim, players, run_folder
from hardlab.config import Run
from hardlab.data import Images
from hardlab.hard.base import Hard
from hardlab.methods.base import Method, Player
from hardlab.types import Batch, HardlabError, Progress
from hardlab.views import Look

Say = Callable[[str], None]


def say(line: str) -> None:
    """A line of progress; that nobody listens any more is no reason to fail."""
    with suppress(OSError, ValueError):  # a closed terminal, a log on a full disk
        print(line, file=sys.stderr, flush=True)


@dataclass(eq=False)
class Session:
    """A run in memory, on its way from the first step to the last.

    done: steps taken. epoch: sums of the epoch under way. watch: for numbers that are none. checkpoints: the folder of
    the run's checkpoints, where it has one.
    """

    run: Run
    device: torch.device
    precision: machine.Precision
    data: Images
    look: Look
    method: Method
    hard: list[Hard]
    players: list[Player]
    generator: torch.Generator
    done: int = 0
    epoch: meters.Epoch = field(default_factory=meters.Epoch)
    watch: health.Watch = field(default_factory=health.Watch)
    checkpoints: Path | None = None

    @property
    def per_epoch(self) -> int:
        return len(self.data) // self.run.batch_size

    @property
    def total(self) -> int:
        return self.run.epochs * self.per_epoch

    @property
    def at(self) -> Progress:
        return Progress(self.done, self.total, self.done // self.per_epoch, self.run.epochs)

    def batches(self) -> Iterator[Batch]:
        """The remaining batches of the current epoch."""
        epoch, passed = divmod(self.done, self.per_epoch)
        rows = epoch_order(self.run.seed, epoch, len(self.data), self.run.batch_size)
        for h in self.hard:
            rows = h.order(rows, epoch, self.data, self.look)
        return self.data.batches(rows[passed:])

    def check(self) -> None:
        """Raise HardlabError where a loss or gradient so far was not finite."""
        complaint = self.watch.complaint()
        if complaint is not None:
            good = checkpoint.listed(self.checkpoints) if self.checkpoints else []
            raise HardlabError(f"{complaint} The last good checkpoint is {good[0].name if good else 'none'}.")

    def dump(self) -> dict[str, Any]:
        """Everything that a step changes: weights, strategies, optimisers, sums, random numbers."""
        return {
            "config_hash": self.run.hash,
            "data": {"name": self.run.data.name, "count": len(self.data), "digest": self.data.digest()},
            "step": self.done,
            "precision": self.precision,
            "sums": self.epoch.dump(),
            "method": self.method.state_dict(),
            "hard": [h.state_dict() for h in self.hard],
            "players": {p.name: p.opt.state_dict() for p in self.players},
            "generator": self.generator.get_state(),
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Put back what ``dump`` gave. Raises OtherImages, and HardlabError or any other for what it did not give."""
        if saved["config_hash"] != self.run.hash:
            raise HardlabError("it belongs to another configuration and was left alone.")
        run_folder.check_images(self.run.id, saved.get("data", {}), self.data)
        if not 0 <= saved["step"] <= self.total:
            raise HardlabError(f"its step is {saved['step']}, and the run has {self.total}.")
        self.method.load_state_dict(saved["method"])
        for h, state in zip(self.hard, saved["hard"], strict=True):
            h.load_state_dict(state)
        for p in self.players:
            optim.restore(p.opt, saved["players"][p.name])
        self.generator.set_state(saved["generator"])
        torch.set_rng_state(saved["rng"])
        if saved["rng_cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(saved["rng_cuda"])
        self.epoch.restore(saved["sums"])
        self.done = saved["step"]
        self.precision = saved.get("precision", self.precision)  # of old checkpoints the manifest's
        if self.precision not in ("fp32", "bf16"):
            raise HardlabError(f"its precision '{self.precision}' is unknown.")


def open(
    run: Run,
    folder: run_folder.Folder | None = None,
    *,
    data: Images | None = None,
    root: str | Path | None = None,
    device: str = "auto",
    parent: Path | None = None,
    say: Say = say,
) -> Session:
    """Open the run at its start, or at the newest intact checkpoint in ``folder``; writes nothing.

    data: in place of the images that the run names. root: where data sets lie. parent: folder of the run's parent.
    Raises HardlabError.
    """
    machine.alone()
    on = build.device(device)
    data = build.images(run, "train", root, on) if data is None else data
    look = build.look(run)
    build.fits(run, data, look)
    build.check_monitor(run, root)
    torch.manual_seed(run.seed)
    method = build.method(run).to(on)
    hard = build.strategies(run, method)
    method.on_start(data, run.batch_size)
    for h in hard:
        remark = h.remark(method)
        if remark is not None:
            say(f"{run.id}: {remark}")
        h.on_start(data, run.batch_size, parent)
        h.check_steps(run.epochs * (len(data) // run.batch_size), run.epochs)
        h.to(on)
    for net in (method, *hard):
        machine.set_memory_format(net, on, run.channels_last)
    generator = torch.Generator(on).manual_seed(run.seed)
    here = machine.resolve(run.precision, on)
    session = Session(run, on, here, data, look, method.train(), hard, players.assemble(run, method, hard), generator)
    if folder is not None:
        session.checkpoints = folder.checkpoints
        session.precision = folder.manifest.get("precision", here)
        if checkpoint.listed(folder.checkpoints):  # without one it starts, on whatever images there are
            run_folder.check_images(run.id, folder.manifest.get("data", {}), data)
        newest = checkpoint.newest(folder.checkpoints, session.restore)
        if newest is not None:
            for complaint in newest[2]:
                say(f"{run.id}: {complaint}")
            say(f"{run.id}: continues at step {session.done} of {session.total}.")
        if session.precision != here:
            say(f"{run.id}: stays in {session.precision}, as it began; a new run would take {here} here.")
    return session


def epoch_order(seed: int, epoch: int, count: int, batch_size: int) -> Tensor:
    """(S,B) rows of an epoch's S whole batches; a function of (seed, epoch) alone, so that resuming is exact."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    steps = count // batch_size
    return torch.randperm(count, generator=generator)[: steps * batch_size].view(steps, batch_size)
