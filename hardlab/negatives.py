"""Negatives of a contrastive loss: those of the batch, a queue, and what strategies replace them with."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardlab import losses
from hardlab.types import HardlabError, Reference

_SHOWN = 4096  # most negatives in a snapshot


class Negatives(nn.Module):
    """The negatives of a contrastive loss; a strategy may replace a method's negatives by its own.

    Negatives that hold others as attributes delegate to them: ``stored``, ``check``, ``snapshot`` and ``enqueue`` are
    passed on unless a subclass overrides them.
    """

    def held(self) -> list[Negatives]:
        """Other negatives that these hold as attributes."""
        return [child for child in self.children() if isinstance(child, Negatives)]

    @property
    def borrowed(self) -> bool:
        """Whether they are a strategy's, or wrap such."""
        return any(inner.borrowed for inner in self.held())

    @property
    def mixes(self) -> bool:
        """Whether what they are to one query depends on the other rows of the batch."""
        return any(inner.mixes for inner in self.held())

    def similarities(self, q: Tensor, k: Tensor) -> Tensor:
        """Similarities (N,M) of unit rows q (N,D) to the negatives; -inf for a negative that does not count.

        k: (N,D) unit rows, the keys of the queries.
        """
        raise NotImplementedError

    def stored(self) -> Tensor:
        """The unit rows (K,D) that stay from step to step; K = 0 if all negatives come from the batch."""
        return next((kept for inner in self.held() if len(kept := inner.stored())), torch.empty(0, 0))

    def check(self, batch_size: int, keys: int) -> None:
        """Raise ``HardlabError`` for a batch size that does not fit, with ``keys`` keys per image in each step."""
        for inner in self.held():
            inner.check(batch_size, keys)

    def snapshot(self) -> Mapping[str, Tensor]:
        """Arrays to save at a checkpoint, ``negatives`` (n,D) among them; empty if none are stored."""
        return {name: x for inner in self.held() for name, x in inner.snapshot().items()}

    def loss(self, q: Tensor, k: Tensor, temperature: float) -> Tensor:
        """InfoNCE (N,) of each query and its key against these negatives."""
        return losses.info_nce((q * k).sum(1), self.similarities(q, k), temperature)

    def nearest(self, q: Tensor, k: Tensor) -> Tensor:
        """The similarity (N,) of each query to the nearest of these negatives."""
        return self.similarities(q, k).amax(1)

    def enqueue(self, k: Tensor) -> None:
        """Take in the keys of a step after it."""
        for inner in self.held():
            inner.enqueue(k)


class Around(Negatives):
    """Negatives that wrap others and, unless a subclass overrides it, have the same similarities."""

    def __init__(self, inner: Negatives) -> None:
        super().__init__()
        self.inner = inner

    def similarities(self, q: Tensor, k: Tensor) -> Tensor:
        return self.inner.similarities(q, k)


class Borrowed(Negatives):
    """Negatives that a strategy owns, trains and saves, in the place of a method's own."""

    def __init__(self, owned: Negatives) -> None:
        super().__init__()
        self.owned = Reference(owned)

    @property
    def borrowed(self) -> bool:
        return True

    def held(self) -> list[Negatives]:
        return [self.owned.to]

    def similarities(self, q: Tensor, k: Tensor) -> Tensor:
        return self.owned.to.similarities(q, k)

    def loss(self, q: Tensor, k: Tensor, temperature: float) -> Tensor:
        return self.owned.to.loss(q, k, temperature)

    def nearest(self, q: Tensor, k: Tensor) -> Tensor:
        return self.owned.to.nearest(q, k)


