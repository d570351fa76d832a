"""The one training loop, and starting it in a process of its own."""

from __future__ import annotations

import argparse
import ctypes
import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import Tensor

from hardlab import build, checkpoint, config, health, machine, optim, runs
from hardlab.config import Run
from hardlab.data import Images
from hardlab.evaluate.run import monitor
from hardlab.hard.base import Hard
from hardlab.methods.base import Method
from hardlab.types import Candidates, HardlabError, Out, Player, Progress

STOPPED = 75  # exit status of a run that was asked to stop and can go on (EX_TEMPFAIL)
SAY_EVERY = 5.0  # seconds between two lines of progress
Say = Callable[[str], None]


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


def say(line: str) -> None:
    """A line of progress; that nobody listens any more is no reason to fail."""
    with suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


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
) -> Path:
    """Train ``run`` to its end in ``runs_dir/<id>``, from the newest whole checkpoint there; returns that folder.

    A finished run is found and returned at once; a run's parent is trained first. Ctrl-C, SIGTERM and SIGUSR1 save and
    raise ``Stopped``. A loss or gradient that is not finite stops before the update. wait: where another process trains
    this very run, wait for it instead of raising; so a parent that several runs start from is trained once.
    """
    parent = train(run.parent, runs_dir, root=root, device=device, say=say, wait=True) if run.parent else None
    with _signals() as asked:
        folder = runs.Folder(runs_dir, run, _patience(run, say, asked) if wait else None)
        try:
            if folder.manifest.get("state") == "done":
                say(f"{run.id}: finished before, nothing to do.")
                return folder.path
            try:
                _train(run, folder, build.device(device), root, say, asked, parent)
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


