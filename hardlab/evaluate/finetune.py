"""Fine-tuning of the whole network with a linear classifier on top: semi-supervised, or on another data set."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardlab import numbers
from hardlab.data import Images
from hardlab.evaluate.features import Crop, Rendered, extract
from hardlab.evaluate.linear import OPTIMIZERS, SCHEDULES, accuracy, check_training
from hardlab.machine import set_memory_format
from hardlab.nets import whole_bn
from hardlab.types import HardlabError
from hardlab.views import Look


class Part(NamedTuple):
    """Rows (N,) of a data set to train or test a classifier on."""

    images: Images
    rows: Tensor

    @property
    def labels(self) -> Tensor:
        """The labels (N,) int64 of the rows."""
        return self.images.targets[self.rows]


class Tuned(NamedTuple):
    """A fine-tuned copy of a network and its classifier; top1, top5 and loss (of training) after each epoch."""

    net: nn.Module
    head: nn.Linear
    top1: list[float]
    top5: list[float]
    loss: list[float]


def finetune(
    net: nn.Module,
    look: Look,
    train: Part,
    test: Part,
    *,
    seed: int = 0,
    optimizer: str = "sgd",
    lr: float = 0.01,
    head_lr: float | None = None,
    batch_size: int = 256,
    epochs: int = 20,
    weight_decay: float = 5e-4,
    schedule: str = "fifth-60-80",
    augment: str = "rrc-flip",
    size: int | None = None,
    crop: Crop = "whole",
    precision: str = "fp32",
) -> Tuned:
    """Train a copy of ``net`` and a linear classifier; weights of the latter start at N(0, 0.01²), its bias at 0.

    lr of the network and head_lr of the classifier (None = the same) are per 256 images and follow one schedule, set
    once per epoch. size, crop: of the pixels, as in ``extract``. seed: decides everything random. ``net`` does not
    change. Raises HardlabError if a label is missing, the classes of the two parts differ, or training diverges.
    """
    classes = _classes(train, test)
    seed, epochs, batch_size, lr = check_training(optimizer, schedule, seed, epochs, batch_size, lr)
    head_lr = numbers.fit("head_lr", numbers.Rate | None, head_lr)
    weight_decay = numbers.fit("weight_decay", numbers.Decay, weight_decay)
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    pixels = Rendered(augment, look, size, crop, seed)
    tuned = whole_bn(copy.deepcopy(net)).train().requires_grad_(True)
    set_memory_format(tuned, device)
    base = lr * batch_size / 256
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # for the network's own noise, such as drop-path
        head = _head(extract(net, test.images, look, size=size, rows=test.rows[:1])[0].shape[1], classes, generator)
        head.to(device)
        opt = OPTIMIZERS[optimizer](
            [
                {"params": list(tuned.parameters()), "lr": base},
                {"params": list(head.parameters()), "lr": base if head_lr is None else head_lr * batch_size / 256},
            ],
            base,
            weight_decay,
        )
        rates = [group["lr"] for group in opt.param_groups]
        out = Tuned(tuned, head, [], [], [])
        for epoch in range(epochs):
            for group, rate in zip(opt.param_groups, rates, strict=True):
                group["lr"] = rate * SCHEDULES[schedule](epoch / epochs)
            order = train.rows[torch.randperm(len(train.rows), generator=generator)].split(batch_size)
            # a last batch of a single image has no batch statistics
            out.loss.append(_epoch(tuned, head, opt, train.images, [o for o in order if len(o) > 1], pixels, precision))
            f, y = extract(tuned, test.images, look, size=size, crop=crop, precision=precision, rows=test.rows)
            accuracy(f, y, head.weight.detach(), head.bias.detach(), out.top1, out.top5)
    return Tuned(tuned.eval(), *out[1:])


def _classes(train: Part, test: Part) -> int:
    """The number of classes; HardlabError if the two parts do not allow training and testing."""
    for role, part in (("training", train), ("test", test)):
        if (part.labels < 0).any():
            raise HardlabError(
                f"{int((part.labels < 0).sum())} of {len(part.rows)} {role} images of {part.images.name} have no label "
                "(-1): they cannot be evaluated."
            )
    if len(train.rows) < 2 or len(train.labels.unique()) < 2:
        raise HardlabError(f"{len(train.rows)} labelled images of one class: 2 images and 2 classes are needed.")
    if train.images.classes != test.images.classes:
        raise HardlabError(f"{test.images.name} has different classes in its test and training splits.")
    unseen = sorted(set(test.labels.tolist()) - set(train.images.targets.tolist()))
    if unseen:
        names = ", ".join(train.images.classes[c] for c in unseen[:5])
        raise HardlabError(f"classes differ: the test class {names} never occurs among the training images.")
    return len(train.images.classes)


def _head(features: int, classes: int, generator: torch.Generator) -> nn.Linear:
    head = nn.Linear(features, classes)
    nn.init.normal_(head.weight, 0, 0.01, generator=generator)
    nn.init.zeros_(head.bias)
    return head


def _epoch(
    net: nn.Module,
    head: nn.Linear,
    opt: torch.optim.Optimizer,
    images: Images,
    order: list[Tensor],
    pixels: Rendered,
    precision: str,
) -> float:
    """Train the network and its classifier for an epoch; returns the mean loss."""
    total = torch.zeros((), device=head.weight.device)
    net.train()
    for batch in images.batches(order):
        x = pixels(batch).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, precision == "bf16"):
            f = net(x)
        y = images.targets[batch.index.cpu()].to(x.device)
        loss = F.cross_entropy(head(f.float()), y)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        total += loss.detach() * len(y)
    mean = float(total / sum(map(len, order)))
    if not math.isfinite(mean):
        raise HardlabError("fine-tuning diverged: lower lr or head_lr.")
    return mean
