"""Optimisers, parameter groups and schedules of the five papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from hardlab.config import Optim


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling with momentum (arXiv 1708.03888), as in google-research/simclr.

    Groups with ``adapt=False`` (biases and norm parameters) take plain momentum steps. trust: the coefficient eta.
    rate_of: what the rate multiplies, the ``gradient`` before it enters the momentum, or the ``momentum``, as in Barlow
    Twins' code and those that copy it; the two differ while the rate changes.
    """

    def __init__(
        self,
        params: Iterable[dict],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        rate_of: Literal["gradient", "momentum"] = "gradient",
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        )
        self.outside = rate_of == "momentum"

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for params in at_once(group["params"]):
                for p in params:
                    if "v" not in self.state[p]:
                        self.state[p]["v"] = torch.zeros_like(p)
                moments = [self.state[p]["v"] for p in params]
                d = list(torch._foreach_add(gradients(params), params, alpha=group["weight_decay"]))
                if group["adapt"]:
                    norm_p, norm_d = norms(params), norms(d)
                    ratio = group["trust"] * norm_p / norm_d.clamp_min(1e-12)
                    ratio = torch.where((norm_p > 0) & (norm_d > 0), ratio, torch.ones_like(ratio))
                    torch._foreach_mul_(d, list(ratio.unbind()))
                before, after = (1.0, group["lr"]) if self.outside else (group["lr"], 1.0)
                torch._foreach_mul_(moments, group["momentum"])
                torch._foreach_add_(moments, d, alpha=before)
                torch._foreach_sub_(params, moments, alpha=after)


class LARC(SGD):
    """SGD whose gradients are rescaled layer by layer, as NVIDIA apex's LARC, trust = eta.

    g <- r (g + decay p), r = eta |p| / (|g| + decay |p|), then SGD with momentum. by: ``scale`` is that (SwAV's code);
    ``clip`` takes min(r / lr, 1), so that eta bounds the rate of a layer (solo-learn's LARS). Groups with
    ``adapt=False`` take plain steps.
    """

    def __init__(
        self,
        params: Iterable[dict],
        lr: float,
        momentum: float = 0.9,
        trust: float = 1e-3,
        by: Literal["scale", "clip"] = "scale",
    ) -> None:
        super().__init__(params, lr, momentum=momentum)
        self.trust, self.by = trust, by

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays):
            for params in at_once(group["params"]) if group.get("adapt", True) else ():
                grads = gradients(params)
                norm_p, norm_g = norms(params), norms(grads)
                ratio = self.trust * norm_p / (norm_g + decay * norm_p + 1e-8)
                if self.by == "clip":
                    ratio = (ratio / group["lr"]).clamp_max(1)
                scaled = torch._foreach_add(grads, params, alpha=decay)
                torch._foreach_mul_(scaled, list(ratio.unbind()))
                known = ((norm_p > 0) & (norm_g > 0)).unbind()
                for g, new, usable in zip(grads, scaled, known, strict=True):
                    g.copy_(torch.where(usable, new, g))
            group["weight_decay"] = 0.0  # the gradient already includes it
        super().step()
        for group, decay in zip(self.param_groups, decays):
            group["weight_decay"] = decay


def at_once(params: Iterable[Tensor]) -> list[list[Tensor]]:
    """The parameters that have a gradient, in lists to step at once.

    On a GPU all of them, since launching a kernel for each takes longer than its arithmetic; on a CPU one after the
    other, since its cache holds one.
    """
    moved = [p for p in params if p.grad is not None]
    return [moved] if moved and moved[0].is_cuda else [[p] for p in moved]


def gradients(params: Iterable[Tensor]) -> list[Tensor]:
    """The gradients of parameters that have one."""
    return [p.grad for p in params if p.grad is not None]


