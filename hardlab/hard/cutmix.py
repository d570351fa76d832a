"""CutMix of views (HEXA, arXiv 2012.13493, Sec. 3.2): a box of another image, and both pseudo-labels in proportion."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from hardlab import nets, ranks, transfer
from hardlab.data import Images
from hardlab.hard.adversarial import first_images, in_unit_range
from hardlab.hard.base import Hard
from hardlab.methods.base import Method, Step
from hardlab.needs import Setting
from hardlab.negatives import Negatives
from hardlab.numbers import Shape, Weight
from hardlab.types import HardlabError, Rendered
from hardlab.views import Look


class CutMix(Hard):
    """Adds weight * [lambda loss(q(x_mix), t) + (1 - lambda) loss(q(x_mix), t[pi])], lambda the share of own pixels.

    It mixes every view that predicts, all with one permutation pi and one box in relative coordinates. HEXA, Eqs. 8-9;
    CutMix (arXiv 1905.04899), Alg. A1.

    alpha, beta: of the Beta distribution of the share, before rounding and clipping.
    weight: of the term in the learner's objective.
    per: one box per ``batch`` (CutMix's code) or per ``sample``.
    box: ``clipped`` has a uniform centre and is cut off at the border (CutMix's code); ``inside`` lies in the image.
    labels: the ``two-term`` loss (Eq. 9), or ``soft``: one softmax over both keys and the queue (Eq. 1, MoCo only).
    bn: the norms that clean mixtures pass, ``main`` or ``aux``.
    source: mix ``clean`` views, those of the strategy ``adversarial`` (through the auxiliary BN), or ``both``.
    """

    when: Mapping[tuple[str, Any], Mapping[str, Any]] = {
        ("labels", "soft"): {"needs": {"memory": "mixes one-hot labels over a queue of negatives"}},
        ("source", "adversarial"): {"takes": frozenset({"adversarial"})},
        ("source", "both"): {"takes": frozenset({"adversarial"})},
    }

    def __init__(
        self,
        alpha: Shape = 5.0,
        beta: Shape = 3.0,
        weight: Weight = 1.0,
        per: Literal["batch", "sample"] = "batch",
        box: Literal["clipped", "inside"] = "clipped",
        labels: Literal["two-term", "soft"] = "two-term",
        bn: Literal["main", "aux"] = "main",
        source: Literal["clean", "adversarial", "both"] = "clean",
    ) -> None:
        super().__init__()
        if min(alpha, beta) <= 0:
            raise HardlabError(f"CutMix with alpha={alpha}, beta={beta}: both above 0; the paper uses 5 and 3.")
        if weight < 0:
            raise HardlabError(f"CutMix with weight={weight}: at least 0; the paper uses 1.")
        self.alpha, self.beta, self.weight, self.per, self.box = alpha, beta, weight, per, box
        self.labels, self.bn, self.source = labels, bn, source
        self.weights = {"cutmix": weight, "cutmix_adversarial": weight}
        self._shown: Tensor | None = None

    @staticmethod
    def check_run(at: Setting, labels: str) -> None:
        check_negatives(labels, at.borrowed)

    def install(self, method: Method) -> None:
        super().install(method)
        check_negatives(self.labels, method.borrowed)
        if self.bn == "aux":
            nets.give_auxiliary(method)

    def terms(self, step: Step) -> Mapping[str, Tensor]:
        if self.weight == 0:
            return {}
        v = step.out.views
        count = ranks.size() * len(v.index)
        n = count if self.per == "sample" else 1
        # drawn on the CPU: the same boxes on every device
        share = torch.distributions.Beta(self.alpha, self.beta).sample((n,))
        place = torch.rand(n, 2)
        if n > 1:
            share, place = ranks.own(share), ranks.own(place)
        other = transfer.sent(torch.randperm(count), v.index)  # (B,) pi, of the whole batch
        views = {} if self.source == "adversarial" else {"cutmix": (v, self.bn == "aux")}
        if self.source != "clean":
            views["cutmix_adversarial"] = (step.made["adversarial"](), True)
        return {name: self._term(step, name, mixed, aux, other, share, place) for name, (mixed, aux) in views.items()}

    def _term(
        self, step: Step, name: str, v: Rendered, aux: bool, other: Tensor, share: Tensor, place: Tensor
    ) -> Tensor:
        """The loss (B,) of the mixtures of ``v``, the mean over the method's pairs."""
        method, t = step.method, step.out.t
        pixels, kept = [], []
        for x in (v.x, *v.local):
            inside = transfer.sent(boxes(share, place, x.shape[-1], self.box), x)  # (n,S,S)
            kept.append(1 - inside.float().mean((1, 2)))  # (n,) lambda, counted
            cut = inside.view(len(inside), *[1] * (x.ndim - 3), *inside.shape[1:])
            pixels.append(torch.where(cut, ranks.taken(x, other), x))
        if name == "cutmix":
            self._shown = first_images(replace(v, x=pixels[0]))
        slots = v.x.shape[1]
        with nets.auxiliary(method) if aux else nullcontext():
            q = method.embed(replace(v, x=pixels[0], local=tuple(pixels[1:])), (a for a, _ in method.pairs), ())[0]
        swapped = {i: ranks.taken(label, other) for i, label in t.items()}
        lam = {a: kept[max(0, a - slots + 1)] for a, _ in method.pairs}
        right = lam[0] * method.accuracy(q, t) + (1 - lam[0]) * method.accuracy(q, swapped)
        self.note(step, **{"lambda": kept[0].mean(), name.replace("cutmix", "top1"): right.mean()})
        if self.labels == "soft":
            same = ranks.own(other == torch.arange(len(other), device=other.device))
            losses = [self._soft(method, q[a], t[b], swapped[b], lam[a], same) for a, b in method.pairs]
            return torch.stack(losses).mean(0)
        own: dict[tuple[int, int], Tensor] = {}
        others: dict[tuple[int, int], Tensor] = {}
        method.score(q, t, group=v.positives, known=own)
        method.score(q, swapped, known=others)  # groups belong to the own labels
        return torch.stack([lam[a] * own[a, b] + (1 - lam[a]) * others[a, b] for a, b in method.pairs]).mean(0)

    @staticmethod
    def _soft(method: Method, q: Tensor, own: Tensor, pasted: Tensor, lam: Tensor, same: Tensor) -> Tensor:
        """Cross-entropy of one softmax over the two keys and the queue. same: (N,) whether the two keys are equal."""
        with torch.autocast(q.device.type, enabled=False):
            a, b = (q * own).sum(1), (q * pasted).sum(1)
            queue, temperature = cast(Negatives, method.negatives), cast(float, method.temperature)
            columns = [a[:, None], b.masked_fill(same, -torch.inf)[:, None], queue.similarities(q, own)]
            return torch.logsumexp(torch.cat(columns, 1) / temperature, 1) - (lam * a + (1 - lam) * b) / temperature

    def snapshot(self, images: Images, look: Look) -> Mapping[str, Tensor]:
        """Eight mixtures of the last step in [0,1], of the images that strategy adversarial saves (Fig. 1a)."""
        return {} if self._shown is None else {"mixed": in_unit_range(self._shown, look)}


def boxes(share: Tensor, place: Tensor, size: int, box: Literal["clipped", "inside"]) -> Tensor:
    """Masks (n,size,size) bool of the pasted boxes, from the share lambda_0 (n,) and place (n,2) in [0,1).

    The side is size * sqrt(1 - lambda_0). CutMix's ``rand_bbox``, or a box of that side that lies inside.
    """
    side = size * (1 - share).sqrt()[:, None]  # (n,1)
    if box == "clipped":
        centre, half = (place * size).floor(), (side.floor() / 2).floor()
        low, high = (centre - half).clamp(0, size), (centre + half).clamp(0, size)
    else:
        side = side.round()
        low = (place * (size - side + 1)).floor()
        high = low + side
    at = torch.arange(size)
    within = (at >= low[..., None]) & (at < high[..., None])  # (n,2,S)
    return within[:, 0, :, None] & within[:, 1, None, :]


def check_negatives(labels: str, borrowed: bool) -> None:
    """Refuse labels over a queue that a strategy has replaced. Raises HardlabError."""
    if labels == "soft" and borrowed:
        raise HardlabError(
            "CutMix with labels=soft needs a queue of negatives, which another strategy has replaced: take "
            "labels=two-term."
        )