def _train(
    run: Run,
    folder: runs.Folder,
    device: torch.device,
    root: str | Path | None,
    say: Say,
    asked: list[int],
    parent: Path | None,
) -> None:
    data = build.images(run, "train", root, device)
    if asked:
        say(f"{run.id}: asked to stop before its first step; the same command starts it.")
        raise Stopped
    build.fits(run, data)
    per_epoch = len(data) // run.batch_size
    total, warmup = run.epochs * per_epoch, round(run.optim.warmup_epochs * per_epoch)
    torch.manual_seed(run.seed)
    look = build.look(run)
    method = build.method(run).to(device)
    hard = build.strategies(run, method)
    names = [s.name for s in run.hard]
    method.on_start(data, run.batch_size)
    for h in hard:
        h.on_start(data, run.batch_size, parent)
        h.to(device)
    for net in (method, *hard):
        machine.set_memory_format(net, device, run.channels_last)
    draws = max([h.draws for h in hard] + [method.slots])
    local = max([h.local_draws for h in hard] + [method.locals])
    plain = any(b < 0 for _, b in method.pairs)
    players = _players(run, method, hard)
    generator = torch.Generator(device).manual_seed(run.seed)
    state = State(method, hard, players, generator)

    step, began = 0, folder.manifest.get("precision")
    sums: dict[str, float] = defaultdict(float)  # of the epoch under way, for its row in metrics.jsonl
    found = checkpoint.newest(folder.checkpoints)
    if found is not None:
        saved, path, complaints = found
        for complaint in complaints:
            say(f"{run.id}: {complaint}")
        if saved["config_hash"] != run.hash:
            raise HardlabError(f"{path} belongs to another configuration; it is left alone.")
        step = state.restore(saved)
        sums.update(saved["sums"])
        began = saved.get("precision", began)
        say(f"{run.id}: goes on at step {step} of {total}.")
    precision = here = machine.resolve(run.precision, device)
    if began and began != here:
        precision = began
        say(f"{run.id}: stays in {began}, in which it began; alone it would take {here} here.")
    folder.rewind(step)
    folder.begin(
        device,
        precision,
        {
            "name": run.data.name,
            "split": "train",
            "count": len(data),
            "digest": data.digest(),
            "skipped": len(data.skipped),
            "skipped_first": [Path(p).name for p in data.skipped[:20]],
            "dropped": len(data.dropped),
        },
        parent.name if parent else None,
        {"backbone": sum(t.numel() for t in method.backbone.parameters())}
        | {p.name: sum(t.numel() for t in p.params) for p in players},
    )

    def save() -> None:
        folder.flush_views(step)
        folder.snapshot("method", step, method.snapshot(data, look))
        for name, h in zip(names, hard):
            folder.snapshot(name, step, h.snapshot(method, data, look))
        saved = state.dump(run, step, dict(sums)) | {"precision": precision}
        checkpoint.save(folder.checkpoints, step, saved, run.logs.keep)

    def stop() -> NoReturn:
        save()
        say(f"{run.id}: asked to stop, saved at step {step} of {total}; the same command goes on from here.")
        raise Stopped

    if data.skipped:
        say(f"{run.id}: left out {len(data.skipped)} broken images, first {', '.join(data.skipped[:3])}.")
    method.train()
    rate = Rate(total - step, run.batch_size)
    for epoch in range(step // per_epoch if per_epoch else 0, run.epochs):
        if step % per_epoch == 0:
            sums.clear()
            with Clock(sums).time("epoch"):  # k-means and the like
                method.on_epoch(Progress(step, total, epoch, run.epochs), data, look)
        order = epoch_order(run.seed, epoch, len(data), run.batch_size)[step - epoch * per_epoch :]
        clock = Clock(sums)
        for batch in clock.around("data", data.batches(order)):
            at = Progress(step, total, epoch, run.epochs)
            lr = optim.set_schedule(players[0].opt, run.optim, run.batch_size, step, total, warmup)
            method.before_step(at)
            for h in hard:
                h.before_step(at)
            with clock.time("views"):
                v = look.views(batch, draws, generator, local)
            for name, h in zip(names, hard):
                with clock.time(name), _autocast(precision, device):
                    v = h.views(v, method, look)
            with clock.time("views"):
                v = look.render(v, plain)
            with clock.time("step"), _autocast(precision, device):
                out = method(v)
            terms: dict[str, Tensor] = {"base": out.loss}
            for name, h in zip(names, hard):
                with clock.time(name), _autocast(precision, device):
                    terms |= h.terms(out, method)
            rates = _play(players, out, terms, method.still(at), step, run, folder, clock)
            with clock.time("step"):
                method.after_step(out, at)
            for name, h in zip(names, hard):
                with clock.time(name):
                    h.after_step(out, method, at)
            if step % run.logs.views_every == 0:
                folder.log_views(_seen(out, hard), out.views.index, epoch, step + 1, run.logs.views_rows)
            step += 1
            means = {name: float(t.detach().mean()) for name, t in terms.items() if len(t)}
            for name, value in means.items():
                sums[f"term:{name}"] += value
            sums["steps"] += 1
            rate.tick()
            if (step - 1) % run.logs.step_every == 0:
                folder.metric(
                    {
                        "kind": "step",
                        "step": step,
                        "epoch": epoch,
                        "loss": means["base"],
                        "terms": means,
                        "lr": {"learner": lr} | rates,
                        "images_per_s": rate.images_per_s(),
                        **health.collapse_signals(out),
                        **method.logs(out),
                        **{f"{name}.{k}": x for name, h in zip(names, hard) for k, x in h.logs().items()},
                    }
                )
            if rate.due():
                say(
                    f"{run.id} | epoch {epoch + 1}/{run.epochs}, step {step}/{total} | "
                    f"loss {means['base']:.4f} | {rate.describe()}"
                )
            if asked and step % per_epoch:  # at the end of an epoch its row comes first
                stop()
        row: dict[str, Any] = {
            "kind": "epoch",
            "epoch": epoch,
            "step": step,
            "loss": sums["term:base"] / sums["steps"],
            "terms": {k[5:]: s / sums["steps"] for k, s in sums.items() if k.startswith("term:")},
            "lr": {"learner": lr} | rates,
            "seconds": {k[8:]: round(s, 4) for k, s in sums.items() if k.startswith("seconds:")},
            "peak_memory_mb": round(runs.peak_memory_mb(device), 1),
        }
        last = epoch + 1 == run.epochs
        if run.logs.monitor_every and (last or (epoch + 1) % run.logs.monitor_every == 0):
            row["knn"] = _monitor(run, method, data, root, device, precision)
        folder.metric(row)
        folder.update(epochs_done=epoch + 1, steps_done=step)
        if asked and not last:
            stop()
        if last or (epoch + 1) % run.logs.checkpoint_every == 0:
            save()
        else:
            folder.flush_views(step)
    if run.epochs == 0:
        save()
    folder.update(
        state="done",
        ended=runs.now(),
        epochs_done=run.epochs,
        steps_done=step,
        images_per_s=round(rate.images_per_s(), 2),
        peak_memory_mb=round(runs.peak_memory_mb(device), 1),
    )
    say(f"{run.id}: done, {step} steps.")


def _players(run: Run, method: Method, hard: list[Hard]) -> list[Player]:
    """The learner first, then the players of the method and of the strategies in the order of play."""
    theirs = [method.players(), *(h.players(method) for h in hard)]
    others = [p for owner in theirs for p in owner]
    taken = {id(t) for p in others for t in p.params}
    mine: list[Tensor] = [p for p in method.parameters() if p.requires_grad and id(p) not in taken]
    weights = {name: w for h in hard for name, w in h.weights.items()}

    def objective(out: Out, terms: dict[str, Tensor]) -> Tensor:
        return torch.stack([weights.get(name, 1.0) * t.mean() for name, t in terms.items() if len(t)]).sum()

    opt = optim.build(mine, run.optim, run.batch_size, method.constant_rate())
    players = [Player("learner", mine, opt, objective), *others]
    # one owner may give a tensor two objectives in turn, as PPCL does with its generator
    owned = [{id(t) for p in owner for t in p.params} for owner in ([players[0]], *theirs)]
    if len(set().union(*owned)) != sum(map(len, owned)) or len({p.name for p in players}) != len(players):
        raise HardlabError("Two strategies of this run move the same tensor or name a player alike: keep one of them.")
    return players


def _play(
    players: list[Player],
    out: Out,
    terms: dict[str, Tensor],
    still: Iterable[Tensor],
    step: int,
    run: Run,
    folder: runs.Folder,
    clock: Clock,
) -> dict[str, float]:
    """One optimiser step (or several, or none) of each player; returns the rates of all but the learner."""
    learner, *others = players
    together = [p for p in others if p.joint and p.times(step)]
    grads = {}
    for p in (learner, *together):  # of one graph, so all before anybody moves
        with clock.time("step" if p is learner else p.name):
            grads[p.name] = _gradients(p, out, terms, step, folder, retain=bool(together) and p is not together[-1])
    fixed = {id(p) for p in still}
    for p in players:
        with clock.time("step" if p is learner else p.name):
            for _ in range(1 if p.name in grads else p.times(step)):
                found = grads[p.name] if p.name in grads else _gradients(p, out, terms, step, folder)
                for param, grad in zip(p.params, found, strict=True):
                    param.grad = None if id(param) in fixed else grad
                if p is learner and run.optim.clip is not None:
                    optim.clip(p.params, run.optim.clip, run.optim.clip_by)
                p.opt.step()
                p.opt.zero_grad(set_to_none=True)
    return {p.name: p.opt.param_groups[0]["lr"] for p in others}


def _gradients(
    p: Player, out: Out, terms: dict[str, Tensor], step: int, folder: runs.Folder, retain: bool = False
) -> tuple[Tensor | None, ...]:
    """The gradient of a player's objective; raises HardlabError before anything is updated where it is not finite."""
    loss = p.objective(out, terms)
    grads = torch.autograd.grad(loss, p.params, allow_unused=True, retain_graph=retain)
    bad = health.finite(loss, list(grads))
    if bad is not None:
        good = checkpoint.found(folder.checkpoints)
        raise HardlabError(
            f"The {bad} of the {p.name} is not finite at step {step + 1} (images "
            f"{out.views.index[:4].tolist()}...); nothing was updated. The last good checkpoint is "
            f"{good[0].name if good else 'none'}."
        )
    return grads


def _seen(out: Out, hard: list[Hard]) -> Candidates:
    """What a selection saw, or, without one, the only pair there was, as trained on."""
    for h in hard:
        if h.seen is not None:
            return h.seen
    v = out.views
    pair = torch.tensor([range(v.params.shape[1])], device=out.loss.device)  # (1,S)
    return Candidates(v.params, pair, out.loss[:, None], torch.zeros_like(v.index))


def _monitor(
    run: Run, method: Method, data: Images, root: str | Path | None, device: torch.device, precision: str
) -> float:
    test = build.images(run, "test", root, device)
    return monitor(next(iter(method.networks().values())), build.look(run), data, test, precision)


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    # a fresh context each time: the weight cache of one that also ran without gradient would cut the graph
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class State:
    """Everything that a step changes: weights, strategies, optimisers, random numbers."""

    def __init__(self, method: Method, hard: list[Hard], players: list[Player], generator: torch.Generator) -> None:
        self.method, self.hard, self.players, self.generator = method, hard, players, generator

    def dump(self, run: Run, step: int, sums: dict[str, float]) -> dict[str, Any]:
        return {
            "config_hash": run.hash,
            "step": step,
            "sums": sums,
            "method": self.method.state_dict(),
            "hard": [h.state_dict() for h in self.hard],
            "players": {p.name: p.opt.state_dict() for p in self.players},
            "generator": self.generator.get_state(),
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def restore(self, saved: dict[str, Any]) -> int:
        """Put everything back; returns the number of steps done."""
        self.method.load_state_dict(saved["method"])
        for h, s in zip(self.hard, saved["hard"], strict=True):
            h.load_state_dict(s)
        for p in self.players:
            p.opt.load_state_dict(saved["players"][p.name])
        self.generator.set_state(saved["generator"])
        torch.set_rng_state(saved["rng"])
        if saved["rng_cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(saved["rng_cuda"])
        return saved["step"]


class Clock:
    """Seconds by part of a step, added into the epoch's sums."""

    def __init__(self, sums: dict[str, float]) -> None:
        self.sums = sums

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        self.sums[f"seconds:{part}"] += took
        self.sums["seconds:total"] += took

    def around(self, part: str, batches: Iterator[Any]) -> Iterator[Any]:
        """The same items, with the time spent waiting for each."""
        iterator = iter(batches)
        while True:
            with self.time(part):
                item = next(iterator, None)
            if item is None:
                return
            yield item


class Rate:
    """Images a second over this process's steps, and the time that is left."""

    def __init__(self, left: int, batch_size: int) -> None:
        self.left, self.batch_size, self.done = left, batch_size, 0
        self.start = self.said = time.monotonic()

    def tick(self) -> None:
        self.done += 1

    def images_per_s(self) -> float:
        return self.done * self.batch_size / max(1e-9, time.monotonic() - self.start)

    def due(self) -> bool:
        if time.monotonic() - self.said < SAY_EVERY:
            return False
        self.said = time.monotonic()
        return True

    def describe(self) -> str:
        per_step = (time.monotonic() - self.start) / max(1, self.done)
        minutes, seconds = divmod(round((self.left - self.done) * per_step), 60)
        return f"{self.images_per_s():.0f} images/s, {minutes} min {seconds:02d} s left"


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that fills with the signals which ask this process to stop; untouched outside the main thread."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    previous = {}
    try:
        for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            previous[s] = signal.signal(s, note)
    except ValueError:  # not in the main thread
        pass
    try:
        yield asked
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)


def keep_pages() -> None:
    """Tell glibc to keep freed memory: blocks over 32 MiB would be page-faulted again at every step."""
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-4, 0)  # M_MMAP_MAX: no block is mapped on its own
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap's top is not given back
        except OSError:  # another C library: nothing to tune
            pass


def launch(
    run: Run, runs_dir: Path | str, *, root: str | Path | None = None, device: str = "auto", threads: int | None = None
) -> Path:
    """Train in a process of its own and follow it line by line; a finished run is found at once.

    A notebook's kernel that is interrupted or terminated passes the request on, so that training saves first.
    Returns the run's folder; raises ``Stopped`` or ``HardlabError`` with what the process said.
    """
    runs_dir = Path(runs_dir)
    about = runs.manifest(runs_dir / run.id)
    if about is not None and about["state"] == "done":
        return runs_dir / run.id
    command = [sys.executable, "-m", "hardlab.train", "--runs", str(runs_dir), "--device", device]
    command += ["--root", str(root)] if root is not None else []
    command += ["--threads", str(threads)] if threads is not None else []
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdin is not None and child.stderr is not None
    line = ""
    try:
        child.stdin.write(json.dumps(run.model_dump(mode="json")))
        child.stdin.close()
        for line in child.stderr:
            print(line.rstrip(), flush=True)
        status = child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    if status == STOPPED:
        raise Stopped
    if status != 0:
        raise HardlabError(f"Training of {run.id} failed (exit {status}): {line.strip()}")
    return runs_dir / run.id


def main(argv: list[str] | None = None) -> int:
    """``python -m hardlab.train --runs DIR``: reads the configuration as JSON from standard input."""
    parser = argparse.ArgumentParser(prog="python -m hardlab.train", description=main.__doc__)
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--root", default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args(argv)
    keep_pages()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        train(config.make(json.load(sys.stdin)), args.runs, root=args.root, device=args.device)
    except Stopped:
        return STOPPED
    except HardlabError as e:
        say(f"hardlab: {e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
