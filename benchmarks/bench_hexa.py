"""Row C: what HEXA's adversarial and cut-mixed queries add to a MoCo-v2 step; ``RACES`` gives the rows.

With F the pass of one view and a backward pass of 2F, a MoCo step is 4F (the query 3, the key 1). An attack adds 2F
(the gradient goes to the pixels only) and what it made 3F, a mixture 3F: 9F and 12F, 2.25 and 3 times the step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.bench_train import MEAN, NETS, STD, race, row, worker
from hardlab import data, machine, train
from hardlab.hard.adversarial import Adversarial
from hardlab.hard.base import Hard
from hardlab.hard.cutmix import CutMix
from hardlab.methods.base import Step
from hardlab.methods.moco import MoCo
from hardlab.types import Progress
from hardlab.views import PRESETS, Look

ARMS: dict[str, tuple[type[Hard], ...]] = {
    "MoCo-v2": (),
    "adversarial": (Adversarial,),
    "adversarial and CutMix": (Adversarial, CutMix),
}


class Hexa:
    """hardlab's MoCo-v2 with a queue of 4096 and the strategies of ``arm``, as the trainer puts them together."""

    def __init__(self, net: str, precision: str, arm: str) -> None:
        machine.keep_pages()
        make, self.batch = NETS[net]
        torch.manual_seed(0)
        self.method = MoCo(make(), queue=4096, momentum=0.99)
        self.hard = [kind() for kind in ARMS[arm]]
        for h in self.hard:
            h.install(self.method)
        self.method.to(memory_format=torch.channels_last)
        self.low, self.look = precision == "bf16", Look(PRESETS["moco_cifar"], MEAN, STD)
        images = data.load("shapes")
        self.images = next(images.batches(torch.randint(0, len(images), (1, self.batch))))
        self.params = [p for p in self.method.parameters() if p.requires_grad]
        self.opt = torch.optim.SGD(self.params, lr=0.03, momentum=0.9)

    def step(self) -> None:
        at = Progress(50, 100, 5, 10)
        now = Step(self.method, self.look, self.look.views(self.images, 2), at, self.low)
        train.forward(now, self.hard)
        loss = torch.stack([t.mean() for t in now.terms.values()]).sum()
        for p, g in zip(self.params, torch.autograd.grad(loss, self.params, allow_unused=True)):
            p.grad = g
        self.opt.step()
        self.method.after_step(now)
        for h in self.hard:
            h.after_step(now)


KINDS: dict[str, Callable[..., Any]] = {"hexa": Hexa}


def hexa_step(rounds: int = 5) -> list[dict[str, Any]]:
    """A step of HEXA and of HEXA+ over a step of MoCo-v2, tiny network, batch 256, float32."""
    common = {"net": "tiny", "precision": "fp32"}
    field: dict[str, tuple[str, dict[str, Any]]] = {arm: ("hexa", common | {"arm": arm}) for arm in ARMS}
    s = race(field, rounds, module="benchmarks.bench_hexa")
    targets = {"adversarial": 2.5, "adversarial and CutMix": 3.25}
    return [
        row(f"HEXA step over MoCo-v2 step, {arm}", s[arm] / s["MoCo-v2"], target, most=True, peer="hardlab")
        for arm, target in targets.items()
    ]


RACES: dict[str, Callable[[], list[dict[str, Any]]]] = {"hexa-step": hexa_step}


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(KINDS, sys.argv[2], json.loads(sys.argv[3]))
    else:
        sys.exit("run this as `python -m benchmarks hexa-step`")
