"""The nouns that every module shares, with their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from hardlab.errors import HardlabError as HardlabError


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
    local_params: (B,L,P) of the small crops, the slots V, V + 1, ... local: their pixels, L of (B,3,s,s).
    plain: (B,3,S,S) the whole images without augmentation, slot -1, for methods that ask for it.
    labels: slot -> (B,...) pseudo-labels that somebody has computed already.
    """

    raw: Tensor
    sizes: Tensor
    index: Tensor
    group: Tensor
    params: Tensor
    x: Tensor | None = None
    local_params: Tensor | None = None
    local: tuple[Tensor, ...] = ()
    plain: Tensor | None = None
    labels: Mapping[int, Tensor] = field(default_factory=dict)

    def slot(self, i: int) -> Tensor:
        """The (B,3,S,S) pixels of view ``i``: first the large ones, then the local ones; -1 is the plain image."""
        if self.x is None or (i < 0 and self.plain is None):
            raise RuntimeError("these views were not rendered yet: call look.render(views) first")
        if i < 0:
            assert self.plain is not None
            return self.plain
        v = self.x.shape[1]
        return self.x[:, i] if i < v else self.local[i - v]

    def take(self, which: Tensor) -> Views:
        """Keep views ``which`` (B,S) of each row, in that order; pixels too where they are rendered, labels not.

        Each column names large slots only or local slots only; local slots must be of one size to be exchanged.
        """
        v = self.params.shape[1]
        small = (which >= v).all(0)  # (S,)
        rows = torch.arange(len(which), device=which.device)[:, None]
        large, little = which[:, ~small], which[:, small] - v
        x = None if self.x is None else self.x[rows, large]
        kept = replace(self, params=self.params[rows, large], x=x, labels={})
        if self.local_params is None:
            return kept
        local = torch.stack(self.local, 1)[rows, little].unbind(1) if self.local else ()
        return replace(kept, local_params=self.local_params[rows, little], local=tuple(local))

    def append(self, more: Views) -> Views:
        """These images and then those of ``more``, which has as many views, is rendered if these are, and is its own
        groups; ``raw`` is padded to the larger of the two."""
        height, width = (max(a, b) for a, b in zip(self.raw.shape[2:], more.raw.shape[2:], strict=True))
        raw = [F.pad(r, (0, width - r.shape[3], 0, height - r.shape[2])) for r in (self.raw, more.raw)]

        def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else torch.cat([a, b])

        return Views(
            torch.cat(raw),
            torch.cat([self.sizes, more.sizes]),
            torch.cat([self.index, more.index]),
            torch.cat([self.group, more.group + len(self.group)]),
            torch.cat([self.params, more.params]),
            both(self.x, more.x),
            both(self.local_params, more.local_params),
            tuple(torch.cat(pair) for pair in zip(self.local, more.local, strict=True)),
            both(self.plain, more.plain),
        )


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

    params: (B,V,P) of all candidate views, as scored. pairs: (C,S) slots of each candidate, the first two are the
    pair of large views where there are more. loss: (B,C) per candidate. best: (B,) the chosen candidate.
    local: (B,L,P) of the small crops, the slots V, V + 1, ..., where candidates are sets with such.
    """

    params: Tensor
    pairs: Tensor
    loss: Tensor
    best: Tensor
    local: Tensor | None = None


class Progress(NamedTuple):
    """Where a run is: ``step`` steps of ``total`` are done, in epoch ``epoch`` of ``epochs``, ``share`` of it all."""

    step: int
    total: int
    epoch: int
    epochs: int

    @property
    def share(self) -> float:
        return self.step / max(1, self.total)

    @property
    def epochs_done(self) -> float:
        """Epochs with their fraction, for warm-ups given in epochs."""
        return self.share * self.epochs


class Player(NamedTuple):
    """Whoever optimises parameters of its own.

    objective: scalar to minimise (to ascend, negate). times: steps taken at training step ``step``, 0 = not due.
    joint: it differentiates the learner's own graph, so its gradients are taken before anybody moves; any other
    player's objective builds a graph of its own, after the learner's step.
    """

    name: str
    params: list[Tensor]
    opt: Optimizer
    objective: Callable[[Out, dict[str, Tensor]], Tensor]
    times: Callable[[int], int] = lambda step: 1
    joint: bool = False
