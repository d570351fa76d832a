"""Row B: what Hard View Selection adds to a DINO step of two large views; ``RACES`` gives the rows.

With F the pass of one view, a DINO step is 8F (student 2 with gradient, teacher 2 without); four views to choose from
make it 16F, and 14F where the teacher's outputs of the scoring pass are kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.bench_train import MEAN, NETS, STD, race, row, worker
from hardlab import data, machine, train
from hardlab.hard.base import Hard
from hardlab.hard.hvs import HVS
from hardlab.methods.base import Step
from hardlab.methods.dino import DINO
from hardlab.types import Progress
from hardlab.views import PRESETS, Look

ARMS: dict[str, dict[str, Any]] = {
    "reused": {"labels": "reused"},
    "again": {"labels": "again"},
}


class Dino:
    """hardlab's DINO with 2048 prototypes and no small crops, under selection where ``hvs`` names an arm."""

    def __init__(self, net: str, precision: str, hvs: str = "") -> None:
        machine.keep_pages()
        make, self.batch = NETS[net]
        torch.manual_seed(0)
        self.method = DINO(make(), prototypes=2048).to(memory_format=torch.channels_last)
        self.hard: Hard = HVS(**ARMS[hvs]) if hvs else Hard()
        self.hard.install(self.method)
        self.low = precision == "bf16"
        self.look = Look([a.but(size=32) for a in PRESETS["dino_global"]], MEAN, STD)
        images = data.load("shapes")
        self.images = next(images.batches(torch.randint(0, len(images), (1, self.batch))))
        self.params = [p for p in self.method.parameters() if p.requires_grad]
        self.opt = torch.optim.AdamW(self.params, lr=5e-4)

    def step(self) -> None:
        at = Progress(50, 100, 5, 10)
        self.method.before_step(at)
        now = Step(self.method, self.look, self.look.views(self.images, self.hard.draws or 2), at, self.low)
        train.forward(now, [self.hard])
        for p, g in zip(self.params, torch.autograd.grad(now.out.loss.mean(), self.params)):
            p.grad = g
        self.opt.step()
        self.method.after_step(now)


KINDS: dict[str, Callable[..., Any]] = {"dino": Dino}


def dino_hvs(rounds: int = 5) -> list[dict[str, Any]]:
    """A step with selection over a step without, with the teacher's outputs kept and made again."""
    common = {"net": "tiny", "precision": "fp32"}
    field: dict[str, tuple[str, dict[str, Any]]] = {n: ("dino", common | {"hvs": n}) for n in ARMS}
    s = race({"plain": ("dino", common)} | field, rounds, module="benchmarks.bench_dino")
    kept = row("DINO-HVS step over DINO step, teacher's outputs kept", s["reused"] / s["plain"], 1.80, most=True,
               peer="hardlab")  # fmt: skip
    again = {"name": "DINO-HVS step over DINO step, made again", "value": round(s["again"] / s["plain"], 3),
             "unit": "x", "peer": "hardlab", "target": None, "ok": True}  # fmt: skip
    return [kept, again]


RACES: dict[str, Callable[[], list[dict[str, Any]]]] = {"dino-hvs-step": dino_hvs}


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(KINDS, sys.argv[2], json.loads(sys.argv[3]))
    else:
        sys.exit("run this as `python -m benchmarks dino-hvs-step`")
