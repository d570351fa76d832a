"""The one training loop: a run is opened as a session, which takes one step after the other."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from hardlab import build, checkpoint, health, machine, meters, optim, runs, stopping
from hardlab.config import Run
from hardlab.data import Images
from hardlab.evaluate.run import monitor
from hardlab.hard.base import Hard
from hardlab.methods.base import Method, Player, Step
from hardlab.stopping import Stopped
from hardlab.types import Batch, Candidates, HardlabError, Progress
from hardlab.views import Look

Say = Callable[[str], None]


def say(line: str) -> None:
    """A line of progress; that nobody listens any more is no reason to fail."""
    with suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


@dataclass(eq=False)
class Session:
    """A run in memory: what a step reads, and everything that it changes.

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
        """The batches that are left of the epoch under way."""
        epoch, passed = divmod(self.done, self.per_epoch)
        rows = epoch_order(self.run.seed, epoch, len(self.data), self.run.batch_size)
        for h in self.hard:
            rows = h.order(rows, epoch, self.data, self.look)
        return self.data.batches(rows[passed:])

    def check(self) -> None:
        """Raise HardlabError where a loss or gradient so far was not finite."""
        complaint = self.watch.complaint()
        if complaint is not None:
            good = checkpoint.found(self.checkpoints) if self.checkpoints else []
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
            raise HardlabError("it belongs to another configuration; it is left alone.")
        runs.check_images(self.run.id, saved.get("data", {}), self.data)
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
            raise HardlabError(f"it is of precision '{self.precision}', which is none.")


