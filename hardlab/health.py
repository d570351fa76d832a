"""Detects trouble in a run and describes it in plain words: collapse, dead players, false negatives, NaN."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardlab import ranks, transfer
from hardlab.methods.base import Method
from hardlab.types import Out, unit

PATIENCE = 5  # consecutive logged steps that must show a sign before an alarm: ``PATIENCE * logs.step_every`` steps
Row = Mapping[str, Any]  # a logged step, as in metrics.jsonl; ``waiting`` (see ``Monitor``) beside it

# An untrained network of any recipe is at 0.05 (BigGAN's trunk) to 1, runs that learn stay above 0.05; a point is 0.
SMALL_STD = 0.02
# A centred batch on an arc has two singular values, so less than 2; the narrowest runs of the workbook keep 2.3.
SMALL_RANK = 2.0
# Predictions of three classes end at the corners of a triangle, whose rank is 2; pairs of images have no more either.
LEAST_DIMENSIONS = 4
# Only directions count, so a step of SGD turns a vector of norm n by lr / n^2: past 1000 it stands still, below 0.001
# it is thrown about. The longest runs of the workbook reach 33.
SMALL_NORM, LARGE_NORM = 1e-3, 1e3
# A gray level is 2/255 = 0.008 of the pixels' range of -1 to 1; untrained generators spread by 0.38.
SMALL_SPREAD = 0.01
# The hinge has margin 1, untrained discriminators spread their scores by 1 and more; no run came below 0.9 in loss.
SMALL_SCORES, SMALL_HINGE = 0.01, 0.01
# The loss of a batch moves by some percent from step to step, also where it happens to pass the constant.
NEAR_GUESS = 1e-3
# At the end of the workbook's runs less than half of the negatives' weight lies on images of the query's class.
FALSE_WEIGHT = 0.8
# No two pictures of the built-in sets are the same, a folder of one's own may hold bursts and resized copies.
MANY_COPIES, SAME_PIXELS = 0.1, 1 / 255  # the latter: mean difference of two pictures of 8 x 8 pixels
# Waiting for data takes up to 0.04 of the time of the workbook's runs.
LONG_WAIT, WAIT_SECONDS = 0.5, 1.0


@torch.no_grad()
def collapse_signals(out: Out) -> dict[str, float]:
    """Spread, effective rank, alignment and uniformity of a step's unit-norm predictions (B,D).

    std: mean over dimensions, times sqrt(D): 1 for directions uniform on the sphere, 0 for a point (SimSiam, Sec. 4.1).
    rank: exp of the entropy of the singular values (Roy & Vetterli 2007). alignment, uniformity: Wang & Isola
    (arXiv 2005.10242), Sec. 4.1; alignment only if there are two slots, rank only if a batch of such predictions could
    have one of ``LEAST_DIMENSIONS``.
    """
    first, *rest = out.q.values()
    z = F.normalize(first.float(), dim=1)
    centred = z - z.mean(0)
    # of the smaller side: predictions may have thousands of dimensions
    gram = centred @ centred.T if len(z) <= z.shape[1] else centred.T @ centred
    s = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    p = s / s.sum().clamp_min(1e-12)
    distances = torch.pdist(z).square()
    signals = {
        "std": float(z.std(0).mean() * z.shape[1] ** 0.5),
        "uniformity": float(torch.logsumexp(-2 * distances, 0) - torch.log(torch.tensor(float(len(distances))))),
    }
    if min(len(z) - 1, z.shape[1]) >= LEAST_DIMENSIONS:
        signals["rank"] = float(torch.exp(-(p * p.clamp_min(1e-12).log()).sum()))
    if rest:
        w = F.normalize(rest[0].float(), dim=1)
        signals["alignment"] = float((z - w).square().sum(1).mean())
    return signals


class Watch:
    """Remembers the first loss or gradient that is not finite, on the device until ``complaint`` is called."""

    def __init__(self) -> None:
        self.players: list[str] = []
        self.first: Tensor | None = None  # whether the loss and all are finite, step, player, rows of the data set

    def note(self, player: str, step: int, loss: Tensor, grads: Sequence[Tensor | None], index: Tensor) -> None:
        """Check a player's loss () and gradients for the batch of the rows ``index`` (B,), without synchronising."""
        if player not in self.players:
            self.players.append(player)
        loss = loss.detach().float().sum()
        known = [g for g in grads if g is not None]
        if transfer.on_host(loss):
            sums = [g.float().sum() for g in known]
        else:  # in a few kernels; on a CPU they take 20 times as long as the sums
            sums = list(torch._foreach_norm(known, torch.inf)) if known else []
        total = torch.stack([loss, *(x.float() for x in sums)]).sum()
        place = [index.new_full((1,), n) for n in (step, self.players.index(player))]
        now = torch.cat([torch.isfinite(torch.stack([loss, total])).long(), *place, index[:4]])
        self.first = now if self.first is None else torch.where(self.first[1] == 1, now, self.first)

    def complaint(self) -> str | None:
        """A sentence on what was not finite, when and for which images, or None; synchronises once."""
        if self.first is None:
            return None
        loss, everything, step, player, *rows = self.first.tolist()
        if everything:
            return None
        return (
            f"The {'gradient' if loss else 'loss'} of the {self.players[player]} is not finite at step {step + 1} "
            f"(images {rows}...); nothing of it was saved."
        )


