"""Row A: a SimSiam step end to end against lightly, and what Hard View Selection adds to it; ``RACES`` gives the rows.

Each contestant runs in its own process, so that allocator settings do not leak; a driver gives each a turn per round,
in alternating order. Ratios are of the medians.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import Seconds, skipped
from hardlab import data, machine, nets, train
from hardlab.hard.base import Hard
from hardlab.hard.hvs import HVS
from hardlab.methods.base import Step
from hardlab.methods.simsiam import SimSiam
from hardlab.types import Batch
from hardlab.views import PRESETS, Look

NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "tiny": (lambda: nets.Tiny(width=16, blocks=3, stride=1), 256),  # CIFAR's ResNet-20
    "resnet18": (nets.resnet18, 64),
}
PROBES: dict[str, dict[str, Any]] = {
    "exact": {"statistics": "per-view"},
    "joint": {"statistics": "joint"},
    "bf16": {"statistics": "per-view", "probe_precision": "bf16"},
    "half": {"statistics": "per-view", "probe_precision": "bf16", "probe_size": 16},
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COUNT = 2048


def look() -> Look:
    return Look(PRESETS["simsiam_cifar"], MEAN, STD)


class Ours:
    """hardlab's own parts, as the trainer puts them together."""

    def __init__(self, net: str, precision: str, hvs: str = "", loader: bool = True) -> None:
        machine.keep_pages()
        make, self.batch = NETS[net]
        torch.manual_seed(0)
        self.method = SimSiam(make(), layers=2).to(memory_format=torch.channels_last)
        self.hard: Hard = HVS(**PROBES[hvs]) if hvs else Hard()
        self.precision, self.look, self.loader = precision, look(), loader
        self.images = data.load("shapes")
        self.opt = torch.optim.SGD(self.method.parameters(), lr=0.05, momentum=0.9)
        self.batches: Iterator[Batch] = itertools.chain.from_iterable(
            self.images.batches(torch.randint(0, len(self.images), (64, self.batch))) for _ in itertools.count()
        )
        self.fixed = next(self.batches)

    def draw(self, batch: Batch, generator: torch.Generator | None = None) -> Step:
        drawn = self.look.views(batch, self.hard.draws or 2, generator)
        return Step(self.method, self.look, drawn, low=self.precision == "bf16")

    def step(self) -> None:
        now = self.draw(next(self.batches) if self.loader else self.fixed)
        train.forward(now, [self.hard])
        loss = now.out.loss.mean()
        for p, g in zip(self.method.parameters(), torch.autograd.grad(loss, list(self.method.parameters()))):
            p.grad = g
        self.opt.step()


