"""The training loop: a session takes steps, a logger writes them to files."""

from __future__ import annotations

import argparse
import json
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardlab import build, config, machine, nets, optim, players, ranks, recipes, run_folder, stopping
from hardlab.config import Run
from hardlab.data.base import Missing
from hardlab.hard.base import Hard
from hardlab.logger import Logger
from hardlab.methods.base import Step
from hardlab.session import Say
from hardlab.session import Session as Session
from hardlab.session import open as open
from hardlab.session import reopen as reopen
from hardlab.session import say as say
from hardlab.stopping import Stopped
from hardlab.types import Batch, HardlabError


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
    """Train ``run`` to its end in ``runs_dir/<id>``, from the newest intact checkpoint; returns that folder.

    A finished run returns at once; a run's parent is trained first. Ctrl-C, SIGTERM and SIGUSR1 save and raise
    ``Stopped``. A loss or gradient that is not finite ends the run before it is logged or saved.

    Inside ``ranks.joined`` every process calls this; the first has the folder, writes it and prints.

    root: the folder of the data sets.
    say: prints progress lines.
    wait: wait while another process trains this run, instead of raising, so that a parent of several runs is trained
        once.
    anew: move an existing run aside and start again; the parent too, if its images have changed.

    Raises HardlabError, which is ``run_folder.OtherImages`` if an existing run was trained on other images than its
    data set has now.
    """
    parent = None
    if run.parent is not None:
        if not ranks.from_first((Path(runs_dir) / run.parent.id).exists):  # refuse before training the parent for hours
            build.check_images(run, root)
        again: dict[str, Any] = {"root": root, "device": device, "say": say, "wait": True}
        try:
            parent = train(run.parent, runs_dir, **again)
        except run_folder.OtherImages:
            if not anew:
                raise
            parent = train(run.parent, runs_dir, **again, anew=True)
    if not ranks.writes():
        say = _nothing
    with stopping.requests() as asked:
        folder: run_folder.Folder | None = None

        def done() -> bool:
            nonlocal folder
            folder = run_folder.Folder(runs_dir, run, _patience(run, say, asked) if wait else None)
            if anew and (aside := folder.set_aside()):
                say(f"{run.id}: starts over; the old run is in {aside}.")
            if folder.complaint:
                say(f"{run.id}: {folder.complaint} The checkpoints say where it was.")
            return finished(folder.manifest, run, root, say)

        try:
            if ranks.from_first(done):
                say(f"{run.id}: already finished, nothing to do.")
                return runs_dir / run.id
            try:
                session = open(run, folder, root=root, device=device, parent=parent, say=say)
                if ranks.any_of(bool(asked)):
                    say(f"{run.id}: asked to stop before its first step; the same command starts it.")
                    raise Stopped
                if ranks.size() > 1:
                    say(f"{run.id}: trains in {ranks.size()} processes, tensors by {ranks.backend()}.")
                loop(session, Logger(session, folder, root, parent, say), asked)
            except Stopped:
                if folder is not None and folder.manifest:
                    folder.update(state="stopped", ended=run_folder.now())
                raise
            except Exception as e:
                gone = ranks.lost(e)
                why = f"A process that trains {run.id} with this one has ended." if gone else str(e)
                if folder is not None and folder.manifest:
                    folder.update(state="failed", ended=run_folder.now(), error=why)
                if gone:
                    raise HardlabError(why) from e
                raise
        finally:
            if folder is not None:
                folder.close()
    return runs_dir / run.id


def _nothing(line: str) -> None:
    """Print nothing: the first rank does."""