@torch.no_grad()
def loss_of_guess(method: Method, out: Out) -> float | None:
    """The loss of a guess among M negatives per query, log(1 + M), or None for a loss that is not contrastive."""
    a, b = method.pairs[0]
    if method.negatives is None or a not in out.q or b not in out.t:
        return None
    q, t = (ranks.whole(x.detach().float()) for x in (out.q[a], out.t[b]))
    # negatives may be random, and logging must leave the run's random numbers alone
    with ranks.alone(), torch.random.fork_rng([q.device] if q.is_cuda else []):
        counted = torch.isfinite(method.negatives.similarities(q, t)).sum(1).double().mean()
    return math.log1p(float(counted))


@torch.no_grad()
def false_negatives(method: Method, out: Out, targets: Tensor) -> dict[str, float]:
    """How far the images of a batch are false negatives of each other; empty for a loss without images as negatives.

    copies: the share of the images of which another one of the batch has the same 8 x 8 pixels.
    false_weight: the mean share of the weight of the other images of the batch as negatives, exp(similarity /
    temperature), that lies on images of the query's class; false_chance: their share. Both only where all images have
    a class, which serves this warning alone. targets: (N,) classes by row of the data set, -1 if unknown. The
    negatives of a memory are the keys of earlier batches, so a batch is a sample of them.
    """
    a, b = method.pairs[0]
    if method.negatives is None or method.borrowed or a not in out.q or b not in out.t:
        return {}
    views = out.views
    group, index = ranks.whole(views.group), ranks.whole(views.index)
    others = group[:, None] != group
    pictures = ranks.whole(F.adaptive_avg_pool2d(unit(views.raw), 8).flatten(1))
    same = torch.cdist(pictures, pictures, p=1) < SAME_PIXELS * pictures.shape[1]
    q, k = (ranks.whole(x.detach().float()) for x in (out.q[a], out.t[b]))
    signals = {"copies": float((same & others).any(1).float().mean())}
    known = index >= 0  # others were generated
    labels = targets[index[known].cpu()].to(known.device)
    if len(labels) and bool((labels >= 0).all()):
        q, k = q[known], k[known]
        others = others[known][:, known]
        temperature: Any = method.temperature
        weight = (q @ k.T / temperature).masked_fill(~others, -torch.inf).softmax(1)
        alike = (labels[:, None] == labels) & others
        signals["false_weight"] = float((weight * alike).sum(1).mean())
        signals["false_chance"] = float(alike.sum() / others.sum())
    return signals


def _collapse(row: Row) -> str | None:
    if not row.get("std", 1.0) < SMALL_STD:
        return None
    return (
        f"all images get the same prediction (the spread of their directions is {row['std']:.2g}; 1 is a whole sphere, "
        "0 a point): the representation has collapsed"
    )


def _rank_one(row: Row) -> str | None:
    if row.get("std", 1.0) < SMALL_STD or not row.get("rank", SMALL_RANK) < SMALL_RANK:
        return None
    return (
        f"all predictions lie on one line or arc (effective rank {row['rank']:.2f} of a batch): one dimension is used"
    )


def _norms(row: Row) -> str | None:
    for key, norm in row.items():
        if not key.endswith(".norm") or SMALL_NORM <= norm <= LARGE_NORM:
            continue
        grown = "explode: they no longer turn" if norm > LARGE_NORM else "vanish: each step throws them about"
        return f"the norms of the negatives ({key} = {norm:.2g}) {grown}; a lower rate of theirs, or renorm, helps"
    return None


def _generator(row: Row) -> str | None:
    for key, spread in row.items():
        if key.rpartition(".")[2] == "g_spread" and spread < SMALL_SPREAD:
            return (
                f"the generator makes one image of all latents ({key} = {spread:.2g}, pixels span -1 to 1): it is dead"
            )
    return None