def open(
    run: Run,
    folder: runs.Folder | None = None,
    *,
    data: Images | None = None,
    root: str | Path | None = None,
    device: str = "auto",
    parent: Path | None = None,
    say: Say = say,
) -> Session:
    """The run at its start, or at the newest whole checkpoint in ``folder``; nothing is written.

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
    players = _players(run, method, hard)
    generator = torch.Generator(on).manual_seed(run.seed)
    here = machine.resolve(run.precision, on)
    session = Session(run, on, here, data, look, method.train(), hard, players, generator)
    if folder is not None:
        session.checkpoints = folder.checkpoints
        session.precision = folder.manifest.get("precision", here)
        if checkpoint.found(folder.checkpoints):  # without one it starts, on whatever images there are
            runs.check_images(run.id, folder.manifest.get("data", {}), data)
        found = checkpoint.newest(folder.checkpoints, session.restore)
        if found is not None:
            for complaint in found[2]:
                say(f"{run.id}: {complaint}")
            say(f"{run.id}: goes on at step {session.done} of {session.total}.")
        if session.precision != here:
            say(f"{run.id}: stays in {session.precision}, in which it began; alone it would take {here} here.")
    return session


def step(session: Session, batch: Batch) -> Step:
    """Train on one batch; nothing waits for the device. Returns all that the step saw, for logs and notebooks."""
    s, run, method, time = session, session.run, session.method, session.epoch.time
    warmup = round(run.optim.warmup_epochs * s.per_epoch)
    lr = optim.set_schedule(s.players[0].opt, run.optim, run.batch_size, s.done, s.total, warmup)
    at = s.at
    method.before_step(at)
    for h in s.hard:
        h.before_step(at)
    with time("views"):
        large = max(method.slots, *(h.draws for h in s.hard), 0)
        local = max(method.locals, *(h.local_draws for h in s.hard), 0)
        now = Step(method, s.look, s.look.views(batch, large, s.generator, local), at, s.precision == "bf16")
    forward(now, s.hard, time)
    _play(s, now)
    now.rates = {p.name: p.opt.param_groups[0]["lr"] for p in s.players} | {"learner": lr}
    with time("step"):
        method.after_step(now)
    for h in s.hard:
        with time(h.name):
            h.after_step(now)
    s.epoch.add(now.means())
    s.done += 1
    return now


def _untimed(part: str) -> AbstractContextManager[None]:
    return nullcontext()


def forward(now: Step, hard: Sequence[Hard], time: Callable[[str], AbstractContextManager[None]] = _untimed) -> None:
    """The half of a step before anybody moves: views chosen and rendered, predictions, and the terms of the loss.

    time: a context for each part by its name.
    """
    for h in hard:
        with time(h.name), now.autocast():
            h.views(now)
    with time("views"):
        now.views = views = now.look.render(now.views, now.method.plain)
    with time("step"), now.autocast(), ExitStack() as around:
        for h in hard:
            around.enter_context(h.around(now))
        now.out = now.method(views)
    now.terms["base"] = now.out.loss
    for h in hard:
        with time(h.name), now.autocast():
            now.terms |= h.terms(now)


def _players(run: Run, method: Method, hard: Sequence[Hard]) -> list[Player]:
    """The learner first, then the players of the method and of the strategies in the order of play."""
    theirs = [method.players(), *(h.players(method) for h in hard)]
    others = [p for owner in theirs for p in owner]
    taken = {id(t) for p in others for t in p.params}
    mine: list[Tensor] = [p for p in method.parameters() if p.requires_grad and id(p) not in taken]
    weights = {name: w for h in hard for name, w in h.weights.items()}

    def objective(step: Step) -> Tensor:
        return torch.stack([weights.get(name, 1.0) * t.mean() for name, t in step.terms.items() if len(t)]).sum()

    opt = optim.build(mine, run.optim, run.batch_size, method.constant_rate())
    players = [Player("learner", mine, opt, objective), *others]
    # one owner may give a tensor two objectives in turn, as PPCL does with its generator
    owned = [{id(t) for p in owner for t in p.params} for owner in ([players[0]], *theirs)]
    if len(set().union(*owned)) != sum(map(len, owned)) or len({p.name for p in players}) != len(players):
        raise HardlabError("Two strategies of this run move the same tensor or name a player alike: keep one of them.")
    return players


def _play(s: Session, now: Step) -> None:
    """One optimiser step (or several, or none) of each player."""
    learner, *others = s.players
    together = [p for p in others if p.joint and p.times(now.at.step)]

    def timed(p: Player) -> AbstractContextManager[None]:
        return s.epoch.time("step" if p is learner else p.name)

    def gradients(p: Player, retain: bool = False) -> tuple[Tensor | None, ...]:
        loss = p.objective(now)
        grads = torch.autograd.grad(loss, p.params, allow_unused=True, retain_graph=retain)
        s.watch.note(p.name, now.at.step, loss, grads, now.out.views.index)
        return grads

    early = {}
    for p in (learner, *together):  # of one graph, so all before anybody moves
        with timed(p):
            early[p.name] = gradients(p, retain=bool(together) and p is not together[-1])
    fixed = {id(p) for p in s.method.still(now.at)}
    for p in s.players:
        with timed(p):
            for _ in range(1 if p.name in early else p.times(now.at.step)):
                found = early[p.name] if p.name in early else gradients(p)
                for param, grad in zip(p.params, found, strict=True):
                    param.grad = None if id(param) in fixed else grad
                if p is learner and s.run.optim.clip is not None:
                    optim.clip(p.params, s.run.optim.clip, s.run.optim.clip_by)
                p.opt.step()
                p.opt.zero_grad(set_to_none=True)


def epoch_order(seed: int, epoch: int, count: int, batch_size: int) -> Tensor:
    """(S,B) rows of an epoch's S whole batches; a function of (seed, epoch) alone, so that resuming is exact."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    steps = count // batch_size
    return torch.randperm(count, generator=generator)[: steps * batch_size].view(steps, batch_size)


def train(
    run: Run,
    runs_dir: Path,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    say: Say = say,
    wait: bool = False,
    anew: bool = False,
) -> Path:
    """Train ``run`` to its end in ``runs_dir/<id>``, from the newest whole checkpoint there; returns that folder.

    A finished run is found and returned at once; a run's parent is trained first. ``runs.OtherImages`` where the run
    that is there was trained on other images than its data set holds now. Ctrl-C, SIGTERM and SIGUSR1 save and
    raise ``Stopped``. A loss or gradient that is not finite ends the run before anything of it is logged or saved.
    wait: where another process trains this very run, wait for it instead of raising; so a parent that several runs
    start from is trained once. anew: start a new run, and set the one that is there aside, a parent only where its
    images are others; nothing is removed.
    """
    parent = None
    if run.parent is not None:
        if not (Path(runs_dir) / run.parent.id).exists():  # a slip shows before the hours that the parent takes
            build.check_images(run, root)
        again: dict[str, Any] = {"root": root, "device": device, "say": say, "wait": True}
        try:
            parent = train(run.parent, runs_dir, **again)
        except runs.OtherImages:
            if not anew:
                raise
            parent = train(run.parent, runs_dir, **again, anew=True)
    with stopping.requests() as asked:
        folder = runs.Folder(runs_dir, run, _patience(run, say, asked) if wait else None)
        try:
            if anew and (aside := folder.set_aside()):
                say(f"{run.id}: starts anew; what was there is in {aside}.")
            if folder.complaint:
                say(f"{run.id}: {folder.complaint} The checkpoints tell where it was.")
            if finished(folder.manifest, run, root, say):
                say(f"{run.id}: finished before, nothing to do.")
                return folder.path
            try:
                session = open(run, folder, root=root, device=device, parent=parent, say=say)
                if asked:
                    say(f"{run.id}: asked to stop before its first step; the same command starts it.")
                    raise Stopped
                _begin(session, folder, parent, say)
                _loop(session, folder, root, say, asked)
            except Stopped:
                if folder.manifest:
                    folder.update(state="stopped", ended=runs.now())
                raise
            except Exception as e:
                if folder.manifest:
                    folder.update(state="failed", ended=runs.now(), error=str(e))
                raise
        finally:
            folder.close()
    return folder.path


