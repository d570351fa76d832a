"""Features of classes around random centres."""

from __future__ import annotations

import torch


def make(n=260, q=80, d=8, classes=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, d, generator=g)
    y, t = torch.arange(n) % classes, torch.arange(q) % classes
    return centres[y] + torch.randn(n, d, generator=g), y, centres[t] + torch.randn(q, d, generator=g), t
