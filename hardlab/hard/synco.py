"""SynCo (arXiv 2410.02401): six kinds of synthetic negatives, made from the negatives nearest to the query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hardlab import ranks
from hardlab.hard.mochi import Synthesis
from hardlab.negatives import Negatives, Synthetic
from hardlab.numbers import Count, Epochs, ManyOrNone, Weight


class SixKinds(Synthetic):
    """Synthetic negatives of six kinds.

    counts: of each kind, in the order of the authors' ``synco/builder.py``. sigma, delta, eta: as in ``SynCo``.
    """

    def __init__(
        self, inner: Negatives, hard: int, counts: tuple[int, ...], sigma: float, delta: float, eta: float
    ) -> None:
        super().__init__(inner, hard)
        self.counts, self.sigma, self.delta, self.eta = counts, sigma, delta, eta

    def make(self, q: Tensor, hard: Tensor) -> Tensor:
        n, h, _ = hard.shape
        rows = torch.arange(n, device=q.device)[:, None]

        def some(count: int) -> Tensor:
            which = ranks.draw(lambda n: torch.randint(h, (n, count), device=hard.device), n)
            return hard[rows, which]  # (N,count,D)

        def share(count: int) -> Tensor:
            return ranks.draw(lambda n: torch.rand(n, count, 1, device=hard.device), n)

        between, beyond, mixed, noised, perturbed, adversarial = self.counts
        q, made = q[:, None], []
        made.append(_towards(some(between), q, share(between) / 2))
        made.append(_towards(some(beyond), q, -share(beyond) / 2))  # q + b (n - q), b in (1, 1.5)
        made.append(_towards(some(mixed), some(mixed), share(mixed)))
        near = some(noised)
        noise = ranks.draw(lambda n: torch.randn(n, *near.shape[1:], dtype=near.dtype, device=near.device), n)
        made.append(near + self.sigma * noise)
        made.append(some(perturbed) + self.delta * q)  # q is the gradient of the similarity q n
        made.append(some(adversarial) + self.eta * q.sign())
        return torch.cat(made, dim=1)


def _towards(n: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return n + share * (other - n)


class SynCo(Synthesis):
    """Adds new negatives of six kinds to those of a queue at each step; defaults as in the authors' ``main_synco.py``.

    hard: N, the number of nearest negatives to start from.
    interpolated: number of negatives moved towards the query.
    extrapolated: number of negatives moved away from the query.
    mixed: number of mixtures of two negatives.
    noised, sigma: number of negatives with Gaussian noise, and its deviation.
    perturbed, delta: number of negatives moved along the gradient of the similarity, and the factor of that gradient.
    adversarial, eta: number of negatives moved along the sign of that gradient, and the length of the step.
    warmup_epochs: epochs without synthetic negatives.
    """

    SMALL: Mapping[str, Any] = {
        "hard": 16, "interpolated": 8, "extrapolated": 8, "mixed": 8, "noised": 4, "perturbed": 4, "adversarial": 4,
        "warmup_epochs": 0,
    }  # fmt: skip

    def __init__(
        self,
        hard: Count = 1024,
        interpolated: ManyOrNone = 256,
        extrapolated: ManyOrNone = 256,
        mixed: ManyOrNone = 256,
        noised: ManyOrNone = 64,
        perturbed: ManyOrNone = 64,
        adversarial: ManyOrNone = 64,
        sigma: Weight = 0.01,
        delta: Weight = 0.01,
        eta: Weight = 0.01,
        warmup_epochs: Epochs = 10,
    ) -> None:
        super().__init__()
        self.counts = (interpolated, extrapolated, mixed, noised, perturbed, adversarial)
        self.hard, self.sigma, self.delta, self.eta, self.warmup_epochs = hard, sigma, delta, eta, warmup_epochs

    def around_stored(self, inner: Negatives) -> Synthetic:
        return SixKinds(inner, self.hard, self.counts, self.sigma, self.delta, self.eta)
