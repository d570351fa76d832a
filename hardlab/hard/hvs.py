"""Hard View Selection (arXiv 2310.03940): of N views of an image, train on the pair with the highest loss."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from hardlab.hard.base import Hard
from hardlab.methods.base import Method
from hardlab.nets import running_stats_frozen
from hardlab.types import Candidates, HardlabError, Views
from hardlab.views import COLOUR, Look


class HVS(Hard):
    """Scores every pair of ``draws`` views without gradient and keeps one pair per image. HVS, Sec. 3.2, Eq. 2.

    draws: N, the views per image. pick: ``hardest``, or ``easiest`` (App. F.2, collapses). colour: ``static`` scores
    all views under one colour draw per image and gives the chosen ones their own (Sec. 5.1). statistics: of BN while
    scoring: ``joint`` over the N*B views (the official code), ``per-view``, or ``running``. update_bn: whether
    scoring moves the running statistics (the official code does). probe_size: score at this resolution, cheaper and
    not exact. probe_precision: arithmetic of the scoring pass.
    """

    def __init__(
        self,
        draws: int = 4,
        pick: Literal["hardest", "easiest"] = "hardest",
        colour: Literal["per-view", "static"] = "per-view",
        statistics: Literal["joint", "per-view", "running"] = "joint",
        update_bn: bool = True,
        probe_size: int | None = None,
        probe_precision: Literal["run", "fp32", "bf16"] = "run",
    ) -> None:
        super().__init__()
        if draws < 2:
            raise HardlabError(f"HVS with draws={draws}: a pair needs at least 2 views; the paper uses 4.")
        if probe_size is not None and probe_size < 8:
            raise HardlabError(f"HVS with probe_size={probe_size}: at least 8 pixels, or null for the full size.")
        self.draws, self.pick, self.colour = draws, pick, colour
        self.statistics, self.update_bn = statistics, update_bn
        self.probe_size, self.probe_precision = probe_size, probe_precision

    @torch.no_grad()
    def views(self, v: Views, method: Method, look: Look) -> Views:
        """Views with V = ``draws`` -> Views with the chosen slots only, rendered at full size."""
        probe = v
        if self.colour == "static":
            params = v.params.clone()
            params[..., COLOUR] = params[:, :1, COLOUR]
            probe = replace(v, params=params)
        probe = replace(probe, x=look.apply(probe.raw, probe.params, self.probe_size))
        probe = look.render(probe, plain=any(b < 0 for _, b in method.pairs))
        picks = method.candidates(self.draws, self.local_draws)
        loss = self.score(probe, method, picks)  # (B,C)
        best = first_max(loss if self.pick == "hardest" else -loss)  # (B,)
        pairs = torch.tensor(picks, device=loss.device)  # (C,S)
        self.seen = Candidates(probe.params, pairs, loss, best)
        if self.colour == "static":
            chosen = replace(probe, x=None).take(pairs[best])
            return look.render(replace(chosen, params=look.recolour(chosen.params)))
        if self.probe_size is not None:
            return look.render(replace(v, x=None).take(pairs[best]))
        return probe.take(pairs[best])

    def score(self, v: Views, method: Method, picks: Sequence[tuple[int, ...]]) -> Tensor:
        """(B,C): the method's own per-sample loss of every candidate, by one pass over the N views."""
        q_slots = {pick[a] for pick in picks for a, _ in method.pairs}
        t_slots = {b if b < 0 else pick[b] for pick in picks for _, b in method.pairs}
        with ExitStack() as stack:
            if not self.update_bn:
                stack.enter_context(running_stats_frozen(method))
            if self.probe_precision != "run":
                low = self.probe_precision == "bf16"
                stack.enter_context(torch.autocast(v.raw.device.type, torch.bfloat16, enabled=low))
            if self.statistics == "running":
                method.eval()
            try:
                q, t = method.embed(v, q_slots, t_slots, joint=self.statistics == "joint")
            finally:
                method.train()
            return torch.stack([method.score(q, t, pick, v.group) for pick in picks], dim=1)


def first_max(loss: Tensor) -> Tensor:
    """(B,C) -> (B,): the highest column, the earlier one on ties (argmax promises no order); NaN counts as highest."""
    loss = torch.nan_to_num(loss, nan=torch.inf)
    columns = torch.arange(loss.shape[1], device=loss.device)
    return torch.where(loss == loss.amax(1, keepdim=True), columns, loss.shape[1]).amin(1)
