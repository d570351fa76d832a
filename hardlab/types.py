"""The nouns that every module shares, with their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer


class HardlabError(Exception):
    """A mistake of the user's, told in one sentence; the command line prints it without a traceback."""


class Batch(NamedTuple):
    """What a data set hands to the trainer.

    raw: (B,3,H,W) uint8 on the device, padded on the right and below where images differ in size.
    sizes: (B,2) int64, the true (height, width) of each image inside ``raw``.
    index: (B,) int64, the row in the data set.
    """

    raw: Tensor
    sizes: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


@dataclass(frozen=True)
class Views:
    """B images under V views each; ``x`` is None until somebody renders it.

    raw: (B,3,H,W) uint8, or float in [0,1] where a gradient to the pixels is wanted.
    sizes: (B,2) true height and width.
    index: (B,) data-set row; -1 = generated.
    group: (B,) rows of one group are positives of each other.
    params: (B,V,P) float32, columns ``hardlab.views.PARAMS``: crop box, flip, jitter, ... as drawn.
    x: (B,V,3,S,S) float32, augmented and normalised.
    """

    raw: Tensor
    sizes: Tensor
    index: Tensor
    group: Tensor
    params: Tensor
    x: Tensor | None = None

    def slot(self, i: int) -> Tensor:
        """The (B,3,S,S) pixels of view ``i``."""
        if self.x is None:
            raise RuntimeError("these views were not rendered yet: call look.render(views) first")
        return self.x[:, i]

    def take(self, which: Tensor) -> Views:
        """Keep views ``which`` (B,S) of each row, in that order; pixels too where they are rendered."""
        rows = torch.arange(len(which), device=which.device)[:, None]
        return replace(self, params=self.params[rows, which], x=None if self.x is None else self.x[rows, which])


class Out(NamedTuple):
    """What one forward pass of a method says.

    views: what was looked at. q: slot -> (B,D), with gradient. t: slot -> (B,...) pseudo-label.
    loss: (B,) per-sample loss, the mean over the method's pairs.
    """

    views: Views
    q: Mapping[int, Tensor]
    t: Mapping[int, Tensor]
    loss: Tensor


class Candidates(NamedTuple):
    """Everything a selection saw; the view log keeps it.

    params: (B,V,P) of all candidate views, as scored. pairs: (C,2) slots of each candidate.
    loss: (B,C) per candidate. best: (B,) the chosen candidate.
    """

    params: Tensor
    pairs: Tensor
    loss: Tensor
    best: Tensor


class Player(NamedTuple):
    """Whoever optimises parameters of its own."""

    name: str
    params: list[Tensor]
    opt: Optimizer
    objective: Callable[[Out, dict[str, Tensor]], Tensor]  # scalar to minimise; to ascend, negate
    times: Callable[[int], int] = lambda step: 1  # steps taken at training step `step`; 0 = not due
