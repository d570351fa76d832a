"""The libraries of a race: each trains one network on the same images by one recipe, in its own way.

The recipe is SimCLR of lightly's ``cifar10_benchmark.py``: its transforms, heads and loss (temperature 0.5), SGD at a
rate of 0.06 per 128 images with momentum 0.9 and weight decay 5e-4, and the first epochs of a cosine over 200.
Precision, memory format, batch and number of workers are those of the race.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hardlab import build, machine, recipes, registry, train
from hardlab.config import Run
from hardlab.data import Images
from hardlab.evaluate import features, knn
from hardlab.nets import mlp
from hardlab.types import Batch, Drawn, Rendered
from hardlab.views import Look

RATE, MOMENTUM, DECAY, TEMPERATURE, EPOCHS = 0.06, 0.9, 5e-4, 0.5, 200  # the rate is that of 128 images
SIDE, DIM = 32, 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels; lightly's recipe takes ImageNet's


@dataclass(frozen=True)
class Task:
    """What all libraries of a race train.

    network: a backbone of hardlab by name.
    precision: ``fp32`` or ``bf16`` (autocast).
    workers: processes that load images, for a library that has such.
    """

    network: str
    batch: int
    device: torch.device
    precision: machine.Precision
    images: Images
    workers: int

    def run(self, seed: int) -> Run:
        """The recipe as a run of hardlab."""
        given = {
            "data": {"name": self.images.name}, "backbone": self.network, "batch_size": self.batch, "seed": seed,
            "precision": self.precision, "epochs": EPOCHS, "logs.monitor_every": 0,
            "augment": "simclr_cifar", "pixel_mean": MEAN, "pixel_std": STD,
            "method": {"name": "simclr", "options": {"temperature": TEMPERATURE, "dim": DIM}},
            "optim": {"name": "sgd", "lr": 2 * RATE, "momentum": MOMENTUM, "weight_decay": DECAY},  # of 256 images
        }  # fmt: skip
        return recipes.recipe("simclr", "gpu", given)


class Contestant(Protocol):
    """A network in training by one library. backbone: (N,3,S,S) -> (N,D)."""

    backbone: nn.Module

    def __init__(self, task: Task, seed: int) -> None: ...

    def begin(self) -> None:
        """Load the first batch, so that the clock does not count how processes start."""

    def step(self) -> None:
        """Load a batch and train on it."""

    def arithmetic(self) -> Callable[[], None]:
        """A step on views that are on the device already: the model, its gradients and the optimiser alone."""

    def close(self) -> None:
        """End what works in the background."""


class Hardlab:
    """hardlab: views are drawn and rendered on the device, in one batch."""

    def __init__(self, task: Task, seed: int) -> None:
        run = task.run(seed)
        self.session = train.open(run, data=task.images, device=str(task.device), say=lambda line: None)
        self.backbone = self.session.method.backbone
        self.batches = self._batches()

    def _batches(self) -> Iterator[Batch]:
        s = self.session
        while True:
            s.epoch.clear()
            s.method.on_epoch(s.at, s.data, s.look)
            yield from s.batches()

    def begin(self) -> None:
        pass

    def step(self) -> None:
        train.step(self.session, next(self.batches))

    def arithmetic(self) -> Callable[[], None]:
        batch, look = next(self.batches), self.session.look
        given = look.render(look.views(batch, self.session.method.slots, self.session.generator))
        session = replace(self.session, look=_Given(look, given))

        def step() -> None:
            train.step(session, batch)

        return step

    def close(self) -> None:
        pass


class _Given(Look):
    """Returns the same rendered views for every batch."""

    def __init__(self, look: Look, given: Rendered) -> None:
        super().__init__(look.augment, look.mean, look.std)
        self.given = given

    def views(self, batch: Batch, n: int, generator: torch.Generator | None = None, local: int = 0) -> Drawn:
        return self.given


class Pictures(torch.utils.data.Dataset[tuple[Any, int]]):
    """Images in memory as torchvision's data sets give them: PIL, one by one."""

    transform: Callable[[Image.Image], Any] | None = None

    def __init__(self, images: Images) -> None:
        raw = [batch.raw.permute(0, 2, 3, 1).cpu().numpy() for batch in images.all(5000)]
        self.pixels = np.concatenate(raw)  # (N,H,W,3) uint8
        self.targets = images.targets.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        image = Image.fromarray(self.pixels[i])
        return image if self.transform is None else self.transform(image), self.targets[i]


