"""Signs of trouble in a run: collapse of the embeddings, and numbers that are none."""

from __future__ import annotations

from collections.abc import Sequence

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


class Watch:
    """The first loss or gradient that is not finite, remembered on the device until somebody asks."""

    def __init__(self) -> None:
        self.players: list[str] = []
        self.first: Tensor | None = None  # whether the loss and all are finite, step, player, rows of the data set

    def note(self, player: str, step: int, loss: Tensor, grads: Sequence[Tensor | None], index: Tensor) -> None:
        """Look at a player's loss () and gradients, at the rows (B,) of the batch, without waiting for any of them."""
        if player not in self.players:
            self.players.append(player)
        loss = loss.detach().float().sum()
        total = torch.stack([loss, *(g.float().sum() for g in grads if g is not None)]).sum()
        where = [index.new_full((1,), n) for n in (step, self.players.index(player))]
        now = torch.cat([torch.isfinite(torch.stack([loss, total])).long(), *where, index[:4]])
        self.first = now if self.first is None else torch.where(self.first[1] == 1, now, self.first)

    def complaint(self) -> str | None:
        """What was not finite, when and on which images, in a sentence, or None; one synchronisation."""
        if self.first is None:
            return None
        loss, everything, step, player, *rows = self.first.tolist()
        if everything:
            return None
        return (
            f"The {'gradient' if loss else 'loss'} of the {self.players[player]} is not finite at step {step + 1} "
            f"(images {rows}...); nothing of it was saved."
        )
