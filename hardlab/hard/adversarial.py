"""Adversarial views: the pixels of every predicting view move where the method's own loss grows (arXiv 2012.13493)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hardlab import nets, ranks, transfer
from hardlab.data import Images
from hardlab.hard.base import Hard
from hardlab.methods.base import Method, Step
from hardlab.needs import Setting
from hardlab.numbers import Few, PositiveShare, Weight
from hardlab.types import HardlabError, Rendered
from hardlab.views import Look


class Adversarial(Hard):
    """Adds weight * loss(q(x + delta; aux BN), clean labels), with delta from a few steps of gradient ascent on x.

    It attacks every view that predicts, small crops included. HEXA, Eqs. 5-7, Algs. 1-2; CLAE (arXiv 2010.12050), Alg.
    1; AdvProp (arXiv 1911.09665), Sec. 4.

    epsilon: bound on delta, in grey levels (0-255).
    eta: length of a step, in grey levels.
    steps: number of steps of projected gradient ascent.
    weight: of the term in the learner's objective.
    norm: ``linf`` (sign steps), or ``l2`` over a whole view.
    start: at the ``clean`` pixels or at a ``random`` point of the ball.
    aim: ``away`` from the view's own label, or ``towards`` the label of a random other image.
    attack_bn: the norms used during the attack, ``aux`` or ``main``; their batch statistics are not kept.
    aux_of: which norms get a second set: ``all``, or ``2d``, those of images only (CLAE).
    aux_momentum: momentum of the second running statistics.
    against: the ``label`` (HEXA), or the ``clean`` view itself, first slot only (CLAE, for SimCLR).

    Logs how often the label is found: ``top1`` from the adversarial views, ``top1_start`` from the clean ones by the
    same norms (where the attack begins with these), ``top1_clean`` from the clean ones by the main norms.
    """

    offers = frozenset({"adversarial"})
    when: Mapping[tuple[str, Any], Mapping[str, Any]] = {
        ("against", "clean"): {"needs": {"batch": "attacks the negatives that the views of a batch are"}}
    }

    def __init__(
        self,
        epsilon: Weight = 1.0,
        eta: Weight = 1.0,
        steps: Few = 1,
        weight: Weight = 1.0,
        norm: Literal["linf", "l2"] = "linf",
        start: Literal["clean", "random"] = "clean",
        aim: Literal["away", "towards"] = "away",
        attack_bn: Literal["aux", "main"] = "aux",
        aux_of: Literal["all", "2d"] = "all",
        aux_momentum: PositiveShare = 0.1,
        against: Literal["label", "clean"] = "label",
    ) -> None:
        super().__init__()
        if min(epsilon, eta, weight) < 0:
            raise HardlabError(
                f"An attack with epsilon={epsilon}, eta={eta}, weight={weight}: each at least 0; "
                "epsilon and eta are grey levels of 0-255, the paper uses 1."
            )
        if steps < 1:
            raise HardlabError(f"An attack with steps={steps}: at least 1 step; the paper uses 1.")
        if not 0 < aux_momentum <= 1:
            raise HardlabError(f"An attack with aux_momentum={aux_momentum}: above 0 and at most 1.")
        self.check_options(against, aim)
        self.epsilon, self.eta, self.steps, self.weight = epsilon, eta, steps, weight
        self.norm, self.start, self.aim, self.attack_bn = norm, start, aim, attack_bn
        self.aux_of, self.aux_momentum, self.against = aux_of, aux_momentum, against
        self.weights = {"adversarial": weight}
        self._shown: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def check_options(against: str, aim: str) -> None:
        if against == "clean" and aim == "towards":
            raise HardlabError("An attack against=clean has no label of its own to aim=towards: take aim=away.")

    @staticmethod
    def check_run(at: Setting, against: str) -> None:
        check_negatives(against, at.borrowed)

    def install(self, method: Method) -> None:
        super().install(method)
        check_negatives(self.against, method.borrowed)
        nets.give_auxiliary(method, _BatchNorm if self.aux_of == "all" else nn.BatchNorm2d, self.aux_momentum)

    def views(self, step: Step) -> None:
        """Offer the adversarial views, made once when first asked for; the step's own views do not change."""
        step.made["adversarial"] = cache(lambda: self.perturb(step))

    def terms(self, step: Step) -> Mapping[str, Tensor]:
        if self.weight == 0:
            return {}
        method, out, v = step.method, step.out, step.made["adversarial"]()
        with nets.auxiliary(method):
            q, t = self._compared(v, out.q, out.t, method)
        self.note(step, top1_clean=method.accuracy(out.q, out.t).mean(), top1=method.accuracy(q, t).mean())
        return {"adversarial": method.score(q, t, group=v.positives)}

    def perturb(self, step: Step) -> Rendered:
        """The adversarial views of a step, after its forward pass."""
        method, out, look = step.method, step.out, step.look
        v = out.views
        clean = [v.x.detach(), *(x.detach() for x in v.local)]  # (B,V,3,S,S), and (B,3,s,s) of each small crop
        unit = 255 * transfer.constant(look.std, clean[0])[:, None, None]  # grey levels in 1 of a normalised channel
        black = -transfer.constant(look.mean, clean[0])[:, None, None] * 255 / unit
        white = black + 255 / unit

        def moved(delta: list[Tensor]) -> list[Tensor]:
            return [torch.clamp(x + d / unit, black, white) for x, d in zip(clean, delta, strict=True)]

        t = {i: label.detach() for i, label in out.t.items()}
        if self.aim == "towards":
            other = torch.randperm(ranks.size() * len(v.index)).to(v.index.device, non_blocking=True)
            t = {i: ranks.taken(label, other) for i, label in t.items()}
        delta = [self._within(self._first(x)) for x in clean]
        with ExitStack() as stack:
            stack.enter_context(nets.running_stats_frozen(method))
            if self.attack_bn == "aux":
                stack.enter_context(nets.auxiliary(method))
            # with gradient: a pass without gradient would leave its casts in autocast's cache
            q = {0: method.query(v.slot(0)).detach()} if self.against == "clean" else {}
            for i in range(self.steps):
                x = [part.requires_grad_() for part in moved(delta)]
                attacked = replace(v, x=x[0], local=tuple(x[1:]))
                compared = self._compared(attacked, q, t, method)
                if i == 0 and self._starts_as_judged:
                    self.note(step, top1_start=method.accuracy(*compared).mean())
                loss = method.score(*compared, group=v.positives).sum()
                # towards the pixels only: autograd then leaves out the gradients of the weights
                grads = torch.autograd.grad(loss if self.aim == "away" else -loss, x)
                delta = [self._within(d + self._step(g / unit)) for d, g in zip(delta, grads, strict=True)]
        pixels = moved(delta)
        most = torch.stack([((a - x) * unit).abs().max() for a, x in zip(pixels, clean)]).max()
        self.note(step, max_delta=ranks.largest(most))
        made = replace(v, x=pixels[0], local=tuple(pixels[1:]))
        self._shown = first_images(v), first_images(made)
        return made

    @property
    def _starts_as_judged(self) -> bool:
        """Whether the attack begins with the clean view, its own label and the norms of the adversarial view."""
        return self.start == "clean" and self.aim == "away" and self.attack_bn == "aux"

    def _compared(
        self, v: Rendered, q: Mapping[int, Tensor], t: Mapping[int, Tensor], method: Method
    ) -> tuple[Mapping[int, Tensor], Mapping[int, Tensor]]:
        """Predictions of the views ``v`` and the labels to compare them with."""
        if self.against == "clean":
            pair = {0: q[0], 1: method.query(v.slot(0))}
            return pair, pair
        return method.embed(v, (a for a, _ in method.pairs), ())[0], t

    def _first(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x) if self.start == "clean" else self.epsilon * (2 * ranks.rand_like(x) - 1)

    def _step(self, g: Tensor) -> Tensor:
        """The step of length eta along a gradient (...,3,S,S) with respect to grey levels."""
        return self.eta * (g.sign() if self.norm == "linf" else g / _length(g))

    def _within(self, delta: Tensor) -> Tensor:
        """The nearest point of the ball of radius epsilon."""
        if self.norm == "linf":
            return delta.clamp(-self.epsilon, self.epsilon)
        return delta * (self.epsilon / _length(delta)).clamp(max=1)

    def after_step(self, step: Step) -> None:
        del step.made["adversarial"]  # free its memory

    def snapshot(self, images: Images, look: Look) -> Mapping[str, Tensor]:
        """Eight views of the last step and their adversaries in [0,1], and their amplified difference (Fig. 1a)."""
        if self._shown is None:
            return {}
        clean, made = (in_unit_range(x, look) for x in self._shown)
        delta = made - clean
        return {"clean": clean, "adversarial": made, "noise": 0.5 + delta / (2 * delta.abs().max()).clamp_min(1e-12)}

    def logs(self, step: Step) -> Mapping[str, float]:
        return {"bn_gap": nets.auxiliary_gap(step.method)}


def first_images(v: Rendered) -> Tensor:
    """Copies of the first slot of the first eight images, (8,3,S,S)."""
    return v.x[:8, 0].detach().float().clone()


def in_unit_range(x: Tensor, look: Look) -> Tensor:
    """Undo the normalisation of pixels (N,3,S,S), to [0,1]."""
    mean, std = (x.new_tensor(c)[:, None, None] for c in (look.mean, look.std))
    return (x * std + mean).clamp(0, 1)


def _length(x: Tensor) -> Tensor:
    """Euclidean norm of each view: (...,3,S,S) -> (...,1,1,1)."""
    return torch.linalg.vector_norm(x, dim=(-3, -2, -1), keepdim=True).clamp_min(1e-12)


def check_negatives(against: str, borrowed: bool) -> None:
    """Refuse an attack on negatives that a strategy has replaced. Raises HardlabError."""
    if against == "clean" and borrowed:
        raise HardlabError(
            "An attack against=clean needs views that are each other's negatives, which another strategy has "
            "replaced: take against=label."
        )
