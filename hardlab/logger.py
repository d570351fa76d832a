"""Writes a run's files during training: manifest, log, view log, snapshots, checkpoints; prints its progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from hardlab import build, checkpoint, health, meters, ranks, run_folder
from hardlab.evaluate.runner import monitor
from hardlab.methods.base import Step
from hardlab.session import Say, Session
from hardlab.stopping import Stopped
from hardlab.types import Candidates


class Logger:
    """Records a session in its folder; between two logged steps it reads nothing from the device.

    Where several processes train together, each has one; the first writes, the others give it what is theirs.

    folder: of the run, None for the others. root: the folder of the data sets. parent: the folder of the run's parent.
    """

    def __init__(
        self, session: Session, folder: run_folder.Folder | None, root: str | Path | None, parent: Path | None, say: Say
    ) -> None:
        self.session, self.folder, self.root, self.say = session, folder, root, say
        self.loss: float | None = None  # of the last logged step, for progress lines: reading another would synchronise
        self.guess: float | None = None  # the loss of a guess, constant during a run
        self.signs = health.Monitor()
        ranks.from_first(lambda: self._begin(parent))
        self.rate = meters.Rate(session.total - session.done, session.run.batch_size)

    def _begin(self, parent: Path | None) -> None:
        """Delete what was logged after the checkpoint, and write the manifest."""
        s, folder = self.session, self._written
        seen = folder.manifest.get("data", {})
        known = {"test_digest": seen["test_digest"]} if s.done and "test_digest" in seen else {}
        if known:
            run_folder.check_test_images(s.run.id, seen, build.images(s.run, "test", self.root, s.device))
        skipped = [Path(p).name for p in s.data.skipped[:20]]
        if harmed := folder.rewind(s.done):
            self.say(
                f"{s.run.id}: {harmed} damaged lines of metrics.jsonl were left out; the old file is kept beside it."
            )
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
                **known,
            },
            parent.name if parent else None,
            {"backbone": sum(t.numel() for t in s.method.backbone.parameters())}
            | {p.name: sum(t.numel() for t in p.params) for p in s.players},
        )
        if s.data.skipped:
            self.say(
                f"{s.run.id}: left out {len(s.data.skipped)} broken images, first {', '.join(s.data.skipped[:3])}."
            )
        self.signs = health.Monitor(run_folder.metrics(folder.path))
        folder.update(health=self.signs.alarms)

    @property
    def _written(self) -> run_folder.Folder:
        assert self.folder is not None, "the first rank alone writes"
        return self.folder

    def step(self, now: Step) -> None:
        """Record a step: its views, its row and a line of progress, each if it is due."""
        s, run, logs = self.session, self.session.run, self.session.run.logs
        epoch = now.at.epoch
        if now.at.step % logs.views_every == 0:
            seen, index = _gathered(_seen(now), now.out.views.index, logs.views_rows)
            if self.folder is not None:
                self.folder.log_views(seen, index, epoch, s.done, logs.views_rows)
        self.rate.tick()
        if now.at.step % logs.step_every == 0:
            s.check()
            row = self._step_row(now)
            self.loss = row["loss"]
            if self.folder is not None:
                self._write(self.folder, row)
        if self.folder is not None and self.rate.due():
            loss = "" if self.loss is None else f"loss {self.loss:.4f} | "
            where = f"epoch {epoch + 1}/{run.epochs}, step {s.done}/{s.total}"
            self.say(f"{run.id} | {where} | {loss}{self.rate.describe()}")

    def _write(self, folder: run_folder.Folder, row: dict[str, Any]) -> None:
        s = self.session
        folder.collect_views()
        folder.metric(row)
        for alarm in self.signs.look(row, s.epoch.seconds):
            folder.metric({"kind": "health", "epoch": row["epoch"], **alarm})
            folder.update(health=self.signs.alarms)
            self.say(f"{s.run.id}: {alarm['rule']}. {alarm['sentence']}")

    def epoch(self, epoch: int, rates: dict[str, float]) -> None:
        """Record the end of an epoch: its row, with the accuracy if that is monitored.

        rates: player -> learning rate of the last step.
        """
        self.session.check()
        ranks.from_first(lambda: self._end(epoch, rates))

    def _end(self, epoch: int, rates: dict[str, float]) -> None:
        s, run, folder = self.session, self.session.run, self._written
        done = epoch + 1
        monitored = run.logs.monitor_every and (done == run.epochs or done % run.logs.monitor_every == 0)
        with ranks.alone():
            folder.metric(self._epoch_row(epoch, rates) | ({"knn": self._accuracy()} if monitored else {}))
        folder.update(epochs_done=done, steps_done=s.done)

    def save(self) -> None:
        """Save a checkpoint, the snapshots of all parts, and the view log so far."""
        self.session.check()
        ranks.from_first(self._save)

    def _save(self) -> None:
        s, folder = self.session, self._written
        folder.flush_views(s.done)
        with ranks.alone():
            folder.snapshot("method", s.done, s.method.snapshot(s.data, s.look))
            for h in s.hard:
                folder.snapshot(h.name, s.done, h.snapshot(s.data, s.look))
        checkpoint.save(folder.checkpoints, s.done, s.dump(), s.run.logs.keep)

    def flush(self) -> None:
        """Write the view log so far."""
        if self.folder is not None:
            self.folder.flush_views(self.session.done)

    def stop(self) -> NoReturn:
        """Save and raise ``Stopped``."""
        s = self.session
        self.save()
        self.say(f"{s.run.id}: stopped and saved at step {s.done} of {s.total}; the same command continues.")
        raise Stopped

    def finish(self) -> None:
        """Record the end of the run in the manifest."""
        s = self.session
        if self.folder is None:
            return
        self.folder.update(
            state="done",
            ended=run_folder.now(),
            epochs_done=s.run.epochs,
            steps_done=s.done,
            images_per_s=round(self.rate.images_per_s(), 2),
            peak_memory_mb=round(run_folder.peak_memory_mb(s.device), 1),
        )
        self.folder.seal()
        ill = ", ".join(f"{a['rule']} (step {a['step']})" for a in self.signs.alarms)
        self.say(f"{s.run.id}: done, {s.done} steps." + (f" Its health: {ill}; see its manifest." if ill else ""))

    def _step_row(self, now: Step) -> dict[str, Any]:
        s = self.session
        terms = {name: float(mean) for name, mean in now.means().items()}
        if self.guess is None:
            self.guess = health.loss_of_guess(s.method, now.out)
        return {
            "kind": "step",
            "step": s.done,
            "epoch": now.at.epoch,
            "loss": terms["base"],
            "terms": terms,
            "lr": now.rates,
            "images_per_s": self.rate.images_per_s(),
            **self._numbers(now),
        }

    def _numbers(self, now: Step) -> dict[str, float]:
        """The numbers of predictions, of the whole batch, and of method and strategies, means over the ranks."""
        s = self.session
        signals = health.false_negatives(s.method, now.out, s.data.targets)
        few = {i: ranks.whole(now.out.q[i].detach()) for i in list(now.out.q)[:2]}
        with ranks.alone():
            numbers = {
                **health.collapse_signals(now.out._replace(q=few)),
                **({} if self.guess is None else {"loss_of_guess": self.guess}),
                **signals,
                **s.method.logs(now),
                **{key: float(x) for h in s.hard for key, x in h.numbers(now).items()},
            }
        if ranks.size() == 1:
            return numbers
        return dict(zip(numbers, ranks.mean(torch.tensor([*numbers.values()]).double()).tolist(), strict=True))

    def _epoch_row(self, epoch: int, rates: dict[str, float]) -> dict[str, Any]:
        s = self.session
        means = s.epoch.means()
        return {
            "kind": "epoch",
            "epoch": epoch,
            "step": s.done,
            "loss": means["base"],
            "terms": means,
            "lr": rates,
            "seconds": {part: round(seconds, 4) for part, seconds in s.epoch.seconds.items()},
            "peak_memory_mb": round(run_folder.peak_memory_mb(s.device), 1),
        }

    def _accuracy(self) -> float:
        s = self.session
        test = build.images(s.run, "test", self.root, s.device)
        folder = self._written
        seen = folder.manifest["data"]
        run_folder.check_test_images(s.run.id, seen, test)
        folder.update(data={**seen, "test_digest": test.digest()})
        return monitor(next(iter(s.method.networks().values())), s.look, s.data, test, s.precision)


def _gathered(seen: Candidates, index: Tensor, rows: int) -> tuple[Candidates, Tensor]:
    """The candidates of the first ``rows`` images of the whole batch, and their rows in the data set."""
    if ranks.size() == 1:
        return seen, index
    few = min(-(-rows // ranks.size()), len(seen.best))

    def whole(x: Tensor) -> Tensor:
        return ranks.whole(x[:few].detach())

    local = None if seen.local is None else whole(seen.local)
    return Candidates(whole(seen.params), seen.pairs, whole(seen.loss), whole(seen.best), local), whole(index)


def _seen(now: Step) -> Candidates:
    """The candidates of the selection, or, without a selection, the pair that was trained on."""
    if now.seen is not None:
        return now.seen
    v = now.out.views
    pair = torch.arange(v.params.shape[1], device=now.out.loss.device)[None]  # (1,S)
    return Candidates(v.params, pair, now.out.loss[:, None], torch.zeros_like(v.index))
