"""What every self-supervised method is: a predictor of pseudo-labels, with a loss per sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn

from hardlab.types import Out, Views


class Method(nn.Module):
    """Backbone and heads; forward is pure, state moves in ``after_step`` and ``on_epoch`` only.

    pairs: (predicting slot, slot whose label is predicted). joint: all slots go through the network as one batch,
    so that they share BN statistics. backbone: (N,3,S,S) -> (N,D) pooled features, with ``dim`` = D.
    """

    pairs: Sequence[tuple[int, int]] = ((0, 1), (1, 0))
    slots = 2
    joint = False

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.features: int = cast(int, backbone.dim)

    def query(self, x: Tensor) -> Tensor:
        """(N,3,S,S) -> (N,D), with gradient."""
        return self.both(x)[0]

    def target(self, x: Tensor) -> Tensor:
        """(N,3,S,S) -> (N,...) pseudo-label."""
        return self.both(x)[1]

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and label of the same pixels; methods that share the pass override this."""
        return self.query(x), self.target(x)

    def loss(self, q: Tensor, t: Tensor, group: Tensor | None = None) -> Tensor:
        """(N,D), (N,...) -> (N,): how wrong each prediction is."""
        raise TypeError(f"{type(self).__name__} defines no per-sample loss")

    def constant_rate(self) -> Iterable[nn.Parameter]:
        """Parameters whose learning rate is not scheduled."""
        return ()

    def candidates(self, n: int) -> list[tuple[int, ...]]:
        """The slot tuples that a view selection may pick from ``n`` views: all unordered pairs."""
        return list(combinations(range(n), self.slots))

    def embed(
        self, v: Views, q_slots: Iterable[int], t_slots: Iterable[int], joint: bool | None = None
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Predictions (B,D) of ``q_slots`` and labels of ``t_slots``, each slot encoded once.

        joint: one batch of all slots (shared BN statistics) or one forward per slot; None = the method's own way.
        """
        wanted_q, wanted_t = set(q_slots), set(t_slots)
        slots = sorted(wanted_q | wanted_t)
        if self.joint if joint is None else joint:
            q, t = self.both(torch.cat([v.slot(i) for i in slots]))
            qs, ts = dict(zip(slots, q.chunk(len(slots)))), dict(zip(slots, t.chunk(len(slots))))
            return {i: qs[i] for i in slots if i in wanted_q}, {i: ts[i] for i in slots if i in wanted_t}
        q_of, t_of = {}, {}
        for i in slots:
            if i in wanted_q and i in wanted_t:
                q_of[i], t_of[i] = self.both(v.slot(i))
            elif i in wanted_q:
                q_of[i] = self.query(v.slot(i))
            else:
                t_of[i] = self.target(v.slot(i))
        return q_of, t_of

    def score(
        self, q: dict[int, Tensor], t: dict[int, Tensor], pick: Sequence[int] | None = None, group: Tensor | None = None
    ) -> Tensor:
        """(B,) mean loss over the method's pairs, read on the slots ``pick`` in place of 0, 1, ..."""
        at = range(self.slots) if pick is None else pick
        device = next(iter(q.values())).device.type
        with torch.autocast(device, enabled=False):  # similarities in float32 even where the network ran in bf16
            losses = [self.loss(q[at[a]].float(), t[at[b]].float(), group) for a, b in self.pairs]
        return torch.stack(losses).mean(0)

    def forward(self, v: Views) -> Out:
        """One step's predictions, labels and (B,) losses; changes no state but BN statistics."""
        q, t = self.embed(v, (a for a, _ in self.pairs), (b for _, b in self.pairs))
        return Out(v, q, t, self.score(q, t, group=v.group))

    def after_step(self, out: Out, step: int) -> None:
        """The only place where state moves after an optimiser step: EMA, queue, centre, bank."""

    def on_epoch(self, epoch: int) -> None:
        """Called before each epoch: k-means and the like."""