class Synthetic(Around):
    """Stored negatives, and synthetic ones made from the ``hard`` nearest to each query while ``on``.

    Synthetic negatives have no gradient. ``nearest`` uses the stored ones alone, so that logging draws no random
    numbers.
    """

    def __init__(self, inner: Negatives, hard: int) -> None:
        super().__init__(inner)
        self.hard, self.on = hard, True

    def make(self, q: Tensor, hard: Tensor) -> Tensor:
        """Make synthetic negatives (N,S,D), of any length, from unit rows q (N,D) and their nearest negatives.

        hard: (N,H,D), nearest first.
        """
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
    """The queries of the last six batches and their rows in the data set, to compare negatives with.

    vectors: (6,B,D). rows: (6,B), -1 for images that are not in the data set. ``start`` makes both. AdCo (arXiv
    2011.08435), Fig. 2.
    """

    BATCHES = 6

    def __init__(self) -> None:
        super().__init__()
        self.vectors: Tensor
        self.rows: Tensor
        self.register_buffer("vectors", None)  # their size depends on the batch size
        self.register_buffer("rows", None)

    def start(self, batch_size: int, dim: int, device: torch.device | None = None) -> None:
        self.register_buffer("vectors", torch.zeros(self.BATCHES, batch_size, dim, device=device))
        self.register_buffer("rows", torch.full((self.BATCHES, batch_size), -1, device=device))

    @torch.no_grad()
    def note(self, step: int, q: Tensor, rows: Tensor) -> None:
        """Overwrite the oldest batch with queries q (N,D) and rows (N,); does nothing before ``start``.

        The first B are kept: images that a strategy added to the batch come after them.
        """
        if self.vectors is not None:
            b = self.vectors.shape[1]
            self.vectors[step % self.BATCHES] = q[:b]
            self.rows[step % self.BATCHES] = rows[:b]

    def seen(self) -> dict[str, Tensor]:
        """``queries`` (n,D) and ``query_rows`` (n,) of the batches so far, for a snapshot."""
        filled = self.vectors.flatten(0, 1).any(1)
        return {"queries": self.vectors.flatten(0, 1)[filled], "query_rows": self.rows.flatten()[filled]}


class OtherKeys(Negatives):
    """SimCLR's 2(N-1) negatives of an anchor: the other images of the batch, in both views.

    q, k: (N,D) unit rows, q_i and k_i positives -> (N,2N), -inf at the anchor itself and at its positive.
    SimCLR (arXiv 2002.05709), Sec. 2.1.
    """

    mixes = True

    def similarities(self, q: Tensor, k: Tensor) -> Tensor:
        own = torch.eye(len(q), dtype=torch.bool, device=q.device).repeat(1, 2)  # (N,2N)
        return torch.cat([q @ k.T, q @ q.T], dim=1).masked_fill(own, -torch.inf)


def check_queue(size: int, batch_size: int, keys: int) -> None:
    """Refuse a queue that steps of ``batch_size`` images with ``keys`` keys each do not fill. Raises HardlabError."""
    step = batch_size * keys
    if size % step:
        raise HardlabError(
            f"method.queue={size} is not a multiple of the {step} keys of a step at batch_size={batch_size}: "
            f"the nearest multiple is {max(1, round(size / step)) * step}."
        )


class Queue(Negatives):
    """A first-in, first-out queue of the keys of the last steps, initially full of random unit vectors.

    q, k: (N,dim) unit rows -> (N,size) similarities of q to the queue; the keys k are not in it yet.
    MoCo (arXiv 1911.05722), Sec. 3.2.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.keys: Tensor
        self.next: Tensor
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))  # the row to overwrite next

    def similarities(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ self.keys.T

    def stored(self) -> Tensor:
        return self.keys

    def check(self, batch_size: int, keys: int) -> None:
        check_queue(len(self.keys), batch_size, keys)

    def snapshot(self) -> Mapping[str, Tensor]:
        """Up to 4096 keys, evenly spaced, and their ages in keys."""
        every = math.ceil(len(self.keys) / _SHOWN)
        return {"negatives": self.keys[::every], "ages": self.ages()[::every]}

    @torch.no_grad()
    def enqueue(self, k: Tensor) -> None:
        """Overwrite the oldest rows with the keys k (N,dim), in place and without synchronising."""
        rows = (self.next + torch.arange(len(k), device=k.device)) % len(self.keys)
        self.keys.index_copy_(0, rows, k.to(self.keys.dtype))
        self.next.add_(len(k)).remainder_(len(self.keys))

    def ages(self) -> Tensor:
        """The age (size,) of each row: the number of keys enqueued after it; initial rows are as old as their place."""
        return (self.next - 1 - torch.arange(len(self.keys), device=self.keys.device)) % len(self.keys)
