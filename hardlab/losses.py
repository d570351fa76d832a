"""Per-sample losses as pure functions, (N,...) in and (N,) out; only the trainer takes means."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine(p: Tensor, z: Tensor) -> Tensor:
    """Negative cosine similarity of rows; p, z: (N,D) -> (N,) in [-1, 1]. SimSiam (arXiv 2011.10566), Eq. 1."""
    return -F.cosine_similarity(p.float(), z.float(), dim=-1)


def info_nce(pos: Tensor, neg: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the positive among itself and its negatives.

    pos: (N,) similarities to the positive; neg: (N,M) to the negatives, -inf where a column does not count -> (N,).
    CPC (arXiv 1807.03748), Eq. 4, with temperature as in SimCLR (arXiv 2002.05709), Eq. 1.
    """
    logits = torch.cat([pos[:, None], neg], dim=1).float() / temperature  # (N,1+M)
    return torch.logsumexp(logits, dim=1) - logits[:, 0]


def cross_entropy(logits: Tensor, p: Tensor) -> Tensor:
    """Cross-entropy of predictions with a distribution; logits, p: (N,K), rows of p sum to 1 -> (N,).

    DINO (arXiv 2104.14294), Eq. 2.
    """
    return F.cross_entropy(logits.float(), p.float(), reduction="none")


def max_normalise(x: Tensor) -> Tensor:
    """Divide rows by their largest absolute entry, which has a gradient too; (N,D) -> (N,D) in [-1, 1].

    HNSSL (arXiv 2202.13072), Eq. 2; 1e-6 keeps a row of zeros finite.
    """
    return x / (x.abs().amax(1, keepdim=True) + 1e-6)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(N,D), (M,D) -> (N,M) squared Euclidean distances, never negative."""
    centre = b.detach().mean(0)  # short vectors lose fewer digits in the difference below
    a, b = a - centre, b - centre
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)


def sup_con(z: Tensor, group: Tensor, temperature: float) -> Tensor:
    """Contrastive loss of rows with several positives, with the mean outside the logarithm.

    z: (M,D) unit rows; group: (M,), rows of one group are positives of each other -> (M,), 0 for a row without
    positives. The denominator contains all rows but the anchor. SupCon (arXiv 2004.11362), Eq. 2; PPCL (arXiv
    2202.06464), Eq. 7.
    """
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T).float().masked_fill(itself, -torch.inf) / temperature  # (M,M)
    positive = (group[:, None] == group) & ~itself
    log_p = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    return -log_p.masked_fill(~positive, 0).sum(1) / positive.sum(1).clamp_min(1)


def off_diagonal(a: Tensor, b: Tensor, count: int) -> Tensor:
    """(N,D), (N,D) -> (N,): sum over d != e of C_de a_d b_e of each row, C = a'b / count.

    The mean over rows is the sum of C_de^2 off the diagonal, times count / N.
    """
    c = a.T @ b / count  # (D,D)
    return ((a @ c - a * c.diagonal()) * b).sum(1)


def hinge_real(score: Tensor) -> Tensor:
    """The discriminator's loss on real images: max(0, 1 - score), (N,) -> (N,). BigGAN (arXiv 1809.11096), App. C."""
    return F.relu(1 - score)


def hinge_fake(score: Tensor) -> Tensor:
    """The discriminator's loss on generated images: max(0, 1 + score), (N,) -> (N,). As ``hinge_real``."""
    return F.relu(1 + score)
