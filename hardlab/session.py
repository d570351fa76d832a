"""A run in memory: everything that a training step reads and changes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardlab import (
    build,
    checkpoint,
    config,
    execution,
    health,
    machine,
    meters,
    nets,
    optim,
    players,
    ranks,
    run_folder,
)
from hardlab.config import Run, precision_of
from hardlab.data import Images
from hardlab.hard.base import Hard
from hardlab.methods.base import Method, Player
from hardlab.types import Batch, HardlabError, Progress
from hardlab.views import Look

Say = Callable[[str], None]


def say(line: str) -> None:
    """Print a progress line; an output stream that is closed or full is not an error."""
    with suppress(OSError, ValueError):  # a closed terminal, a log on a full disk
        print(line, file=sys.stderr, flush=True)


@dataclass(eq=False)
class Session:
    """A run in memory between its first step and its last.

    done: steps taken.
    epoch: sums of the current epoch.
    watch: detects numbers that are not finite.
    checkpoints: the folder of the run's checkpoints, if it has one.
    networks: a context in which the networks run as ``run.execution`` says.
    gradients: a context in which the players take gradients through them.
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
    networks: Callable[[], AbstractContextManager[None]] = nullcontext
    gradients: Callable[[], AbstractContextManager[None]] = nullcontext

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
        """The remaining batches of the current epoch, of each this rank's rows."""
        epoch, passed = divmod(self.done, self.per_epoch)
        rows = epoch_order(self.run.seed, epoch, len(self.data), self.run.batch_size)
        for h in self.hard:
            wanted, rows = rows.shape, h.order(rows, epoch, self.data, self.look)
            if rows.shape != wanted or bool(((rows < 0) | (rows >= len(self.data))).any()):
                raise HardlabError(
                    f"Strategy '{h.name}' returns rows {tuple(rows.shape)} from `order`: it must return "
                    f"{tuple(wanted)}, as it gets, each a row of the {len(self.data)} images."
                )
        return self.data.batches(ranks.own(rows[passed:], dim=1))

    def check(self) -> None:
        """Raise HardlabError if a loss or gradient so far was not finite; all ranks see the same."""

        def check() -> None:
            complaint = self.watch.complaint()
            if complaint is not None:
                good = checkpoint.listed(self.checkpoints) if self.checkpoints else []
                raise HardlabError(f"{complaint} The last good checkpoint is {good[0].name if good else 'none'}.")

        ranks.from_first(check)

    def dump(self) -> dict[str, Any]:
        """The state that steps change: weights, strategies, optimisers, sums, random number generators."""
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
            "rng_cuda": self._rng_cuda(),
        }

    def _rng_cuda(self) -> list[Tensor]:
        """The states of the GPUs' generators; of several processes each uses one GPU, and all have the same numbers."""
        if not torch.cuda.is_available():
            return []
        if ranks.size() > 1 and self.device.type == "cuda":
            return [torch.cuda.get_rng_state(self.device)] * torch.cuda.device_count()
        return torch.cuda.get_rng_state_all()

    def restore(self, saved: dict[str, Any]) -> None:
        """Restore a state from ``dump``. Raises OtherImages, and HardlabError or other errors for any other state."""
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
        if torch.cuda.is_available():
            for i, state in zip(range(torch.cuda.device_count()), saved["rng_cuda"], strict=False):
                torch.cuda.set_rng_state(state, i)
        self.epoch.restore(saved["sums"])
        self.done = saved["step"]
        self.precision = saved.get("precision", self.precision)  # old checkpoints leave it to the manifest
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

    Where several processes train together, each opens it, the first with the folder; the others take its state.

    data: images instead of those that the run names.
    root: the folder of the data sets.
    parent: the folder of the run's parent.
    say: prints progress lines.

    Raises HardlabError.
    """
    if not ranks.met():
        machine.alone()
    ranks.check_batch(run.batch_size)
    on = build.device(device)
    execution.check(run.execution, on, ranks.size())
    if data is None:
        if ranks.size() > 1:
            ranks.from_first(lambda: build.images(run, "train", root, on).name)  # one downloads
        data = build.images(run, "train", root, on)
    build.fits(run, data, build.look(run))
    build.check_monitor(run, root)
    preferred = machine.resolve(run.precision, on)
    session = _begun(run, on, preferred, data, parent, say)
    ranks.from_first(lambda: _take_up(session, folder, preferred, say))
    if ranks.size() > 1:
        state = ranks.from_first(session.dump)
        if not ranks.writes():
            session.restore(state)
    return session


def _take_up(session: Session, folder: run_folder.Folder | None, preferred: machine.Precision, say: Say) -> None:
    """Restore the newest intact checkpoint in the folder, if there is one."""
    run, data = session.run, session.data
    if folder is not None:
        session.checkpoints = folder.checkpoints
        session.precision = folder.manifest.get("precision", preferred)
        if checkpoint.listed(folder.checkpoints):  # without a checkpoint, the run starts on the images that exist
            run_folder.check_images(run.id, folder.manifest.get("data", {}), data)
        newest = checkpoint.newest(folder.checkpoints, session.restore)
        if newest is not None:
            for complaint in newest[2]:
                say(f"{run.id}: {complaint}")
            say(f"{run.id}: continues at step {session.done} of {session.total}.")
        if session.precision != preferred:
            say(f"{run.id}: stays in {session.precision}, as it began; a new run would take {preferred} here.")


def reopen(path: Path, step: int | None = None, *, root: str | Path | None = None, device: str = "cpu") -> Session:
    """Open a trained run at its newest checkpoint, or at that of ``step``; writes nothing.

    path: the folder of the run. root: the folder of the data sets. Raises HardlabError, and OtherImages.
    """
    run, about = config.read_run(path)
    on = build.device(device)
    data = build.images(run, "train", root, on)
    run_folder.check_images(path.name, about["data"], data)
    session = _begun(run, on, precision_of(about), data, None, lambda line: None)
    run_folder.restored(path, about, step, session.restore)
    return session


def _begun(
    run: Run, on: torch.device, precision: machine.Precision, data: Images, parent: Path | None, say: Say
) -> Session:
    """The run before its first step."""
    torch.manual_seed(run.seed)
    method = build.method(run).to(on)
    hard = build.strategies(run, method)
    method.on_start(data, run.batch_size)
    for h in hard:
        remark = h.remark(method)
        if remark is not None:
            say(f"{run.id}: {remark}")
        h.on_start(data, run.batch_size)
        if parent is not None and type(h).start_from is not Hard.start_from:
            h.start_from(parent.name, ranks.from_first(partial(_networks, parent)))
        h.check_steps(run.epochs * (len(data) // run.batch_size), run.epochs)
        h.to(on)
    for net in (method, *hard):
        machine.set_memory_format(net, on, run.channels_last)
        nets.check_groups(net)
        if ranks.size() > 1 and run.sync_bn:
            nets.synchronise_bn(net)
    generator = torch.Generator(on).manual_seed(run.seed)
    parties = players.assemble(run, method, hard)
    session = Session(run, on, precision, data, build.look(run), method.train(), hard, parties, generator)
    if run.execution != "eager":
        twice = any(p.joint for p in parties)
        compiled = execution.Compiled(method, run.execution, on, twice)
        session.networks, session.gradients = compiled.step, compiled.gradients
    return session


def _networks(parent: Path) -> Mapping[str, Tensor]:
    """The state of the method of a trained parent. Raises HardlabError unless its last checkpoint can be read."""
    saved: dict[str, Any] = {}
    run_folder.restored(parent, config.read_run(parent)[1], None, saved.update)
    networks: Mapping[str, Tensor] = saved["method"]
    return networks


def epoch_order(seed: int, epoch: int, count: int, batch_size: int) -> Tensor:
    """The rows (S,B) of an epoch's S full batches, a function of (seed, epoch) alone, so that resuming is exact."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    steps = count // batch_size
    return torch.randperm(count, generator=generator)[: steps * batch_size].view(steps, batch_size)
