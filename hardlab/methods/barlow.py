"""Barlow Twins (arXiv 2103.03230): each dimension correlates between two views, and with no other dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hardlab import losses
from hardlab.methods.base import Method
from hardlab.nets import mlp
from hardlab.numbers import Layers, Positive, Units, Weight


class BarlowTwins(Method):
    """sum_d (1 - C_dd)^2 + redundancy * sum_{d != e} C_de^2, C the correlations of both views over the batch.

    C is a mean over the batch; the loss of an image is its share in it, so that the mean over the batch is the paper's
    loss. Barlow Twins, Eqs. 1, 2, Sec. 2.2.

    dim: units of each layer of the projector.
    layers: number of layers of the projector.
    redundancy: lambda, as in the authors' ``main.py``.
    scale: of the whole loss; LARS makes weights, but not biases and norm parameters, independent of it.
    """

    shared = vectors = mixes_rows = True
    pairs = ((0, 1),)
    SMALL: Mapping[str, Any] = {"dim": 16}

    def __init__(
        self,
        backbone: nn.Module,
        dim: Units = 8192,
        layers: Layers = 3,
        redundancy: Weight = 0.0051,
        scale: Positive = 1.0,
    ) -> None:
        super().__init__(backbone)
        self.projector = mlp(self.features, *[dim] * layers, bias_output=False)
        self.redundancy, self.scale = redundancy, scale

    def both(self, x: Any, index: Tensor | None) -> tuple[Tensor, Tensor]:
        z = self.projector(self.pooled(x))  # (N,dim)
        return z, z

    def loss(self, q: Tensor, t: Tensor, group: Tensor | None = None) -> Tensor:
        q, t = (F.batch_norm(z, None, None, training=True) for z in (q, t))
        own = q * t
        on = ((own.mean(0) - 1) * (own - 1)).sum(1)
        return self.scale * (on + self.redundancy * losses.off_diagonal(q, t, len(q)))
