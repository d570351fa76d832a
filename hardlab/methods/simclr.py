"""SimCLR (arXiv 2002.05709): each view must match the other view of its image among all views of the batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardlab import losses
from hardlab.methods.base import Method
from hardlab.negatives import Negatives, OtherKeys
from hardlab.nets import mlp
from hardlab.numbers import Temperature, Units


class SimCLR(Method):
    """NT-Xent over the 2B views of a batch, positive included in the denominator, gradient through both views.

    The per-sample loss is the mean over the image's two anchors (google-research/simclr sums them: a factor 2). As
    there, all views pass the network as one batch. dim: of z. temperature: tau. SimCLR, Eq. 1, Alg. 1.
    """

    joint = shared = grouped = vectors = mixes_rows = True
    negatives_from = "batch"

    def __init__(self, backbone: nn.Module, dim: Units = 128, temperature: Temperature = 0.1) -> None:
        super().__init__(backbone)
        self.projector = mlp(self.features, self.features, dim, bn_output=True, bias_output=False)
        # google-research/simclr gives the last BN a scale but no offset
        self.projector[-1].bias.requires_grad_(False)
        self.negatives: Negatives = OtherKeys()
        self.dim, self.temperature = dim, temperature

    def both(self, x: Any, index: Tensor | None) -> tuple[Tensor, Tensor]:
        z = F.normalize(self.projector(self.pooled(x)).float(), dim=1)  # (N,dim)
        return z, z

    def loss(self, q: Tensor, t: Tensor, group: Tensor | None = None) -> Tensor:
        """(N,dim), (N,dim) -> (N,) of the anchors q; rows of one group are positives too (PPCL, Eq. 7)."""
        if group is not None:
            return losses.sup_con(torch.cat([q, t]), group.repeat(2), self.temperature)[: len(q)]
        return self.negatives.loss(q, t, self.temperature)

    def right(self, q: Tensor, t: Tensor) -> Tensor:
        return ((q * t).sum(1) > self.negatives.nearest(q, t)).float()
