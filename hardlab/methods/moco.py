"""MoCo (arXiv 1911.05722, v2: 2003.04297): a query must match its key, by a momentum encoder, against a queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardlab import ranks
from hardlab.backbones import last_side
from hardlab.data import Images
from hardlab.methods.base import Method, Step, ema, twin_of
from hardlab.needs import Setting
from hardlab.negatives import LastQueries, Negatives, Queue, check_queue
from hardlab.nets import split_bn
from hardlab.numbers import Count, Share, Temperature, Units
from hardlab.types import HardlabError
from hardlab.views import Look


class MoCo(Method):
    """InfoNCE of a query against its key and a queue of earlier keys. MoCo, Eq. 1, Alg. 1; v2 for the MLP head.

    The paper moves the key encoder at the start of a step; here it moves at the end of the step before, which is equal,
    since both encoders start equal. Only parameters are averaged: the keys have their own BN statistics.

    dim: of q and k.
    queue: K, the number of keys, 65536 in the paper.
    momentum: of the key encoder, 0.999 in the paper.
    temperature: 0.2 in v2.
    head: ``mlp`` (v2) or ``linear``.
    bn: ``shuffled`` normalises in groups, like several GPUs, with different groups for keys and queries (MoCo, Sec.
        3.3; its CIFAR notebook); ``split`` leaves out the shuffling; ``plain`` is one batch.
    groups: the number of those groups, 8 in the notebook.
    symmetric: whether both views are queries, the notebook's option; the queue then takes 2B keys.
    total: of both directions, their ``mean`` (AdCo's code) or ``sum`` (the notebook).
    """

    vectors = True
    negatives_from = "memory"
    SMALL: Mapping[str, Any] = {"queue": 64}

    def __init__(
        self,
        backbone: nn.Module,
        dim: Units = 128,
        queue: Count = 65536,
        momentum: Share = 0.999,
        temperature: Temperature = 0.2,
        head: Literal["mlp", "linear"] = "mlp",
        bn: Literal["shuffled", "split", "plain"] = "shuffled",
        groups: Units = 8,
        symmetric: bool = False,
        total: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__(backbone)
        if not 0 <= momentum <= 1:
            raise HardlabError(f"MoCo with momentum={momentum}: the key encoder keeps a share between 0 and 1.")
        if temperature <= 0:
            raise HardlabError(f"MoCo with temperature={temperature}: it must be above 0; the paper (v2) takes 0.2.")
        if queue < 1 or groups < 1:
            raise HardlabError(f"MoCo with queue={queue}, groups={groups}: both must be at least 1.")
        self.check_options(total, symmetric)
        if bn != "plain":
            split_bn(backbone, groups)
        last = nn.Linear(self.features, dim)
        hidden = [nn.Linear(self.features, self.features), nn.ReLU(inplace=True)] if head == "mlp" else []
        self.head = nn.Sequential(*hidden, last)
        self.key_backbone, self.key_head = twin_of(backbone), twin_of(self.head)
        self.negatives: Negatives = Queue(queue, dim)
        self.queries = LastQueries()
        self.dim = dim
        self.momentum, self.temperature, self.bn, self.groups = momentum, temperature, bn, groups
        self.pairs = ((0, 1), (1, 0)) if symmetric else ((0, 1),)
        self.sums = total == "sum"

    @staticmethod
    def check_options(total: str, symmetric: bool) -> None:
        if total == "sum" and not symmetric:
            raise HardlabError("MoCo with total=sum: only with symmetric=true are there two directions to add up.")

    @staticmethod
    def check_run(at: Setting, queue: int, bn: str, groups: int, symmetric: bool) -> None:
        check_crops(at.local, symmetric)
        check_groups(at.batch_size, groups, bn)
        side = last_side(at.backbone.name, at.backbone.options, at.view)
        if bn != "plain" and at.batch_size == groups and side == 1:
            raise HardlabError(
                f"Views of {at.view} pixels cannot pass through backbone {at.backbone.name}: a group of "
                f"method.groups={groups} is one image, of which its last norms see one pixel; take method.bn=plain."
            )
        if not at.borrowed:
            check_queue(queue, at.batch_size, 2 if symmetric else 1)

    def multi_crop(self, local: int) -> None:
        """Use the large view as key and the small crops as queries, and sum their losses (AdCo's code)."""
        check_crops(local, len(self.pairs) > 1)
        if local:
            self.slots, self.locals, self.sums = 1, local, True
            self.pairs = tuple((i, 0) for i in range(1, 1 + local))

    def check_batch(self, batch_size: int) -> None:
        check_groups(batch_size, self.groups, self.bn)
        self.negatives.check(batch_size, len({b for _, b in self.pairs}))

    def on_start(self, images: Images, batch_size: int) -> None:
        self.check_batch(batch_size)
        if not self.borrowed:  # otherwise a strategy keeps the negatives and the last queries
            self.queries.start(batch_size, self.dim, next(self.head.parameters()).device)

    def query(self, x: Any) -> Tensor:
        return F.normalize(self.head(self.pooled(x)).float(), dim=1)  # (N,dim)

    @torch.no_grad()
    def target(self, x: Tensor, index: Tensor | None) -> Tensor:
        shuffled = self.bn == "shuffled" and self.training
        order = torch.randperm(ranks.size() * len(x), device=x.device) if shuffled else None
        k = self.key_head(self.key_backbone(x if order is None else ranks.taken(x, order)))
        return F.normalize((k if order is None else ranks.taken(k, order.argsort())).float(), dim=1)  # (N,dim)

    def loss(self, q: Tensor, t: Tensor, group: Tensor | None = None) -> Tensor:
        # the trainer's mean over the pairs of as many times the loss is the sum over the pairs
        return self.negatives.loss(q, t, self.temperature) * (len(self.pairs) if self.sums else 1)

    def right(self, q: Tensor, t: Tensor) -> Tensor:
        return ((q * t).sum(1) > self.negatives.nearest(q, t)).float()

    def candidates(self, n: int, local: int = 0) -> Sequence[tuple[int, ...]]:
        if self.locals:
            raise HardlabError("MoCo with small crops leaves no view to choose: every crop is a query of the one key.")
        return super().candidates(n, local)

    def catch_up(self) -> None:
        self._average(keep=0)

    def _average(self, keep: float) -> None:
        ema(self.key_backbone, self.backbone, keep)
        ema(self.key_head, self.head, keep)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        out = step.out
        self._average(self.momentum)
        keys = dict.fromkeys(b for _, b in self.pairs)
        self.negatives.enqueue(torch.cat([ranks.whole(out.t[b]) for b in keys]))
        self.queries.note(step.at.step, ranks.whole(out.q[self.pairs[0][0]]), ranks.whole(out.views.index))

    @torch.no_grad()
    def logs(self, step: Step) -> Mapping[str, float]:
        """accuracy: the share of queries that are nearer to their key than to any negative."""
        out = step.out
        a, b = self.pairs[0]
        own = (out.q[a] * out.t[b]).sum(1)
        # the queue contains the keys of this step already, so an image meets its own again, up to rounding
        return {"accuracy": float((own > self.negatives.nearest(out.q[a], out.t[b]) - 1e-5).float().mean())}

    @torch.no_grad()
    def snapshot(self, images: Images, look: Look) -> Mapping[str, Tensor]:
        """The snapshot of the negatives, and the queries of the last six batches."""
        return {} if self.borrowed else {**self.negatives.snapshot(), **self.queries.seen()}


def check_crops(local: int, symmetric: bool) -> None:
    """Refuse small crops with several keys. Raises HardlabError."""
    if local and symmetric:
        raise HardlabError("MoCo with small crops has one key for all of them: leave out method.symmetric=true.")


def check_groups(batch_size: int, groups: int, bn: str) -> None:
    """Refuse a batch that does not split into the groups of the norms. Raises HardlabError."""
    if bn != "plain" and batch_size % groups:
        raise HardlabError(
            f"batch_size={batch_size} does not split into method.groups={groups} groups of one size: take "
            f"batch_size={max(1, round(batch_size / groups)) * groups} or method.bn=plain."
        )
