"""Signs of trouble in a run: collapse of the embeddings, and numbers that are none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hardlab.types import Out


@torch.no_grad()
def collapse_signals(out: Out) -> dict[str, float]:
    """Spread, effective rank, alignment and uniformity of a step's unit-norm predictions (B,D).

    std: mean over dimensions, times sqrt(D): 1 for directions uniform on the sphere, 0 for a point (SimSiam, Sec. 4.1).
    rank: exp of the entropy of the singular values (Roy & Vetterli 2007). alignment, uniformity: Wang & Isola
    (arXiv 2005.10242), Sec. 4.1; alignment only where there are two slots.
    """
    first, *others = out.q.values()
    z = F.normalize(first.float(), dim=1)
    centred = z - z.mean(0)
    # of the smaller side: predictions may have thousands of dimensions
    gram = centred @ centred.T if len(z) <= z.shape[1] else centred.T @ centred
    s = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    p = s / s.sum().clamp_min(1e-12)
    distances = torch.pdist(z).square()
    signals = {
        "std": float(z.std(0).mean() * z.shape[1] ** 0.5),
        "rank": float(torch.exp(-(p * p.clamp_min(1e-12).log()).sum())),
        "uniformity": float(torch.logsumexp(-2 * distances, 0) - torch.log(torch.tensor(float(len(distances))))),
    }
    if others:
        w = F.normalize(others[0].float(), dim=1)
        signals["alignment"] = float((z - w).square().sum(1).mean())
    return signals


def finite(loss: Tensor, grads: list[Tensor | None]) -> str | None:
    """What is not finite, in a word, or None; one synchronisation with the device."""
    total = torch.stack([g.float().sum() for g in grads if g is not None]).sum() if grads else loss.new_zeros(())
    if bool(torch.isfinite(loss.detach().float().sum() + total)):
        return None
    return "gradient" if bool(torch.isfinite(loss).all()) else "loss"