class _Loading:
    """A library that makes views one by one in the workers of a DataLoader, and gets its images as PIL."""

    criterion: Callable[[Tensor, Tensor], Tensor]

    def __init__(self, task: Task, seed: int) -> None:
        self.task = task
        torch.manual_seed(seed)
        self.backbone: nn.Module = registry.build("backbone", task.network, {})
        self.head = self.make_head(cast(int, self.backbone.dim))
        self.parts = nn.ModuleList([self.backbone, self.head]).to(task.device).train()
        machine.set_memory_format(self.parts, task.device)
        rate = RATE * task.batch / 128
        self.opt = torch.optim.SGD(self.parts.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=DECAY)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.opt, EPOCHS)
        self.loader: Iterable[Any] = torch.utils.data.DataLoader(
            self.make_dataset(Pictures(task.images)), batch_size=task.batch, shuffle=True, drop_last=True,
            num_workers=task.workers, persistent_workers=task.workers > 0, pin_memory=task.device.type == "cuda",
        )  # fmt: skip
        self.batches = self._batches()
        self.first: Any = None

    def make_head(self, features: int) -> nn.Module:
        """The projection head for (N, features), and ``criterion``."""
        raise NotImplementedError

    def make_dataset(self, pictures: Pictures) -> torch.utils.data.Dataset[Any]:
        """The images with the library's transforms."""
        raise NotImplementedError

    def views(self, loaded: Any) -> Sequence[Tensor]:
        """The two views (B,3,S,S) of a batch as loaded."""
        raise NotImplementedError

    def _batches(self) -> Iterator[Any]:
        while True:
            yield from self.loader
            self.schedule.step()

    def begin(self) -> None:
        self.first = next(self.batches)

    def step(self) -> None:
        loaded, self.first = self.first or next(self.batches), None
        self._train(*(view.to(self.task.device, non_blocking=True) for view in self.views(loaded)))

    def _train(self, first: Tensor, second: Tensor) -> None:
        low = self.task.precision == "bf16"
        with torch.autocast(self.task.device.type, torch.bfloat16, enabled=low):
            z0, z1 = (self.head(self.backbone(x).flatten(1)) for x in (first, second))
        loss = self.criterion(z0.float(), z1.float())
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()

    def arithmetic(self) -> Callable[[], None]:
        shape = (self.task.batch, 3, SIDE, SIDE)
        views = [torch.randn(shape, device=self.task.device) for _ in range(2)]

        def step() -> None:
            self._train(*views)

        return step

    def close(self) -> None:
        del self.batches, self.loader  # ends the workers


class Lightly(_Loading):
    """lightly, with the parts and settings of its ``cifar10_benchmark.py``."""

    def make_head(self, features: int) -> nn.Module:
        from lightly.loss import NTXentLoss
        from lightly.models.modules.heads import SimCLRProjectionHead

        self.criterion = NTXentLoss(temperature=TEMPERATURE)
        head: nn.Module = SimCLRProjectionHead(features, features, DIM)
        return head

    def make_dataset(self, pictures: Pictures) -> torch.utils.data.Dataset[Any]:
        from lightly.data import LightlyDataset
        from lightly.transforms.simclr_transform import SimCLRTransform

        transform = SimCLRTransform(input_size=SIDE, cj_strength=0.5, gaussian_blur=0.0)
        dataset: torch.utils.data.Dataset[Any] = LightlyDataset.from_torch_dataset(pictures, transform=transform)
        return dataset

    def views(self, loaded: Any) -> Sequence[Tensor]:
        views: Sequence[Tensor] = loaded[0]
        return views


