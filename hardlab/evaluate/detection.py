"""Detection and instance segmentation: fine-tunes a copy of a backbone as a detector on scenes, then scores it."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN

from hardlab.data import Images
from hardlab.data.detection_scenes import Scenes, flipped, open_scenes, without_crowd
from hardlab.evaluate.average_precision import score
from hardlab.evaluate.detectors import detector, stages
from hardlab.nets import whole_bn
from hardlab.types import HardlabError


def rate(step: int, lr: float, steps: Sequence[int], warmup: int) -> float:
    """Learning rate at ``step``: a tenth after each of ``steps``; before, linear from a thousandth (Detectron2)."""
    factor = 1.0 if step >= warmup else 0.001 + 0.999 * step / warmup
    return lr * factor * 0.1 ** sum(step >= s for s in steps)


def tune(
    model: FasterRCNN,
    scenes: Scenes,
    generator: torch.Generator,
    *,
    iterations: int,
    batch_size: int,
    lr: float,
    steps: Sequence[int],
    warmup: int,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
) -> list[float]:
    """Train a detector by SGD on scenes and their mirror images; returns the loss of every iteration.

    BN uses batch statistics, which on one device equal those of SyncBN over several. As in Detectron2, norm parameters
    do not decay, crowds are left out and difficult objects are kept. generator: draws the order and the flips; regions
    are sampled from torch's global generator. Raises HardlabError if the loss is not finite.
    """
    for name, value in (("iterations", iterations), ("batch_size", batch_size)):
        if value < 1:
            raise HardlabError(f"{name} must be at least 1, not {value}.")
    norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    learned = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if id(p) not in norms], "weight_decay": weight_decay},
        {"params": [p for p in learned if id(p) in norms], "weight_decay": 0.0},
    ]
    opt = torch.optim.SGD(groups, lr, momentum=momentum)
    count = iterations * batch_size
    passes = [torch.randperm(len(scenes), generator=generator) for _ in range(-(-count // len(scenes)))]
    order = torch.cat(passes)[:count].view(iterations, batch_size)
    device = learned[0].device
    model.train()
    for module in model.modules():  # a frozen stage keeps its statistics as well
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
    losses = []
    for step, batch in enumerate(scenes.batches(order.tolist())):
        for group in opt.param_groups:
            group["lr"] = rate(step, lr, steps, warmup)
        mirrored = torch.rand(batch_size, generator=generator) < 0.5
        views = [flipped(x, t) if m else (x, t) for (x, t), m in zip(batch, mirrored.tolist())]
        targets = [{k: v.to(device) for k, v in without_crowd(t).items()} for _, t in views]
        if scenes.masks:
            targets = [t | {"masks": t["masks"].to(torch.uint8)} for t in targets]
        else:
            targets = [{k: v for k, v in t.items() if k != "masks"} for t in targets]
        loss = torch.stack(list(model([x.to(device) for x, _ in views], targets).values())).sum()
        losses.append(loss.item())
        if not np.isfinite(losses[-1]):
            raise HardlabError(f"the detector diverged in iteration {step + 1} at lr={lr}: lower it.")
        opt.zero_grad()
        loss.backward()
        opt.step()
    return losses


class Detection(NamedTuple):
    """The result of ``detect``: metrics in [0,1], numbers of training and test scenes, loss per iteration, test set."""

    metrics: dict[str, float]
    n_train: int
    n_test: int
    losses: list[float]
    data: str


def detect(
    net: nn.Module,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Detection:
    """Fine-tune a copy of a backbone as a detector and test it; ``net`` does not change.

    net: a run's backbone, on the device to use.
    mean, std: of its pixels.
    options: all those of an entry of ``published.DETECTION``.
    seed: decides everything random, so that every backbone gets the same scenes, regions and new layers.

    Raises HardlabError for a backbone without stages, sets without boxes or masks, and options that do not fit.
    """
    o = dict(options)
    masks = o["predict"] == "masks"
    opened, labelled = _sets(o, root)
    generator = torch.Generator().manual_seed(seed)
    train_count, tested = o["images"], o["test_images"]
    if train_count:
        labelled = [labelled[i] for i in torch.randperm(len(labelled), generator=generator)[:train_count].tolist()]
    train = Scenes(opened["train"], masks=masks, rows=labelled)
    held_out = Scenes(opened["test"], masks=masks)
    if tested:
        held_out = Scenes(opened["test"], masks=masks, rows=range(min(tested, len(held_out))))
    network = {k: o[k] for k in _NETWORK}
    schedule = {k: o[k] for k in _SCHEDULE}
    devices = [p.device for p in itertools.islice(net.parameters(), 1) if p.device.type == "cuda"]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        copied = whole_bn(copy.deepcopy(net)).requires_grad_(True)
        model = detector(copied, len(train.classes), mean=mean, std=std, **network)
        losses = tune(model, train, generator, **schedule)
        metrics = score(model, held_out, batch_size=o["batch_size"], recalls=o["recalls"], small=o["small"])
    return Detection(metrics, len(train), len(held_out), losses, opened["test"][0].name)


def check(net: nn.Module, root: str | os.PathLike[str] | None = None, **options: Any) -> None:
    """Refuse a backbone, which may be on the device ``meta``, and data sets that ``detect`` would refuse.

    Raises HardlabError, and ``data.base.Absent`` for sets that would have to be downloaded first.
    """
    stages(net)
    _sets(options, root, dry=True)


def _sets(
    o: Mapping[str, Any], root: str | os.PathLike[str] | None, dry: bool = False
) -> tuple[dict[str, list[Images]], list[int]]:
    """The training and test sets, and the rows of training scenes with an object. Raises HardlabError."""
    sides = ("train", "test")
    opened = {side: open_scenes(o[side], root, o["max_side"], o["side"], o["objects"], dry) for side in sides}
    train, test = (Scenes(opened[side], masks=o["predict"] == "masks") for side in sides)
    labelled = train.labelled()
    if o["images"] > len(labelled):
        raise HardlabError(f"{o['images']} training scenes were requested, but only {len(labelled)} contain an object.")
    if test.classes != train.classes:
        raise HardlabError(f"{opened['test'][0].name} has other classes than {opened['train'][0].name}.")
    return opened, labelled


_NETWORK = (
    "predict", "neck", "res5_norm", "tuned", "roi_size", "rois", "pre_nms", "post_nms", "anchors", "scales", "max_side",
)  # fmt: skip
_SCHEDULE = ("iterations", "batch_size", "lr", "steps", "warmup", "momentum", "weight_decay")
