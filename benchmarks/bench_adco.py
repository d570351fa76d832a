"""Row B: AdCo's loss with both players' gradients against plain autograd; ``run()`` gives the rows.

All contestants share a process; each round gives every one a turn, in alternating order, and ratios are of medians.
Run as ``python benchmarks/bench_adco.py [rounds]``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import interleaved
from hardlab import nets, train
from hardlab.hard.adco import AdCo, KeysOfOthers, Learned
from hardlab.hard.base import Hard
from hardlab.methods.base import Player, Step
from hardlab.methods.moco import MoCo
from hardlab.types import Rendered
from hardlab.views import PRESETS, Look

K, B, D = 65536, 256, 128
STEP = 64  # images of a whole step; 256 take seconds on two cores


def bench_loss(rounds: int) -> list[dict[str, Any]]:
    g = torch.Generator().manual_seed(0)
    q0 = F.normalize(torch.randn(B, D, generator=g), dim=1)
    k = F.normalize(q0 + 0.3 * torch.randn(B, D, generator=g), dim=1)
    bank = Learned(K, D, KeysOfOthers(), 0.02, "contrastive", "vector")
    w, label = bank.vectors, torch.arange(B)

    def one_pass() -> tuple[Tensor, Tensor]:
        q = q0.clone().requires_grad_()
        with bank.record():
            (grad,) = torch.autograd.grad(bank.loss(q, k, 0.12).mean(), q)
        return grad, -bank.descent

    def two_passes() -> tuple[Tensor, Tensor]:
        q = q0.clone().requires_grad_()
        logits = torch.cat([q @ k.T, q @ F.normalize(w.detach(), dim=1).T], 1) / 0.12
        (grad,) = torch.autograd.grad(F.cross_entropy(logits, label), q)
        logits = torch.cat([q0 @ k.T, q0 @ F.normalize(w, dim=1).T], 1) / 0.02
        return grad, torch.autograd.grad(F.cross_entropy(logits, label), w)[0]

    queue = F.normalize(w.detach(), dim=1)

    def moco() -> Tensor:
        q = q0.clone().requires_grad_()
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / 0.12
        return torch.autograd.grad(F.cross_entropy(logits, torch.zeros(B, dtype=torch.long)), q)[0]

    seconds, gradients = interleaved(
        {"hardlab": one_pass, "two autograd passes": two_passes, "MoCo loss": moco}, rounds
    )
    error = max(
        float((a - b).norm() / b.norm()) for a, b in zip(gradients["hardlab"], gradients["two autograd passes"])
    )
    name = f"AdCo loss and both gradients, K={K}, B={B}"
    slower = seconds["hardlab"] / seconds["MoCo loss"]
    faster = seconds["two autograd passes"] / seconds["hardlab"]
    row = {"value": seconds["hardlab"], "unit": "s"}
    return [
        {"name": f"{name}: time over MoCo's", "peer": "plain autograd MoCo loss", "ratio": slower, "target": 1.1,
         "ok": slower <= 1.1} | row,
        {"name": f"{name}: speed-up", "peer": "two autograd passes", "ratio": faster, "target": 2.0,
         "ok": faster >= 2} | row,
        {"name": f"{name}: relative error", "value": error, "unit": "", "peer": "two autograd passes", "ratio": error,
         "target": 1e-5, "ok": error <= 1e-5},
    ]  # fmt: skip


class Training:
    """A training step of MoCo v2 with a ResNet-18 at 32 pixels, with a queue or with learned negatives."""

    def __init__(self, learned: bool) -> None:
        torch.manual_seed(0)
        self.method = MoCo(nets.resnet18(), queue=K, temperature=0.12).to(memory_format=torch.channels_last)
        self.hard: list[Hard] = [AdCo(init="random")] if learned else []
        self.players: list[Player] = []
        for hard in self.hard:
            hard.install(self.method)
            self.players = hard.players(self.method)
        self.params = [p for p in self.method.parameters() if p.requires_grad]
        self.opt = torch.optim.SGD(self.params, 0.03, momentum=0.9, weight_decay=1e-4)
        x, rows = torch.randn(STEP, 2, 3, 32, 32), torch.arange(STEP)
        self.views = Rendered(x[:, 0], torch.full((STEP, 2), 32), rows, rows, torch.zeros(STEP, 2, 15), x=x)
        self.look = Look(PRESETS["moco_cifar"], (0.5,) * 3, (0.25,) * 3)

    def __call__(self) -> None:
        now = Step(self.method, self.look, self.views)
        train.forward(now, self.hard)
        for p, g in zip(self.params, torch.autograd.grad(now.out.loss.mean(), self.params)):
            p.grad = g
        grads = [torch.autograd.grad(p.objective(now), p.params) for p in self.players]
        self.opt.step()
        for player, (grad,) in zip(self.players, grads):
            player.params[0].grad = grad
            player.opt.step()
        self.method.after_step(now)


def bench_step(rounds: int) -> list[dict[str, Any]]:
    seconds, _ = interleaved({"hardlab": Training(True), "MoCo v2": Training(False)}, rounds)
    ratio = seconds["hardlab"] / seconds["MoCo v2"]
    return [
        {"name": f"AdCo step, ResNet-18, K={K}, B={STEP}: time over MoCo v2's", "value": seconds["hardlab"],
         "unit": "s", "peer": "hardlab's MoCo v2", "ratio": ratio, "target": 1.02, "ok": ratio <= 1.02},
    ]  # fmt: skip


def run(rounds: int = 7) -> list[dict[str, Any]]:
    """Rows of name, value, unit, peer, ratio, target, ok; 2 threads, or what there is."""
    return bench_loss(rounds) + bench_step(rounds)


if __name__ == "__main__":
    for row in run(*(int(a) for a in sys.argv[1:])):
        print(json.dumps(row))
