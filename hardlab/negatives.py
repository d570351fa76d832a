"""Negatives of a contrastive loss: the batch's own, a queue, and whatever a strategy puts in their place."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardlab import losses
from hardlab.types import HardlabError

_SHOWN = 4096  # negatives of a snapshot


class Negatives(nn.Module):
    """What a query must not be near to; a strategy may replace those of a method by others, with their own loss.

    Negatives that hold others as an attribute answer for them: what is kept, checked, shown and taken note of is passed
    on, unless a subclass says otherwise.
    """

    def held(self) -> list[Negatives]:
        """Other negatives that these hold as attributes."""
        return [child for child in self.children() if isinstance(child, Negatives)]

    def similarities(self, q: Tensor, k: Tensor) -> Tensor:
        """Unit rows q, k: (N,D) -> (N,M), a column a negative, -inf where it does not count."""
        raise NotImplementedError

    def stored(self) -> Tensor:
        """(K,D) unit rows that are kept from step to step; K = 0 where all negatives come from the batch."""
        return next((kept for inner in self.held() if len(kept := inner.stored())), torch.empty(0, 0))

    def check(self, batch_size: int, keys: int) -> None:
        """Refuse a batch size at which steps of ``keys`` keys an image do not fit, with a ``HardlabError``."""
        for inner in self.held():
            inner.check(batch_size, keys)

    def snapshot(self) -> Mapping[str, Tensor]:
        """Arrays worth keeping at a checkpoint, ``negatives`` (n,D) among them; nothing where none are kept."""
        return {name: x for inner in self.held() for name, x in inner.snapshot().items()}

    def loss(self, q: Tensor, k: Tensor, temperature: float) -> Tensor:
        """(N,) InfoNCE of each query with its key among these negatives."""
        return losses.info_nce((q * k).sum(1), self.similarities(q, k), temperature)

    def nearest(self, q: Tensor, k: Tensor) -> Tensor:
        """(N,) similarity of each query to the nearest of these negatives."""
        return self.similarities(q, k).amax(1)

    def enqueue(self, k: Tensor) -> None:
        """Take note of the keys of a step, after it."""
        for inner in self.held():
            inner.enqueue(k)


class Around(Negatives):
    """Negatives around others, e.g. harder ones mixed from a queue, that are as near as those."""

    def __init__(self, inner: Negatives) -> None:
        super().__init__()
        self.inner = inner

    def similarities(self, q: Tensor, k: Tensor) -> Tensor:
        return self.inner.similarities(q, k)


class Synthetic(Around):
    """Stored negatives and, beside them, some that are made of the ``hard`` nearest to each query, while ``on``.

    What is made takes no gradient. ``nearest`` looks at the stored ones alone, so that what is logged draws nothing.
    """

    def __init__(self, inner: Negatives, hard: int) -> None:
        super().__init__(inner)
        self.hard, self.on = hard, True

    def make(self, q: Tensor, hard: Tensor) -> Tensor:
        """Unit rows q (N,D), their nearest negatives (N,H,D), nearest first -> (N,S,D), of any length."""
        raise NotImplementedError

    def similarities(self, q: Tensor, k: Tensor) -> Tensor:
        kept = super().similarities(q, k)
        if not self.on:
            return kept
        with torch.no_grad():
            hard = self.stored()[kept.topk(self.hard, dim=1).indices]  # (N,H,D)
            made = F.normalize(self.make(q, hard.to(q.dtype)), dim=2)
        return torch.cat([kept, torch.einsum("nd,nsd->ns", q, made)], dim=1)

    def nearest(self, q: Tensor, k: Tensor) -> Tensor:
        return self.inner.nearest(q, k)


class LastQueries(nn.Module):
    """The queries of the last six batches and their rows in the data set, beside which negatives are looked at.

    vectors: (6,B,D), rows: (6,B), -1 where there is no such image. Both are made by ``start``. AdCo (arXiv
    2011.08435), Fig. 2.
    """

    BATCHES = 6

    def __init__(self) -> None:
        super().__init__()
        self.vectors: Tensor
        self.rows: Tensor
        self.register_buffer("vectors", None)  # they depend on the size of a batch
        self.register_buffer("rows", None)

    def start(self, batch_size: int, dim: int, device: torch.device | None = None) -> None:
        self.register_buffer("vectors", torch.zeros(self.BATCHES, batch_size, dim, device=device))
        self.register_buffer("rows", torch.full((self.BATCHES, batch_size), -1, device=device))

    @torch.no_grad()
    def note(self, step: int, q: Tensor, rows: Tensor) -> None:
        """Overwrite the oldest batch; q: (N,D), rows: (N,), of which the first B are kept: what a strategy added to
        the batch stands behind them. Nothing before ``start``."""
        if self.vectors is not None:
            b = self.vectors.shape[1]
            self.vectors[step % self.BATCHES] = q[:b]
            self.rows[step % self.BATCHES] = rows[:b]

    def seen(self) -> dict[str, Tensor]:
        """For a snapshot: ``queries`` (n,D) and ``query_rows`` (n,) of the batches that there were."""
        there = self.vectors.flatten(0, 1).any(1)
        return {"queries": self.vectors.flatten(0, 1)[there], "query_rows": self.rows.flatten()[there]}


class OtherKeys(Negatives):
    """The other images of the batch, in both views: SimCLR's 2(N-1) negatives of an anchor.

    q, k: (N,D) unit rows, q_i and k_i positives -> (N,2N), -inf at the anchor itself and at its positive.
    SimCLR (arXiv 2002.05709), Sec. 2.1.
    """

    def similarities(self, q: Tensor, k: Tensor) -> Tensor:
        own = torch.eye(len(q), dtype=torch.bool, device=q.device).repeat(1, 2)  # (N,2N)
        return torch.cat([q @ k.T, q @ q.T], dim=1).masked_fill(own, -torch.inf)


class Queue(Negatives):
    """The keys of the last steps, first in, first out; it starts full of random unit vectors.

    q, k: (N,dim) unit rows -> (N,size) similarities of q to the queue; the keys k are not in it yet.
    MoCo (arXiv 1911.05722), Sec. 3.2.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.keys: Tensor
        self.next: Tensor
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))  # the row that is overwritten next

    def similarities(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ self.keys.T

    def stored(self) -> Tensor:
        return self.keys

    def check(self, batch_size: int, keys: int) -> None:
        size, step = len(self.keys), batch_size * keys
        if size % step:
            raise HardlabError(
                f"method.queue={size} is no multiple of the {step} keys of a step at batch_size={batch_size}: the "
                f"nearest that is one is {max(1, round(size / step)) * step}."
            )

    def snapshot(self) -> Mapping[str, Tensor]:
        """Up to 4096 keys, evenly taken, and their ages in keys."""
        every = math.ceil(len(self.keys) / _SHOWN)
        return {"negatives": self.keys[::every], "ages": self.ages()[::every]}

    @torch.no_grad()
    def enqueue(self, k: Tensor) -> None:
        """Overwrite the oldest rows with the keys k (N,dim), in place and without waiting for the device."""
        rows = (self.next + torch.arange(len(k), device=k.device)) % len(self.keys)
        self.keys.index_copy_(0, rows, k.to(self.keys.dtype))
        self.next.add_(len(k)).remainder_(len(self.keys))

    def ages(self) -> Tensor:
        """(size,) how many keys came in after each row; a random row of the start counts as one as old as its place."""
        return (self.next - 1 - torch.arange(len(self.keys), device=self.keys.device)) % len(self.keys)
