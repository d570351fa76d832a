"""Hard negative pair mining (HNSSL, CVPR-W 2023, Sec. 3.3): push away what lies within a margin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from hardlab import losses, ranks, transfer
from hardlab.hard.base import Hard
from hardlab.methods.base import Step
from hardlab.numbers import Weight
from hardlab.types import HardlabError


class Mined(Hard):
    """L2 = -log(sum over j in H_i of d_ij + epsilon), H_i the other images with d_ij <= threshold. HNSSL, Eqs. 3-5.

    d_ij is the squared distance of label i and prediction j, both max-normalised; labels have a gradient only if the
    method gives them one, which HNSSL does not. An anchor without a hard negative has no row in the term.

    alpha2: weight of the term.
    threshold: the largest distance of a hard negative.
    epsilon: added inside the logarithm.
    mine: by ``threshold``, ``all`` other images (the paper's ablation), or the nearest alone (``top1``, as in Sec.
        3.1).
    reduction: of the squares over the dimensions, ``sum`` or ``mean``.
    """

    needs: Mapping[str, str] = {"vectors": "measures distances between predictions and labels"}

    def __init__(
        self,
        alpha2: Weight = 0.1,
        threshold: Weight = 1.0,
        epsilon: Weight = 1e-8,
        mine: Literal["threshold", "all", "top1"] = "threshold",
        reduction: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__()
        for name, value in (("alpha2", alpha2), ("threshold", threshold), ("epsilon", epsilon)):
            if value < 0:
                raise HardlabError(f"mined with {name}={value}: at least 0; the paper has 0.1, 1 and no epsilon.")
        self.weights = {"mined": alpha2}
        self.threshold, self.epsilon, self.mine, self.reduction = threshold, epsilon, mine, reduction

    def terms(self, step: Step) -> Mapping[str, Tensor]:
        """The term's rows: all anchors of the whole batch with a hard negative, for each pair of the method."""
        out = step.out
        group = ranks.whole(out.views.group)
        same = group[:, None] == group
        totals, some, measured = [], [], []  # measured: distances and hard sets, for the logs
        with torch.autocast(same.device.type, enabled=False):
            for a, b in step.method.pairs:
                q, t = (ranks.whole(losses.max_normalise(x.float())) for x in (out.q[a], out.t[b]))
                d = losses.squared_distances(t, q)
                if self.reduction == "mean":
                    d = d / out.q[a].shape[1]
                hard = self.hard(d.detach(), same)
                totals.append(d.masked_fill(~hard, 0).sum(1))
                some.append(hard.any(1))
                measured.append((d.detach().masked_fill(same, torch.nan), hard))
        step.kept[self.name] = measured
        return {"mined": self.loss(torch.cat(totals), torch.cat(some))}

    def loss(self, total: Tensor, some: Tensor) -> Tensor:
        """Losses (n,) of the rows with hard negatives; on a GPU their mean (1,), 0 if there are none.

        total: (N,) sums of distances. some: (N,) whether a row has hard negatives. Choosing rows on a GPU would
        synchronise.
        """
        if transfer.on_host(total):
            return -(total[some] + self.epsilon).log()
        rows = -(torch.where(some, total, 1.0) + self.epsilon).log()
        return torch.where(some, rows, 0.0).sum()[None] / some.sum().clamp_min(1)

    def hard(self, d: Tensor, same: Tensor) -> Tensor:
        """The sets of hard negatives (N,N) bool, from the distances d (N,N) of label i and prediction j.

        same: (N,N) whether the two belong to the same image.
        """
        if self.mine == "all":
            return ~same
        if self.mine == "threshold":
            return (d <= self.threshold) & ~same
        nearest = d.masked_fill(same, torch.inf).argmin(1, keepdim=True)
        return torch.zeros_like(same).scatter(1, nearest, True) & ~same

    def logs(self, step: Step) -> Mapping[str, float]:
        measured = step.kept[self.name]
        sizes = torch.cat([hard.sum(1) for _, hard in measured]).float()
        d = torch.cat([d.flatten() for d, _ in measured])
        quantiles = torch.nanquantile(d[: 2**24], d.new_tensor([0.05, 0.25, 0.5, 0.75, 0.95]))
        return {
            "frac_nonempty": float((sizes > 0).float().mean()),
            "hard_negatives": float(sizes.mean()),
            **{f"d_q{q:02}": float(x) for q, x in zip((5, 25, 50, 75, 95), quantiles)},
        }
