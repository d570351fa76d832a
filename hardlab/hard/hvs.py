"""Hard View Selection (arXiv 2310.03940): of N views of an image, train on the pair with the highest loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from hardlab import transfer
from hardlab.hard.base import Hard
from hardlab.methods.base import Method, Step
from hardlab.needs import Setting
from hardlab.nets import running_stats_frozen
from hardlab.numbers import Count, ManyOrNone, whole
from hardlab.types import Candidates, Drawn, HardlabError, Rendered
from hardlab.views import COLOUR


class HVS(Hard):
    """Scores every candidate of ``draws`` views without gradient and keeps one per image. HVS, Sec. 3.2, Eq. 2.

    draws: N, the large views per image, 4 in the paper; a candidate is a pair of them, for DINO a crop set.
    local_draws: M, the small crops per image; 0 = as many as the method takes.
    limit: the most candidates; of more, as many are drawn at each step for the whole batch (Sec. 4).
    pick: ``hardest``, or ``easiest`` (App. F.2, collapses).
    colour: ``static`` scores all views with one colour draw per image and gives the chosen ones their own (Sec. 5.1).
    statistics: of BN during scoring: ``joint`` over all views (the official code), ``per-view``, or ``running``.
    update_bn: whether scoring moves the running statistics, as in the official code.
    labels: of the chosen views: computed ``again`` in the step, or ``reused`` from the scoring pass, which is equal if
        the teacher has no batch statistics.
    probe_size: score the large views at this resolution, cheaper but inexact; None = at full size.
    probe_precision: of the scoring pass: that of the ``run``, ``fp32`` or ``bf16``.
    """

    draws = 4  # or as many as the option says
    when: Mapping[tuple[str, Any], Mapping[str, Any]] = {
        ("labels", "reused"): {"needs": {"two passes": "takes the labels of the scoring pass again"}}
    }

    def __init__(
        self,
        draws: Annotated[int, whole(2, 64)] = 4,
        local_draws: ManyOrNone = 0,
        limit: Count = 128,
        pick: Literal["hardest", "easiest"] = "hardest",
        colour: Literal["per-view", "static"] = "per-view",
        statistics: Literal["joint", "per-view", "running"] = "joint",
        update_bn: bool = True,
        labels: Literal["again", "reused"] = "again",
        probe_size: Annotated[int, whole(8, 4096)] | None = None,
        probe_precision: Literal["run", "fp32", "bf16"] = "run",
    ) -> None:
        super().__init__()
        if draws < 2:
            raise HardlabError(f"HVS with draws={draws}: a pair needs at least 2 views; the paper uses 4.")
        if local_draws < 0 or limit < 1:
            raise HardlabError(f"HVS with local_draws={local_draws}, limit={limit}: at least 0 and 1.")
        if probe_size is not None and probe_size < 8:
            raise HardlabError(f"HVS with probe_size={probe_size}: at least 8 pixels, or null for the full size.")
        self.check_options(labels, probe_size, probe_precision, colour)
        self.draws, self.local_draws, self.limit = draws, local_draws, limit
        self.pick, self.colour, self.labels = pick, colour, labels
        self.statistics, self.update_bn = statistics, update_bn
        self.probe_size, self.probe_precision = probe_size, probe_precision

    @staticmethod
    def check_options(labels: str, probe_size: int | None, probe_precision: str, colour: str) -> None:
        if labels == "reused" and (probe_size is not None or probe_precision != "run" or colour == "static"):
            raise HardlabError(
                "HVS with labels=reused: they must be those of the views that are trained on, so leave out probe_size, "
                "probe_precision and colour=static."
            )

    @staticmethod
    def check_run(at: Setting, local_draws: int) -> None:
        check_crops(local_draws, at.method.kind, at.local)

    def install(self, method: Method) -> None:
        super().install(method)
        check_crops(self.local_draws, type(method).__name__, method.locals)

    def remark(self, method: Method) -> str | None:
        if not method.mixes_rows:
            return None
        return (
            f"the loss of an image under {type(method).__name__} depends on the others of its batch, so that which "
            "views HVS picks for it does too."
        )

    @torch.no_grad()
    def views(self, step: Step) -> None:
        """Of V = ``draws`` views, keep the chosen slots only, rendered at full size."""
        method, look, v = step.method, step.look, step.views.drawn()
        if v.local_params is not None and len({each.augment[0].size for each in look.local}) > 1:
            raise HardlabError("HVS exchanges small crops, so they must be of one size: give `local` a single size.")
        probe = look.render(_one_colour(v) if self.colour == "static" else v, method.plain, self.probe_size)
        picks = self.candidates(method, v.crops)
        q, t = self.embed(probe, method, picks)
        known: dict[tuple[int, int], Tensor] = {}
        loss = torch.stack([method.score(q, t, pick, v.positives, known) for pick in picks], dim=1)  # (B,C)
        best = first_max(loss if self.pick == "hardest" else -loss)  # (B,)
        slots = transfer.constant(picks, best)  # (C,S)
        step.seen = Candidates(probe.params, slots, loss, best, probe.local_params)
        which, crops = slots[best], sum(slot >= self.draws for slot in picks[0])  # (B,S), small crops last
        if self.colour == "static":
            step.views = look.render(look.recoloured(probe.drawn().take(which, crops)))
        elif self.probe_size is not None:
            step.views = look.render(v.take(which, crops))
        elif self.labels == "again":
            step.views = probe.take(which, crops)
        else:
            labels = {b: _gather(t, which[:, b]) for _, b in method.pairs if b >= 0}
            step.views = replace(probe.take(which, crops), labels=labels)

    def candidates(self, method: Method, local: int) -> list[tuple[int, ...]]:
        """The slots of each candidate of this step, at most ``limit`` of them, in the method's order."""
        every = method.candidates(self.draws, local)
        n, chosen = len(every), set()
        if n <= self.limit:
            return list(every)
        for last in range(n - self.limit, n):  # Floyd's algorithm: uniform and distinct, without listing all candidates
            i = int(torch.randint(last + 1, ()))
            chosen.add(last if i in chosen else i)
        return [every[i] for i in sorted(chosen)]

    def embed(
        self, v: Rendered, method: Method, picks: Sequence[tuple[int, ...]]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Predictions and labels of all slots in the candidates, by one pass over the views."""
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
                return method.embed(v, q_slots, t_slots, joint=self.statistics == "joint")
            finally:
                method.train()


def _one_colour(v: Drawn) -> Drawn:
    """Give all views of an image the appearance of its first one."""
    first = v.params[:, :1, COLOUR]
    params = v.params.clone()
    params[..., COLOUR] = first
    if v.local_params is None:
        return replace(v, params=params)
    local = v.local_params.clone()
    local[..., COLOUR] = first
    return replace(v, params=params, local_params=local)


def _gather(t: Mapping[int, Tensor], slot: Tensor) -> Tensor:
    """Row i of the label of slot[i], for slot (B,)."""
    out = torch.empty_like(next(iter(t.values())))
    for i, label in t.items():
        out = torch.where((slot == i).view(-1, *[1] * (label.ndim - 1)), label, out)
    return out


def first_max(loss: Tensor) -> Tensor:
    """The highest column (B,) of each row of (B,C), the first of equals (unlike argmax); NaN counts as highest."""
    loss = torch.nan_to_num(loss, nan=torch.inf)
    columns = torch.arange(loss.shape[1], device=loss.device)
    return torch.where(loss == loss.amax(1, keepdim=True), columns, loss.shape[1]).amin(1)


def check_crops(draws: int, method: str, local: int) -> None:
    """Refuse small crops to draw of which a method, named by its class, takes none or more. Raises HardlabError."""
    if draws and draws < local:
        raise HardlabError(
            f"HVS with local_draws={draws}: {method} takes {local} small crops in this run, so at "
            "least as many must be drawn."
        )
    if draws and not local:
        raise HardlabError(f"HVS with local_draws={draws}: {method} takes no small crops in this run.")