def finished(manifest: Mapping[str, Any] | None, run: Run, root: str | Path | None = None, say: Say = say) -> bool:
    """Whether a run is done, of the images that its data set holds now. Raises ``runs.OtherImages`` for others.

    Images that are not here any more cannot be compared, which is said.
    """
    if not manifest or manifest.get("state") != "done":
        return False
    try:
        images = build.images(run, "train", root)
    except HardlabError as e:
        say(f"{run.id}: its images could not be compared with those that it was trained on: {e}")
        return True
    runs.check_images(run.id, manifest.get("data", {}), images)
    return True


def _patience(run: Run, say: Say, asked: list[int]) -> Callable[[], None]:
    """Sleeps for a second each time, and says why the first time; raises ``Stopped`` once ``asked`` to stop."""
    told: list[str] = []

    def wait() -> None:
        if not told:
            told.append(run.id)
            say(f"{run.id}: another process trains it; this one goes on when that is done.")
        time.sleep(1)
        if asked:
            say(f"{run.id}: asked to stop while it waited; the same command goes on.")
            raise Stopped

    return wait


def _begin(s: Session, folder: runs.Folder, parent: Path | None, say: Say) -> None:
    """Forget what was logged after the checkpoint, and write the manifest."""
    skipped = [Path(p).name for p in s.data.skipped[:20]]
    if harmed := folder.rewind(s.done):
        say(f"{s.run.id}: {harmed} damaged lines of metrics.jsonl were left out; the file as it was lies beside it.")
    folder.begin(
        s.device,
        s.precision,
        {
            "name": s.run.data.name,
            "split": "train",
            "count": len(s.data),
            "digest": s.data.digest(),
            "skipped": len(s.data.skipped),
            "skipped_first": skipped,
            "dropped": len(s.data.dropped),
        },
        parent.name if parent else None,
        {"backbone": sum(t.numel() for t in s.method.backbone.parameters())}
        | {p.name: sum(t.numel() for t in p.params) for p in s.players},
    )
    if s.data.skipped:
        say(f"{s.run.id}: left out {len(s.data.skipped)} broken images, first {', '.join(s.data.skipped[:3])}.")


