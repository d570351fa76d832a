"""MoCHi (arXiv 2010.01028): harder negatives, mixed from the negatives nearest to the query, and the query itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hardlab import ranks
from hardlab.hard.base import Hard
from hardlab.methods.base import Method
from hardlab.needs import Setting
from hardlab.negatives import Negatives, Synthetic
from hardlab.numbers import Count, Epochs, ManyOrNone
from hardlab.types import HardlabError, Progress, Reference


class Synthesis(Hard):
    """The common part of MoCHi and SynCo, which document their options: negatives made from a method's stored ones."""

    owns_loss = True
    needs: Mapping[str, str] = {"memory": "makes negatives of those that a method keeps from step to step"}
    hard: int
    warmup_epochs: float

    def around_stored(self, inner: Negatives) -> Synthetic:
        """Wrap ``inner`` by negatives that add synthetic ones."""
        raise NotImplementedError

    @staticmethod
    def check_run(at: Setting, hard: int, warmup_epochs: float) -> None:
        check_stored(at.own.kind, hard, at.method.options.get("queue", hard))
        check_warmup(at.own.name, warmup_epochs, at.epochs)

    def install(self, method: Method) -> None:
        super().install(method)
        kept = method.negatives
        assert kept is not None  # as ``needs`` demands
        check_stored(type(self).__name__, self.hard, len(kept.stored()))
        method.negatives = made = self.around_stored(kept)
        self.made = Reference(made)

    def check_steps(self, steps: int, epochs: int) -> None:
        check_warmup(self.name, self.warmup_epochs, epochs)

    def before_step(self, at: Progress) -> None:
        self.made.to.on = at.epochs_done >= self.warmup_epochs


def check_stored(strategy: str, hard: int, stored: int) -> None:
    """Refuse more negatives to start from than are stored. Raises HardlabError."""
    if hard > stored:
        raise HardlabError(f"{strategy} with hard={hard}: the queue has {stored} negatives, and no more can be taken.")


def check_warmup(strategy: str, warmup_epochs: float, epochs: int) -> None:
    """Refuse a warm-up that leaves nothing of a run. Raises HardlabError."""
    if epochs and epochs <= warmup_epochs:
        raise HardlabError(
            f"hard.{strategy}.warmup_epochs={warmup_epochs:g} leaves nothing of a run of {epochs} epochs: "
            f"take less, or hard.{strategy}.warmup_epochs=0."
        )


class Mixed(Synthetic):
    """Mixtures of pairs of hard negatives, and of a hard negative with the query. MoCHi, Sec. 4."""

    def __init__(self, inner: Negatives, hard: int, pairs: int, queries: int) -> None:
        super().__init__(inner, hard)
        self.pairs, self.queries = pairs, queries

    def make(self, q: Tensor, hard: Tensor) -> Tensor:
        n, h, _ = hard.shape
        rows = torch.arange(n, device=q.device)[:, None]
        at, pairs, queries = q.device, self.pairs, self.queries
        i, j = ranks.draw(lambda n: torch.randint(h, (2, n, pairs), device=at), n, dim=1)
        a = ranks.draw(lambda n: torch.rand(n, pairs, 1, device=at), n)
        m = ranks.draw(lambda n: torch.randint(h, (n, queries), device=at), n)
        b = ranks.draw(lambda n: torch.rand(n, queries, 1, device=at), n) / 2  # the query always has the smaller share
        return torch.cat([a * hard[rows, i] + (1 - a) * hard[rows, j], b * q[:, None] + (1 - b) * hard[rows, m]], dim=1)


class MoCHi(Synthesis):
    """Adds new synthetic negatives to those of a queue at each step. MoCHi, Sec. 4.

    hard: N, the number of nearest negatives to mix.
    pairs: s, the number of mixtures of two of those.
    queries: s', the number of mixtures of one of those and the query.
    warmup_epochs: epochs without synthetic negatives.
    """

    SMALL: Mapping[str, Any] = {"hard": 16, "pairs": 8, "queries": 4, "warmup_epochs": 0}

    def __init__(
        self, hard: Count = 1024, pairs: ManyOrNone = 1024, queries: ManyOrNone = 128, warmup_epochs: Epochs = 10
    ) -> None:
        super().__init__()
        self.hard, self.pairs, self.queries, self.warmup_epochs = hard, pairs, queries, warmup_epochs

    def around_stored(self, inner: Negatives) -> Synthetic:
        return Mixed(inner, self.hard, self.pairs, self.queries)