def norms(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of each tensor, (n,)."""
    return torch.stack(torch._foreach_norm(tensors))


def groups(params: Iterable[Tensor], config: Optim, constant: Iterable[Tensor] = ()) -> list[dict]:
    """Parameter groups of a learner: weights, then biases and norm parameters, each with and without a schedule.

    constant: parameters whose rate is not scheduled (SimSiam's predictor, ``fix_pred_lr``).
    """
    fixed = {id(p) for p in constant}
    out: dict[tuple[bool, bool], list[Tensor]] = {}
    for p in params:
        if p.requires_grad:
            plain = config.exclude_bias_norm and p.ndim <= 1
            out.setdefault((plain, id(p) in fixed), []).append(p)
    decay = config.weight_decay
    return [
        {"params": ps, "weight_decay": 0.0 if plain else decay, "adapt": not plain, "scheduled": not frozen}
        for (plain, frozen), ps in sorted(out.items())
    ]


def build(params: Iterable[Tensor], config: Optim, batch_size: int, constant: Iterable[Tensor] = ()) -> Optimizer:
    """The learner's optimiser, at its base rate ``lr * batch_size / 256``."""
    lr = config.lr * batch_size / 256
    parts = groups(params, config, constant)
    if config.name == "lars":
        return LARS(parts, lr, config.momentum, trust=config.trust, rate_of=config.rate_of)
    if config.name == "larc":
        return LARC(parts, lr, config.momentum, config.trust, config.trust_by)
    if config.name in ("adam", "adamw"):
        return (Adam if config.name == "adam" else AdamW)(parts, lr, betas=config.betas)
    return SGD(parts, lr, momentum=config.momentum)


def cosine(step: int, total: int, warmup: int, base: float, final: float = 0.0, start: float = 0.0) -> float:
    """Linear warm-up from ``start``, then half a cosine from ``base`` to ``final`` (SGDR, Eq. 5)."""
    if step < warmup:
        return start + (base - start) * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return final + (base - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def set_schedule(
    opt: Optimizer, config: Optim, batch_size: int, step: int, total: int, warmup: int, per_epoch: int = 1
) -> float:
    """Set the learning rates of this step, and the decay if it is scheduled, in ``opt``; returns the scheduled rate.

    per_epoch: steps that share a rate if the schedule sets it by epoch: that of the first of them, in the warm-up that
    of the last.
    """
    base = config.lr * batch_size / 256
    start = config.warmup_from * batch_size / 256
    final = base if config.schedule == "constant" else config.final_lr
    first = step - step % per_epoch if config.rate_by == "epoch" else step
    last = first + per_epoch - 1 if config.rate_by == "epoch" else step
    lr = cosine(min(last, warmup - 1) if first < warmup else first, total, warmup, base, final, start)
    decay = config.weight_decay
    if config.weight_decay_end is not None:
        decay = cosine(step, total, 0, config.weight_decay, config.weight_decay_end)
    for group in opt.param_groups:
        group["lr"] = lr if group["scheduled"] else base
        if group["weight_decay"] > 0:
            group["weight_decay"] = decay
    return lr


def restore(opt: Optimizer, saved: dict[str, Any]) -> None:
    """``opt.load_state_dict`` with the checks that it lacks: ValueError for a state that would fail in a step."""
    for group, saved_group in zip(opt.param_groups, saved["param_groups"], strict=True):
        for key, value in group.items():
            stored: Any = saved_group.setdefault(key, value)  # saved by a torch without this setting
            if type(value) in (int, float):
                fits = type(stored) in (int, float) and math.isfinite(stored)
            else:
                fits = key == "params" or (type(stored) is type(value) and (value is None or stored == value))
            if not fits:
                raise ValueError(f"{key} of its optimiser is {str(stored)[:40]}")
        for p, number in zip(group["params"], saved_group["params"], strict=True):
            for key, value in saved["state"].get(number, {}).items():
                if isinstance(value, Tensor) and (value.is_complex() or (value.ndim and value.shape != p.shape)):
                    raise ValueError(
                        f"{key} of its optimiser is {value.dtype} {tuple(value.shape)} for weights {tuple(p.shape)}"
                    )
    if len({frozenset((k, type(v)) for k, v in state.items()) for state in saved["state"].values()}) > 1:
        raise ValueError("its optimiser holds different values for different weights")
    opt.load_state_dict(saved)


def clip(params: Iterable[Tensor], norm: float, by: str = "all") -> None:
    """Clip gradients to a norm: that of ``all`` together, or that of each ``tensor`` (DINO's code)."""
    if by == "all":
        torch.nn.utils.clip_grad_norm_(params, norm)
        return
    for some in at_once(params):
        grads = gradients(some)
        shares = (norm / (norms(grads) + 1e-6)).clamp_max(1)  # as torch's clip_grad_norm_
        torch._foreach_mul_(grads, list(shares.unbind()))
