"""SimCLR-DD (arXiv 2202.06464, Fig. 3): twice the real images per step, the control for strategies that add images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hardlab import ranks
from hardlab.data import Images
from hardlab.hard.base import Hard
from hardlab.methods.base import Step
from hardlab.types import Batch, Progress, Rendered


class Double(Hard):
    """Doubles each batch by further images of the same data set, with as many views.

    The further images come in an order of their own, each once per epoch; an image may meet itself as a negative. The
    number of steps is unchanged, so a run sees every image twice as often. PPCL, Sec. 4.1.
    """

    adds = True

    def __init__(self) -> None:
        super().__init__()
        self._more: Iterator[Batch] | None = None  # a resumed run restores it from the progress
        self._epoch = -1
        self._seed: int | None = None  # on the host, because reading from a device synchronises

    def on_start(self, images: Images, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size
        self.seed: Tensor
        self.register_buffer("seed", torch.randint(2**62, ()))  # seed of the order of the further images

    def before_step(self, at: Progress) -> None:
        if at.epoch == self._epoch:
            return
        if self._seed is None:
            self._seed = int(self.seed)
        steps = at.total // at.epochs
        generator = torch.Generator().manual_seed(self._seed + at.epoch)
        order = torch.randperm(len(self.images), generator=generator)[: steps * self.batch_size]
        left = order.view(steps, self.batch_size)[at.step - at.epoch * steps :]
        self._more = self.images.batches(ranks.own(left, dim=1))
        self._epoch = at.epoch

    def views(self, step: Step) -> None:
        assert self._more is not None
        v = step.views
        more = step.look.views(next(self._more), v.params.shape[1], local=v.crops)
        step.views = v.append(step.look.render(more, plain=v.plain is not None) if isinstance(v, Rendered) else more)
