"""Negatives of a contrastive loss: the batch's own, a queue, and whatever a strategy puts in their place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardlab import losses


class Negatives(nn.Module):
    """Modules (q, k) -> similarity columns (N,M), -inf where a column does not count; q, k: (N,D) unit rows.

    A strategy may replace those of a method by others, with a loss of their own.
    """

    def loss(self, q: Tensor, k: Tensor, temperature: float) -> Tensor:
        """(N,) InfoNCE of each query with its key among these negatives."""
        return losses.info_nce((q * k).sum(1), self(q, k), temperature)

    def nearest(self, q: Tensor, k: Tensor) -> Tensor:
        """(N,) similarity of each query to the nearest of these negatives."""
        return self(q, k).amax(1)

    def enqueue(self, k: Tensor) -> None:
        """Take note of the keys of a step, after it."""


class OtherKeys(Negatives):
    """The other images of the batch, in both views: SimCLR's 2(N-1) negatives of an anchor.

    q, k: (N,D) unit rows, q_i and k_i positives -> (N,2N), -inf at the anchor itself and at its positive.
    SimCLR (arXiv 2002.05709), Sec. 2.1.
    """

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
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

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ self.keys.T

    @torch.no_grad()
    def enqueue(self, k: Tensor) -> None:
        """Overwrite the oldest rows with the keys k (N,dim), in place and without waiting for the device."""
        rows = (self.next + torch.arange(len(k), device=k.device)) % len(self.keys)
        self.keys.index_copy_(0, rows, k.to(self.keys.dtype))
        self.next.add_(len(k)).remainder_(len(self.keys))
