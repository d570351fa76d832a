"""HNSSL (CVPR-W 2023, arXiv 2202.13072): matches an augmented image to a slow copy's output for the plain image."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hardlab import losses
from hardlab.methods.base import Method, Step, ema
from hardlab.nets import mlp
from hardlab.numbers import Share, Weight
from hardlab.types import HardlabError


class HNSSL(Method):
    """L1 = alpha1 |u - u'|^2 between max-normalised outputs; unlike elsewhere, the *teacher* is the trained network.

    The teacher (``backbone``, ``head``) sees the augmented image, the student the plain one. HNSSL, Eqs. 1, 2, 6, 7;
    the negative term of Eq. 4 is the strategy ``mined``.

    tau: the share of itself that the student keeps at each step; 0 = the teacher, 1 = as initialised.
    alpha1: weight of the loss.
    reduction: of the squares over the dimensions, ``sum`` or ``mean``.
    head: ``pooled`` features, or a ``projector`` to 256.
    student: the average of the teacher (``ema``), or trained by its own ``gradient`` (Sec. 4.4).
    """

    pairs = ((0, -1),)
    slots = 1
    vectors = True

    def __init__(
        self,
        backbone: nn.Module,
        tau: Share = 0.5,
        alpha1: Weight = 0.8,
        reduction: Literal["sum", "mean"] = "sum",
        head: Literal["pooled", "projector"] = "pooled",
        student: Literal["ema", "gradient"] = "ema",
    ) -> None:
        super().__init__(backbone)
        if not 0 <= tau <= 1:
            raise HardlabError(f"HNSSL with tau={tau}: the student keeps a share of itself, from 0 to 1.")
        if alpha1 < 0:
            raise HardlabError(f"HNSSL with alpha1={alpha1}: the weight of the positive pairs is at least 0.")
        self.head = mlp(self.features, 4096, 256) if head == "projector" else nn.Identity()
        self.student = copy.deepcopy(nn.Sequential(self.backbone, self.head))
        self.follows = student == "ema"
        self.student.requires_grad_(not self.follows)
        self.tau, self.alpha1, self.reduction = tau, alpha1, reduction

    evaluated = ("backbone", "student")

    def networks(self) -> Mapping[str, nn.Module]:
        return {"backbone": self.backbone, "student": self.student[0]}

    def query(self, x: Any) -> Tensor:
        return self.head(self.pooled(x))

    def target(self, x: Any, index: Tensor | None) -> Tensor:
        # its BN layers use statistics of its own batch, so that only the parameters are an average
        out = self.student[1](self.pooled(x, self.student[0]))
        return out.detach() if self.follows else out

    def loss(self, q: Tensor, t: Tensor, group: Tensor | None = None) -> Tensor:
        squares = (losses.max_normalise(q) - losses.max_normalise(t)).square()
        return self.alpha1 * (squares.sum(1) if self.reduction == "sum" else squares.mean(1))

    def after_step(self, step: Step) -> None:
        if self.follows:
            ema(self.student, nn.Sequential(self.backbone, self.head), self.tau)

    @torch.no_grad()
    def logs(self, step: Step) -> Mapping[str, float]:
        u = losses.max_normalise(step.out.q[0].float())
        return {
            "d_ii": float((u - losses.max_normalise(step.out.t[-1].float())).square().sum(1).mean()),
            "feature_std": float(u.std(0).mean()),
            "distance_to_student": float(_distance(self.student[0], self.backbone)),
        }


def _distance(twin: nn.Module, net: nn.Module) -> Tensor:
    """Euclidean distance between the parameters that two networks have in common, by name."""
    parameters = dict(net.named_parameters())
    return torch.stack([(x - parameters[name]).square().sum() for name, x in twin.named_parameters()]).sum().sqrt()
