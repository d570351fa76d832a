"""Negatives: modules (q, k) -> similarity columns, so that several kinds concatenate into one ``info_nce``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OtherKeys(nn.Module):
    """The other images of the batch, in both views: SimCLR's 2(N-1) negatives of an anchor.

    q, k: (N,D) unit rows, q_i and k_i positives -> (N,2N), -inf at the anchor itself and at its positive.
    SimCLR (arXiv 2002.05709), Sec. 2.1.
    """

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        own = torch.eye(len(q), dtype=torch.bool, device=q.device).repeat(1, 2)  # (N,2N)
        return torch.cat([q @ k.T, q @ q.T], dim=1).masked_fill(own, -torch.inf)
