"""HCL (arXiv 2010.04592): negatives near the anchor count more, and the share of false ones is subtracted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hardlab.hard.base import Hard
from hardlab.methods.base import Method
from hardlab.negatives import Around, Negatives
from hardlab.numbers import Momentum, Weight


class Reweighted(Around):
    """-log p / (p + G), p = e^(s+ / t), G = (mean of w_j e^(s_j / t) - tau p) M / (1 - tau), at least M e^(-1 / t).

    w_j: e^(beta s_j / t) over their mean; M: negatives of the query. The authors' ``image/main.py``,
    ``criterion`` with ``estimator="hard"``.
    """

    def __init__(self, inner: Negatives, beta: float, tau: float) -> None:
        super().__init__(inner)
        self.beta, self.tau = beta, tau

    def loss(self, q: Tensor, k: Tensor, temperature: float) -> Tensor:
        own = (q * k).sum(1) / temperature
        logits = self.similarities(q, k) / temperature  # (N,M), -inf where a column does not count
        top = torch.maximum(own, logits.amax(1)).detach()
        count = logits.isfinite().sum(1)
        weights = (self.beta * (logits - top[:, None])).exp() if self.beta else logits.isfinite().to(logits.dtype)
        negative, p = (logits - top[:, None]).exp(), (own - top).exp()
        total = (weights * negative).sum(1) * count / weights.sum(1)
        g = (total - self.tau * count * p) / (1 - self.tau)
        return (p + torch.maximum(g, count * (-1 / temperature - top).exp())).log() + top - own


class HCL(Hard):
    """Reweights the negatives of a contrastive loss.

    beta: how much more near negatives count; 0 = all alike.
    tau: the assumed share of negatives of the anchor's class.

    The defaults are those of the authors' ``image/main.py``, the best of their README on STL-10.
    """

    owns_loss = True
    needs: Mapping[str, str] = {"negatives": "weighs the negatives of a contrastive loss"}

    def __init__(self, beta: Weight = 1.0, tau: Momentum = 0.1) -> None:
        super().__init__()
        self.beta, self.tau = beta, tau

    def install(self, method: Method) -> None:
        super().install(method)
        assert method.negatives is not None  # as ``needs`` demands
        method.negatives = Reweighted(method.negatives, self.beta, self.tau)
