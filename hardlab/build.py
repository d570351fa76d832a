"""From a configuration to the parts of a run."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from hardlab import data, registry, views
from hardlab.config import Run
from hardlab.data import Images
from hardlab.hard.base import Hard
from hardlab.methods.base import Method
from hardlab.types import HardlabError
from hardlab.views import Look


def device(name: str = "auto") -> torch.device:
    """``auto`` takes the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
    except RuntimeError:
        raise HardlabError(f"There is no device '{name}': use auto, cpu, cuda or cuda:0.") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise HardlabError(f"Device '{name}' was asked for, but torch sees no GPU here; use auto or cpu.")
    return found


def images(run: Run, split: str = "train", root: str | Path | None = None, on: str | torch.device = "cpu") -> Images:
    """The images of a run; the fraction applies to the training split only."""
    c = run.data
    return data.load(
        c.name,
        split,
        root=root,
        fraction=c.fraction if split == "train" else 1.0,
        subset_seed=c.subset_seed,
        classes=c.classes,
        size=c.size,
        device=str(on),
        on_broken=c.on_broken,
        workers=min(16, os.cpu_count() or 1),  # only large images are decoded while training
    )


def look(run: Run) -> Look:
    """The augmentation of a run: its preset, with the fields that the run replaces."""
    if run.augment.name not in views.PRESETS:
        raise registry.unknown("augmentation preset", run.augment.name, views.PRESETS)
    preset = views.PRESETS[run.augment.name]
    for key in run.augment.options:
        if key not in views.Augment.model_fields:
            raise registry.unknown("field of the augmentation", key, views.Augment.model_fields)
    slots = [a.but(**run.augment.options) for a in preset]
    return Look(slots, run.pixel_mean, run.pixel_std)


def method(run: Run) -> Method:
    """A freshly initialised method; the caller seeds torch first."""
    net: nn.Module = registry.build("backbone", run.backbone.name, run.backbone.options)
    return registry.build("method", run.method.name, run.method.options, net)


def strategies(run: Run, on: Method | None = None) -> list[Hard]:
    """The strategies of a run, installed on a method where one is given; at most one chooses the number of views."""
    out: list[Hard] = [registry.build("strategy", s.name, s.options) for s in run.hard]
    choosers = [s.name for s, h in zip(run.hard, out, strict=True) if h.draws]
    if len(choosers) > 1:
        raise HardlabError(f"Strategies {', '.join(choosers)} each choose the number of views: keep one of them.")
    if on is not None:
        for h in out:
            h.install(on)
    return out