class StablePretraining(_Loading):
    """stable-pretraining, with the views, data set and loss of its ``benchmarks/cifar10/simclr-resnet18.py``.

    Head and optimiser are those of the race: its own warm up for ten epochs of a thousand, longer than a race lasts.
    """

    def make_head(self, features: int) -> nn.Module:
        from stable_pretraining.losses import NTXEntLoss

        self.criterion = NTXEntLoss(temperature=TEMPERATURE)
        return mlp(features, features, DIM, bn_output=True, bias_output=False)

    def make_dataset(self, pictures: Pictures) -> torch.utils.data.Dataset[Any]:
        from stable_pretraining import data as theirs
        from stable_pretraining.data import transforms as T

        def view() -> Any:
            return T.Compose(
                T.RGB(),
                T.RandomResizedCrop((SIDE, SIDE)),
                T.RandomHorizontalFlip(p=0.5),
                T.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8),
                T.RandomGrayscale(p=0.2),
                T.ToImage(mean=MEAN, std=STD),  # as the evaluation does
            )

        dataset: torch.utils.data.Dataset[Any] = theirs.FromTorchDataset(
            pictures, names=["image", "label"], transform=T.MultiViewTransform([view(), view()])
        )
        return dataset

    def views(self, loaded: Any) -> Sequence[Tensor]:
        return [view["image"] for view in loaded["views"]]


LIBRARIES: dict[str, type[Contestant]] = {
    "hardlab": Hardlab,
    "lightly": Lightly,
    "stable-pretraining": StablePretraining,
}


FIRST, GROWTH = 60, 1.25  # steps before the first checkpoint, and those before each over those before the last
NEIGHBOURS, VOTES = 200, 0.1  # k and temperature of lightly's benchmark


def race(task: Task, test: Images, name: str, seed: int, budget: float, target: float) -> dict[str, Any]:
    """Train by a library for ``budget`` seconds, then evaluate its checkpoints until one has the target.

    The clock runs while the library loads and trains, from the moment when its first batch is there; it stands still
    while a checkpoint is copied. target: share of the test images that their neighbours must get right.

    Returns the settings, the curve as rows of images, seconds and accuracy, from the untrained network on, and the
    seconds of a step on views that are on the device already.
    """
    make, device = LIBRARIES[name], task.device
    alone = make(task, seed)
    bare = _seconds(alone.arithmetic(), device)
    alone.close()
    contestant = make(task, seed)
    kept = [(0, 0.0, _copied(contestant.backbone))]
    contestant.begin()
    steps, seconds, at = 0, 0.0, float(FIRST)
    while seconds < budget:
        start = time.perf_counter()
        while steps < round(at) and seconds + time.perf_counter() - start < budget:
            contestant.step()
            steps += 1
        _wait(device)
        seconds += time.perf_counter() - start
        if steps == round(at):
            kept.append((steps * task.batch, seconds, _copied(contestant.backbone)))
            at *= GROWTH
    contestant.close()
    curve: list[dict[str, float]] = []
    judge = Judge(task, test)
    for images, spent, weights in kept:
        curve.append({"images": images, "seconds": round(spent, 4), "accuracy": judge(weights)})
        if curve[-1]["accuracy"] >= target:
            break
    return {"trained_s": round(seconds, 3), "trained_images": steps * task.batch, "step_s": bare, "curve": curve}


def _seconds(step: Callable[[], None], device: torch.device, least: int = 5, long: float = 1.5) -> float:
    """Seconds of a step: the mean over ``long`` seconds and at least ``least`` steps, after a warm-up."""
    for _ in range(3):
        step()
    _wait(device)
    start, done = time.perf_counter(), 0
    while done < least or time.perf_counter() - start < long:
        for _ in range(least):
            step()
        done += least
        _wait(device)
    return (time.perf_counter() - start) / done


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _copied(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in net.state_dict().items()}


class Judge:
    """Measures checkpoints of all libraries by one function: the share of test images that their neighbours get right.

    On a CPU a tenth of the training images, the same for all, are the neighbours; on a GPU all.
    """

    def __init__(self, task: Task, test: Images) -> None:
        self.task, self.test = task, test
        self.look = build.look(task.run(0))
        self.net: nn.Module = registry.build("backbone", task.network, {})
        machine.set_memory_format(self.net.to(task.device), task.device)
        count = len(task.images)
        some = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: max(NEIGHBOURS, count // 10)]
        self.rows = some.sort().values if task.device.type == "cpu" else None

    def __call__(self, weights: dict[str, Tensor]) -> float:
        self.net.load_state_dict(weights)
        how: dict[str, Any] = {"precision": self.task.precision, "batch_size": 1000}
        memory = features.extract(self.net, self.task.images, self.look, rows=self.rows, **how)
        queries = features.extract(self.net, self.test, self.look, **how)
        return knn.knn(*memory, *queries, ks=(NEIGHBOURS,), temperature=VOTES)[NEIGHBOURS]