def loop(session: Session, log: Logger, asked: Sequence[int] = ()) -> None:
    """Take steps to the end of the run, with logs and checkpoints.

    asked: signals that ask to stop, checked after each step. Raises ``Stopped`` after saving if there is one; several
        processes agree on it while they take one step more.
    """
    s, run = session, session.run
    any_asked = ranks.AnyOf()
    for epoch in range(s.done // s.per_epoch, run.epochs):
        if s.done % s.per_epoch == 0:
            s.epoch.clear()
            with s.epoch.time("epoch"):  # k-means and the like
                s.method.on_epoch(s.at, s.data, s.look)
        for batch in s.epoch.around("data", s.batches()):
            now = step(s, batch)
            log.step(now)
            rates = now.rates
            del now  # its pixels would live while the next step's are rendered
            if s.done % s.per_epoch and any_asked(bool(asked)):  # at the end of an epoch, log its row first
                log.stop()
        log.epoch(epoch, rates)
        last = epoch + 1 == run.epochs
        if not last and ranks.any_of(bool(asked)):
            log.stop()
        if last or (epoch + 1) % run.logs.checkpoint_every == 0:
            log.save()
        else:
            log.flush()
    if run.epochs == 0:
        log.save()
    log.finish()


def step(session: Session, batch: Batch) -> Step:
    """Train on one batch without synchronising; returns the whole step, for logs and notebooks."""
    s, run, timed = session, session.run, session.epoch.time
    warmup = round(run.optim.warmup_epochs * s.per_epoch)
    lr = optim.set_schedule(s.players[0].opt, run.optim, run.batch_size, s.done, s.total, warmup, s.per_epoch)
    now = begin(s, batch)
    with s.gradients():
        players.play(now, s.players, run.optim, s.watch, timed)
    now.release()
    for net in (s.method, *s.hard):
        nets.average_running_stats(net)
    now.rates = {p.name: p.opt.param_groups[0]["lr"] for p in s.players} | {"learner": lr}
    with timed("step"):
        s.method.after_step(now)
    for h in s.hard:
        with timed(h.name):
            h.after_step(now)
    s.epoch.add(now.means())
    s.done += 1
    return now


def begin(session: Session, batch: Batch) -> Step:
    """The first half of a step, up to the terms of its loss: nothing moves but statistics of BN and random numbers."""
    s, method = session, session.method
    at = s.at
    method.before_step(at)
    for h in s.hard:
        h.before_step(at)
    with s.epoch.time("views"):
        large = max(method.slots, *(h.draws for h in s.hard), 0)
        local = max(method.locals, *(h.local_draws for h in s.hard), 0)
        now = Step(method, s.look, s.look.views(batch, large, s.generator, local), at, s.precision == "bf16")
    with s.networks():
        forward(now, s.hard, s.epoch.time)
    return now


class NoLossPerImage(HardlabError):
    """A term of the loss that is not one-dimensional."""


def _untimed(part: str) -> AbstractContextManager[None]:
    return nullcontext()


def forward(now: Step, hard: Sequence[Hard], timed: Callable[[str], AbstractContextManager[None]] = _untimed) -> None:
    """Choose and render the views of a step, predict, and compute the terms of the loss.

    timed: returns a context that times a part, given by its name.

    Raises NoLossPerImage for a term that is not one-dimensional.
    """
    for h in hard:
        with timed(h.name), now.autocast():
            h.views(now)
    with timed("views"):
        now.views = views = now.look.render(now.views, now.method.plain)
    with timed("step"), now.autocast(), ExitStack() as around:
        for h in hard:
            around.enter_context(h.around(now))
        now.out = now.method(views)
    now.terms["base"] = now.out.loss
    _demand_rows(f"Method '{type(now.method).__name__.lower()}': its loss", now.out.loss)
    for h in hard:
        with timed(h.name), now.autocast():
            terms = h.terms(now)
        for name, term in terms.items():
            _demand_rows(f"Strategy '{h.name}': its term '{name}'", term)
        now.terms |= terms


def _demand_rows(what: str, term: Any) -> None:
    if not isinstance(term, Tensor):
        raise NoLossPerImage(f"{what} is a {type(term).__name__}; it must be a tensor (N,), a loss per image.")
    if term.ndim != 1:
        raise NoLossPerImage(f"{what} has shape {tuple(term.shape)}; it must be (N,), a loss per image.")


def finished(manifest: Mapping[str, Any] | None, run: Run, root: str | Path | None = None, say: Say = say) -> bool:
    """Whether a run is done. Raises ``run_folder.OtherImages`` if its data set has other images now.

    If the images are missing, they cannot be compared, and a progress line says so; if they exist but cannot be read,
    the error is raised.
    """
    if not manifest or manifest.get("state") != "done":
        return False
    try:
        images = build.images(run, "train", root)
    except Missing as e:
        say(f"{run.id}: its images could not be compared with those that it was trained on: {e}")
        return True
    run_folder.check_images(run.id, manifest.get("data", {}), images)
    return True


def _patience(run: Run, say: Say, asked: list[int]) -> Callable[[], None]:
    """A function that sleeps for a second and says why on its first call; it raises ``Stopped`` if ``asked`` to."""
    reasons: list[str] = []

    def wait() -> None:
        if not reasons:
            reasons.append(run.id)
            say(f"{run.id}: another process is training it; this one waits for that to end.")
        time.sleep(1)
        if asked:
            say(f"{run.id}: asked to stop while it waited; the same command continues.")
            raise Stopped

    return wait


def main(argv: list[str] | None = None) -> int:
    """``torchrun --nproc-per-node N -m hardlab.train RECIPE [KEY=VALUE]...``: train a run in N processes together.

    Without torchrun it trains in one. Exit status: 0 done, 1 failed, 75 stopped on request and able to continue.
    """
    parser = argparse.ArgumentParser(prog="python -m hardlab.train", description=main.__doc__)
    parser.add_argument("recipe", help="a recipe, or the whole configuration of a run as JSON")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--rung", default="smoke")
    parser.add_argument("--runs", default=Path("runs"), type=Path)
    parser.add_argument("--root", default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--code", action="append", default=[], type=Path)
    args = parser.parse_intermixed_args(argv)  # an option may stand between RECIPE and KEY=VALUE
    machine.keep_pages()
    try:
        for path in args.code:
            build.load(path)
        if config.threads(args.threads) is not None:
            torch.set_num_threads(args.threads)
        if args.recipe.startswith("{"):
            run = config.make(json.loads(args.recipe))
        else:
            run = recipes.recipe(args.recipe, args.rung, config.settings(args.overrides, ("recipe", "rung")))
        on = build.device(args.device)
        with ExitStack() as stack:
            if ranks.launched():
                if on.type == "cuda":
                    on = build.device(f"cuda:{ranks.number_here()}")
                stack.enter_context(ranks.joined(on.type == "cuda"))
            train(run, args.runs, root=args.root, device=str(on), anew=args.anew)
    except Stopped:
        return stopping.STOPPED
    except HardlabError as e:
        if not hasattr(e, "printed_by_first"):
            say(f"hardlab: {e}")
        return 1
    return 0


class _Module(types.ModuleType):
    """Makes the module callable, as in ``hardlab.train(run)``."""

    def __call__(
        self,
        run: Run,
        runs_dir: str | Path = "runs",
        *,
        method: Any = None,
        hard: Any = None,
        **options: Any,
    ) -> Path:
        """As ``train``, with another method or other strategies: names, classes, or instances, one or several.

        A digest of your own code's source is part of the run's hash and manifest.
        """
        changes: dict[str, Any] = {}
        if method is not None:
            changes["method"] = build.spec("method", method).model_dump(mode="json")
        if hard is not None:
            several = hard if isinstance(hard, list | tuple) else [hard]
            changes["hard"] = [build.spec("strategy", h).model_dump(mode="json") for h in several]
        return train(run.with_(changes), Path(runs_dir), **options)


sys.modules[__name__].__class__ = _Module

if __name__ == "__main__":
    sys.exit(main())
