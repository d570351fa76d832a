"""VICReg (arXiv 2105.04906): two views agree, each dimension varies over the batch, no two dimensions correlate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hardlab import losses
from hardlab.methods.base import Method
from hardlab.nets import mlp
from hardlab.numbers import Layers, Positive, Units, Weight


class VICReg(Method):
    """invariance |z - z'|^2 / D + variance and covariance of each branch. VICReg, Eqs. 1-4, 6, Sec. 4.2.

    Variance and covariance are of the whole batch; the loss of an image is its share in them, so that the mean over the
    batch is that loss.

    dim: D, units of each layer of the expander.
    layers: number of layers of the expander.
    invariance, variance, covariance: weights as in the authors' ``main_vicreg.py``: of the mean over D, of half of each
        branch's variance term, of its covariance term.
    epsilon: inside the root of the variance.
    """

    shared = vectors = mixes_rows = True
    pairs = ((0, 1),)
    SMALL: Mapping[str, Any] = {"dim": 16}

    def __init__(
        self,
        backbone: nn.Module,
        dim: Units = 8192,
        layers: Layers = 3,
        invariance: Weight = 25.0,
        variance: Weight = 25.0,
        covariance: Weight = 1.0,
        epsilon: Positive = 1e-4,
    ) -> None:
        super().__init__(backbone)
        self.projector = mlp(self.features, *[dim] * layers, bias_output=False)
        self.invariance, self.variance, self.covariance, self.epsilon = invariance, variance, covariance, epsilon

    def both(self, x: Any, index: Tensor | None) -> tuple[Tensor, Tensor]:
        z = self.projector(self.pooled(x))  # (N,dim)
        return z, z

    def loss(self, q: Tensor, t: Tensor, group: Tensor | None = None) -> Tensor:
        total = self.invariance * (q - t).square().mean(1)
        for z in (q, t):
            z = z - z.mean(0)
            total = total + self.variance / 2 * self._spread(z) + self.covariance * self._shared(z)
        return total

    def _spread(self, z: Tensor) -> Tensor:
        """The share (N,) of each row in the mean over dimensions of max(0, 1 - deviation); z: (N,D), centred."""
        own = z.square() * (len(z) / (len(z) - 1)) + self.epsilon
        deviation = own.mean(0).sqrt()
        return ((1 - own / deviation) * (deviation < 1)).mean(1)  # the mean of own / deviation is the deviation

    def _shared(self, z: Tensor) -> Tensor:
        """The share (N,) of each row in the squared covariances off the diagonal, over D; z: (N,D), centred."""
        return losses.off_diagonal(z, z, len(z) - 1) * (len(z) / (len(z) - 1)) / z.shape[1]
