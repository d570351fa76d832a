"""BYOL (arXiv 2006.07733): predicts the output of a slow average of the network for the other view; no negatives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardlab import losses
from hardlab.methods.base import Method, Step, ema, twin_of
from hardlab.nets import mlp
from hardlab.numbers import Share, Units
from hardlab.types import HardlabError, Progress


class BYOL(Method):
    """2 - 2 cos(h(g(f(x))), sg g'(f'(x'))), mean of both directions, g'f' the moving average of gf. BYOL, Eqs. 1, 2.

    Each view has its own forward pass, with its own BN statistics.

    dim: output width of g and h.
    hidden: hidden width of both.
    start, end: of tau, the share of itself that the target keeps at each step, along half a cosine (Sec. 3.2).
    average: the ``parameters`` (the target has its own BN statistics), or ``all``, BN buffers included.
    """

    vectors = True
    SMALL: Mapping[str, Any] = {"hidden": 64}

    def __init__(
        self,
        backbone: nn.Module,
        dim: Units = 256,
        hidden: Units = 4096,
        start: Share = 0.996,
        end: Share = 1.0,
        average: Literal["parameters", "all"] = "parameters",
    ) -> None:
        super().__init__(backbone)
        self.check_options(start, end)
        self.projector = mlp(self.features, hidden, dim, bias_output=False)
        self.predictor = mlp(dim, hidden, dim, bias_output=False)
        self.twin, self.twin_projector = twin_of(backbone), twin_of(self.projector)
        self.start, self.end, self.average = start, end, average
        self.tau = start

    @staticmethod
    def check_options(start: float, end: float) -> None:
        if not 0 <= start <= end <= 1:
            raise HardlabError(f"BYOL with start={start}, end={end}: the target keeps shares 0 <= start <= end <= 1.")

    def query(self, x: Any) -> Tensor:
        return self.predictor(self.projector(self.pooled(x)))  # (N,dim)

    @torch.no_grad()
    def target(self, x: Any, index: Tensor | None) -> Tensor:
        return self.twin_projector(self.pooled(x, self.twin))  # (N,dim)

    def loss(self, q: Tensor, t: Tensor, group: Tensor | None = None) -> Tensor:
        return 2 + 2 * losses.cosine(q, t)

    def before_step(self, at: Progress) -> None:
        self.tau = self.end - (self.end - self.start) * (math.cos(math.pi * at.share) + 1) / 2

    def after_step(self, step: Step) -> None:
        buffers = self.average == "all"
        ema(self.twin, self.backbone, self.tau, buffers)
        ema(self.twin_projector, self.projector, self.tau, buffers)

    @torch.no_grad()
    def logs(self, step: Step) -> Mapping[str, float]:
        """tau; target_std: spread of the labels over the batch, 0 after a collapse (as ``std``)."""
        t = nn.functional.normalize(step.out.t[0].float(), dim=1)
        return {"tau": self.tau, "target_std": float(t.std(0).mean() * t.shape[1] ** 0.5)}