def _loop(s: Session, folder: runs.Folder, root: str | Path | None, say: Say, asked: list[int]) -> None:
    """Steps to the end of the run, with its logs and checkpoints."""
    run, logs = s.run, s.run.logs
    rate = meters.Rate(s.total - s.done, run.batch_size)
    signs = health.Monitor(runs.metrics(folder.path))
    folder.update(health=signs.alarms)
    for epoch in range(s.done // s.per_epoch, run.epochs):
        if s.done % s.per_epoch == 0:
            s.epoch.clear()
            with s.epoch.time("epoch"):  # k-means and the like
                s.method.on_epoch(s.at, s.data, s.look)
        for batch in s.epoch.around("data", s.batches()):
            now = step(s, batch)
            if now.at.step % logs.views_every == 0:
                folder.log_views(_seen(now), now.out.views.index, epoch, s.done, logs.views_rows)
            rate.tick()
            if now.at.step % logs.step_every == 0:
                s.check()
                row = _step_row(s, now, rate, signs)
                folder.metric(row)
                for alarm in signs.look(row, s.epoch.seconds):
                    folder.metric({"kind": "health", "epoch": epoch, **alarm})
                    folder.update(health=signs.alarms)
                    say(f"{run.id}: {alarm['rule']}. {alarm['sentence']}")
            if rate.due():
                say(
                    f"{run.id} | epoch {epoch + 1}/{run.epochs}, step {s.done}/{s.total} | "
                    f"loss {float(now.means()['base']):.4f} | {rate.describe()}"
                )
            if asked and s.done % s.per_epoch:  # at the end of an epoch its row comes first
                _stop(s, folder, say)
        s.check()
        last = epoch + 1 == run.epochs
        monitored = logs.monitor_every and (last or (epoch + 1) % logs.monitor_every == 0)
        folder.metric(_epoch_row(s, now) | ({"knn": _monitor(s, root)} if monitored else {}))
        folder.update(epochs_done=epoch + 1, steps_done=s.done)
        if asked and not last:
            _stop(s, folder, say)
        if last or (epoch + 1) % logs.checkpoint_every == 0:
            _save(s, folder)
        else:
            folder.flush_views(s.done)
    if run.epochs == 0:
        _save(s, folder)
    folder.update(
        state="done",
        ended=runs.now(),
        epochs_done=run.epochs,
        steps_done=s.done,
        images_per_s=round(rate.images_per_s(), 2),
        peak_memory_mb=round(runs.peak_memory_mb(s.device), 1),
    )
    ill = ", ".join(f"{a['rule']} (step {a['step']})" for a in signs.alarms)
    say(f"{run.id}: done, {s.done} steps." + (f" Its health: {ill}; see its manifest." if ill else ""))


def _step_row(s: Session, now: Step, rate: meters.Rate, signs: health.Monitor) -> dict[str, Any]:
    terms = {name: float(mean) for name, mean in now.means().items()}
    guess = signs.guess = signs.guess or health.loss_of_guess(s.method, now.out)
    return {
        "kind": "step",
        "step": s.done,
        "epoch": now.at.epoch,
        "loss": terms["base"],
        "terms": terms,
        "lr": now.rates,
        "images_per_s": rate.images_per_s(),
        **health.collapse_signals(now.out),
        **({} if guess is None else {"loss_of_guess": guess}),
        **s.method.logs(now),
        **{key: float(x) for h in s.hard for key, x in h.numbers(now).items()},
    }


def _epoch_row(s: Session, now: Step) -> dict[str, Any]:
    means = s.epoch.means()
    return {
        "kind": "epoch",
        "epoch": now.at.epoch,
        "step": s.done,
        "loss": means["base"],
        "terms": means,
        "lr": now.rates,
        "seconds": {part: round(seconds, 4) for part, seconds in s.epoch.seconds.items()},
        "peak_memory_mb": round(runs.peak_memory_mb(s.device), 1),
    }


def _seen(now: Step) -> Candidates:
    """What a selection saw, or, without one, the only pair there was, as trained on."""
    if now.seen is not None:
        return now.seen
    v = now.out.views
    pair = torch.tensor([range(v.params.shape[1])], device=now.out.loss.device)  # (1,S)
    return Candidates(v.params, pair, now.out.loss[:, None], torch.zeros_like(v.index))


def _monitor(s: Session, root: str | Path | None) -> float:
    test = build.images(s.run, "test", root, s.device)
    return monitor(next(iter(s.method.networks().values())), s.look, s.data, test, s.precision)


def _save(s: Session, folder: runs.Folder) -> None:
    s.check()
    folder.flush_views(s.done)
    folder.snapshot("method", s.done, s.method.snapshot(s.data, s.look))
    for h in s.hard:
        folder.snapshot(h.name, s.done, h.snapshot(s.method, s.data, s.look))
    checkpoint.save(folder.checkpoints, s.done, s.dump(), s.run.logs.keep)


def _stop(s: Session, folder: runs.Folder, say: Say) -> NoReturn:
    _save(s, folder)
    say(f"{s.run.id}: asked to stop, saved at step {s.done} of {s.total}; the same command goes on from here.")
    raise Stopped


class _Module(types.ModuleType):
    """So that a notebook says ``hardlab.train(run)``."""

    def __call__(
        self,
        run: Run,
        runs_dir: str | Path = "runs",
        *,
        method: Any = None,
        hard: Sequence[Any] | None = None,
        **options: Any,
    ) -> Path:
        """As ``train``, with a method or strategies in place of the run's own: names, classes, or strategies as made.

        Code of one's own is known by a digest of its source, which is part of the run's hash and of its manifest.
        """
        changes: dict[str, Any] = {}
        if method is not None:
            changes["method"] = build.spec("method", method).model_dump(mode="json")
        if hard is not None:
            changes["hard"] = [build.spec("strategy", h).model_dump(mode="json") for h in hard]
        return train(run.with_(changes), Path(runs_dir), **options)


sys.modules[__name__].__class__ = _Module