def _discriminator(row: Row) -> str | None:
    for key, spread in row.items():
        if key.rpartition(".")[2] != "d_spread":
            continue
        if spread < SMALL_SCORES:
            return f"the discriminator gives all images the same score ({key} = {spread:.2g}): it is dead"
        at = key.removesuffix("d_spread") + "d_loss"
        loss = row.get(at, row.get("loss", SMALL_HINGE))
        if loss < SMALL_HINGE:
            return f"the discriminator makes no mistake any more (its loss is {loss:.2g}): it no longer learns"
    return None


def _guess(row: Row) -> str | None:
    guess = row.get("loss_of_guess")
    if guess is None or not abs(row.get("loss", math.inf) - guess) < NEAR_GUESS * guess:
        return None
    return (
        f"the loss {row['loss']:.4f} stays at its constant {guess:.4f}, that of a guess among all negatives: nothing "
        "is learned"
    )


def _false_negatives(row: Row) -> str | None:
    if row.get("copies", 0.0) > MANY_COPIES:
        return (
            f"{row['copies']:.0%} of the images of a batch have a copy in it, which counts as a negative of theirs: "
            "these false negatives are pushed away; leave the copies out"
        )
    weight, chance = row.get("false_weight", 0.0), row.get("false_chance", 0.0)
    if not weight > chance + FALSE_WEIGHT * (1 - chance):
        return None
    return (
        f"{weight:.0%} of the weight of the negatives lies on images of the query's own class ({chance:.0%} of the "
        "images are of it): these false negatives are pushed away; the strategy hcl discounts them"
    )


def _idle(row: Row) -> str | None:
    if not row.get("waiting", 0.0) > LONG_WAIT:
        return None
    return (
        f"the device is idle: {row['waiting']:.0%} of the time is spent waiting for data; more processor cores, "
        "smaller images or a faster disk help"
    )


RULES: Mapping[str, Callable[[Row], str | None]] = {
    "collapse": _collapse,
    "rank one": _rank_one,
    "norms of negatives": _norms,
    "dead generator": _generator,
    "dead discriminator": _discriminator,
    "loss of a guess": _guess,
    "false negatives": _false_negatives,
    "idle device": _idle,
}


class Monitor:
    """Watches the logged steps of a run and raises each alarm once.

    A rule raises its alarm when ``PATIENCE`` consecutive logged steps show its sign, so a single batch never does.
    ``waiting`` of a row is the share of the time over the last ``PATIENCE`` rows that was spent waiting for data, if
    that time is over a second. rows: earlier rows of a run that continues.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.streaks: Counter[str] = Counter()
        self.alarms: list[dict[str, Any]] = []
        self.clocks: deque[tuple[float, float]] = deque(maxlen=PATIENCE + 1)  # seconds: waited for data, and in all
        self.last: Mapping[str, float] = {}
        for row in rows:
            if row.get("kind") == "step":
                self.look({k: v for k, v in row.items() if isinstance(v, int | float)})
            elif row.get("kind") == "health":  # a sign that rows alone do not show
                self._keep({k: row.get(k) for k in ("step", "rule", "sentence")})

    def look(self, row: Row, seconds: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
        """Check a logged step; returns its new alarms: ``step``, ``rule`` and ``sentence``, as in the manifest.

        seconds: the time of the current epoch by part (``meters.Epoch``), for rows of this process.
        """
        if seconds is not None:
            row = {**row, "waiting": self._waiting(seconds)}
        alarms = []
        for rule, sign in RULES.items():
            complaint = sign(row)
            self.streaks[rule] = self.streaks[rule] + 1 if complaint else 0
            if complaint and self.streaks[rule] >= PATIENCE:
                sentence = f"At step {row.get('step')}, and {PATIENCE - 1} logged steps before it, {complaint}."
                alarm = {"step": row.get("step"), "rule": rule, "sentence": sentence}
                if self._keep(alarm):
                    alarms.append(alarm)
        return alarms

    def _keep(self, alarm: dict[str, Any]) -> bool:
        if any(a["rule"] == alarm["rule"] for a in self.alarms):
            return False
        self.alarms.append(alarm)
        return True

    def _waiting(self, seconds: Mapping[str, float]) -> float:
        """The share of waiting in the time since ``PATIENCE`` rows ago; seconds restart at 0 with each epoch."""
        waited, total = self.clocks[-1] if self.clocks else (0.0, 0.0)
        before = self.last if seconds["total"] >= self.last.get("total", 0.0) else {}
        waited += seconds.get("data", 0.0) - before.get("data", 0.0)
        total += seconds["total"] - before.get("total", 0.0)
        self.clocks.append((waited, total))
        self.last = dict(seconds)
        first = self.clocks[0]
        return (waited - first[0]) / (total - first[1]) if total - first[1] >= WAIT_SECONDS else 0.0
