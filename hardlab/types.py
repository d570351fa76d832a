"""The types that all modules share, with their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Generic, NamedTuple, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hardlab import ranks
from hardlab.errors import HardlabError as HardlabError


class Batch(NamedTuple):
    """A batch of images from a data set.

    raw: (B,3,H,W) uint8 on the device, padded on the right and below where images differ in size.
    sizes: (B,2) int64, the true (height, width) of each image inside ``raw``.
    index: (B,) int64, the row in the data set.
    """

    raw: Tensor
    sizes: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which is not needed


@dataclass(frozen=True)
class Drawn:
    """B images under V views each, drawn and not rendered.

    raw: (B,3,H,W) uint8, or float in [0,1] for a gradient to the pixels.
    sizes: (B,2) true height and width.
    index: (B,) data-set row; -1 = generated.
    group: (B,) rows of one group are positives of each other.
    params: (B,V,P) float32, columns ``hardlab.views.PARAMS``: crop box, flip, jitter, ... as drawn.
    local_params: (B,L,P) of the small crops, the slots V, V + 1, ...
    grouped: whether a group has several rows, known without reading ``group``.
    """

    raw: Tensor
    sizes: Tensor
    index: Tensor
    group: Tensor
    params: Tensor
    local_params: Tensor | None = None
    grouped: bool = False

    @property
    def positives(self) -> Tensor | None:
        """The groups, or None if every row is its own group."""
        return self.group if self.grouped else None

    @property
    def crops(self) -> int:
        """The number L of small crops."""
        return 0 if self.local_params is None else self.local_params.shape[1]

    def take(self, which: Tensor, crops: int = 0) -> Self:
        """Keep views ``which`` (B,S) of each row, in that order; the last ``crops`` columns name small crops."""
        rows, large, small = self._columns(which, crops)
        local = None if self.local_params is None else self.local_params[rows, small]
        return replace(self, params=self.params[rows, large], local_params=local)

    def append(self, more: Drawn) -> Drawn:
        """These images followed by those of ``more``, which has as many views and its own groups.

        ``raw`` is padded to the larger of the two, and float if one of them is.
        """
        height, width = (max(a, b) for a, b in zip(self.raw.shape[2:], more.raw.shape[2:], strict=True))
        raw = [self.raw, more.raw]
        if self.raw.dtype != more.raw.dtype:
            raw = [unit(r) for r in raw]
        return Drawn(
            torch.cat([F.pad(r, (0, width - r.shape[3], 0, height - r.shape[2])) for r in raw]),
            torch.cat([self.sizes, more.sizes]),
            torch.cat([self.index, more.index]),
            torch.cat([self.group, more.group + ranks.size() * len(self.group)]),
            torch.cat([self.params, more.params]),
            _both(self.local_params, more.local_params),
            self.grouped or more.grouped,
        )

    def _columns(self, which: Tensor, crops: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (B,1), and the columns of ``which`` for large slots and for small crops, the latter counted from 0."""
        last = which.shape[1] - crops
        rows = torch.arange(len(which), device=which.device)[:, None]
        return rows, which[:, :last], which[:, last:] - self.params.shape[1]

    def drawn(self) -> Drawn:
        """The same views without pixels."""
        return self