class Pictures(torch.utils.data.Dataset[tuple[Any, int]]):
    """PIL images in memory, in the form that lightly wraps."""

    transform: Callable[[Any], Any]

    def __init__(self, images: list[Any]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.transform(self.images[i]), 0


class Peer:
    """lightly's SimSiam as in its documentation: PIL transforms, DataLoader with two workers, float32.

    tuned: whether it uses channels_last, bf16 (if asked) and retained memory pages, as hardlab does.
    hvs: whether to score four views by four forward passes without gradient, as the official code does.
    backbone, batch: instead of those of ``net``.
    dims: hidden width of the predictor, and the width of everything else.
    epoch: images that its loader yields before it starts again.
    """

    def __init__(
        self,
        net: str,
        precision: str,
        tuned: bool = False,
        hvs: bool = False,
        *,
        backbone: nn.Module | None = None,
        batch: int | None = None,
        dims: tuple[int, int] = (512, 2048),
        device: str = "cpu",
        workers: int = 2,
        epoch: int = COUNT,
    ) -> None:
        from lightly.data import LightlyDataset
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead
        from lightly.transforms.multi_view_transform import MultiViewTransform
        from torchvision import transforms as T

        if tuned:
            machine.keep_pages()
        make, usual = NETS[net]
        self.batch, self.device = batch or usual, torch.device(device)
        torch.manual_seed(0)
        self.backbone = backbone or make()
        hidden, wide = dims
        self.projector = SimSiamProjectionHead(cast(int, self.backbone.dim), wide, wide)
        self.predictor = SimSiamPredictionHead(wide, hidden, wide)
        self.parts = nn.ModuleList([self.backbone, self.projector, self.predictor]).to(self.device)
        if tuned:
            self.parts.to(memory_format=torch.channels_last)
        self.loss, self.low, self.hvs = NegativeCosineSimilarity(), precision == "bf16", hvs
        self.opt = torch.optim.SGD(self.parts.parameters(), lr=0.05, momentum=0.9)
        view = T.Compose(
            [
                T.RandomResizedCrop(32, scale=(0.2, 1.0)),
                T.RandomHorizontalFlip(),
                T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                T.RandomGrayscale(0.2),
                T.ToTensor(),
                T.Normalize(MEAN, STD),
            ]
        )
        images = data.load("shapes")
        raw = next(images.batches(torch.arange(COUNT)[None])).raw
        pictures = Pictures([T.functional.to_pil_image(x) for x in raw] * (epoch // COUNT))
        transform = MultiViewTransform([view] * (4 if hvs else 2))
        dataset = LightlyDataset.from_torch_dataset(pictures, transform=transform)
        self.loader = torch.utils.data.DataLoader(
            dataset, batch_size=self.batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True,
            pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        self.batches: Iterator[Any] = itertools.chain.from_iterable(self.loader for _ in itertools.count())

    def embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low):
            z = self.projector(self.backbone(x))
            return self.predictor(z), z.detach()

    def hardest(self, views: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            p, z = zip(*[self.embed(x) for x in views])
            pairs = list(itertools.combinations(range(len(views)), 2))
            s = [F.cosine_similarity(p[n], z[m]) + F.cosine_similarity(p[m], z[n]) for n, m in pairs]
            best = torch.tensor(pairs)[torch.stack(s).argmin(0)]  # (B,2)
            rows, x = torch.arange(len(best)), torch.stack(views)
            return [x[best[:, 0], rows], x[best[:, 1], rows]]

    def step(self) -> None:
        views = [x.to(self.device, non_blocking=True) for x in next(self.batches)[0]]
        a, b = self.hardest(views) if self.hvs else views
        (p0, z0), (p1, z1) = self.embed(a), self.embed(b)
        loss = 0.5 * (self.loss(p0.float(), z1.float()) + self.loss(p1.float(), z0.float()))
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()


KINDS: dict[str, Callable[..., Any]] = {"ours": Ours, "peer": Peer}


def worker(kinds: dict[str, Callable[..., Any]], kind: str, options: dict[str, Any]) -> None:
    """Reads a number of steps a line from standard input and answers with the seconds of each."""
    torch.set_num_threads(2)
    contestant = kinds[kind](**options)
    for _ in range(2):
        contestant.step()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            contestant.step()
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), flush=True)


QUEUE = 4  # batches that a loader of two workers keeps ready: made while others had their turn, so not timed


def race(
    contestants: dict[str, tuple[str, dict[str, Any]]],
    rounds: int,
    steps: int = 3,
    untimed: int = 0,
    module: str = "benchmarks.bench_train",
) -> dict[str, Seconds]:
    """Seconds of a step of each contestant, over ``rounds`` interleaved turns.

    A turn is ``untimed`` steps, after which a loader has to keep up with its consumer, and the median of ``steps``
    timed ones.
    module: the module that defines the kinds of contestants, run as ``python -m module worker``.
    """
    children = {}
    for name, (kind, options) in contestants.items():
        command = [sys.executable, "-m", module, "worker", kind, json.dumps(options)]
        root = Path(__file__).resolve().parents[1]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        children[name] = child
    seconds: dict[str, list[float]] = {name: [] for name in children}
    try:
        for i in range(rounds):
            for name in list(children)[:: 1 if i % 2 == 0 else -1]:
                child = children[name]
                time.sleep(1)  # the one before has filled its queue and is quiet
                assert child.stdin is not None and child.stdout is not None  # both are pipes
                child.stdin.write(f"{untimed + steps}\n")
                child.stdin.flush()
                seconds[name].append(statistics.median(json.loads(child.stdout.readline())[untimed:]))
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    return {name: Seconds(s) for name, s in seconds.items()}


def agreement(steps: int = 60) -> dict[str, tuple[float, float]]:
    """Per probe: the share of images where it picks the exact pair, and the share of the exact extra loss it keeps.

    After ``steps`` steps of training; extra loss = loss of the picked pair over the mean pair, both by the exact probe.
    """
    ours = Ours("tiny", "fp32")
    for _ in range(steps):
        ours.step()
    batch = next(ours.images.batches(torch.arange(1024).view(1, -1)))
    drawn = ours.look.views(batch, 4, torch.Generator().manual_seed(1))
    picks, exact_loss = {}, torch.empty(0)
    for name, options in PROBES.items():
        hvs = HVS(update_bn=False, **options)
        now = Step(ours.method, ours.look, drawn)
        hvs.views(now)
        assert now.seen is not None
        picks[name] = now.seen.best
        if name == "exact":
            exact_loss = now.seen.loss  # (B,C)
    mean = exact_loss.mean(1)

    def extra(best: Tensor) -> float:
        return float((exact_loss.gather(1, best[:, None])[:, 0] - mean).mean())

    return {
        n: (float((b == picks["exact"]).float().mean()), extra(b) / extra(picks["exact"])) for n, b in picks.items()
    }


def row(name: str, value: float, target: float, *, most: bool, unit: str = "x", peer: str = "") -> dict[str, Any]:
    """One line of the table; ``most``: the target is an upper limit."""
    ok = value <= target if most else value >= target
    return {"name": name, "value": value, "unit": unit, "peer": peer, "target": target, "ok": ok}


LOW = machine.fast_bfloat16()
PRECISIONS = ("fp32", "bf16") if LOW else ("fp32",)  # bf16 rows only where the processor has the arithmetic


def simsiam(net: str, targets: dict[str, float], tuned: dict[str, float], rounds: int = 5) -> list[dict[str, Any]]:
    """A step with its data against lightly's, as documented and tuned like ours."""
    field: dict[str, tuple[str, dict[str, Any]]] = {"peer": ("peer", {"net": net, "precision": "fp32"})}
    for p in PRECISIONS:
        field[p] = ("ours", {"net": net, "precision": p})
        if p in tuned:
            field[f"tuned {p}"] = ("peer", {"net": net, "precision": p, "tuned": True})
    s = race(field, rounds, steps=6, untimed=QUEUE)
    name = f"SimSiam {net}, {{}}, end to end"
    rows = [row(name.format(p), s["peer"] / s[p], targets[p], most=False, peer="lightly") for p in PRECISIONS]
    rows += [skipped(name.format(p)) for p in targets if p not in PRECISIONS]
    peer = "lightly's loader, the same tuned step"
    return rows + [
        row(name.format(p), s[f"tuned {p}"] / s[p], tuned[p], most=False, peer=peer) for p in PRECISIONS if p in tuned
    ]


def hvs_step(rounds: int = 5) -> list[dict[str, Any]]:
    """What selection adds to a step, and how often the cheaper probes pick the exact pair."""
    targets = {"exact": 1.70, "joint": 1.70} | ({"bf16": 1.45, "half": 1.22} if LOW else {})
    common = {"net": "tiny", "precision": "fp32", "loader": False}
    field: dict[str, tuple[str, dict[str, Any]]] = {n: ("ours", common | {"hvs": n}) for n in targets}
    s = race({"plain": ("ours", common)} | field, rounds)
    rows = [
        row(f"HVS step over SimSiam step, {n}", s[n] / s["plain"], target, most=True, peer="hardlab")
        for n, target in targets.items()
    ]
    if LOW:
        picks = agreement()
        rows.append(row("HVS bf16 probe: the exact pair", picks["bf16"][0], 0.95, most=False, unit="share"))
        for label, value in zip(("the exact pair", "extra loss kept"), picks["half"]):
            rows.append({"name": f"HVS half-size bf16 probe: {label}", "value": round(value, 3), "unit": "share",
                         "peer": "hardlab", "target": None, "ok": True})  # fmt: skip
    else:
        rows += [skipped("HVS step over SimSiam step, bf16 and half-size probes, and which pairs they pick")]
    return rows


def hvs_end_to_end(rounds: int = 5) -> list[dict[str, Any]]:
    """HVS with its data against HVS built on lightly."""
    field: dict[str, tuple[str, dict[str, Any]]] = {
        "peer": ("peer", {"net": "tiny", "precision": "fp32", "hvs": True}),
        "exact fp32": ("ours", {"net": "tiny", "precision": "fp32", "hvs": "exact"}),
    }
    if LOW:
        field["bf16, half-size probe"] = ("ours", {"net": "tiny", "precision": "bf16", "hvs": "half"})
    s = race(field, rounds, steps=6, untimed=QUEUE)
    targets = {"exact fp32": 1.5, "bf16, half-size probe": 3.0}
    return [
        row(f"HVS end to end, {n}", s["peer"] / s[n], t, most=False, peer="HVS on lightly")
        if n in s
        else skipped(f"HVS end to end, {n}")
        for n, t in targets.items()
    ]


RACES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "simsiam-tiny": lambda: simsiam("tiny", {"fp32": 1.5, "bf16": 2.2}, {"fp32": 1.2, "bf16": 1.3}),
    "simsiam-resnet18": lambda: simsiam("resnet18", {"fp32": 1.1, "bf16": 1.7}, {}),
    "hvs-step": hvs_step,
    "hvs": hvs_end_to_end,
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(KINDS, sys.argv[2], json.loads(sys.argv[3]))
    else:
        sys.exit("run this as `python -m benchmarks simsiam-tiny`")
