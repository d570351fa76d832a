"""SimSiam (arXiv 2011.10566): two views, a predictor, a stop-gradient, no negatives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from hardlab import losses
from hardlab.methods.base import Method
from hardlab.nets import mlp
from hardlab.numbers import Layers, Units


class SimSiam(Method):
    """L = -1/2 [cos(p1, sg z2) + cos(p2, sg z1)]; each view has its own forward pass and BN statistics.

    layers: of the projector, 3 (ImageNet) or 2 (CIFAR).
    dim: of z.
    hidden: of the predictor.
    fix_predictor_rate: the predictor's learning rate is not scheduled. SimSiam, Alg. 1, Sec. 3; App. D for CIFAR.
    """

    shared = vectors = True
    SMALL: Mapping[str, Any] = {"dim": 64, "hidden": 16}

    def __init__(
        self,
        backbone: nn.Module,
        layers: Layers = 3,
        dim: Units = 2048,
        hidden: Units = 512,
        fix_predictor_rate: bool = True,
    ) -> None:
        super().__init__(backbone)
        self.projector = mlp(self.features, *[dim] * layers, bn_output=True, affine_output=False, bias_output=False)
        self.predictor = mlp(dim, hidden, dim)
        self.fix_predictor_rate = fix_predictor_rate

    def both(self, x: Any, index: Tensor | None) -> tuple[Tensor, Tensor]:
        z = self.projector(self.pooled(x))  # (N,dim)
        return self.predictor(z), z.detach()

    def loss(self, q: Tensor, t: Tensor, group: Tensor | None = None) -> Tensor:
        return losses.cosine(q, t)

    def constant_rate(self) -> Iterable[nn.Parameter]:
        return self.predictor.parameters() if self.fix_predictor_rate else ()
