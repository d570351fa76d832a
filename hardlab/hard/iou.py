"""The manual IoU policy (arXiv 2310.03940, Table 4): pairs of crops that overlap too much are drawn again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from hardlab import ranks, transfer
from hardlab.hard.base import Hard
from hardlab.methods.base import Step
from hardlab.numbers import Epochs, Many, Share
from hardlab.types import Drawn, HardlabError, Progress
from hardlab.views import Look, iou


class IoUPolicy(Hard):
    """Redraws the two large views of an image until their IoU is at most a bound. HVS, Sec. 5.2 (Q2), Table 4.

    Small crops are not redrawn.

    start, end: the bound b(epoch) moves linearly from one to the other; start > end is the inverse schedule.
    warmup_epochs: epochs without a bound, after which the schedule starts.
    alternate: ``every-other`` step without the policy (the text); ``random`` exempts each pair by chance (the code).
    plain: the probability of that exemption.
    tries: redraws of a pair before the last one is accepted.
    """

    draws = 2
    needs: Mapping[str, str] = {"two views": "bounds the overlap of two views"}

    def __init__(
        self,
        start: Share = 0.3,
        end: Share = 0.35,
        warmup_epochs: Epochs = 0.0,
        alternate: Literal["never", "every-other", "random"] = "never",
        plain: Share = 0.5,
        tries: Many = 512,
    ) -> None:
        super().__init__()
        for name, value in (("start", start), ("end", end), ("plain", plain)):
            if not 0 <= value <= 1:
                raise HardlabError(f"The IoU policy with {name}={value}: it must lie between 0 and 1.")
        if warmup_epochs < 0 or tries < 1:
            raise HardlabError(
                f"The IoU policy with warmup_epochs={warmup_epochs}, tries={tries}: at least 0 epochs and 1 try."
            )
        self.start, self.end, self.warmup_epochs = start, end, warmup_epochs
        self.alternate, self.plain, self.tries = alternate, plain, tries
        self.bound = 1.0

    def before_step(self, at: Progress) -> None:
        idle = at.epoch < self.warmup_epochs or (self.alternate == "every-other" and at.step % 2 == 1)
        self.bound = 1.0 if idle else self.bound_of(at.epoch, at.epochs)

    def bound_of(self, epoch: int, epochs: int) -> float:
        """b of an epoch after the warm-up: ``start`` in the first, ``end`` in the last."""
        share = (epoch - self.warmup_epochs) / max(1.0, epochs - 1 - self.warmup_epochs)
        return self.start + (self.end - self.start) * min(1.0, max(0.0, share))

    @torch.no_grad()
    def views(self, step: Step) -> None:
        """Replace the rejected pairs; random numbers are torch's own (a redraw is rare).

        How many it takes depends on the pairs, so each rank redraws those of the whole batch.
        """
        v = step.views
        every = replace(v.drawn(), params=ranks.whole(v.params), sizes=ranks.whole(v.sizes))
        with ranks.alone():
            params = self._bounded(every, step)
        if params is not None:
            step.views = replace(v, params=ranks.own(params))

    def _bounded(self, v: Drawn, step: Step) -> Tensor | None:
        """The parameters of views within the bound, or None if they are so already."""
        over = iou(v.params[:, 0], v.params[:, 1]) > self.bound
        known = transfer.on_host(over)
        if self.alternate == "random" and self.bound < 1:
            over &= torch.rand(len(over), device=over.device) >= self.plain
        if known:
            rows = over.nonzero()[:, 0]
            params, tries, gave_up = self.redraw(v.params[rows], v.sizes[rows], step.look)
        elif self.bound < 1:
            params, tries, gave_up = self.redraw(v.params, v.sizes, step.look, over)
        else:
            params, tries, gave_up = v.params, over.long(), over
        # bound; redrawn: share of pairs over it; tries: redraws per image; gave_up: share still over it
        self.note(
            step,
            bound=self.bound,
            redrawn=over.float().mean(),
            tries=tries.sum() / len(over),
            gave_up=gave_up.sum() / len(over),
        )
        if not known:
            return params
        return v.params.index_copy(0, rows, params) if len(rows) else None

    def redraw(
        self, params: Tensor, sizes: Tensor, look: Look, due: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw new pairs within the bound instead of ``params`` (n,2,P), for images of ``sizes`` (n,2).

        due: (n,) whether to replace a pair, None = all. Returns the pairs, the number of draws (n,) for each, and
        whether all of them failed (n,). Each round draws once more than all rounds before it for the remaining rows, so
        that 512 tries take ten calls. On a GPU every round draws for all rows, since only the GPU knows the remaining.
        """
        params, known = params.clone(), transfer.on_host(params)
        left = torch.ones_like(sizes[:, 0], dtype=torch.bool) if due is None else due.clone()
        rows = torch.arange(len(sizes), device=sizes.device)
        tries, spent = torch.zeros_like(rows), 0
        while spent < self.tries:
            if known:
                rows = left.nonzero()[:, 0]
                if not len(rows):
                    break
            many = min(spent + 1, self.tries - spent)
            fresh = look.draw(sizes[rows].repeat_interleave(many, 0), 2).unflatten(0, (-1, many))  # (m,many,2,P)
            good = iou(fresh[:, :, 0], fresh[:, :, 1]) <= self.bound  # (m,many)
            accepted, still = good.any(1), left[rows]
            at = torch.where(accepted, good.int().argmax(1), many - 1)  # the first good one, or the last
            drawn = fresh[torch.arange(len(rows), device=rows.device), at]
            params[rows] = torch.where(still[:, None, None], drawn, params[rows])
            tries[rows] = torch.where(still, spent + at + 1, tries[rows])
            left[rows] = still & ~accepted
            spent += many
        return params, tries, left