@dataclass(frozen=True)
class Rendered(Drawn):
    """Views with their pixels.

    x: (B,V,3,S,S) float32, augmented and normalised.
    local: pixels of the small crops, L of (B,3,s,s).
    plain: (B,3,S,S) the whole images without augmentation, slot -1, for methods that ask for it.
    labels: slot -> (B,...) pseudo-labels that have been computed already.
    """

    x: Tensor = field(kw_only=True)
    local: tuple[Tensor, ...] = field(default=(), kw_only=True)
    plain: Tensor | None = field(default=None, kw_only=True)
    labels: Mapping[int, Tensor] = field(default_factory=dict, kw_only=True)

    def slot(self, i: int) -> Tensor:
        """The (B,3,S,S) pixels of view ``i``: first the large ones, then the local ones; -1 is the plain image."""
        if i < 0:
            if self.plain is None:
                raise RuntimeError("the plain images were not rendered: call look.render(views, plain=True)")
            return self.plain
        v = self.x.shape[1]
        return self.x[:, i] if i < v else self.local[i - v]

    def take(self, which: Tensor, crops: int = 0) -> Self:
        """As ``Drawn.take``, with the pixels but without labels; small crops must have one size to be exchanged."""
        rows, large, small = self._columns(which, crops)
        local = torch.stack(self.local, 1)[rows, small].unbind(1) if self.local else ()
        return replace(super().take(which, crops), x=self.x[rows, large], local=tuple(local), labels={})

    def append(self, more: Drawn) -> Rendered:
        """As ``Drawn.append``; ``more`` must be rendered too."""
        if not isinstance(more, Rendered):
            raise TypeError("rendered views take further images only as rendered: call look.render first")
        return Rendered(
            **vars(self.drawn().append(more.drawn())),
            x=torch.cat([self.x, more.x]),
            local=tuple(torch.cat(pair) for pair in zip(self.local, more.local, strict=True)),
            plain=_both(self.plain, more.plain),
        )

    def drawn(self) -> Drawn:
        return Drawn(**{f.name: getattr(self, f.name) for f in fields(Drawn)})

    def detached(self) -> Rendered:
        """The same pixels without a graph: a strategy may have made them with gradient."""
        labels = {i: x.detach() for i, x in self.labels.items()}
        return replace(self, x=self.x.detach(), local=tuple(x.detach() for x in self.local), labels=labels)

    @classmethod
    def of(cls, v: Drawn, x: Tensor, local: Sequence[Tensor] = (), plain: Tensor | None = None) -> Rendered:
        """The views ``v`` with the given pixels."""
        return cls(**vars(v.drawn()), x=x, local=tuple(local), plain=plain)


def unit(raw: Tensor) -> Tensor:
    """Pixels of a data set, uint8 or float, as float in [0,1]."""
    return raw if raw.is_floating_point() else raw.float() / 255


def _both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else torch.cat([a, b])


class Out(NamedTuple):
    """The result of a method's forward pass.

    views: its input.
    q: slot -> (B,D), with gradient.
    t: slot -> (B,...) pseudo-label.
    loss: (B,) per-sample loss, the mean over the method's pairs.
    """

    views: Rendered
    q: Mapping[int, Tensor]
    t: Mapping[int, Tensor]
    loss: Tensor

    def detached(self) -> Out:
        """The same numbers without their graph; a mapping that holds more than its items says how in ``detached``."""
        q, t = (
            part.detached() if hasattr(part, "detached") else {i: x.detach() for i, x in part.items()}
            for part in (self.q, self.t)
        )
        return Out(self.views.detached(), q, t, self.loss.detach())


Owned = TypeVar("Owned")


class Reference(NamedTuple, Generic[Owned]):
    """A module that another module owns: in an attribute of this type it is trained, moved and saved only there."""

    to: Owned


class Candidates(NamedTuple):
    """All candidates of a view selection, for the view log.

    params: (B,V,P) of all candidate views, as scored.
    pairs: (C,S) slots of each candidate; of more than two, the first two are the pair of large views.
    loss: (B,C) per candidate.
    best: (B,) the chosen candidate.
    local: (B,L,P) of the small crops, the slots V, V + 1, ..., if candidates include them.
    """

    params: Tensor
    pairs: Tensor
    loss: Tensor
    best: Tensor
    local: Tensor | None = None


class Progress(NamedTuple):
    """The progress of a run: ``step`` of ``total`` steps are done, in epoch ``epoch`` of ``epochs``.

    share: the part of all steps that is done.
    """

    step: int
    total: int
    epoch: int
    epochs: int

    @property
    def share(self) -> float:
        return self.step / max(1, self.total)

    @property
    def epochs_done(self) -> float:
        """The number of epochs done, with fractions, for warm-ups given in epochs."""
        return self.share * self.epochs
